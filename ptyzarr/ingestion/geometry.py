"""Frames, probe, object and positions turned, cut and padded together. Arrays and integers only.

The far field: a frame is the modulus of the Fourier transform of probe times object patch, its
zero frequency at pixel N//2 of both axes; pixel (N//2, N//2) of a patch shows object pixel (y, x).
Why each rule is what it is: docs/decisions/0009-transforms.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK_BYTES = 16 * 1024**2  # columns of an object that are resampled at once


@dataclass(frozen=True, slots=True)
class Orientation:
    """One of the eight ways to lay a square down: transposed or not, then flipped or not.

    Attributes
    ----------
    is_transposed
        Rows become columns, before anything is flipped.
    flip_y, flip_x
        Rows, columns run the other way.
    """

    is_transposed: bool = False
    flip_y: bool = False
    flip_x: bool = False

    @classmethod
    def of(cls, *, flip_x: bool, flip_y: bool, quarter_turns: int) -> Orientation:
        """Return flips followed by counterclockwise quarter turns, row 0 shown at the top."""
        is_transposed = False
        for _ in range(quarter_turns % 4):
            # A quarter turn transposes, which swaps the flips that were there, and flips rows.
            is_transposed, flip_y, flip_x = not is_transposed, not flip_x, flip_y
        return cls(is_transposed, flip_y, flip_x)


def pixel_map(size: int, new_size: int, orientation: Orientation) -> NDArray[np.int64]:
    """Return which pixel of a frame each pixel of the new frame shows.

    The zero frequency goes from pixel ``size//2`` to ``new_size//2``; a flip maps frequency k to
    -k, so that of an even frame the first row or column, which has no partner, stays. Frames are
    flipped on the larger of the two grids: there every frequency that stays in view has a partner.

    Parameters
    ----------
    size, new_size
        Width of the frame and of the new one, in pixels.
    orientation
        How the new frame lies.

    Returns
    -------
    (new_size, new_size) int64
        Flat pixel numbers; -1 where the frame has nothing.
    """
    rows = _axis_map(size, new_size, is_flipped=orientation.flip_y)
    columns = _axis_map(size, new_size, is_flipped=orientation.flip_x)
    stride_of_row, stride_of_column = (1, size) if orientation.is_transposed else (size, 1)
    flat = stride_of_row * rows[:, np.newaxis] + stride_of_column * columns
    return np.where((rows[:, np.newaxis] < 0) | (columns < 0), -1, flat)


def _axis_map(size: int, new_size: int, *, is_flipped: bool) -> NDArray[np.int64]:
    grid = max(size, new_size)
    place = np.arange(new_size) + grid // 2 - new_size // 2
    if is_flipped:
        place = (2 * (grid // 2) - place) % grid
    place -= grid // 2 - size // 2
    return np.where((place >= 0) & (place < size), place, -1)


def move_pixels(frames: NDArray[Any], pixels: NDArray[np.int64]) -> NDArray[Any]:
    """Return frames whose pixels are those that a map names.

    Parameters
    ----------
    frames : (m, N, N)
    pixels : (M, M) int64
        Flat pixel numbers, -1 for 0, as `pixel_map` returns them.

    Returns
    -------
    (m, M, M), dtype of `frames`
    """
    flat = frames.reshape(len(frames), -1)
    moved = np.take(flat, pixels.reshape(-1), axis=1, mode="clip")
    moved[:, np.flatnonzero(pixels < 0)] = 0
    return moved.reshape(len(frames), *pixels.shape)


def move_probe(probe: NDArray[Any], new_size: int, orientation: Orientation) -> NDArray[Any]:
    """Return the probe that goes with frames of another size or orientation.

    Without a change of size its pixels are moved as those of a frame, bit for bit. Otherwise its
    Fourier transform is, both transforms being unitary: the sum of its squared modulus, and with
    it the power of frames, is kept as far as the new detector sees it.

    Parameters
    ----------
    probe : ([mode,] N, N) complex
        Real ones become complex when the size changes.
    new_size
        Width of the new frames.
    orientation
        How they lie.

    Returns
    -------
    ([mode,] new_size, new_size)
    """
    size = probe.shape[-1]
    modes = probe.reshape(-1, size, size)
    pixels = pixel_map(size, new_size, orientation)
    shape = (*probe.shape[:-2], new_size, new_size)
    if new_size == size:
        return move_pixels(modes, pixels).reshape(shape)
    moved = np.empty(shape, np.result_type(probe.dtype, np.complex64)).reshape(-1, *pixels.shape)
    for mode, target in zip(modes, moved, strict=True):
        spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(_double(mode)), norm="ortho"))
        cut = np.fft.ifftshift(move_pixels(spectrum[np.newaxis], pixels)[0])
        target[:] = np.fft.fftshift(np.fft.ifft2(cut, norm="ortho"))
    return moved.reshape(shape)


def move_object(
    values: NDArray[Any], orientation: Orientation, size: int, new_size: int
) -> NDArray[Any]:
    """Return the object that goes with frames of another size or orientation.

    Rows and columns are reversed, pixel u to ``length - 1 - u``. A detector of N' instead of N
    pixels sees object pixels that are N/N' times as wide; then pixel u' of the new object is the
    band-limited interpolation of the old one at ``u' * N/N'``. Values are kept.

    Parameters
    ----------
    values : (H, W)
    orientation
        How the new frames lie.
    size, new_size
        Width of old and new frames, N and N'.

    Returns
    -------
    (H', W')
        With H' = (H - 1) * N' // N + 1, of the turned H, so that no pixel lies outside the old
        object; complex where it was resampled.
    """
    turned = values.T if orientation.is_transposed else values
    turned = turned[:: -1 if orientation.flip_y else 1, :: -1 if orientation.flip_x else 1]
    if new_size == size:
        return np.ascontiguousarray(turned)
    turned = turned.astype(np.result_type(values.dtype, np.complex64), copy=False)
    by_rows = _resample_rows(turned, size, new_size)
    return np.ascontiguousarray(_resample_rows(by_rows.T, size, new_size).T)


def object_length(length: int, size: int, new_size: int) -> int:
    """Return the length of an axis of the object for frames of `new_size` instead of `size`."""
    return (length - 1) * new_size // size + 1


def position_sums(
    positions: NDArray[Any], object_shape: tuple[int, int] | None
) -> tuple[float, float]:
    """Return sx and sy such that flipped positions are sx - x and sy - y.

    Parameters
    ----------
    positions : (n, 2) x, y, pixels
    object_shape
        (H, W); without an object the flip keeps the range of the positions, to whole pixels.
    """
    if object_shape is not None:
        return float(object_shape[1] - 1), float(object_shape[0] - 1)
    low, high = positions.min(axis=0), positions.max(axis=0)
    # Whole numbers: differences to them round as little as can be.
    with np.errstate(over="ignore"):
        sums = np.floor(low.astype(np.float64)) + np.ceil(high.astype(np.float64))
    return float(sums[0]), float(sums[1])


def move_positions(
    positions: NDArray[Any],
    sums: tuple[float, float],
    orientation: Orientation,
    size: int,
    new_size: int,
) -> NDArray[Any]:
    """Return positions in the pixels of the moved object.

    Parameters
    ----------
    positions : (n, 2) x, y, pixels
    sums
        Of `position_sums`.
    orientation, size, new_size
        As for `move_object`.

    Returns
    -------
    (n, 2) x, y, pixels
        Floats keep their dtype and are rounded to it once; integers become int64 where they are
        flipped or turned and float64 where they are scaled.
    """
    is_float = positions.dtype.kind == "f"
    is_exact = not is_float and new_size == size and positions.dtype != np.uint64
    columns: NDArray[Any] = positions.astype(np.int64 if is_exact else np.float64)
    totals = np.asarray(sums).astype(columns.dtype)
    if orientation.is_transposed:
        columns, totals = np.ascontiguousarray(columns[:, ::-1]), totals[::-1]
    for axis, is_flipped in enumerate((orientation.flip_x, orientation.flip_y)):
        if is_flipped:
            columns[:, axis] = totals[axis] - columns[:, axis]
    if new_size != size:
        columns = columns * new_size / size
    return columns.astype(positions.dtype) if is_float else columns


def _resample_rows(values: NDArray[Any], size: int, new_size: int) -> NDArray[Any]:
    """Return (H', W) complex: `values` (H, W) at rows ``u * size / new_size``."""
    height, width = values.shape
    n_out = object_length(height, size, new_size)
    out = np.empty((n_out, width), values.dtype)
    # A whole number of new pixels must fit; a frame more lets the end run into the beginning.
    step = size // math.gcd(size, new_size)
    padded = -(-(height + size) // step) * step
    n_padded = padded * new_size // size
    ramp = np.arange(1, padded - height + 1) / (padded - height + 1)
    block = max(1, _BLOCK_BYTES // (16 * max(padded, n_padded)))
    for start in range(0, width, block):
        columns = _double(values[:, start : start + block])
        bridge = columns[-1] + ramp[:, np.newaxis] * (columns[0] - columns[-1])
        spectrum = np.fft.fft(np.concatenate([columns, bridge]), axis=0)
        resampled = np.fft.ifft(_resize_spectrum(spectrum, n_padded), axis=0)
        out[:, start : start + block] = resampled[:n_out] * (n_padded / padded)
    return out


def _resize_spectrum(spectrum: NDArray[Any], length: int) -> NDArray[Any]:
    """Return a spectrum, zero frequency first, for `length` samples along axis 0."""
    old = len(spectrum)
    kept = min(old, length)
    resized = np.zeros((length, *spectrum.shape[1:]), spectrum.dtype)
    positive, negative = (kept + 1) // 2, kept // 2
    resized[:positive] = spectrum[:positive]
    if negative:
        resized[-negative:] = spectrum[-negative:]
    if kept % 2 == 0 and old < length:
        # The highest frequency of an even number of samples stands for both signs.
        resized[-negative] /= 2
        resized[negative] = resized[-negative]
    elif kept % 2 == 0 and old > length:
        resized[-negative] = (spectrum[-negative] + spectrum[negative]) / 2
    return resized


def _double(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.complex128)
