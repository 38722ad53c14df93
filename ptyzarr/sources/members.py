"""Members that are no frames: read at once, or streamed in C order in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import BudgetError, ConfigError
from ptyzarr.scan import FrameReader, MemberReader
from ptyzarr.sources.columns import as_bytes, as_native, transposed_blocks
from ptyzarr.sources.memberbytes import MemberBytes
from ptyzarr.sources.npyheader import NpyHeader


def is_core_dtype(dtype: np.dtype[Any]) -> bool:
    """Return whether the core of zarr v3 has this type: bool, integers, floats, complex.

    Parameters
    ----------
    dtype
        In any byte order; extended precision, text, bytes, records and times are not core.
    """
    return dtype.kind in "biu" or (dtype.kind, dtype.itemsize) in {
        ("f", 2), ("f", 4), ("f", 8), ("c", 8), ("c", 16),
    }  # fmt: skip


def read_array(member: MemberBytes, header: NpyHeader) -> NDArray[Any]:
    """Return a whole member as a C-order array in native byte order, checksum verified.

    Parameters
    ----------
    member
        Where the bytes are.
    header
        Of the member, which it fills exactly.

    Raises
    ------
    BudgetError
        If there is no memory for it.
    SourceError
        If the member is damaged.
    StorageError
        If the file system refuses a read.
    """
    try:
        return _read_whole(member, header)
    except MemoryError as error:
        raise BudgetError(
            f"{member.what} has {header.nbytes} bytes; expected an array that fits in memory; "
            "leave it out of the file or use a larger machine"
        ) from error


def _read_whole(member: MemberBytes, header: NpyHeader) -> NDArray[Any]:
    in_file = header.shape[::-1] if header.is_fortran else header.shape
    out = np.empty(in_file, header.dtype)
    stream = member.open()
    stream.skip(header.length)
    stream.read_into(as_bytes(out))
    stream.finish()
    native = as_native(out)
    # `ascontiguousarray` would make a 0-d array one-dimensional.
    return np.ascontiguousarray(native.T) if header.is_fortran and native.ndim else native


@dataclass(frozen=True, slots=True)
class ArrayMember:
    """An npy member of a core dtype; a `MemberReader`.

    Attributes
    ----------
    member
        Where the bytes are.
    header
        Of the member, which it fills exactly.
    spool_dir
        Directory for temporary files; None is the system's.
    """

    member: MemberBytes
    header: NpyHeader
    spool_dir: str | None

    @property
    def shape(self) -> tuple[int, ...]:
        """As in the source."""
        return self.header.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """As in the source, native byte order."""
        return self.header.native_dtype

    @property
    def is_raw(self) -> bool:
        """Never."""
        return False

    def blocks(self, max_bytes: int) -> Iterator[NDArray[Any]]:
        """Yield the array in C order cut along axis 0, checksum verified after the last block.

        Parameters
        ----------
        max_bytes
            Size of a block, but one row of axis 0 at least. For Fortran order, 17 MiB or one more
            block is held; a deflated member in Fortran order is spooled to a temporary file first.

        Yields
        ------
        (m, ...), native dtype; (), whole, for a 0-d array; nothing for an empty one

        Raises
        ------
        SourceError
            If the member is damaged.
        StorageError
            If the file system refuses a read or a write.
        """
        header = self.header
        _check_size(max_bytes)
        n_rows = header.shape[0] if header.shape else 1
        row_bytes = header.nbytes // n_rows if n_rows else 0
        step = max(1, max_bytes // max(1, row_bytes))
        if not row_bytes:
            self.member.verify()
        elif header.is_fortran and len(header.shape) > 1:
            with self.member.random_access(self.spool_dir) as data:
                yield from transposed_blocks(
                    data, header.length, header.shape[::-1], header.dtype, range(n_rows), step
                )
        else:
            yield from self._streamed(n_rows, step)

    def _streamed(self, n_rows: int, step: int) -> Iterator[NDArray[Any]]:
        stream = self.member.open()
        stream.skip(self.header.length)
        for first in range(0, n_rows, step):
            rows = (min(step, n_rows - first), *self.shape[1:]) if self.shape else ()
            out = np.empty(rows, self.header.dtype)
            stream.read_into(as_bytes(out))
            yield as_native(out)
        stream.finish()


@dataclass(frozen=True, slots=True)
class RawMember:
    """A member as its bytes: no array, or one of a dtype that is not core; a `MemberReader`.

    Attributes
    ----------
    member
        Where the bytes are.
    """

    member: MemberBytes

    @property
    def shape(self) -> tuple[int, ...]:
        """(size of the member,)."""
        return (self.member.entry.size,)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Always uint8."""
        return np.dtype(np.uint8)

    @property
    def is_raw(self) -> bool:
        """Always."""
        return True

    def blocks(self, max_bytes: int) -> Iterator[NDArray[Any]]:
        """Yield the bytes, header included, checksum verified after the last block.

        Parameters
        ----------
        max_bytes
            Size of a block.

        Yields
        ------
        (m,) uint8; nothing for an empty member

        Raises
        ------
        SourceError
            If the member is damaged.
        StorageError
            If the file system refuses a read.
        """
        _check_size(max_bytes)
        stream = self.member.open()
        for start in range(0, self.member.entry.size, max_bytes):
            out = np.empty(min(max_bytes, self.member.entry.size - start), np.uint8)
            stream.read_into(as_bytes(out))
            yield out
        stream.finish()


@dataclass(frozen=True, slots=True)
class TrailingFrames:
    """Frames beyond the last position, kept so that nothing is lost; a `MemberReader`.

    Attributes
    ----------
    frames
        Reader of these frames alone.
    """

    frames: FrameReader

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_surplus, N, N)."""
        return self.frames.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Native byte order."""
        return self.frames.dtype

    @property
    def is_raw(self) -> bool:
        """Never."""
        return False

    def blocks(self, max_bytes: int) -> Iterator[NDArray[Any]]:
        """Yield the frames front to back; sizes and errors are those of `FrameReader.blocks`."""
        _check_size(max_bytes)
        _, height, width = self.frames.shape
        frame_bytes = height * width * self.frames.dtype.itemsize
        return self.frames.blocks(max(1, max_bytes // frame_bytes))


def member_reader(
    member: MemberBytes, header: NpyHeader | None, spool_dir: str | None
) -> MemberReader:
    """Return the reader for a member that is kept as it is.

    Parameters
    ----------
    member
        Where the bytes are.
    header
        Of the member; None if it is no npy.
    spool_dir
        Directory for temporary files; None is the system's.
    """
    if header is None or not is_core_dtype(header.dtype):
        return RawMember(member)
    return ArrayMember(member, header, spool_dir)


def _check_size(max_bytes: int) -> None:
    if max_bytes < 1:
        raise ConfigError(f"max_bytes is {max_bytes}; expected 1 or more")
