"""Grouped arrays that are computed when and where dask asks for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from dask.delayed import delayed
from numpy.typing import NDArray

from ptyzarr.grouping.coords import normalization_factor
from ptyzarr.grouping.frames import (
    READ_NBYTES,
    FrameStack,
    GroupIndices,
    gather_groups,
    scale_frames,
    split_range,
)
from ptyzarr.grouping.patches import object_patches
from ptyzarr.scan import frame_power

# Groups of dask frames per block: few enough to read little more than a slice needs, and never
# so few that building the graph of a large selection takes minutes.
_DASK_BLOCK_GROUPS = 16
_DASK_BLOCKS = 512


class LazyArray:
    """An array of which dask asks the slices it needs.

    dask hands slices of the whole array down to `__getitem__`, so that a slice along axis 0
    loads its own entries and nothing else of the block.

    Parameters
    ----------
    shape, dtype
        Of the whole array.
    load
        Returns the entries of axis 0 with the given numbers, (m,) int64. Pickled with the graph.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        load: Callable[[NDArray[np.int64]], NDArray[Any]],
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.ndim = len(shape)
        self._load = load

    def __getitem__(self, key: Any) -> NDArray[Any]:
        first, *others = key if isinstance(key, tuple) else (key,)
        entries = np.arange(self.shape[0], dtype=np.int64)[first]
        loaded = self._load(np.atleast_1d(entries))
        if entries.ndim == 0:
            loaded = loaded[0]
        # One axis at a time: dask means index lists on several axes as their outer product.
        axis = entries.ndim
        for one in others:
            loaded = loaded[(slice(None),) * axis + (one,)]
            axis += 0 if isinstance(one, int | np.integer) else 1
        return loaded


def lazy_frames(stack: FrameStack) -> Any:
    """Return the stack as a dask array (n, N, N) that reads what is asked of it."""
    return _as_dask(stack.shape, stack.dtype, stack.read)


def lazy_normalized(
    stack: FrameStack,
    nn_indices: GroupIndices,
    N: int,
    frame_powers: NDArray[np.float64] | None = None,
    block_nbytes: int | None = None,
) -> tuple[Any, Any]:
    """Return what `gather_normalized` returns as two dask arrays; nothing is read.

    A slice along the groups of the first array reads the frames of these groups only, and so
    does the second where `frame_powers` is given. Without it the factor is a dask value of its
    own that needs every selected frame.

    Parameters
    ----------
    stack, nn_indices, N, frame_powers
        As `gather_normalized`.
    block_nbytes
        Size of a block (default: `READ_NBYTES`).

    Returns
    -------
    diffraction : (G, N, N, C) stored dtype
    normalized : (G, N, N, C) float32
    """
    shape = (nn_indices.shape[0], *stack.shape[1:], nn_indices.shape[1])
    gather = partial(_load_groups, stack, nn_indices)
    diffraction = _as_dask(shape, stack.dtype, gather, block_nbytes)
    if frame_powers is None:
        factor = _lazy_factor(stack, nn_indices, N)
        return diffraction, _scale_lazily(diffraction, factor)
    factor = normalization_factor(frame_powers, nn_indices, N)
    load = partial(_load_scaled_groups, stack, nn_indices, factor)
    return diffraction, _as_dask(shape, np.dtype(np.float32), load, block_nbytes)


def lazy_normalized_dask(frames: Any, nn_indices: GroupIndices, N: int) -> tuple[Any, Any]:
    """Return what `lazy_normalized` returns for frames that are a dask array themselves.

    Everything stays in one graph, so frames that live on a cluster stay there. A slice along
    the groups computes the blocks of groups that it touches, and of `frames` the chunks that
    hold their members.

    Parameters
    ----------
    frames : (n, N, N) dask array
    nn_indices, N
        As `lazy_normalized`.

    Returns
    -------
    diffraction : (G, N, N, C) stored dtype
    normalized : (G, N, N, C) float32
    """
    n_groups, group_size = nn_indices.shape
    height, width = frames.shape[1:]
    frames = frames.rechunk({1: -1, 2: -1})
    largest = max(1, READ_NBYTES // max(1, frames.dtype.itemsize * height * width * group_size))
    step = min(largest, max(_DASK_BLOCK_GROUPS, -(-n_groups // _DASK_BLOCKS)))
    blocks = []
    for start in range(0, n_groups, step):
        needed, numbers = np.unique(nn_indices[start : start + step], return_inverse=True)
        numbers = numbers.reshape(-1, group_size)
        block = frames[needed].rechunk({0: -1})
        chunks = ((len(numbers),), (height,), (width,), (group_size,))
        blocks.append(
            block.map_blocks(
                _take_groups, numbers=numbers, dtype=frames.dtype, chunks=chunks, new_axis=3,
                meta=np.empty((0, 0, 0, 0), dtype=frames.dtype),
            )
        )  # fmt: skip
    if not blocks:
        empty = da.zeros((0, height, width, group_size), dtype=frames.dtype)
        return empty, empty.astype(np.float32)
    diffraction = da.concatenate(blocks)
    needed, numbers = np.unique(nn_indices, return_inverse=True)
    powers = frames[needed].map_blocks(
        frame_power, drop_axis=(1, 2), dtype=np.float64, meta=np.empty(0)
    )
    combine = delayed(_combine_factor, pure=False)
    factor = combine([powers], numbers.reshape(-1, group_size), N)
    return diffraction, _scale_lazily(diffraction, factor)


def lazy_patches(
    object_guess: NDArray[Any],
    offsets: NDArray[Any],
    relative: NDArray[Any],
    N: int,
    block_nbytes: int | None = None,
) -> Any:
    """Return what `object_patches` returns as a dask array (G, N, N, C) complex64."""
    load = partial(_load_patches, object_guess, offsets, relative, N)
    shape = (relative.shape[0], N, N, relative.shape[3])
    return _as_dask(shape, np.dtype(np.complex64), load, block_nbytes)


def _as_dask(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    load: Callable[[NDArray[np.int64]], NDArray[Any]],
    block_nbytes: int | None = None,
) -> Any:
    nbytes = dtype.itemsize * int(np.prod(shape[1:]))
    block = max(1, (block_nbytes or READ_NBYTES) // max(1, nbytes))
    # name=False: a random name; a hash would read the frames.
    return da.from_array(
        LazyArray(shape, dtype, load),
        chunks=(min(block, max(1, shape[0])), *shape[1:]),
        name=False,
        meta=np.empty((0,) * len(shape), dtype=dtype),
    )


def _lazy_factor(stack: FrameStack, nn_indices: GroupIndices, N: int) -> Any:
    """Return the delayed factor; one task for each block of frames bounds the memory."""
    needed = np.unique(nn_indices).astype(np.int64)
    shared = delayed(stack, traverse=False, pure=False)
    load = delayed(_load_power, pure=False)
    nbytes = stack.dtype.itemsize * int(np.prod(stack.shape[1:]))
    powers = [load(shared, needed[part]) for part in split_range(len(needed), nbytes)]
    numbers = np.searchsorted(needed, nn_indices)
    return delayed(_combine_factor, pure=False)(powers, numbers, N)


def _scale_lazily(diffraction: Any, factor: Any) -> Any:
    return diffraction.map_blocks(
        scale_frames,
        factor=factor,
        dtype=np.float32,
        meta=np.empty((0,) * diffraction.ndim, dtype=np.float32),
    )


def _load_groups(
    stack: FrameStack, nn_indices: GroupIndices, groups: NDArray[np.int64]
) -> NDArray[Any]:
    return gather_groups(stack, nn_indices[groups])


def _load_scaled_groups(
    stack: FrameStack, nn_indices: GroupIndices, factor: np.float32, groups: NDArray[np.int64]
) -> NDArray[np.float32]:
    return scale_frames(gather_groups(stack, nn_indices[groups]), factor)


def _load_patches(
    object_guess: NDArray[Any],
    offsets: NDArray[Any],
    relative: NDArray[Any],
    N: int,
    groups: NDArray[np.int64],
) -> NDArray[np.complex64]:
    return object_patches(object_guess, offsets[groups], relative[groups], N)


def _load_power(stack: FrameStack, indices: NDArray[np.int64]) -> NDArray[np.float64]:
    return frame_power(stack.read(indices))


def _combine_factor(powers: list[NDArray[np.float64]], numbers: GroupIndices, N: int) -> np.float32:
    """Return the factor from blocks of powers; `numbers` (G, C) index their concatenation."""
    return normalization_factor(np.concatenate([np.empty(0), *powers]), numbers, N)


def _take_groups(frames: NDArray[Any], numbers: GroupIndices) -> NDArray[Any]:
    """Return (m, N, N) frames arranged as (G, N, N, C) by their `numbers` (G, C)."""
    return frames[numbers].transpose(0, 2, 3, 1)
