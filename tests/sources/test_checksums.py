"""Checksums of pieces combine to that of the whole; reading with and without C functions."""

from __future__ import annotations

import ctypes
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptyzarr.errors import SourceError
from ptyzarr.sources.checksums import append_crc32, native_reads, read_summed
from ptyzarr.sources.fileaccess import SourceFile


@given(head=st.binary(max_size=40), pieces=st.data(), nbytes=st.integers(0, 70))
def test_checksums_of_pieces_combine_to_that_of_the_whole(head, pieces, nbytes):
    parts = pieces.draw(st.lists(st.binary(min_size=nbytes, max_size=nbytes), max_size=9))
    sums = np.array([zlib.crc32(part) for part in parts], np.uint32)
    assert append_crc32(zlib.crc32(head), sums, nbytes) == zlib.crc32(head + b"".join(parts))


def test_large_pieces_combine():
    parts = [np.random.default_rng(seed).bytes(300_001) for seed in range(3)]
    sums = np.array([zlib.crc32(part) for part in parts], np.uint32)
    assert append_crc32(0, sums, 300_001) == zlib.crc32(b"".join(parts))


@pytest.mark.parametrize("is_native", [True, False], ids=["compiled", "python"])
def test_rows_are_read_from_anywhere_and_summed(tmp_path, monkeypatch, is_native):
    if not is_native:
        monkeypatch.setattr("ptyzarr.sources.fileaccess.native_reads", lambda: None)
    data = np.random.default_rng(0).bytes(1000)
    path = tmp_path / "file"
    path.write_bytes(data)
    offsets = np.array([40, 50, 60, 3, 990, 0, 10], np.int64)
    rows, sums = np.zeros((7, 10), np.uint8), np.zeros(7, np.uint32)
    SourceFile(path).read_summed(offsets, rows, sums)
    expected = [data[start : start + 10] for start in offsets.tolist()]
    assert [row.tobytes() for row in rows] == expected
    assert sums.tolist() == [zlib.crc32(row) for row in expected]


@pytest.mark.parametrize("is_native", [True, False], ids=["compiled", "python"])
def test_file_that_ends_early_says_where(tmp_path, monkeypatch, is_native):
    if not is_native:
        monkeypatch.setattr("ptyzarr.sources.fileaccess.native_reads", lambda: None)
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    offsets = np.array([0, 10, 95], np.int64)
    with pytest.raises(SourceError, match=r"file: truncated .* ends at byte 100"):
        SourceFile(path).read_summed(offsets, np.empty((3, 10), np.uint8), np.empty(3, np.uint32))


def test_adjacent_rows_are_one_read_and_short_reads_go_on():
    data = np.random.default_rng(0).integers(0, 256, 200, np.uint8)
    calls = []

    @ctypes.CFUNCTYPE(
        ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
    )
    def pread(fd, target, length, offset):
        calls.append((fd, length, offset))
        length = min(length, 25)
        ctypes.memmove(target, data[offset:].ctypes.data, length)
        return length

    crc32 = native_reads().crc32
    offsets = np.array([30, 40, 50, 90, 100, 20], np.int64)
    rows, sums = np.zeros((6, 10), np.uint8), np.zeros(6, np.uint32)
    assert read_summed(pread, crc32, 7, offsets, rows, sums) == 6
    assert calls == [(7, 30, 30), (7, 5, 55), (7, 20, 90), (7, 10, 20)]
    expected = [data[start : start + 10].tobytes() for start in offsets]
    assert [row.tobytes() for row in rows] == expected
    assert sums.tolist() == [zlib.crc32(row) for row in expected]


def no_library(*_: object) -> object:
    raise OSError("cannot open shared object file")


def no_symbols(name: object) -> object:
    return type("Library", (), {})()


@pytest.mark.parametrize("substitute", [no_library, no_symbols])
def test_missing_functions_are_none(monkeypatch, substitute):
    native_reads.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", substitute)
    assert native_reads() is None
    native_reads.cache_clear()


def test_this_installation_has_them():
    """Not a promise of every platform, but of the one that is tested."""
    assert native_reads() is not None
