"""A temporary array of frames, for sources that can only be read front to back.

Frames are spooled as counts while every pixel seen so far is one (a quarter to a half of the
bytes), and rewritten once if a later frame ends that.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import SourceError
from ptyzarr.ingestion.values import CheckedBlock, amplitude_of

REWRITE_BYTES = 4 * 1024**2


class Spool:
    """Frames in acquisition order in one file, written by the plan pass.

    Parameters
    ----------
    path
        The file.
    frame_size
        Width of a frame in pixels.
    """

    def __init__(self, path: Path, frame_size: int) -> None:
        self._path = path
        self._file: BinaryIO = path.open("wb")
        self._n_frames = 0
        self.dtype: np.dtype[Any] = np.dtype(np.uint16)

    @classmethod
    def create(cls, folder: Path, frame_size: int) -> Spool:
        """Return a new spool in `folder`; an older one there is replaced."""
        return cls(folder / "frames.bin", frame_size)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, block: CheckedBlock) -> None:
        """Add the frames of a block, as counts if that is still possible."""
        wanted = self.dtype
        if self.dtype.kind == "u" and block.counts is None:
            wanted = block.amplitude.dtype
        elif self.dtype == np.uint16 and block.max_count > np.iinfo(np.uint16).max:
            wanted = np.dtype(np.uint32)
        if wanted != self.dtype or (block.counts is None and self._n_frames == 0):
            self._rewrite(wanted, as_counts=block.counts is not None)
        frames = block.amplitude if self._holds_values else block.counts
        assert frames is not None
        self._file.write(np.ascontiguousarray(frames, self.dtype).data)
        self._n_frames += len(frames)

    _holds_values = False

    def _rewrite(self, dtype: np.dtype[Any], *, as_counts: bool) -> None:
        """Convert what is there; exact, since it is counts that the new dtype or its root holds."""
        self._file.close()
        old, narrow = self._path.with_suffix(".old"), self.dtype
        os.replace(self._path, old)
        self._file = self._path.open("wb")
        self.dtype, self._holds_values = dtype, not as_counts
        with old.open("rb") as source:
            while raw := source.read(REWRITE_BYTES):
                counts = np.frombuffer(raw, narrow)
                values = counts if as_counts else amplitude_of(counts)
                self._file.write(np.ascontiguousarray(values, dtype).data)
        old.unlink()


@dataclass(frozen=True, slots=True)
class SpoolReader:
    """Reads spooled frames in any order.

    Attributes
    ----------
    path
        File that a `Spool` wrote.
    dtype
        Its final dtype, ``np.dtype.str``.
    frame_size
        Width of a frame in pixels.
    """

    path: str
    dtype: str
    frame_size: int

    def read(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return frames (m, N, N) in the order asked.

        Raises
        ------
        SourceError
            If the file is shorter than it was.
        """
        frames = np.empty((len(indices), self.frame_size, self.frame_size), self.dtype)
        with open(self.path, "rb", buffering=0) as file:
            for frame, index in zip(frames, np.asarray(indices).tolist(), strict=True):
                file.seek(index * frame.nbytes)
                view = frame.data.cast("B")
                while view:
                    got = file.readinto(view)
                    if not got:
                        raise SourceError(f"{self.path} ended at frame {index}; run ingest again")
                    view = view[got:]
        return frames
