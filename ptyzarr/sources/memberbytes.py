"""The bytes of one zip member: front to back with its checksum, or at any offset."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Protocol

import numpy as np
from isal import igzip_lib, isal_zlib
from numpy.typing import NDArray

from ptyzarr.errors import PtyzarrError, SourceError, StorageError
from ptyzarr.sources.checksums import append_crc32
from ptyzarr.sources.fileaccess import Descriptor, SourceFile
from ptyzarr.sources.zipdir import Entry

# Checksums and copies of a piece find it in the processor's cache.
_PIECE = 1 << 20
_PACKED_PIECE = 1 << 18

# The package's stubs declare this class as an instance.
_InflateError: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]


class RandomBytes(Protocol):
    """Bytes of a member at any offset."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`, counted from the member's first byte."""
        ...


@dataclass(frozen=True, slots=True)
class MemberBytes:
    """One member of a zip file.

    Attributes
    ----------
    file
        The zip file.
    entry
        What its directory says.
    """

    file: SourceFile
    entry: Entry

    @property
    def what(self) -> str:
        """File and member, for messages."""
        return f"{self.file.name}: member {self.entry.label}"

    def open(self) -> MemberStream:
        """Return a stream at the member's first byte."""
        return MemberStream(self)

    def head(self, length: int) -> bytes:
        """Return the first bytes, `length` or all there are, without the checksum."""
        data = bytearray(min(length, self.entry.size))
        self.open().read_into(memoryview(data))
        return bytes(data)

    def verify(self) -> None:
        """Read the whole member; raise `SourceError` if its checksum fails."""
        self.open().finish()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` of a stored member; raise as `SourceFile.read_into`."""
        self.file.read_into(self.entry.offset + offset, buffer)

    def read_summed(
        self, offsets: NDArray[np.int64], rows: NDArray[np.uint8], sums: NDArray[np.uint32]
    ) -> None:
        """Fill rows from offsets in a stored member, and `sums`; see `SourceFile.read_summed`."""
        self.file.read_summed(self.entry.offset + offsets, rows, sums)

    def check_sums(self, start: int, sums: NDArray[np.uint32], nbytes: int) -> None:
        """Compare the checksum of a stored member with those of equal pieces that were read.

        Parameters
        ----------
        start
            Offset of the first piece in the member; what lies before and behind is read here.
        sums : (m,) uint32
            CRC-32 of each piece in file order.
        nbytes
            Size of a piece.

        Raises
        ------
        SourceError
            If the checksum is another.
        StorageError
            If the file system refuses a read.
        """
        crc = append_crc32(self._extend_crc32(0, range(start)), sums, nbytes)
        crc = self._extend_crc32(crc, range(start + len(sums) * nbytes, self.entry.size))
        if crc != self.entry.crc32:
            raise _damage(self, f"CRC-32 {crc:08x}", f"{self.entry.crc32:08x}")

    def _extend_crc32(self, crc: int, span: range) -> int:
        piece = bytearray(min(_PIECE, len(span)))
        for start in span[::_PIECE]:
            view = memoryview(piece)[: span.stop - start]
            self.read_into(start, view)
            crc = isal_zlib.crc32(view, crc)
        return crc

    @contextlib.contextmanager
    def random_access(self, spool_dir: str | None) -> Iterator[RandomBytes]:
        """Give reads at any offset, checksum verified before the first or after the last.

        A stored member is read in place. A deflated one is inflated into a temporary file
        without a name, of the member's uncompressed size, in `spool_dir`.

        Raises
        ------
        SourceError
            If the member is damaged.
        StorageError
            If the temporary file cannot be written.
        """
        if not self.entry.is_deflated:
            yield self
            self.verify()
            return
        with self._spool(spool_dir) as spool:
            yield Descriptor(spool.fileno(), f"spooled copy of {self.entry.label}")

    def _spool(self, spool_dir: str | None) -> IO[bytes]:
        try:
            with contextlib.ExitStack() as stack:
                spool = stack.enter_context(tempfile.TemporaryFile(dir=spool_dir, buffering=0))
                for piece in self.pieces():
                    _write_all(spool.fileno(), piece)
                stack.pop_all()
        except PtyzarrError:
            raise
        except OSError as error:
            raise StorageError(
                f"{self.what}: cannot be spooled to {spool_dir or tempfile.gettempdir()}: "
                f"{error.strerror or error}; expected room for {self.entry.size} bytes; "
                "give another directory"
            ) from error
        return spool

    def pieces(self) -> Iterator[memoryview]:
        """Yield the member's bytes front to back in one buffer that is used again and again.

        Raises
        ------
        SourceError
            If the member is damaged.
        """
        stream = self.open()
        buffer = memoryview(bytearray(min(_PIECE, self.entry.size)))
        left = self.entry.size
        while left:
            piece = buffer[:left]
            stream.read_into(piece)
            left -= len(piece)
            yield piece
        stream.finish()


class MemberStream:
    """A member front to back: never more than it declares, checksum and size at the end.

    Parameters
    ----------
    member
        The member.
    """

    def __init__(self, member: MemberBytes) -> None:
        self._member = member
        self._left = member.entry.size
        self._crc32 = 0
        self._inflater = _Inflater(member) if member.entry.is_deflated else None

    def read_into(self, buffer: memoryview) -> None:
        """Fill `buffer`, a C-contiguous view of bytes.

        Raises
        ------
        SourceError
            If the member ends before.
        StorageError
            If the file system refuses the read.
        """
        if len(buffer) > self._left:
            raise _damage(self._member, f"{self._left} bytes left", f"{len(buffer)}")
        fill = self._inflater.fill if self._inflater else self._fill_stored
        for start in range(0, len(buffer), _PIECE):
            piece = buffer[start : start + _PIECE]
            fill(piece)
            self._crc32 = isal_zlib.crc32(piece, self._crc32)
            self._left -= len(piece)

    def skip(self, length: int) -> None:
        """Read `length` bytes for the checksum only; raise as `read_into` does."""
        scratch = memoryview(bytearray(min(length, _PIECE)))
        while length:
            self.read_into(scratch[:length])
            length -= min(length, len(scratch))

    def finish(self) -> None:
        """Read what is left and compare the checksum.

        Raises
        ------
        SourceError
            If the member is longer, shorter or other than its directory says.
        """
        self.skip(self._left)
        if self._inflater:
            self._inflater.check_end()
        expected = self._member.entry.crc32
        if self._crc32 != expected:
            raise _damage(self._member, f"CRC-32 {self._crc32:08x}", f"{expected:08x}")

    def _fill_stored(self, piece: memoryview) -> None:
        self._member.read_into(self._member.entry.size - self._left, piece)


class _Inflater:
    """Raw deflate, decompressed only as far as it is asked for."""

    def __init__(self, member: MemberBytes) -> None:
        self._member = member
        self._engine = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE)
        self._taken = 0

    def fill(self, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            data = self._inflate(len(buffer) - done)
            if not data and (self._engine.eof or self._at_end()):
                raise _damage(self._member, "the end of its deflate stream", "more bytes")
            buffer[done : done + len(data)] = data
            done += len(data)

    def check_end(self) -> None:
        while not self._engine.eof and not (self._engine.needs_input and self._at_end()):
            if self._inflate(1):
                raise _damage(self._member, "more bytes than declared", "the declared size")
        if not self._engine.eof or self._engine.unused_data or not self._at_end():
            raise _damage(self._member, "no clean end of its deflate stream", "one")

    def _at_end(self) -> bool:
        return self._taken == self._member.entry.packed_size

    def _inflate(self, most: int) -> bytes:
        if self._engine.eof:
            return b""
        packed = b""
        if self._engine.needs_input:
            entry = self._member.entry
            length = min(_PACKED_PIECE, entry.packed_size - self._taken)
            packed = self._member.file.read(entry.offset + self._taken, length)
            self._taken += length
        inflate: Callable[[bytes, int], bytes] = self._engine.decompress
        try:
            return inflate(packed, most)
        except _InflateError as error:
            raise _damage(self._member, f"a deflate error ({error})", "a deflate stream") from error


def _damage(member: MemberBytes, found: str, expected: str) -> SourceError:
    return SourceError(
        f"{member.what} has {found}; expected {expected}; the file is damaged, get it again"
    )


def _write_all(descriptor: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(descriptor, piece) :]
