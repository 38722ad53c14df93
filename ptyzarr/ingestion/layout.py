"""Order of the frames on disk, and the sizes of chunks, shards and tiles. Arrays and integers only.

Why these sizes: docs/decisions/0003-layout.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.compiled import kernel

_CURVE_BITS = 24
_BLOCK_ROWS = 65536  # positions whose place on the curve is found at once
_CHUNK_BYTES = 16 * 1024  # stored bytes, decoded
_MAX_CHUNK_FRAMES = 16
_SHARD_BYTES = 256 * 1024**2
_MAX_SHARD_FRAMES = 4096
_TILE_BYTES = 16 * 1024**2
_MIN_TILE_FRAMES = 16
_TILES_IN_SCAN = 256


@dataclass(frozen=True, slots=True)
class Sizes:
    """Frames in a chunk, a shard and a tile."""

    chunk_frames: int
    shard_frames: int
    tile_frames: int


def choose_sizes(n_frames: int, frame_size: int, itemsize: int) -> Sizes:
    """Return the sizes for frames of `frame_size`^2 pixels of `itemsize` stored bytes.

    A chunk is small, since a full shuffle decodes one for every frame it wants and a window the
    chunks along its tiles' edges; a shard holds thousands of frames, since files are what parallel
    file systems run out of; a tile is a small part of the scan, so that a window of random tiles
    is a few percent of it, and larger in larger scans, since its edge is what is decoded twice.
    """
    frame_bytes = frame_size * frame_size * itemsize
    chunk = _power_of_two(_CHUNK_BYTES // frame_bytes, 1, _MAX_CHUNK_FRAMES)
    shard = _power_of_two(_SHARD_BYTES // frame_bytes, chunk, _MAX_SHARD_FRAMES)
    most = max(_TILE_BYTES // frame_bytes, _MIN_TILE_FRAMES)
    tile = _power_of_two(n_frames // _TILES_IN_SCAN, _MIN_TILE_FRAMES, most)
    needed = -(-n_frames // chunk) * chunk
    return Sizes(chunk, min(shard, needed), tile)


def acquisition_order(positions: NDArray[Any]) -> NDArray[np.int64]:
    """Return the acquisition indices unchanged."""
    return np.arange(len(positions), dtype=np.int64)


def hilbert_order(positions: NDArray[Any]) -> NDArray[np.int64]:
    """Return acquisition indices in the order of a Hilbert curve through the positions.

    Both axes are scaled by the longer extent, so that tiles are about square on the sample.
    Positions that fall into one cell keep their acquisition order.

    Parameters
    ----------
    positions : (n, 2) finite numbers, x and y

    Returns
    -------
    (n,) int64, a permutation
    """
    low = positions.min(axis=0).astype(np.float64)
    # Halves first: the difference of two huge finite positions may overflow.
    extent = float((positions.max(axis=0).astype(np.float64) / 2 - low / 2).max())
    distance = np.zeros(len(positions), np.int64)
    if extent > 0:
        top = 2**_CURVE_BITS - 1
        for start in range(0, len(positions), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            points = positions[rows].astype(np.float64)
            cells = np.rint((points / 2 - low / 2) / extent * top).astype(np.int64)
            distance[rows] = _curve_distance(cells, _CURVE_BITS)
    return np.argsort(distance, kind="stable").astype(np.int64, copy=False)


#: Orders by the name that `IngestConfig.layout` takes.
ORDERS: Mapping[str, Callable[[NDArray[Any]], NDArray[np.int64]]] = {
    "hilbert": hilbert_order,
    "acquisition": acquisition_order,
}


def _power_of_two(limit: int, low: int, high: int) -> int:
    """Return the largest power of two up to `limit`, clipped to powers `low` and `high`."""
    power = 1 << (max(limit, 1).bit_length() - 1)
    return max(low, min(power, high))


@kernel
def _curve_distance(cells: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Return the distance of each cell along the Hilbert curve of order `bits`.

    Parameters
    ----------
    cells : (n, 2) int64 in [0, 2**bits)

    References
    ----------
    The quadrant recursion: each step takes one bit of x and y, adds the quadrant's share and
    reflects or transposes what is left so that the curve inside the quadrant stands upright.
    """
    distance = np.zeros(cells.shape[0], np.int64)
    for i in range(cells.shape[0]):
        x = cells[i, 0]
        y = cells[i, 1]
        total = 0
        for level in range(bits - 1, -1, -1):
            half = 1 << level
            right = 1 if x & half else 0
            upper = 1 if y & half else 0
            total += half * half * ((3 * right) ^ upper)
            x &= half - 1
            y &= half - 1
            if upper == 0:
                if right == 1:
                    x = half - 1 - x
                    y = half - 1 - y
                x, y = y, x
        distance[i] = total
    return distance
