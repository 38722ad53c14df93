"""Parts of far-away shards kept on a local disk: sparse files, bounded in size, never trusted.

A cached shard is one file, named by the sha256 that the manifest lists, so that it is found again
whatever the URL and never mistaken for another version. Its bytes lie at their own offsets; what
was not fetched is a hole. Behind them follows one byte for each chunk, and one for the index, which
says whether it is there. A byte is set after what it speaks of was written, and every chunk and
index is checked against its own checksum when it is used. So there is nothing to lock: two
processes write the same bytes, and whatever a crash leaves is found out. A file that is removed
while others read it stays theirs until they close it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

_SUFFIX: Final = ".shard"
_SWEEPS: Final = 16  # a sweep is due whenever this part of the limit was written


class CachedShard:
    """One shard of which some chunks are on the local disk.

    Parameters
    ----------
    fd
        The open file, which belongs to this object.
    size, n_chunks
        Of the shard.
    """

    def __init__(self, fd: int, size: int, n_chunks: int) -> None:
        self.fd = fd
        self.size = size
        self.n_chunks = n_chunks
        # A reader that is dropped without being closed must not leak descriptors.
        self._close = weakref.finalize(self, os.close, fd)

    @property
    def is_gone(self) -> bool:
        """Whether the file was removed from the cache, by this process or another."""
        return os.fstat(self.fd).st_nlink == 0

    def touch(self) -> None:
        """Note that the shard is in use: the one unused for longest is removed first."""
        with contextlib.suppress(OSError):
            os.utime(self.fd)

    def has(self, chunks: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether each chunk is said to be there; chunk `n_chunks` is the index."""
        flags = np.frombuffer(os.pread(self.fd, self.n_chunks + 1, self.size), np.uint8)
        if len(flags) <= self.n_chunks:  # cut by somebody
            return np.zeros(len(chunks), np.bool_)
        there: NDArray[np.bool_] = flags[chunks] == 1
        return there

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes of the shard; zeros where there are none."""
        return os.pread(self.fd, stop - start, start)

    def write(self, start: int, body: memoryview) -> None:
        """Put bytes of the shard in their place; raises `OSError`."""
        write_at(self.fd, body, start)

    def mark(self, chunks: NDArray[np.int64], *, there: bool = True) -> None:
        """Say that chunks are there, after they were written, or that they are not."""
        flag = b"\1" if there else b"\0"
        ordered = np.sort(chunks)
        for run in np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1):
            if run.size:
                length = int(run[-1] - run[0]) + 1
                write_at(self.fd, memoryview(flag * length), self.size + int(run[0]))

    def fill(self, blocks: Iterable[bytes]) -> tuple[int, str]:
        """Write the whole shard; return its size and sha256. Marks nothing."""
        state, done = hashlib.sha256(), 0
        for block in blocks:
            state.update(block)
            if done + len(block) <= self.size:
                write_at(self.fd, memoryview(block), done)
            done += len(block)
        return done, state.hexdigest()

    def mark_all(self) -> None:
        """Say that every chunk and the index are there."""
        write_at(self.fd, memoryview(b"\1" * (self.n_chunks + 1)), self.size)

    def close(self) -> None:
        """Close the file."""
        self._close()


class ShardCache:
    """A folder of cached shards.

    Parameters
    ----------
    folder
        Made when it is first written.
    limit
        Most bytes on the disk. Each process keeps to it, except for what the others write between
        two looks, a sixteenth of the limit each.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._lock = threading.Lock()
        self._allowance = 0

    def open(self, sha256: str, size: int, n_chunks: int) -> CachedShard:
        """Return the shard of this content, with nothing in it where there is none; `OSError`."""
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):  # it becomes a file name
            raise OSError(f"{sha256!r} is no sha256")
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{sha256}{_SUFFIX}"
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        expected = size + n_chunks + 1
        for _ in range(2):
            fd = os.open(path, flags, 0o644)
            try:
                found = os.fstat(fd).st_size
                if found == 0:
                    os.ftruncate(fd, expected)
                if found in (0, expected):
                    return CachedShard(fd, size, n_chunks)
                # Of no version of ours; whoever reads it keeps it.
                path.unlink(missing_ok=True)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        raise OSError(f"{path} keeps having another size")

    def make_room(self, nbytes: int) -> bool:
        """Remove shards unused for long before `nbytes` are written; return whether any went."""
        with self._lock:
            self._allowance -= nbytes
            if self._allowance >= 0:
                return False
            step = max(self.limit // _SWEEPS, 1)
            gone = self._sweep(max(self.limit - step - nbytes, 0))
            self._allowance = step
            return gone

    def _sweep(self, target: int) -> bool:
        """Remove the shards unused for longest until at most `target` bytes are left."""
        entries = []
        for entry in os.scandir(self.folder):
            if entry.name.endswith(_SUFFIX):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    entries.append((status.st_mtime_ns, _disk_bytes(status), entry.path))
        total = sum(nbytes for _, nbytes, _ in entries)
        gone = False
        for _, nbytes, path in sorted(entries):
            if total <= target:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= nbytes
            gone = True
        return gone


def write_at(fd: int, body: memoryview, start: int) -> None:
    """Write all of `body` at a place of a file; raises `OSError`."""
    done = 0
    while done < len(body):
        done += os.pwrite(fd, body[done:], start + done)


def _disk_bytes(status: os.stat_result) -> int:
    """Return what a sparse file takes; its length where the system does not tell."""
    return int(status.st_blocks) * 512 if hasattr(status, "st_blocks") else status.st_size
