"""From stored values in memory to a batch by our own kernel, for everyone that has such values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.bench.workload import Workload
from ptyzarr.streaming import PackedFrames, aligned_bytes, gather_frames


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
        nbytes = 4 * work.batch_size * self._group_size * self._size**2
        self._out = aligned_bytes(nbytes).view(np.float32)
        store.close()

    def gather(
        self, values: NDArray[Any] | PackedFrames, frames: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return a batch, (B, C, N, N) or (B, N, N, C); its memory is used again by the next.

        Parameters
        ----------
        values : (m, N, N), or flat; or packed frames one after the other
            Stored values, C-contiguous.
        frames : (B, C) int64
            Number of each group member among them.
        """
        size, n_groups = self._size, len(frames)
        source: NDArray[Any] | PackedFrames
        if isinstance(values, PackedFrames):
            source, offsets = values, frames * values.packing.frame_nbytes
        else:
            source, offsets = values.reshape(-1), frames * size**2
        if self._is_first:
            offsets = offsets.reshape(-1, 1)
        out = self._out[: frames.size * size**2].reshape(len(offsets), -1)
        gather_frames(
            source,
            offsets,
            np.arange(len(offsets)),
            np.float32(1),
            out,
            is_counts=self.is_counts,
        )
        if self._is_first:
            return out.reshape(n_groups, self._group_size, size, size)
        return out.reshape(n_groups, size, size, self._group_size)
