"""Batch memory that is used again once its last reference is gone."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ptyzarr.streaming.vectors import ALIGNMENT


class BatchMemory:
    """Hands out aligned arrays of one size and takes their memory back by itself.

    An array, and every view of it, keeps its memory; when the last of them is gone, in whatever
    thread, the memory is used for a later array. Nobody has to give anything back, so keeping
    every batch is safe: then every array has memory of its own.

    Parameters
    ----------
    nbytes
        Size of the largest array.
    max_free
        Pieces of memory kept for later; more are returned to the system.
    """

    def __init__(self, nbytes: int, max_free: int) -> None:
        self._nbytes = nbytes
        # Its length bounds it by itself, so that a lease can add to it from any thread, even
        # from a finalizer that interrupts this class.
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=max_free)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an uninitialised C-contiguous array, aligned to `ALIGNMENT` bytes."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = aligned_bytes(self._nbytes)
        lease = _Lease(memory, self._free)
        whole = np.asarray(lease)
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return whole[:nbytes].view(dtype).reshape(shape)

    @property
    def n_free(self) -> int:
        """Pieces of memory that wait for a later array."""
        return len(self._free)


class _Lease:
    """The owner of one array's memory; views of the array refer to it, however derived."""

    __slots__ = ("__array_interface__", "_free", "_memory")

    def __init__(self, memory: NDArray[np.uint8], free: deque[NDArray[np.uint8]]) -> None:
        self._memory, self._free = memory, free
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self._free.append(self._memory)


def aligned_bytes(nbytes: int) -> NDArray[np.uint8]:
    """Return (nbytes,) uint8, uninitialised, beginning at a multiple of `ALIGNMENT`."""
    memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + nbytes]
