"""Positioned reads of a source file, without a shared file position and without mapping it."""

from __future__ import annotations

import os
import stat
import threading
import weakref
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from ptyzarr.errors import (
    ScanNotFoundError,
    SourceChangedError,
    SourceError,
    StorageError,
)
from ptyzarr.sources.checksums import native_reads, read_summed


class Descriptor:
    """An open file descriptor that any number of threads read at their own offsets.

    Parameters
    ----------
    number
        The descriptor; whoever opened it closes it.
    name
        What it is, for messages.
    """

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self._name = name
        self._lock = threading.Lock()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer`, a C-contiguous view of bytes, from `offset`.

        Raises
        ------
        SourceError
            If the file ends before the buffer is full.
        StorageError
            If the file system refuses the read.
        """
        done = 0
        while done < len(buffer):
            try:
                count = self._read_some(offset + done, buffer[done:])
            except OSError as error:
                raise StorageError(
                    f"{self._name}: reading {len(buffer)} bytes at offset {offset} failed: "
                    f"{error.strerror or error}; check the file system"
                ) from error
            if count == 0:
                raise SourceError(
                    f"{self._name}: truncated while reading: the file ends at byte "
                    f"{offset + done}, expected {len(buffer) - done} more; get the file again"
                )
            done += count

    def _read_some(self, offset: int, buffer: memoryview) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self.number, [buffer], offset)
        # Platforms without positioned reads have one file position, which threads would share.
        with self._lock:
            os.lseek(self.number, offset, os.SEEK_SET)
            data = os.read(self.number, min(len(buffer), 1 << 24))
        buffer[: len(data)] = data
        return len(data)


class SourceFile:
    """A regular file that is opened on first use, once per process, and closed when unreferenced.

    A pickle carries the path and the identity only; another process opens the file again and
    refuses one that changed.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    path
        Absolute path.
    name
        File name, for messages.
    size
        In bytes, when it was first opened.
    mtime_ns
        Time of modification, when it was first opened.

    Raises
    ------
    ScanNotFoundError
        If there is no such file.
    SourceError
        If it is a directory or another thing that has no bytes to seek in.
    StorageError
        If it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self.name = os.path.basename(self.path)
        self._opened: tuple[int, Descriptor] | None = None
        descriptor, status = self._open()
        self.size = status.st_size
        self.mtime_ns = status.st_mtime_ns
        self._opened = (os.getpid(), descriptor)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`; raise as `Descriptor.read_into` does.

        Raises
        ------
        SourceChangedError
            If this process opens the file for the first time and it is not the one that was seen.
        """
        self._descriptor().read_into(offset, buffer)

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; raise as `read_into` does."""
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def read_summed(
        self, offsets: NDArray[np.int64], rows: NDArray[np.uint8], sums: NDArray[np.uint32]
    ) -> None:
        """Fill each row from its offset and `sums` with their CRC-32; raise as `read_into`.

        Parameters
        ----------
        offsets : (m,) int64
        rows : (m, row_nbytes) uint8, C order
        sums : (m,) uint32
        """
        descriptor, native, done = self._descriptor(), native_reads(), 0
        if native is not None:
            done = read_summed(native.pread, native.crc32, descriptor.number, offsets, rows, sums)
        for row in range(done, len(rows)):
            descriptor.read_into(int(offsets[row]), rows[row].data)
            sums[row] = isal_zlib.crc32(rows[row])

    def _descriptor(self) -> Descriptor:
        # After a fork the parent's lock may be held for ever and its file position is shared.
        if self._opened is None or self._opened[0] != os.getpid():
            descriptor, status = self._open()
            _compare(self.path, status, self.size, self.mtime_ns)
            self._opened = (os.getpid(), descriptor)
        return self._opened[1]

    def _open(self) -> tuple[Descriptor, os.stat_result]:
        if "\0" in self.path:
            raise ScanNotFoundError(f"{self.path!r}: no path holds a NUL; check the path")
        try:
            _check_regular(self.path, os.stat(self.path))
            number = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ScanNotFoundError(f"{self.path}: no such file; check the path") from error
        except OSError as error:
            raise StorageError(
                f"{self.path}: cannot be opened: {error.strerror or error}; check its permissions"
            ) from error
        descriptor = Descriptor(number, self.name)
        weakref.finalize(descriptor, os.close, number)
        return descriptor, os.fstat(number)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


def check_unchanged(path: str, size: int, mtime_ns: int) -> None:
    """Raise `SourceChangedError` unless `path` still has this size and time of modification.

    Parameters
    ----------
    path
        The file.
    size
        In bytes.
    mtime_ns
        Time of modification in nanoseconds.

    Raises
    ------
    SourceChangedError
        If either differs, or if the file is gone.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise SourceChangedError(
            f"{path}: the source is gone ({error.strerror or error}); expected it to stay until "
            "the end; start again with a file that stays"
        ) from error
    _compare(path, status, size, mtime_ns)


def _compare(path: str, status: os.stat_result, size: int, mtime_ns: int) -> None:
    if (status.st_size, status.st_mtime_ns) != (size, mtime_ns):
        raise SourceChangedError(
            f"{path}: the source changed: found {status.st_size} bytes modified at "
            f"{status.st_mtime_ns} ns, expected {size} bytes modified at {mtime_ns} ns; "
            "start again when nobody writes to it"
        )


def _check_regular(path: str, status: os.stat_result) -> None:
    # Opening a pipe would wait for its writer.
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise SourceError(f"{path}: is {kind}; expected a scan file; give the file itself")
