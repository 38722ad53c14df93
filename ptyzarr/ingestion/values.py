"""What one block of source frames becomes: checked, masked, counted, hashed. Arrays only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from ptyzarr.compiled import kernel
from ptyzarr.errors import SourceError
from ptyzarr.scan import Quantity, frame_power
from ptyzarr.store import MAX_COUNT

_COUNTS = np.dtype(np.uint32)


@dataclass(frozen=True, slots=True)
class CheckedBlock:
    """A block of frames after every check that a single frame allows.

    Attributes
    ----------
    amplitude : (m, N, N)
        What readers will see, float32 where the source holds counts.
    counts : (m, N, N) uint32 or None
        Counts whose float32 root is `amplitude` bit for bit, or None if there are none.
    max_count
        Largest count, 0 without counts.
    power : (m,) float64
    hashes : (m,) uint64
    masked_index : (k,) int64
        Flat pixel numbers within the block that were not finite and are 0 now.
    masked_value : (k,)
        Their original values.
    """

    amplitude: NDArray[Any]
    counts: NDArray[np.uint32] | None
    max_count: int
    power: NDArray[np.float64]
    hashes: NDArray[np.uint64]
    masked_index: NDArray[np.int64]
    masked_value: NDArray[Any]


def check_block(
    frames: NDArray[Any],
    first: int,
    quantity: Quantity,
    what: str,
    *,
    mask: bool,
    want_counts: bool,
) -> CheckedBlock:
    """Check a block of frames and compute all that is stored about it.

    Parameters
    ----------
    frames : (m, N, N) real, native byte order, C order
        Changed in place where pixels are masked.
    first
        Acquisition index of the first frame, for messages.
    quantity
        What the values are.
    what
        File and member, for messages.
    mask
        Set pixels that are not finite to 0 instead of refusing them.
    want_counts
        Look for counts behind amplitudes.

    Raises
    ------
    SourceError
        At the first frame with a NaN, an infinite or a negative pixel; where counts are declared,
        also at a value that is no whole number below 2**24.
    """
    is_searched = want_counts and quantity == "amplitude" and frames.dtype == np.float32
    amplitude = frames
    counts, max_count = hidden_counts(frames) if is_searched else (None, 0)
    masked_index, masked_value = np.empty(0, np.int64), np.empty(0, frames.dtype)
    if counts is None:  # roots of counts are finite and not negative
        masked_index, masked_value = _mask_nonfinite(frames, first, what, mask=mask)
        _refuse_negative(frames, first, what)
        if is_searched and len(masked_index):
            counts, max_count = hidden_counts(frames)
    if quantity == "counts":
        counts = _declared_counts(frames, first, what)
        max_count = int(counts.max())
        amplitude = amplitude_of(counts)
    with np.errstate(over="ignore"):
        power = frame_power(amplitude)
    if not np.isfinite(power).all():
        frame = first + int(np.argmin(np.isfinite(power)))
        raise SourceError(
            f"{what}: frame {frame} has pixels that are too large to square in float64; expected "
            "amplitudes below 1e150; check the scaling of the source"
        )
    return CheckedBlock(
        amplitude, counts, max_count, power, hash_frames(amplitude), masked_index, masked_value
    )


def amplitude_of(counts: NDArray[Any]) -> NDArray[np.float32]:
    """Return the float32 amplitudes of counts below 2**24, correctly rounded."""
    amplitude = counts.astype(np.float32)
    return np.sqrt(amplitude, out=amplitude)


def hash_frames(amplitude: NDArray[Any]) -> NDArray[np.uint64]:
    """Return the 64-bit XXH3 hash of each frame's little-endian C-order bytes."""
    little = np.ascontiguousarray(amplitude, amplitude.dtype.newbyteorder("<"))
    pixels = little.reshape(len(little), -1).view(np.uint8)
    return np.array([xxhash.xxh3_64_intdigest(frame.data) for frame in pixels], np.uint64)


def _mask_nonfinite(
    frames: NDArray[Any], first: int, what: str, *, mask: bool
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    flat = frames.reshape(-1)
    if frames.dtype.kind != "f" or bool(np.isfinite(flat).all()):
        return np.empty(0, np.int64), np.empty(0, frames.dtype)
    index = np.flatnonzero(~np.isfinite(flat))
    if not mask:
        raise SourceError(
            f"{what}: {_pixel(frames, int(index[0]), first)}; expected finite pixels; "
            "--nonfinite mask stores 0 there and keeps the originals for export"
        )
    values = flat[index]
    flat[index] = 0
    return index.astype(np.int64), values


def _refuse_negative(frames: NDArray[Any], first: int, what: str) -> None:
    # One pass without a temporary array decides nearly always.
    if frames.dtype.kind in "bu" or not bool(frames.min() < 0):
        return
    raise SourceError(
        f"{what}: {_pixel(frames, int(np.argmax(frames < 0)), first)}; expected amplitudes or "
        "counts of 0 or more; subtract the background before, or clip"
    )


def _pixel(frames: NDArray[Any], number: int, first: int) -> str:
    """Return text that names a pixel by its flat number in a block, and its value."""
    frame, y, x = np.unravel_index(number, frames.shape)
    value = frames[frame, y, x]
    return f"frame {first + int(frame)} has the value {value} at row {int(y)}, column {int(x)}"


def _declared_counts(frames: NDArray[Any], first: int, what: str) -> NDArray[np.uint32]:
    within = frames <= MAX_COUNT
    counts = np.where(within, frames, 0).astype(np.uint32)
    exact = within & (counts == frames) & ~np.signbit(frames.astype(np.float64, copy=False))
    if not bool(exact.all()):
        raise SourceError(
            f"{what}: {_pixel(frames, int(np.argmin(exact)), first)}; expected whole counts from 0 "
            f"to {MAX_COUNT}; mask such pixels, or store amplitudes (--quantity amplitude)"
        )
    return counts


def hidden_counts(
    frames: NDArray[np.float32], dtype: np.dtype[Any] = _COUNTS
) -> tuple[NDArray[Any] | None, int]:
    """Return the counts of which `frames` are the float32 roots bit for bit, and their maximum.

    Parameters
    ----------
    frames : (m, N, N) float32, C order
    dtype
        Unsigned integers.

    Returns
    -------
    counts : (m, N, N) `dtype` or None
        None unless every pixel is the root of a count below 2**24 that `dtype` holds.
    max_count : int
        0 without counts.
    """
    flat = frames.reshape(-1)
    counts = np.empty(flat.shape, dtype)
    max_count, n_other = _invert_root(flat, flat.view(np.uint32), counts)
    if n_other or max_count > min(MAX_COUNT, np.iinfo(dtype).max):
        return None, 0
    return counts.reshape(frames.shape), int(max_count)


@kernel
def _invert_root(
    values: NDArray[np.float32], bits: NDArray[np.uint32], counts: NDArray[Any]
) -> tuple[int, int]:
    """Fill `counts` with rint(value**2); return their maximum and how many do not invert.

    The bits are compared, not the values: a negative zero is no root of a count.
    """
    largest = np.uint32(0)
    other = 0
    root = np.empty(1, np.float32)
    root_bits = root.view(np.uint32)
    for i in range(values.size):
        value = np.float64(values[i])
        square = min(np.rint(value * value), 16777216.0)
        count = np.uint32(square)
        counts[i] = count
        largest = max(largest, count)
        root[0] = np.sqrt(np.float32(count))
        other += root_bits[0] != bits[i]
    return int(largest), other
