"""The frames of a store, moved pixel by pixel, as the frames of a source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import SourceChangedError
from ptyzarr.ingestion.geometry import move_pixels
from ptyzarr.ingestion.values import amplitude_of
from ptyzarr.store import ScanStore

PIECE_BYTES = 1024**2  # of frames before they are moved, which may be much larger than after


@dataclass(frozen=True, slots=True)
class StoredFrames:
    """Frames of a store with pixels moved or zeroed; a `FrameReader`.

    Attributes
    ----------
    store
        Another process opens it again.
    digest
        Of the scan that is expected there.
    pixels : (M, M) int64
        Which pixel of a stored frame each pixel shows, -1 for 0.
    is_counts
        Whether values are counts, as the source of the store had them, or amplitudes.
    value_dtype
        Of the values, ``np.dtype.str``.
    """

    store: ScanStore
    digest: str
    pixels: NDArray[np.int64]
    is_counts: bool
    value_dtype: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n_frames, M, M)."""
        return self.store.n_frames, len(self.pixels), len(self.pixels)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Native byte order."""
        return np.dtype(self.value_dtype)

    @property
    def has_random_access(self) -> bool:
        """Always: a store reads any frame."""
        return True

    @property
    def worker_nbytes(self) -> int:
        """Memory of `read` beside what it returns: some frames and the chunks they lie in."""
        each = self.store.frame_size**2 * 3 * max(4, self.dtype.itemsize)
        return self._step() * (each + self.store.chunks.chunk_nbytes)

    def read(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return frames in the order asked.

        Parameters
        ----------
        indices : (m,) int64

        Returns
        -------
        (m, M, M), native dtype

        Raises
        ------
        SourceChangedError
            If another process opened the store again and found another scan.
        DamagedStoreError
            If a chunk is damaged.
        """
        if self.store.digest != self.digest:
            raise SourceChangedError(
                f"{self.store.path} holds another scan than at the start; expected it to stay "
                "until the end; start again with a store that stays"
            )
        frames = np.empty((len(indices), *self.shape[1:]), self.dtype)
        step = self._step()
        for start in range(0, len(indices), step):
            part = slice(start, start + step)
            frames[part] = self._values(move_pixels(self.store.stored(indices[part]), self.pixels))
        return frames

    def read_summed(self, indices: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.uint32]]:
        """Return what `read` does, and zeros: a store verifies each chunk that it reads."""
        return self.read(indices), np.zeros(len(indices), np.uint32)

    def check_sums(self, sums: NDArray[np.uint32]) -> None:
        """Do nothing: there is no checksum of all frames that could be compared."""

    def blocks(self, max_frames: int) -> Iterator[NDArray[Any]]:
        """Yield all frames in acquisition order, at most `max_frames` at a time."""
        for start in range(0, self.shape[0], max_frames):
            yield self.read(np.arange(start, min(start + max_frames, self.shape[0])))

    def _values(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return what the source of the store had for stored pixels, which are moved by now."""
        if self.store.quantity == "counts" and not self.is_counts:
            return amplitude_of(stored)
        return stored

    def _step(self) -> int:
        return max(1, PIECE_BYTES // (self.store.frame_size**2 * max(4, self.dtype.itemsize)))
