"""From stored values in memory to a batch by our own kernel, for everyone that has such values."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptyzarr.bench.workload import Workload
from ptyzarr.streaming import gather_frames

# The kernel stores whole vectors past the caches where they begin at such an address.
_ALIGNMENT: Final = 64


class BatchGather:
    """Gathers batches into memory that is used again.

    Parameters
    ----------
    work
        Layout and size of the batches.

    Attributes
    ----------
    is_counts
        Whether the stored values are counts, whose square root is the amplitude.
    """

    def __init__(self, work: Workload) -> None:
        store = work.open()
        self.is_counts, self._size = store.quantity == "counts", store.frame_size
        self._is_first = work.channels == "first"
        self._group_size = work.grouping.group_size
        self._out = aligned_floats(work.batch_size * self._group_size * self._size**2)
        store.close()

    def gather(self, values: NDArray[Any], frames: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return a batch, (B, C, N, N) or (B, N, N, C); its memory is used again by the next.

        Parameters
        ----------
        values : (m, N, N), or flat
            Stored values, C-contiguous.
        frames : (B, C) int64
            Number of each group member among them.
        """
        size, n_groups = self._size, len(frames)
        offsets = frames * size**2
        if self._is_first:
            offsets = offsets.reshape(-1, 1)
        out = self._out[: frames.size * size**2].reshape(len(offsets), -1)
        gather_frames(
            values.reshape(-1),
            offsets,
            np.arange(len(offsets)),
            np.float32(1),
            out,
            is_counts=self.is_counts,
        )
        if self._is_first:
            return out.reshape(n_groups, self._group_size, size, size)
        return out.reshape(n_groups, size, size, self._group_size)


def aligned_floats(n: int) -> NDArray[np.float32]:
    """Return (n,) float32 that begin at a multiple of a cache line."""
    raw = np.empty(4 * n + _ALIGNMENT, np.uint8)
    first = -raw.ctypes.data % _ALIGNMENT
    return raw[first : first + 4 * n].view(np.float32)
