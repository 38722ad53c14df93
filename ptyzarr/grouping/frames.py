"""Frames wherever they are, gathered into groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ptyzarr.grouping.coords import normalization_factor
from ptyzarr.scan import ScanLike, frame_power

READ_NBYTES = 16 << 20
"""Frames read at once, and the size of a lazy block; bounds what gathering needs besides."""

GroupIndices = NDArray[np.integer[Any]]


class FrameStack(Protocol):
    """The amplitudes of a scan, read by acquisition index."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (n, N, N)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype as stored."""
        ...

    def read(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return frames `indices`, ascending and distinct, as (m, N, N)."""
        ...


class ArrayStack:
    """Frames in an array that is indexed like NumPy's: NumPy, zarr, h5py, dask.

    Parameters
    ----------
    array : (n, N, N)
        A zarr array is recognized by its method, without importing zarr.
    """

    def __init__(self, array: Any) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (n, N, N)."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype as stored."""
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    def read(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return frames `indices`, ascending and distinct, as (m, N, N)."""
        select = getattr(self.array, "get_orthogonal_selection", None)
        if select is not None:
            return np.asarray(select((indices, slice(None), slice(None))))
        return np.asarray(self.array[indices])


class ScanStack:
    """The amplitudes of a scan that can give them by index.

    Parameters
    ----------
    scan
        A store, or anything that keeps its protocol.
    """

    def __init__(self, scan: ScanLike) -> None:
        self.scan = scan

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (n, N, N)."""
        return (self.scan.n_frames, self.scan.frame_size, self.scan.frame_size)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the amplitudes."""
        return np.dtype(self.scan.amplitude_dtype)

    def read(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return frames `indices`, ascending and distinct, as (m, N, N)."""
        return self.scan.amplitude(indices)


def gather_groups(
    stack: FrameStack, nn_indices: GroupIndices, power: NDArray[np.float64] | None = None
) -> NDArray[Any]:
    """Return the frames of each group, every needed frame read once.

    Parameters
    ----------
    stack
        Where the frames are.
    nn_indices : (G, C) integers
        Acquisition indices.
    power : (n,) float64 or None
        Filled with the power of the frames that are read.

    Returns
    -------
    frames : (G, N, N, C) stored dtype
        A transposed view; in memory each frame is contiguous.
    """
    n_groups, group_size = nn_indices.shape
    height, width = stack.shape[1:]
    gathered = np.empty((nn_indices.size, height, width), dtype=stack.dtype)
    flat = nn_indices.reshape(-1)
    order = np.argsort(flat, kind="stable")
    needed, starts = np.unique(flat[order], return_index=True)
    ends = np.append(starts[1:], flat.size)
    for part in split_range(len(needed), stack.dtype.itemsize * height * width):
        frames = stack.read(needed[part].astype(np.int64))
        if power is not None:
            power[needed[part]] = frame_power(frames)
        for number, frame in enumerate(frames, start=part.start):
            gathered[order[starts[number] : ends[number]]] = frame
    return gathered.reshape(n_groups, group_size, height, width).transpose(0, 2, 3, 1)


def gather_normalized(
    stack: FrameStack,
    nn_indices: GroupIndices,
    N: int,
    frame_powers: NDArray[np.float64] | None = None,
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return the frames of each group as stored, and normalized.

    Parameters
    ----------
    stack
        Where the frames are.
    nn_indices : (G, C) integers
        Acquisition indices of the whole selection.
    N
        The frame width that the caller declares; enters the factor alone.
    frame_powers : (n,) float64 or None
        Power of every frame where it is known; else it is computed from the frames read.

    Returns
    -------
    diffraction : (G, N, N, C) stored dtype
    normalized : (G, N, N, C) float32
    """
    if frame_powers is not None:
        diffraction = gather_groups(stack, nn_indices)
    else:
        frame_powers = np.zeros(stack.shape[0], dtype=np.float64)
        diffraction = gather_groups(stack, nn_indices, frame_powers)
    factor = normalization_factor(frame_powers, nn_indices, N)
    return diffraction, scale_frames(diffraction, factor)


def scale_frames(frames: NDArray[Any], factor: np.float32) -> NDArray[np.float32]:
    """Return ``factor * float32(frames)`` in the memory layout of `frames`.

    Frames that are all zero have an infinite factor and become NaN, as in the reference.
    """
    scaled: NDArray[np.float32] = frames.astype(np.float32)
    with np.errstate(invalid="ignore"):
        scaled *= np.float32(factor)
    return scaled


def split_range(count: int, nbytes: int) -> Iterator[slice]:
    """Yield slices of ``range(count)`` whose items of `nbytes` each fit into one read."""
    step = max(1, READ_NBYTES // max(1, nbytes))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
