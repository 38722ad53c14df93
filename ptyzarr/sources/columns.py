"""Blocked transposition of an array in a file, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.sources.memberbytes import RandomBytes

_HELD = 1 << 24
_SLAB = 1 << 20
_TILE = 64
# Below this many unwanted bytes it is cheaper to copy them than to make another call.
_CHEAP_GAP = 1 << 13


def as_bytes(array: NDArray[Any]) -> memoryview:
    """Return the memory of a C-contiguous array as bytes that can be written."""
    return array.reshape(-1).view(np.uint8).data


def as_native(array: NDArray[Any]) -> NDArray[Any]:
    """Return `array` in native byte order, swapped in its own memory."""
    if array.dtype.isnative:
        return array
    return array.byteswap(inplace=True).view(array.dtype.newbyteorder("="))


def transposed_blocks(
    data: RandomBytes,
    offset: int,
    in_file: tuple[int, ...],
    dtype: np.dtype[Any],
    columns: range,
    step: int,
) -> Iterator[NDArray[Any]]:
    """Yield an array with its axes reversed, cut along what is the last axis in the file.

    Beside the block about 17 MiB, or once the size of a block, is held.

    Parameters
    ----------
    data
        The bytes.
    offset
        Of the array in `data`.
    in_file
        Shape of the array as it lies in the file in C order, at least two axes and no empty one.
    dtype
        Of its elements, with their byte order.
    columns
        The part of the last axis that is wanted.
    step
        Length of axis 0 of a block.

    Yields
    ------
    (step or fewer, *reversed(in_file[:-1])), C order, native byte order
        Fresh arrays.

    Raises
    ------
    SourceError
        If the file ends before.
    StorageError
        If the file system refuses a read.
    """
    n_rows = math.prod(in_file[:-1])
    # Small blocks share a read: short runs cost a call each.
    held = max(1, _HELD // (n_rows * dtype.itemsize * step)) * step
    for first in range(0, len(columns), held):
        part = columns[first : first + held]
        matrix = _read_columns(data, offset, (n_rows, in_file[-1]), dtype, part)
        block = matrix.reshape(*in_file[:-1], len(part))
        for start in range(0, len(part), step):
            yield _reverse_axes(block[..., start : start + step])
        del matrix, block  # or the next ones are read beside them


def _reverse_axes(block: NDArray[Any]) -> NDArray[Any]:
    """Return ``block.T`` in C order, tile by tile so that both sides stay in the cache."""
    if block.shape[0] * block.shape[-1] < _TILE * _TILE // 8:
        return np.array(block.T, order="C")
    out = np.empty(block.shape[::-1], block.dtype)
    for middle in np.ndindex(block.shape[1:-1]):
        for start in range(0, block.shape[0], _TILE):
            rows = slice(start, start + _TILE)
            out[(slice(None), *middle[::-1], rows)] = block[(rows, *middle)].T
    return out


def _read_columns(
    data: RandomBytes,
    offset: int,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    columns: range,
) -> NDArray[Any]:
    """Return columns of a C-order matrix in a file: (n_rows, len(columns)), native order."""
    n_rows, n_columns = shape
    out = np.empty((n_rows, len(columns)), dtype)
    row_bytes = n_columns * dtype.itemsize
    run_bytes = len(columns) * dtype.itemsize
    if row_bytes - run_bytes <= _CHEAP_GAP:
        _read_slabs(data, offset, n_columns, columns, out)
    else:
        start = offset + columns.start * dtype.itemsize
        memory = as_bytes(out)
        for row in range(n_rows):
            run = memory[row * run_bytes : (row + 1) * run_bytes]
            data.read_into(start + row * row_bytes, run)
    return as_native(out)


def _read_slabs(
    data: RandomBytes, offset: int, n_columns: int, columns: range, out: NDArray[Any]
) -> None:
    row_bytes = n_columns * out.dtype.itemsize
    n_rows = max(1, min(len(out), _SLAB // max(row_bytes, 1)))
    slab = np.empty((n_rows, n_columns), out.dtype)
    for first in range(0, len(out), n_rows):
        rows = slab[: len(out) - first]
        data.read_into(offset + first * row_bytes, as_bytes(rows))
        out[first : first + n_rows] = rows[:, columns.start : columns.stop]
