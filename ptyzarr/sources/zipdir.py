"""The directory of a zip file, read with suspicion: nothing in it is believed unchecked."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import struct
import zipfile
from dataclasses import dataclass
from typing import IO, cast

from ptyzarr.errors import PtyzarrError, SourceError
from ptyzarr.sources.fileaccess import SourceFile
from ptyzarr.sources.nodes import label

# Signature, version, flags, method, time, date, CRC-32, sizes, lengths of name and extra field.
# Source: PKWARE APPNOTE.TXT 6.3, section 4.3.7.
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_LOCAL_MAGIC = b"PK\x03\x04"
_IN_ZIP64_FIELD = 0xFFFFFFFF

# End record, and its zip64 form with the 20-byte locator between them (sections 4.3.14 to 4.3.16).
_END_MAGIC = b"PK\x05\x06"
_END_LENGTH = 22
_END64_MAGIC = b"PK\x06\x06"

_FLAG_ENCRYPTED = 0x0001
_FLAG_STREAMED = 0x0008
_FLAG_UTF8 = 0x0800
_FLAGS_REFUSED = {
    _FLAG_ENCRYPTED: "encrypted",
    0x0020: "a compressed patch",
    0x0040: "strongly encrypted",
    0x2000: "masked",
}

# Deflate spends at least two bits on a match of at most 258 bytes (RFC 1951, section 3.2.5).
_DEFLATE_LIMIT = 1032

# The standard reader holds the whole directory, and about twenty times its size in objects.
_DIRECTORY_LIMIT = 4 * 1024**2


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of a zip file.

    Attributes
    ----------
    name
        As the directory spells it; never used as a path.
    size
        Uncompressed size in bytes.
    packed_size
        Size in the file in bytes.
    crc32
        Of the uncompressed bytes.
    is_deflated
        Deflated, or else stored as it is.
    offset
        Of the member's first byte in the file.
    """

    name: str
    size: int
    packed_size: int
    crc32: int
    is_deflated: bool
    offset: int

    @property
    def label(self) -> str:
        """The name as messages show it."""
        return label(self.name)


def read_directory(file: SourceFile) -> tuple[Entry, ...]:
    """Return every member of a zip file in the order of its directory.

    Parameters
    ----------
    file
        The zip file, zip64 included.

    Raises
    ------
    SourceError
        If the file is no zip or is cut off; if a member is encrypted, a link, there twice or
        compressed by another method than deflate; if directory and local headers disagree; if
        members overlap, leave the file or declare a size that deflate cannot reach; if the
        directory is larger than 4 MiB.
    StorageError
        If the file system refuses a read.
    """
    if file.size == 0:
        raise SourceError(f"{file.name}: the file is empty; expected a zip file; get it again")
    stream = _BoundedStream(file)
    try:
        with zipfile.ZipFile(cast("IO[bytes]", stream)) as archive:
            infos = archive.infolist()
            end = archive.start_dir
    except _ZIP_ERRORS as error:
        if stream.failure is not None:
            raise stream.failure from error
        raise SourceError(
            f"{file.name}: the zip directory cannot be read ({error}); expected a whole zip "
            "file; the file is cut off or damaged, get it again"
        ) from error
    _check_count(file, len(infos))
    _check_names(file, infos)
    located = [(info.header_offset, _read_entry(file, info)) for info in infos]
    _check_ranges(file, located, end)
    return tuple(entry for _, entry in located)


# What the standard reader was seen to raise for damaged directories.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    struct.error,
    ValueError,
    EOFError,
    OverflowError,
    OSError,
)


class _BoundedStream:
    """A file position of our own over a `SourceFile`, for the standard zip reader.

    That reader asks for as many bytes as the end record says the directory has, and takes any
    failing read for a file that is no zip; `failure` keeps the reason.
    """

    def __init__(self, file: SourceFile) -> None:
        self._file = file
        self._position = 0
        self.failure: PtyzarrError | None = None

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}
        if start[whence] + offset < 0:
            raise OSError(errno.EINVAL, "seek before the start of the file")
        self._position = start[whence] + offset
        return self._position

    def read(self, length: int = -1) -> bytes:
        left = max(0, self._file.size - self._position)
        length = left if length < 0 else min(length, left)
        try:
            if length > _DIRECTORY_LIMIT:
                raise SourceError(
                    f"{self._file.name}: the zip directory has {length} bytes; expected at most "
                    f"{_DIRECTORY_LIMIT}; the file is damaged or has far too many members"
                )
            data = self._file.read(self._position, length)
        except PtyzarrError as error:
            self.failure = error
            raise
        self._position += length
        return data


def _check_count(file: SourceFile, found: int) -> None:
    """Refuse a directory in which a damaged length swallowed members as a comment."""
    start = max(0, file.size - _END_LENGTH - 0xFFFF)
    tail = file.read(start, file.size - start)
    end = len(tail) - _END_LENGTH
    if not (tail.startswith(_END_MAGIC, end) and tail.endswith(b"\0\0")):
        end = tail.rfind(_END_MAGIC)  # an archive comment follows
    (expected,) = struct.unpack_from("<H", tail, end + 10)
    if expected == 0xFFFF and tail.startswith(_END64_MAGIC, end - 76):
        (expected,) = struct.unpack_from("<Q", tail, end - 76 + 32)
    if found != expected:
        raise SourceError(
            f"{file.name}: the zip directory lists {found} members; expected the {expected} that "
            "its end record counts; the file is damaged, get it again"
        )


def _check_names(file: SourceFile, infos: list[zipfile.ZipInfo]) -> None:
    seen = set()
    for info in infos:
        name = info.orig_filename
        if name in seen:
            raise SourceError(
                f"{file.name}: member {label(name)} is there twice; expected one; which one is "
                "meant cannot be known, write the file again"
            )
        seen.add(name)
        if "\0" in name:
            raise SourceError(
                f"{file.name}: member name {label(name)} holds a NUL; expected plain text; write "
                "the file again"
            )


def _read_entry(file: SourceFile, info: zipfile.ZipInfo) -> Entry:
    _check_kind(file, info)
    offset = _read_local_header(file, info)
    is_deflated = info.compress_type == zipfile.ZIP_DEFLATED
    limit = info.compress_size * _DEFLATE_LIMIT if is_deflated else info.compress_size
    if info.file_size > limit or (not is_deflated and info.file_size != limit):
        raise SourceError(
            f"{file.name}: member {label(info.orig_filename)} declares {info.file_size} bytes; "
            f"expected at most {limit} from the {info.compress_size} bytes in the file; "
            "the directory is damaged or forged"
        )
    return Entry(
        name=info.orig_filename,
        size=info.file_size,
        packed_size=info.compress_size,
        crc32=info.CRC,
        is_deflated=is_deflated,
        offset=offset,
    )


def _check_kind(file: SourceFile, info: zipfile.ZipInfo) -> None:
    what = [text for flag, text in _FLAGS_REFUSED.items() if info.flag_bits & flag]
    if info.create_system == 3 and stat.S_ISLNK(info.external_attr >> 16):
        what.append("a symbolic link")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        what.append(f"compressed by method {info.compress_type}")
    if what:
        raise SourceError(
            f"{file.name}: member {label(info.orig_filename)} is {what[0]}; expected a stored or "
            "deflated member; write the file with numpy.savez or numpy.savez_compressed"
        )


def _read_local_header(file: SourceFile, info: zipfile.ZipInfo) -> int:
    """Return where the member's data starts, after comparing its two headers."""
    start = info.header_offset
    if start < 0 or start + _LOCAL_HEADER.size > file.size:
        raise _disagreement(file, info, f"header offset {start}", "an offset inside the file")
    fields = _LOCAL_HEADER.unpack(file.read(start, _LOCAL_HEADER.size))
    magic, _, flags, method, _, _, crc32, packed_size, size, name_length, extra_length = fields
    name_start = start + _LOCAL_HEADER.size
    data_start = int(name_start + name_length + extra_length)
    if magic != _LOCAL_MAGIC or data_start > file.size:
        raise _disagreement(file, info, f"signature {magic!r}", repr(_LOCAL_MAGIC))
    encoding = "utf-8" if flags & _FLAG_UTF8 else "cp437"
    name = file.read(name_start, name_length).decode(encoding, errors="replace")
    if name != info.orig_filename:
        raise _disagreement(file, info, f"name {label(name)}", label(info.orig_filename))
    if method != info.compress_type or (flags ^ info.flag_bits) & _FLAG_ENCRYPTED:
        raise _disagreement(file, info, f"method {method}", f"method {info.compress_type}")
    if not flags & _FLAG_STREAMED:
        # A streamed member has these behind its data; a zip64 one in an extra field.
        for found, expected in (
            (crc32, info.CRC),
            (packed_size, info.compress_size),
            (size, info.file_size),
        ):
            if found not in (expected, _IN_ZIP64_FIELD):
                raise _disagreement(file, info, f"CRC-32 or size {found}", str(expected))
    return data_start


def _disagreement(
    file: SourceFile, info: zipfile.ZipInfo, found: str, expected: str
) -> SourceError:
    return SourceError(
        f"{file.name}: the header of member {label(info.orig_filename)} has {found}; expected "
        f"{expected} as in the directory; the file is damaged, get it again"
    )


def _check_ranges(file: SourceFile, located: list[tuple[int, Entry]], end: int) -> None:
    ranges = sorted(
        (start, entry.offset + entry.packed_size, entry.name) for start, entry in located
    )
    for (_, stop, name), (following, _, _) in itertools.pairwise([*ranges, (end, end, "")]):
        if stop > following:
            raise SourceError(
                f"{file.name}: member {label(name)} reaches to byte {stop}; expected it to end by "
                f"{following}, where the next one or the directory starts; the file is damaged "
                "or forged"
            )
