"""Object patches under the members of each group."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.compiled import kernel
from ptyzarr.errors import ShapeError

# Patches whose corners and weights are held at once.
_BATCH_PATCHES = 1024
# Beyond every object, and near enough that float32 still tells half pixels apart: sample
# coordinates of a patch then span at most N + 1 pixels.
_FAR = 2.0**22


def object_patches(
    object_guess: NDArray[Any], offsets: NDArray[Any], relative: NDArray[Any], N: int
) -> NDArray[np.complex64]:
    """Return the bilinear patches of the object that belong to each group member.

    Pixel (r, q) of a patch samples the object at row ``r + oy - N // 2``, column
    ``q + ox - N // 2`` with ``(ox, oy) = offsets + relative``; the object is zero outside its
    array. With the reference's sign of `relative` this is the position reflected through the
    group's mean, which the reference does too.

    Parameters
    ----------
    object_guess : (H, W) complex64 or complex128
        Axis 0 is y. complex64 is interpolated in float32 with the reference's roundings,
        complex128 in float64.
    offsets : (G, 1, 2, 1) real, pixels
    relative : (G, 1, 2, C) real, pixels
        Both as `group_coords` returns them; axis 2 is x, y.
    N
        Width of a patch.

    Returns
    -------
    patches : (G, N, N, C) complex64
        A transposed view; in memory each patch is contiguous.

    Raises
    ------
    ShapeError
        If the object is not two-dimensional.

    References
    ----------
    PtychoPINN, ``ptycho/raw_data.py``, ``get_image_patches`` and ``ptycho/tf_helper.py``,
    ``translate``.
    """
    pixels = _as_pairs(_as_complex(object_guess))
    n_groups, _, _, group_size = relative.shape
    centers = offsets.astype(np.float64) + relative.astype(np.float64)
    np.clip(centers, -_FAR, _FAR, out=centers)
    # (G, C, 2), one row per patch; rounded to float32 for every dtype of the object.
    rounded = centers[:, 0].transpose(0, 2, 1).astype(np.float32).reshape(-1, 2)
    patches = np.empty((n_groups * group_size, N, N), dtype=np.complex64)
    for start in range(0, len(patches), _BATCH_PATCHES):
        part = slice(start, start + _BATCH_PATCHES)
        columns = _split_coordinates(rounded[part, 0], N, pixels.dtype)
        rows = _split_coordinates(rounded[part, 1], N, pixels.dtype)
        _fill_windows(pixels, *columns, *rows, _as_pairs(patches[part]))
    return patches.reshape(n_groups, group_size, N, N).transpose(0, 2, 3, 1)


def _as_complex(object_guess: NDArray[Any]) -> NDArray[Any]:
    """Return the object as contiguous complex64 or complex128, copied only where it must be."""
    array = np.asarray(object_guess)
    if array.ndim != 2:
        raise ShapeError(f"the object has shape {array.shape}; expected (H, W)")
    is_double = np.result_type(array.dtype, np.complex64).itemsize > 8
    return np.ascontiguousarray(array, dtype=np.complex128 if is_double else np.complex64)


def _split_coordinates(
    centers: NDArray[np.float32], N: int, dtype: np.dtype[Any]
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Split the sample coordinates of one axis into corners and weights.

    Parameters
    ----------
    centers : (m,) float32, pixels
    N
        Width of a patch.
    dtype
        Of the arithmetic.

    Returns
    -------
    corners : (m, N) int64
        Object index of the first corner, outside the object too; the second is the next one.
    weights : (2, m, N) `dtype`
        Of the first and the second corner.
    """
    samples = np.arange(N, dtype=dtype) + centers.astype(dtype)[:, np.newaxis]
    floor = np.floor(samples)
    second = samples - floor
    # Samples count from the object extended by N // 2.
    corners = floor.astype(np.int64) - N // 2
    return corners, np.stack([dtype.type(1) - second, second])


def _as_pairs(values: NDArray[Any]) -> NDArray[Any]:
    """Return complex (..., m) as real (..., m, 2), sharing memory."""
    return values.view(values.real.dtype).reshape(*values.shape, 2)


@kernel
def _fill_windows(  # pragma: no cover - compiled
    pixels: NDArray[Any],
    columns: NDArray[np.int64],
    column_weights: NDArray[Any],
    rows: NDArray[np.int64],
    row_weights: NDArray[Any],
    patches: NDArray[np.float32],
) -> None:
    """Fill `patches` (m, N, N, 2) from `pixels` (H, W, 2), zero outside.

    Corners (m, N) and weights (2, m, N) are those of `_split_coordinates`.
    """
    height, width, _ = pixels.shape
    n_patches, n_rows, n_columns, _ = patches.shape
    window = np.empty((n_rows + 2, n_columns + 2, 2), pixels.dtype)
    for i in range(n_patches):
        top, left = rows[i, 0], columns[i, 0]
        window[:] = 0
        first, last = max(0, -left), min(n_columns + 2, width - left)
        for r in range(max(0, -top), min(n_rows + 2, height - top)):
            for q in range(first, last):
                window[r, q, 0] = pixels[top + r, left + q, 0]
                window[r, q, 1] = pixels[top + r, left + q, 1]
        for r in range(n_rows):
            upper, lower = window[rows[i, r] - top], window[rows[i, r] - top + 1]
            for q in range(n_columns):
                column = columns[i, q] - left
                for part in range(2):
                    above = (
                        upper[column, part] * column_weights[0, i, q]
                        + upper[column + 1, part] * column_weights[1, i, q]
                    )
                    below = (
                        lower[column, part] * column_weights[0, i, q]
                        + lower[column + 1, part] * column_weights[1, i, q]
                    )
                    patches[i, r, q, part] = (
                        above * row_weights[0, i, r] + below * row_weights[1, i, r]
                    )
