"""Shard files of the frames: how they are laid out, and reading chunks out of many directly.

A shard is what zarr v3's ``sharding_indexed`` codec describes: encoded chunks one after another,
then an index of (offset, length) pairs and its CRC-32C. Each chunk is c-blosc followed by its own
CRC-32C, so that a flipped bit is found where it is read.
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import DamagedStoreError, StorageError
from ptyzarr.store.checking import read_errors
from ptyzarr.store.manifest import size_fault
from ptyzarr.store.native import OK, NativeFunctions, read_encoded
from ptyzarr.store.planes import lz4_function
from ptyzarr.store.rootguard import RootGuard
from ptyzarr.store.shardindex import chunk_damage, chunk_ranges, read_index

ABSENT = np.uint64(2**64 - 1)
_MAX_RUN = 4 * 1024**2  # bytes of one positioned read
_MAX_GAP = 8 * 1024  # unwanted bytes that cost less than another positioned read
_MAX_OPEN = 64  # shard files kept open
_SHARD_KEY = re.compile(r"diffraction/c/\d+/0/0")


@dataclass(frozen=True, slots=True)
class FrameFormat:
    """How frames lie in shards.

    Attributes
    ----------
    n_frames, frame_size
        Rows, and pixels along an edge.
    dtype
        Stored dtype.
    chunk_frames, shard_frames
        Frames in a chunk and in a shard; the second is a multiple of the first.
    """

    n_frames: int
    frame_size: int
    dtype: np.dtype[Any]
    chunk_frames: int
    shard_frames: int

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> FrameFormat:
        """Return what the ``zarr.json`` of the frames says.

        Raises
        ------
        DamagedStoreError
            If it is not of a sharded array.
        """
        try:
            n_frames, size = metadata["shape"][:2]
            (codec,) = metadata["codecs"]
            return cls(
                int(n_frames),
                int(size),
                np.dtype(metadata["data_type"]),
                int(codec["configuration"]["chunk_shape"][0]),
                int(metadata["chunk_grid"]["configuration"]["chunk_shape"][0]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DamagedStoreError(
                f"the metadata of the frames is not understood ({error!r}); expected a sharded "
                "array; ingest the source again with --overwrite"
            ) from error

    @property
    def chunk_nbytes(self) -> int:
        """Decoded size of a chunk."""
        return self.chunk_frames * self.frame_size**2 * self.dtype.itemsize

    @property
    def n_chunks(self) -> int:
        """Chunks that hold at least one row."""
        return -(-self.n_frames // self.chunk_frames)

    @property
    def n_shards(self) -> int:
        """Shard files."""
        return -(-self.n_frames // self.shard_frames)

    @property
    def shard_chunks(self) -> int:
        """Chunks in a full shard."""
        return self.shard_frames // self.chunk_frames

    def shard_rows(self, shard: int) -> range:
        """Return the stored rows of a shard."""
        start = shard * self.shard_frames
        return range(start, min(start + self.shard_frames, self.n_frames))


def shard_key(shard: int) -> str:
    """Return the store key of a shard of the frames."""
    return f"diffraction/c/{shard}/0/0"


def is_shard_key(key: str) -> bool:
    """Return whether a store key is that of a shard of the frames."""
    return _SHARD_KEY.fullmatch(key) is not None


class ChunkGeometry:
    """What every reader of stored chunks says about them; see `ptyzarr.scan.ChunkReader`."""

    def __init__(self, layout: FrameFormat) -> None:
        self._layout = layout

    @property
    def n_frames(self) -> int:
        """Number of stored rows."""
        return self._layout.n_frames

    @property
    def frame_shape(self) -> tuple[int, int]:
        """(N, N)."""
        return self._layout.frame_size, self._layout.frame_size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored dtype."""
        return self._layout.dtype

    @property
    def chunk_frames(self) -> int:
        """Frames in a chunk."""
        return self._layout.chunk_frames

    @property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return self._layout.n_chunks

    @property
    def chunk_nbytes(self) -> int:
        """Decoded size of a chunk in bytes."""
        return self._layout.chunk_nbytes


class CompiledReader(ChunkGeometry):
    """Decodes chunks of shards by compiled code, wherever the shards are.

    Parameters
    ----------
    layout
        How frames lie in shards.
    native
        C functions that read, check and decompress.
    """

    def __init__(self, layout: FrameFormat, native: NativeFunctions) -> None:
        super().__init__(layout)
        self._native = native
        self._scratch = threading.local()

    def read_chunks(
        self, chunks: NDArray[np.int64], slots: NDArray[np.int64], out: NDArray[np.uint8]
    ) -> int:
        """Decode chunks into rows of `out`; see `ptyzarr.scan.ChunkReader.read_chunks`."""
        return self._read(chunks, slots, out, wants_planes=False)

    def prepare(self) -> None:
        """Load, or make, the compiled code that reading takes; no file is read."""
        nothing = np.empty(0, np.int64)
        out = np.empty((0, self._layout.chunk_nbytes), np.uint8)
        self._read_ranges(-1, nothing, nothing, nothing, out, wants_planes=False)

    @property
    def has_planes(self) -> bool:
        """Whether `read_planes` may be used."""
        return lz4_function() is not None

    def read_planes(
        self, chunks: NDArray[np.int64], slots: NDArray[np.int64], out: NDArray[np.uint8]
    ) -> int:
        """Decode chunks to byte planes; see `ptyzarr.scan.PlaneReader.read_planes`."""
        return self._read(chunks, slots, out, wants_planes=True)

    def _read(
        self,
        chunks: NDArray[np.int64],
        slots: NDArray[np.int64],
        out: NDArray[np.uint8],
        *,
        wants_planes: bool,
    ) -> int:
        n_read = 0
        shards = chunks // self._layout.shard_chunks
        edges = np.flatnonzero(np.diff(shards)) + 1
        for first, last in zip([0, *edges], [*edges, len(chunks)], strict=True):
            if first < last:
                shard = int(shards[first])
                inner = chunks[first:last] - shard * self._layout.shard_chunks
                part = slots[first:last]
                n_read += self._read_shard(shard, inner, part, out, wants_planes=wants_planes)
        return n_read

    def _read_shard(
        self,
        number: int,
        inner: NDArray[np.int64],
        slots: NDArray[np.int64],
        out: NDArray[np.uint8],
        *,
        wants_planes: bool,
    ) -> int:
        """Decode chunks `inner` of one shard into rows `slots` of `out`; return bytes read."""
        raise NotImplementedError

    def _read_ranges(
        self,
        fd: int,
        offsets: NDArray[np.int64],
        lengths: NDArray[np.int64],
        slots: NDArray[np.int64],
        out: NDArray[np.uint8],
        *,
        wants_planes: bool,
    ) -> tuple[int, int, int]:
        """Return what `read_encoded` does."""
        lz4 = lz4_function()
        result: tuple[int, int, int] = read_encoded(
            self._native.pread,
            self._native.crc32c,
            self._native.decompress,
            fd,
            offsets,
            lengths,
            slots,
            _MAX_GAP,
            self._scratch_bytes(int(lengths.max(initial=0))),
            out,
            self._layout.chunk_nbytes,
            lz4 or self._native.decompress,
            self.dtype.itemsize if lz4 else 0,
            wants_planes,
        )
        return result

    def _scratch_bytes(self, nbytes: int) -> NDArray[np.uint8]:
        scratch: NDArray[np.uint8] | None = getattr(self._scratch, "buffer", None)
        if scratch is None or scratch.size < nbytes:
            scratch = np.empty(max(nbytes, _MAX_RUN), np.uint8)
            self._scratch.buffer = scratch
        return scratch


class ShardReader(CompiledReader):
    """Reads chunks straight out of local shard files; a `ptyzarr.scan.ChunkReader`.

    Parameters
    ----------
    root
        Folder of the store.
    layout
        How frames lie in shards.
    files
        The manifest's entries by key: of each shard its size and, where recorded, its tail.
    native
        C functions that read, check and decompress.
    guard
        Tells whether the folder still holds the store that was opened.
    """

    def __init__(
        self,
        root: Path,
        layout: FrameFormat,
        files: Mapping[str, Mapping[str, Any]],
        native: NativeFunctions,
        guard: RootGuard | None = None,
    ) -> None:
        super().__init__(layout, native)
        self._guard = guard
        self._root = root
        self._files = files
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _Shard] = OrderedDict()

    def close(self) -> None:
        """Close every shard file that is not being read."""
        with self._lock:
            shards = list(self._open.values())
            self._open.clear()
        for shard in shards:
            shard.release()

    def _read_shard(
        self,
        number: int,
        inner: NDArray[np.int64],
        slots: NDArray[np.int64],
        out: NDArray[np.uint8],
        *,
        wants_planes: bool,
    ) -> int:
        shard = self._acquire(number)
        try:
            offsets, lengths = chunk_ranges(shard.index, inner, shard.path)
            status, which, n_read = self._read_ranges(
                shard.fd, offsets, lengths, slots, out, wants_planes=wants_planes
            )
            if status != OK:
                raise chunk_damage(shard.path, status, int(inner[which]))
            return int(n_read)
        finally:
            shard.release()

    def _open_shard(self, key: str, entry: Mapping[str, Any]) -> _Shard:
        try:
            shard = _Shard.open(self._root / key, entry, self._layout.shard_chunks)
        except DamagedStoreError:
            if self._guard is not None:
                self._guard.check()  # that the store was replaced is the better reason
            raise
        if self._guard is not None:
            try:
                self._guard.check()
            except BaseException:
                shard.release()
                raise
        return shard

    def _acquire(self, number: int) -> _Shard:
        with self._lock:
            shard = self._open.get(number)
            if shard is not None:
                self._open.move_to_end(number)
                shard.acquire()
                return shard
        key = shard_key(number)
        entry = self._files.get(key)
        if entry is None:
            raise DamagedStoreError(
                f"{self._root}: the manifest lists no file {key!r}; expected every shard; the "
                "store is damaged, 'ptyzarr repair' mends it from its source"
            )
        shard = self._open_shard(key, entry)
        evicted = None
        with self._lock:
            known = self._open.get(number)
            if known is not None:
                evicted, shard = shard, known
            else:
                self._open[number] = shard
                if len(self._open) > _MAX_OPEN:
                    _, evicted = self._open.popitem(last=False)
            shard.acquire()
        if evicted is not None:
            evicted.release()
        return shard


class _Shard:
    """One open shard file with its index; closed when the last holder lets go."""

    def __init__(self, path: Path, fd: int, index: NDArray[np.int64]) -> None:
        self.path = path
        self.fd = fd
        self.index = index
        self._holders = 1
        self._lock = threading.Lock()
        # A reader that is dropped without being closed must not leak descriptors.
        self._close = weakref.finalize(self, os.close, fd)

    @classmethod
    def open(cls, path: Path, entry: Mapping[str, Any], n_chunks: int) -> _Shard:
        size = int(entry["size"])
        try:
            # A pipe that lies where the shard was must not be waited for.
            flags = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
            fd = os.open(path, os.O_RDONLY | flags)
        except FileNotFoundError as error:
            raise DamagedStoreError(
                f"{path} is missing; expected a shard of {size} bytes; the store is damaged, "
                "'ptyzarr repair' mends it from its source"
            ) from error
        except OSError as error:
            raise StorageError(
                f"{path} cannot be opened: {error.strerror}; expected to read it; check "
                "permissions and the limit of "
                "open files"
            ) from error
        try:
            fault = size_fault(os.fstat(fd), size)
            if fault is not None:
                raise DamagedStoreError(
                    f"{path} {fault}; expected {size} bytes; the store is damaged, "
                    "'ptyzarr repair' mends it from its source"
                )
            return cls(path, fd, read_index(fd, path, size, n_chunks, entry.get("tail")))
        except BaseException:
            os.close(fd)
            raise

    def acquire(self) -> None:
        with self._lock:
            self._holders += 1

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            last = self._holders == 0
        if last:
            self._close()


class FallbackReader(ChunkGeometry):
    """Reads chunks through any callable that returns rows: other codecs, other places.

    Parameters
    ----------
    layout
        How frames lie in chunks (shards are not looked at).
    read_rows
        ``(start, stop) -> (stop - start, N, N)`` of the stored dtype.
    name
        What is read, for messages.
    """

    def __init__(
        self, layout: FrameFormat, read_rows: Callable[[int, int], NDArray[Any]], name: str
    ) -> None:
        super().__init__(layout)
        self._read_rows = read_rows
        self._name = name

    def read_chunks(
        self, chunks: NDArray[np.int64], slots: NDArray[np.int64], out: NDArray[np.uint8]
    ) -> int:
        """Decode chunks into rows of `out`; the bytes counted are the decoded ones."""
        n_read = 0
        for chunk, slot in zip(chunks.tolist(), slots.tolist(), strict=True):
            start = chunk * self.chunk_frames
            with read_errors(f"{self._name}: chunk {chunk}"):
                rows = self._read_rows(start, min(start + self.chunk_frames, self.n_frames))
            raw = np.ascontiguousarray(rows, self.dtype).reshape(-1).view(np.uint8)
            out[slot, : raw.size] = raw
            out[slot, raw.size : self.chunk_nbytes] = 0
            n_read += raw.size
        return n_read

    def prepare(self) -> None:
        """Do nothing: no compiled code of ours is used."""

    def close(self) -> None:
        """Do nothing: no file is held open."""
