import errno
import os
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from ptyzarr.errors import SourceError, StorageError
from ptyzarr.sources import open_source
from ptyzarr.sources.fileaccess import SourceFile
from ptyzarr.sources.memberbytes import MemberBytes
from ptyzarr.sources.zipdir import read_directory

from .npzfiles import join, make_arrays, npy_bytes, write_npz


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan.npz"


def _edit(path: Path, find: bytes, offset: int, value: bytes, *, last: bool = False) -> None:
    """Overwrite bytes at an offset from the first or last occurrence of a signature."""
    data = bytearray(path.read_bytes())
    at = (data.rfind(find) if last else data.find(find)) + offset
    data[at : at + len(value)] = value
    path.write_bytes(data)


_CENTRAL = b"PK\x01\x02"
_LOCAL = b"PK\x03\x04"


def test_entries_say_where_their_bytes_are(path):
    write_npz(path, {"a": np.arange(5), "b.txt": b"hello"})
    data = path.read_bytes()
    entries = read_directory(SourceFile(path))
    assert [entry.name for entry in entries] == ["a.npy", "b.txt"]
    for entry, content in zip(entries, [npy_bytes(np.arange(5)), b"hello"], strict=True):
        assert data[entry.offset : entry.offset + entry.packed_size] == content
        assert (entry.size, entry.crc32) == (len(content), zlib.crc32(content))
        assert not entry.is_deflated


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_member_that_is_there_twice_is_refused(path):
    write_npz(path, make_arrays())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("xcoords.npy", npy_bytes(np.zeros(7)))
    with pytest.raises(SourceError, match=r"'xcoords\.npy' is there twice"):
        open_source(path)


def test_two_members_with_one_key_are_refused(path):
    write_npz(path, make_arrays())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("xcoords", npy_bytes(np.zeros(7)))
    with pytest.raises(SourceError, match="both have the key 'xcoords'"):
        open_source(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
def test_other_compression_is_refused(path, method):
    write_npz(path, make_arrays())
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr("more.npy", npy_bytes(np.zeros(7)))
    with pytest.raises(SourceError, match=r"'more\.npy' is compressed by method"):
        open_source(path)


@pytest.mark.parametrize(
    ("flag", "what"), [(0x01, "encrypted"), (0x20, "patch"), (0x40, "strongly"), (0x2000, "masked")]
)
def test_flag_that_hides_the_bytes_is_refused(path, flag, what):
    write_npz(path, make_arrays())
    _edit(path, _CENTRAL, 8, struct.pack("<H", flag))
    with pytest.raises(SourceError, match=what):
        open_source(path)


def test_symbolic_link_is_refused(path):
    write_npz(path, make_arrays())
    info = zipfile.ZipInfo("link.npy")
    info.create_system = 3
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(SourceError, match="symbolic link"):
        open_source(path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"PK", id="two bytes"),
        pytest.param(b"\x93NUMPY" + bytes(300), id="npy"),
        pytest.param(bytes(5000), id="zeros"),
    ],
)
def test_file_that_is_no_zip_is_refused_by_name(path, content):
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"scan\.npz"):
        open_source(path)


def test_zip_without_members_lacks_frames(path):
    write_npz(path, {})
    with pytest.raises(SourceError, match="no member"):
        open_source(path)


@pytest.mark.parametrize(
    "name", ["../up", "/absolute", "..\\up", "C:\\x", "a/b", "nul\u2044", "été"], ids=ascii
)
def test_odd_names_are_keys_and_never_paths(path, name):
    write_npz(path, make_arrays() | {name + ".npy": np.arange(3)})
    scan = open_source(path)
    assert list(scan.extra) == [name]
    assert join(scan.extra[name].blocks(100)).tolist() == [0, 1, 2]
    assert [p.name for p in path.parent.iterdir()] == ["scan.npz"]


@pytest.mark.parametrize(
    "offset", [pytest.param(30, id="extra field"), pytest.param(32, id="comment")]
)
def test_members_swallowed_by_a_damaged_length_are_missed(path, offset):
    write_npz(path, make_arrays() | {"a.txt": b"x", "b.txt": b"y"})
    length = 46 + len("b.txt")
    data = bytearray(path.read_bytes())
    at = data.rfind(_CENTRAL) - 46 - len("a.txt") + offset
    data[at : at + 2] = struct.pack("<H", length)
    path.write_bytes(data)
    with pytest.raises(SourceError, match="zip directory"):
        open_source(path)


@pytest.mark.parametrize("comment", [b"made by hand", b"PK\x05\x06"[:3] + bytes(30)])
def test_archive_comment_is_allowed(path, comment):
    write_npz(path, make_arrays())
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = comment
    assert open_source(path).n_frames == 7


@pytest.mark.slow
def test_more_members_than_16_bits_count_are_read(path):
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(65_540):
            archive.writestr(zipfile.ZipInfo(f"{number}"), b"")
    assert len(read_directory(SourceFile(path))) == 65_540


def test_nul_in_a_name_is_refused(path):
    write_npz(path, make_arrays() | {"abc": np.arange(3)})
    path.write_bytes(path.read_bytes().replace(b"abc.npy", b"a\0c.npy"))
    with pytest.raises(SourceError, match="NUL"):
        open_source(path)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        pytest.param(8, b"\x08\0", id="method"),
        pytest.param(14, b"\x01\x02\x03\x04", id="CRC-32"),
        pytest.param(18, b"\x01\0\0\0", id="packed size"),
        pytest.param(22, b"\x01\0\0\0", id="size"),
        pytest.param(30, b"x", id="name"),
        pytest.param(0, b"XX", id="signature"),
        pytest.param(26, b"\xff\xff", id="name length"),
        pytest.param(6, b"\x01\0", id="encrypted"),
    ],
)
def test_headers_that_disagree_are_refused(path, offset, value):
    write_npz(path, make_arrays(n=1000))
    _edit(path, _LOCAL, offset, value)
    with pytest.raises(SourceError, match=r"'diff3d\.npy'"):
        open_source(path)


def test_members_that_share_bytes_are_refused(path):
    # One member's local header lies inside another member: the smallest form of a quoted bomb.
    with zipfile.ZipFile(path, "w") as archive:
        inner = zipfile.ZipInfo("b.txt")
        archive.writestr(inner, b"hello")
    small = path.read_bytes()
    local = small[: small.find(_CENTRAL)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", local + b"tail")
        archive.writestr("b.txt", b"hello")
    data = bytearray(path.read_bytes())
    at = data.rfind(_CENTRAL) + 42
    data[at : at + 4] = struct.pack("<I", data.find(local))
    path.write_bytes(data)
    with pytest.raises(SourceError, match="reaches to byte"):
        read_directory(SourceFile(path))


def test_member_that_reaches_into_the_directory_is_refused(path):
    write_npz(path, {"a": np.arange(5)})
    size = len(npy_bytes(np.arange(5))) + 10
    for signature, offset in ((_LOCAL, 18), (_CENTRAL, 20)):
        _edit(path, signature, offset, struct.pack("<II", size, size))
    with pytest.raises(SourceError, match="reaches to byte"):
        read_directory(SourceFile(path))


def test_header_offset_outside_the_file_is_refused(path):
    write_npz(path, make_arrays())
    _edit(path, _CENTRAL, 42, b"\xff\xff\xff\x7f")
    with pytest.raises(SourceError, match="offset"):
        open_source(path)


def test_size_that_deflate_cannot_reach_is_refused(path):
    write_npz(path, make_arrays(), is_deflated=True)
    for signature, offset in ((_LOCAL, 22), (_CENTRAL, 24)):
        _edit(path, signature, offset, struct.pack("<I", 2**31))
    with pytest.raises(SourceError, match="declares 2147483648 bytes"):
        open_source(path)


def test_stored_member_of_two_sizes_is_refused(path):
    write_npz(path, make_arrays())
    for signature, offset in ((_LOCAL, 22), (_CENTRAL, 24)):
        _edit(path, signature, offset, struct.pack("<I", 600))
    with pytest.raises(SourceError, match="declares 600 bytes"):
        open_source(path)


def test_stream_gives_no_byte_beyond_its_member(path):
    write_npz(path, {"a.txt": b"hello", "b.txt": b"other"})
    file = SourceFile(path)
    stream = MemberBytes(file, read_directory(file)[0]).open()
    with pytest.raises(SourceError, match="5 bytes left; expected 6"):
        stream.read_into(memoryview(bytearray(6)))


def test_failing_disk_is_not_taken_for_a_file_that_is_no_zip(path, monkeypatch):
    write_npz(path, make_arrays())
    file = SourceFile(path)

    def refuse(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", refuse)
    with pytest.raises(StorageError, match="Input/output error"):
        read_directory(file)


@pytest.mark.parametrize("change", [-1, 1])
def test_stream_of_another_length_than_declared_is_refused(path, change):
    text = b"some text " * 50
    write_npz(path, make_arrays() | {"note.txt": text}, is_deflated=True)
    for signature, offset in ((_LOCAL, 22), (_CENTRAL, 24)):
        _edit(path, signature, offset, struct.pack("<I", len(text) + change), last=True)
    with pytest.raises(SourceError, match=r"note\.txt.*(more bytes|end of its deflate stream)"):
        list(open_source(path).extra["note.txt"].blocks(100))


def test_bytes_after_a_deflate_stream_are_refused(path):
    text = b"some text " * 50
    write_npz(path, make_arrays() | {"note.txt": text}, is_deflated=True)
    data = bytearray(path.read_bytes())
    entry = read_directory(SourceFile(path))[-1]
    end = entry.offset + entry.packed_size
    data[end:end] = b"\0\0\0"
    path.write_bytes(data)
    for signature, offset in ((_LOCAL, 18), (_CENTRAL, 20)):
        _edit(path, signature, offset, struct.pack("<I", entry.packed_size + 3), last=True)
    _edit(path, b"PK\x05\x06", 16, struct.pack("<I", path.read_bytes().find(_CENTRAL)))
    with pytest.raises(SourceError, match="clean end"):
        list(open_source(path).extra["note.txt"].blocks(100))


def test_streamed_members_with_sizes_behind_the_data_are_read(path):
    class Unseekable:
        def __init__(self, stream):
            self.stream = stream

        def write(self, data):
            return self.stream.write(data)

        def flush(self):
            self.stream.flush()

    arrays = make_arrays()
    with path.open("wb") as stream, zipfile.ZipFile(Unseekable(stream), "w") as archive:
        for key, array in arrays.items():
            archive.writestr(f"{key}.npy", npy_bytes(array), zipfile.ZIP_DEFLATED)
    assert np.array_equal(join(open_source(path).frames.blocks(3)), arrays["diff3d"])


@pytest.mark.parametrize("compress", [False, True], ids=["stored", "deflated"])
def test_zip64_members_are_read(path, compress):
    arrays = make_arrays()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else 0) as archive:
        for key, array in arrays.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as stream:
                stream.write(npy_bytes(array))
    assert np.array_equal(join(open_source(path).frames.blocks(3)), arrays["diff3d"])


def test_sparse_member_beyond_4_gib_is_read_in_place(path):
    # Written by hand, with a hole for the frames, so that nothing large touches the disk.
    nbytes = 5 * 2**30
    name = b"big.npy"
    extra = struct.pack("<HHQQ", 1, 16, nbytes, nbytes)
    local = struct.pack(
        "<4s5H3L2H", _LOCAL, 45, 0, 0, 0, 0, 7, 2**32 - 1, 2**32 - 1, len(name), len(extra)
    )
    central = struct.pack(
        "<4s6H3L5H2L",
        *(_CENTRAL, 45, 45, 0, 0, 0, 0, 7, 2**32 - 1, 2**32 - 1, len(name), len(extra)),
        *(0, 0, 0, 0, 0),
    )
    start = len(local) + len(name) + len(extra)
    length = len(central) + len(name) + len(extra)
    end = start + nbytes + length
    with path.open("wb") as stream:
        stream.write(local + name + extra)
        stream.seek(start + nbytes - 3)
        stream.write(b"end" + central + name + extra)
        stream.write(
            struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, length, start + nbytes)
        )
        stream.write(struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1))
        stream.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, length, 2**32 - 1, 0))
    file = SourceFile(path)
    (entry,) = read_directory(file)
    assert (entry.size, entry.offset) == (nbytes, start)
    assert file.read(entry.offset + entry.size - 3, 3) == b"end"


@pytest.mark.parametrize("is_zip64", [False, True], ids=["32 bit", "zip64"])
def test_directory_that_is_too_large_is_refused_before_it_is_read(path, is_zip64):
    # The directory is there, as a hole in the file: nothing but its size speaks against it.
    length = 3 * 2**30
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, length, 0, 0)
    if is_zip64:
        end = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 9, 9, length, 0)
        end += struct.pack("<4sLQL", b"PK\x06\x07", 0, length, 1)
        end += struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, 2**32 - 1, 2**32 - 1, 0)
    with path.open("wb") as stream:
        stream.seek(length)
        stream.write(end)
    tracemalloc.start()
    with pytest.raises(SourceError, match=f"zip directory has {length} bytes; expected at most"):
        read_directory(SourceFile(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_bytes_before_the_zip_are_allowed(path):
    arrays = make_arrays()
    write_npz(path, arrays)
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    assert np.array_equal(join(open_source(path).frames.blocks(3)), arrays["diff3d"])


def test_bomb_is_streamed_and_never_held(path):
    # 64 MiB of zeros in some 64 KiB, declared honestly.
    write_npz(path, make_arrays() | {"zeros": np.zeros(2**23)}, is_deflated=True)
    tracemalloc.start()
    total = sum(block.nbytes for block in open_source(path).extra["zeros"].blocks(2**20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 2**26
    assert peak < 2**23
