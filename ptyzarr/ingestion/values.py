"""What one block of source frames becomes: checked, masked, counted, hashed. Arrays only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.compiled import kernel
from ptyzarr.errors import SourceError
from ptyzarr.ingestion.hashing import hash_frames
from ptyzarr.ingestion.roots import find_counts
from ptyzarr.scan import Quantity, frame_power
from ptyzarr.store import COUNT_DTYPES, MAX_COUNT


@dataclass(frozen=True, slots=True)
class CheckedBlock:
    """A block of frames after every check that a single frame allows.

    Attributes
    ----------
    amplitude : (m, N, N)
        What readers will see, float32 where the source holds counts.
    counts : (m, N, N) unsigned, or None
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
    counts: NDArray[Any] | None
    max_count: int
    power: NDArray[np.float64]
    hashes: NDArray[np.uint64]
    masked_index: NDArray[np.int64]
    masked_value: NDArray[Any]


def check_block(
    frames: NDArray[Any],
    numbers: NDArray[np.int64],
    quantity: Quantity,
    what: str,
    *,
    mask: bool,
    counts: np.dtype[Any] | None,
) -> CheckedBlock:
    """Check a block of frames and compute all that is stored about it.

    Parameters
    ----------
    frames : (m, N, N) real, native byte order, C order
        Changed in place where pixels are masked.
    numbers : (m,) int64
        Acquisition index of each frame, for messages.
    quantity
        What the values are.
    what
        File and member, for messages.
    mask
        Set pixels that are not finite to 0 instead of refusing them.
    counts
        Unsigned integers in which to look for counts behind amplitudes, wider ones where those
        do not hold them; None does not look.

    Raises
    ------
    SourceError
        At the first frame with a NaN, an infinite or a negative pixel; where counts are declared,
        also at a value that is no whole number below 2**24.
    """
    found = _Found(None, 0, None)
    is_searched = counts is not None and quantity == "amplitude" and frames.dtype == np.float32
    if counts is not None and is_searched:
        found = _hidden_counts(frames, counts)
    masked_index, masked_value = np.empty(0, np.int64), np.empty(0, frames.dtype)
    # Roots of counts are finite and not negative.
    if found.counts is None and not _are_amplitudes(frames):
        masked_index, masked_value = _mask_nonfinite(frames, numbers, what, mask=mask)
        _refuse_negative(frames, numbers, what)
        if counts is not None and is_searched:
            found = _hidden_counts(frames, counts)
    amplitude = frames
    if quantity == "counts":
        found = _declared_counts(frames, numbers, what)
        amplitude = amplitude_of(found.counts)
    power = found.power
    if power is None:
        power = _finite_power(amplitude, numbers, what)
    return CheckedBlock(
        amplitude,
        found.counts,
        found.max_count,
        power,
        hash_frames(amplitude),
        masked_index,
        masked_value,
    )


def amplitude_of(counts: NDArray[Any]) -> NDArray[np.float32]:
    """Return the float32 amplitudes of counts below 2**24, correctly rounded."""
    amplitude = counts.astype(np.float32)
    return np.sqrt(amplitude, out=amplitude)


def count_dtype(max_count: int) -> np.dtype[Any]:
    """Return the smallest stored dtype of counts."""
    fitting = (np.dtype(name) for name in COUNT_DTYPES if max_count <= np.iinfo(name).max)
    return next(fitting)


@dataclass(frozen=True, slots=True)
class _Found:
    counts: Any
    max_count: int
    power: NDArray[np.float64] | None


def _hidden_counts(frames: NDArray[np.float32], dtype: np.dtype[Any]) -> _Found:
    counts, power, max_count = find_counts(frames, dtype)
    if max_count > np.iinfo(dtype).max:
        counts, power, max_count = find_counts(frames, count_dtype(max_count))
    return _Found(None, 0, None) if max_count < 0 else _Found(counts, max_count, power)


def _finite_power(
    amplitude: NDArray[Any], numbers: NDArray[np.int64], what: str
) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        power = frame_power(amplitude)
    if not np.isfinite(power).all():
        frame = int(numbers[np.argmin(np.isfinite(power))])
        raise SourceError(
            f"{what}: frame {frame} has pixels that are too large to square in float64; expected "
            "amplitudes below 1e150; check the scaling of the source"
        )
    return power


def _are_amplitudes(frames: NDArray[Any]) -> bool:
    """Return whether every pixel is finite and not negative, for the dtypes where that is quick."""
    if frames.dtype.kind in "bu":
        return True
    if frames.dtype not in (np.float32, np.float64):
        return False
    return int(_count_amplitudes(frames.reshape(-1))) == frames.size


def _mask_nonfinite(
    frames: NDArray[Any], numbers: NDArray[np.int64], what: str, *, mask: bool
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    flat = frames.reshape(-1)
    if frames.dtype.kind != "f" or bool(np.isfinite(flat).all()):
        return np.empty(0, np.int64), np.empty(0, frames.dtype)
    index = np.flatnonzero(~np.isfinite(flat))
    if not mask:
        raise SourceError(
            f"{what}: {_pixel(frames, int(index[0]), numbers)}; expected finite pixels; "
            "--nonfinite mask stores 0 there and keeps the originals for export"
        )
    values = flat[index]
    flat[index] = 0
    return index.astype(np.int64), values


def _refuse_negative(frames: NDArray[Any], numbers: NDArray[np.int64], what: str) -> None:
    # One pass without a temporary array decides nearly always.
    if frames.dtype.kind in "bu" or not bool(frames.min() < 0):
        return
    raise SourceError(
        f"{what}: {_pixel(frames, int(np.argmax(frames < 0)), numbers)}; expected amplitudes or "
        "counts of 0 or more; subtract the background before, or clip"
    )


def _pixel(frames: NDArray[Any], place: int, numbers: NDArray[np.int64]) -> str:
    """Return text that names a pixel by its flat number in a block, and its value."""
    frame, y, x = np.unravel_index(place, frames.shape)
    value = frames[frame, y, x]
    return f"frame {int(numbers[frame])} has the value {value} at row {int(y)}, column {int(x)}"


def _declared_counts(frames: NDArray[Any], numbers: NDArray[np.int64], what: str) -> _Found:
    # The limit itself is beyond the range of float16.
    within = (frames if frames.dtype != np.float16 else frames.astype(np.float32)) <= MAX_COUNT
    counts = np.where(within, frames, 0).astype(np.uint32)
    exact = within & (counts == frames) & ~np.signbit(frames.astype(np.float64, copy=False))
    if not bool(exact.all()):
        raise SourceError(
            f"{what}: {_pixel(frames, int(np.argmin(exact)), numbers)}; expected whole counts from "
            f"0 to {MAX_COUNT}; mask such pixels, or store amplitudes (--quantity amplitude)"
        )
    return _Found(counts, int(counts.max()), None)


@kernel
def _count_amplitudes(values: NDArray[Any]) -> int:
    """Return how many values are finite and not negative."""
    n_amplitudes = 0
    for i in range(values.size):
        n_amplitudes += (values[i] >= 0) & (values[i] < np.inf)
    return n_amplitudes
