"""What is stored, counts or amplitudes and in which dtype: guessed first, never left to chance."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptyzarr.ingestion.values import CheckedBlock, check_block, count_dtype
from ptyzarr.scan import Quantity, Scan
from ptyzarr.store import COUNT_DTYPES

SAMPLE_FRAMES = 256
_SAMPLE_BYTES = 16 * 1024**2
_BLOCK_BYTES = 1024**2


class Kind(NamedTuple):
    """What is stored for a scan.

    Attributes
    ----------
    quantity
        Counts or amplitude.
    dtype
        Of the stored frames, ``np.dtype.str``.
    """

    quantity: Quantity
    dtype: str

    @classmethod
    def least(cls, scan: Scan) -> Kind:
        """Return what would be stored if all frames were empty."""
        if scan.quantity == "counts" or scan.frames.dtype == np.float32:
            return cls("counts", np.dtype(COUNT_DTYPES[0]).str)
        return cls("amplitude", scan.frames.dtype.str)

    @property
    def counts(self) -> np.dtype[Any] | None:
        """In which counts are stored, or None for amplitudes."""
        return np.dtype(self.dtype) if self.quantity == "counts" else None

    def with_block(self, block: CheckedBlock) -> Kind:
        """Return what holds this and the frames of a block; the least of that kind."""
        if self.counts is None:
            return self
        if block.counts is None:
            return Kind("amplitude", block.amplitude.dtype.str)
        wanted = count_dtype(block.max_count)
        return Kind("counts", max(self.counts, wanted, key=lambda dtype: dtype.itemsize).str)

    def wider(self, other: Kind) -> Kind:
        """Return the one of two kinds of the same scan that holds what both hold."""
        if self.counts is None or other.counts is None:
            return self if self.counts is None else other
        return max(self, other, key=lambda kind: np.dtype(kind.dtype).itemsize)

    def stored(self, block: CheckedBlock) -> NDArray[Any]:
        """Return the frames of a block that this holds, as they are stored."""
        frames = block.amplitude if self.counts is None else block.counts
        return np.ascontiguousarray(frames, self.dtype)


def guess_kind(scan: Scan, *, mask: bool) -> Kind:
    """Return what a sample of frames spread over the scan asks for: what is stored, or less.

    The sample is read at random; all other frames are compared with the guess when they are
    stored.

    Parameters
    ----------
    scan
        With random access.
    mask
        Whether pixels that are not finite are masked.

    Raises
    ------
    SourceError
        If a frame of the sample is refused.
    """
    kind = Kind.least(scan)
    if kind.counts is None:
        return kind
    frame_bytes = scan.frame_size**2 * scan.frames.dtype.itemsize
    most = min(SAMPLE_FRAMES, max(1, _SAMPLE_BYTES // frame_bytes), scan.n_frames)
    sample = np.linspace(0, scan.n_frames - 1, most).astype(np.int64)
    step = max(1, _BLOCK_BYTES // frame_bytes)
    for numbers in np.split(sample, range(step, most, step)):
        block = check_block(
            scan.frames.read(numbers),
            numbers,
            scan.quantity,
            scan.frames_origin,
            mask=mask,
            counts=kind.counts,
        )
        kind = kind.with_block(block)
        if kind.counts is None:
            break
    return kind
