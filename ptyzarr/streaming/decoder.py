"""Decoding into the pool: where and how the frames of all scans lie there, plain or packed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import DamagedStoreError
from ptyzarr.scan import ChunkReader, DistantReader, PlaneReader
from ptyzarr.streaming.packing import (
    FramePacking,
    PackedFrames,
    choose_packings,
    pack_frames,
    pack_planes,
)
from ptyzarr.streaming.vectors import ALIGNMENT

# Decoded chunks that wait in a thread's cache to be packed.
UNPACKED_NBYTES: Final = 1024**2


class DecodableScan(Protocol):
    """What decoding needs of a scan."""

    @property
    def chunks(self) -> ChunkReader:
        """Reader of the stored frames."""
        ...

    @property
    def pixel_limits(self) -> tuple[int, int] | None:
        """Most non-zero pixels and most pixels above 255 of any frame; None if not known."""
        ...

    @property
    def path(self) -> str:
        """Folder or URL, for messages."""
        ...


class FrameDecoder:
    """Decodes chunks of several scans into slots of one pool.

    Chunks are numbered through all scans. Frames of a scan are packed where that is worth it.

    Parameters
    ----------
    scans
        At least one.
    frame_size
        N, width of their frames.

    Attributes
    ----------
    slot_nbytes
        Size of a slot that holds a decoded chunk of any scan.
    chunk_starts : (n_scans + 1,) int64
        First chunk of each scan, then the number of chunks.
    chunk_frames : (n_scans,) int64
        Frames in a chunk.
    """

    def __init__(self, scans: Sequence[DecodableScan], frame_size: int) -> None:
        self._readers = [scan.chunks for scan in scans]
        self._names = [scan.path for scan in scans]
        self._n_pixels = frame_size**2
        self._dtypes = [_pixel_dtype(reader.dtype) for reader in self._readers]
        self._packings = choose_packings(
            self._dtypes,
            self._n_pixels,
            [scan.pixel_limits for scan in scans],
        )
        largest = max(
            reader.chunk_frames * packing.frame_nbytes if packing else reader.chunk_nbytes
            for reader, packing in zip(self._readers, self._packings, strict=True)
        )
        self.slot_nbytes = -(-largest // ALIGNMENT) * ALIGNMENT
        n_chunks = [reader.n_chunks for reader in self._readers]
        self.chunk_starts = np.concatenate([[0], np.cumsum(n_chunks)]).astype(np.int64)
        self.chunk_frames = np.array([reader.chunk_frames for reader in self._readers], np.int64)
        self._unpacked = threading.local()

    @property
    def jobs_at_once(self) -> int:
        """Calls of `read_chunks` that mostly wait and are worth having under way; 0 for disks."""
        return max(
            reader.jobs_at_once if isinstance(reader, DistantReader) else 0
            for reader in self._readers
        )

    @property
    def stored_dtypes(self) -> tuple[np.dtype[Any], ...]:
        """Dtype of each scan's frames in the pool: the stored one, uint8 where that is bool."""
        return tuple(self._dtypes)

    @property
    def forms(self) -> tuple[tuple[np.dtype[Any], FramePacking | None], ...]:
        """How each scan's frames lie in the pool: their dtype, and the packing if there is one."""
        return tuple(zip(self.stored_dtypes, self._packings, strict=True))

    @property
    def slot_strides(self) -> NDArray[np.int64]:
        """(n_scans,) int64, from one slot to the next; see `window.FrameMap`."""
        sizes = [
            1 if packing else dtype.itemsize
            for dtype, packing in zip(self._dtypes, self._packings, strict=True)
        ]
        return self.slot_nbytes // np.array(sizes, np.int64)

    @property
    def frame_strides(self) -> NDArray[np.int64]:
        """(n_scans,) int64, from one frame in a slot to the next; see `window.FrameMap`."""
        strides = [
            packing.frame_nbytes if packing else self._n_pixels for packing in self._packings
        ]
        return np.array(strides, np.int64)

    def thread_nbytes(self, group_size: int) -> int:
        """Return memory that grows with frames and chunks in a thread that decodes and gathers."""
        most = 0
        for reader, packing in zip(self._readers, self._packings, strict=True):
            # Encoded, as planes, and decoded to be packed; then the amplitudes of a group.
            chunks = 3 * reader.chunk_nbytes + reader.chunk_nbytes // 8
            values = packing.max_nonzero if packing else 0
            most = max(most, chunks + 4 * group_size * values)
        return most

    def read_chunks(
        self, chunks: NDArray[np.int64], slots: NDArray[np.int64], pool: NDArray[np.uint8]
    ) -> tuple[int, int]:
        """Decode chunks into slots of the pool; return (bytes read, frames decoded).

        Parameters
        ----------
        chunks : (m,) int64, ascending
            Numbered through all scans.
        slots : (m,) int64
        pool : (n_slots, slot_nbytes) uint8

        Raises
        ------
        DamagedStoreError
            If a chunk cannot be read.
        """
        starts = self.chunk_starts
        edges = np.searchsorted(chunks, starts).tolist()
        n_read = n_frames = 0
        for number, (reader, packing) in enumerate(zip(self._readers, self._packings, strict=True)):
            part = slice(edges[number], edges[number + 1])
            if part.start < part.stop:
                wanted = chunks[part] - starts[number]
                if packing is None:
                    n_read += reader.read_chunks(wanted, slots[part], pool)
                else:
                    packed = PackedFrames.over(pool.reshape(-1), packing)
                    n_read += self._read_packed(number, wanted, slots[part], packed)
                n_frames += (part.stop - part.start) * reader.chunk_frames
        return n_read, n_frames

    def _read_packed(
        self,
        number: int,
        chunks: NDArray[np.int64],
        slots: NDArray[np.int64],
        packed: PackedFrames,
    ) -> int:
        """Decode chunks of one scan, few enough at a time to stay in the cache, and pack them."""
        reader = self._readers[number]
        step = max(1, UNPACKED_NBYTES // reader.chunk_nbytes)
        scratch = self._scratch(min(step, len(chunks)) * reader.chunk_nbytes)
        within = np.arange(reader.chunk_frames) * packed.packing.frame_nbytes
        n_read = 0
        for first in range(0, len(chunks), step):
            some = chunks[first : first + step]
            decoded = scratch[: len(some) * reader.chunk_nbytes].reshape(len(some), -1)
            # What fills up the last chunk of a scan is no frame.
            missing = max(int(some[-1] + 1) * reader.chunk_frames - reader.n_frames, 0)
            places = slots[first : first + step, np.newaxis] * self.slot_nbytes + within
            places = places.reshape(-1)[: places.size - missing]
            nbytes, fits = _decode_and_pack(reader, some, decoded, places, packed)
            n_read += nbytes
            if not fits:
                raise DamagedStoreError(
                    f"{self._names[number]}: frames of chunks {some[0]} to {some[-1]} have "
                    f"more non-zero pixels than the store says ({packed.packing.max_nonzero}, "
                    f"{packed.packing.max_wide} of them above 255); run 'ptyzarr verify', or "
                    "ingest the source again with --overwrite"
                )
        return n_read

    def prepare(self, pool: NDArray[np.uint8]) -> None:
        """Load, or make, the compiled code that decoding takes; no file is read.

        An empty frame of each packed scan goes into the first slot of `pool`.
        """
        nothing = np.empty(0, np.int64)
        for reader, packing in zip(self._readers, self._packings, strict=True):
            reader.prepare()
            if packing is None:
                continue
            packed = PackedFrames.over(pool.reshape(-1), packing)
            if packing.wants_planes:
                pack_planes(np.empty((0, reader.chunk_nbytes), np.uint8), 1, nothing, packed)
            empty = np.zeros((1, packing.n_pixels), packing.dtype)
            pack_frames(empty, np.zeros(1, np.int64), packed)

    def _scratch(self, nbytes: int) -> NDArray[np.uint8]:
        """Return this thread's memory for decoded chunks."""
        scratch: NDArray[np.uint8] | None = getattr(self._unpacked, "memory", None)
        if scratch is None or scratch.size < nbytes:
            scratch = self._unpacked.memory = np.empty(nbytes, np.uint8)
        return scratch

    def pool_views(self, pool: NDArray[np.uint8]) -> list[NDArray[Any] | PackedFrames]:
        """Return the pool as each scan's frames lie in it: a flat array of its dtype, or packed."""
        memory = pool.reshape(-1)
        return [
            memory.view(dtype) if packing is None else PackedFrames.over(memory, packing)
            for dtype, packing in zip(self._dtypes, self._packings, strict=True)
        ]


def _pixel_dtype(stored: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in which decoded frames are read: a bool is a byte, 0 or 1."""
    return np.dtype(np.uint8) if stored.kind == "b" else stored


def _decode_and_pack(
    reader: ChunkReader,
    chunks: NDArray[np.int64],
    decoded: NDArray[np.uint8],
    places: NDArray[np.int64],
    packed: PackedFrames,
) -> tuple[int, bool]:
    """Decode chunks and pack their frames; return bytes read and whether the frames fitted.

    Parameters
    ----------
    decoded : (n, chunk_nbytes) uint8
        Scratch for the n chunks.
    places : (m,) int64
        Byte of the packed memory for each frame.
    """
    rows = np.arange(len(chunks))
    if packed.packing.wants_planes and isinstance(reader, PlaneReader) and reader.has_planes:
        n_read = reader.read_planes(chunks, rows, decoded)
        return n_read, pack_planes(decoded, reader.chunk_frames, places, packed)
    n_read = reader.read_chunks(chunks, rows, decoded)
    frames = decoded.reshape(-1).view(packed.packing.dtype).reshape(-1, packed.packing.n_pixels)
    return n_read, pack_frames(frames, places, packed)
