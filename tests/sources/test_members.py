import errno
import math
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptyzarr.errors import ConfigError, SourceError, StorageError
from ptyzarr.sources import open_source

from .npzfiles import join, make_arrays, npy_bytes, write_npz


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan.npz"


def _extra(path: Path, value, *, is_deflated: bool = False, **options):
    name = "thing.dat" if isinstance(value, bytes) else "thing"
    write_npz(path, make_arrays() | {name: value}, is_deflated=is_deflated)
    return open_source(path, **options).extra[name]


@pytest.mark.parametrize("is_deflated", [False, True], ids=["stored", "deflated"])
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(np.array(2.5), id="0-d"),
        pytest.param(np.arange(10, dtype=">i4"), id="1-d big-endian"),
        pytest.param(np.asfortranarray(np.arange(6.0).reshape(2, 3)), id="2-d Fortran"),
        pytest.param(np.arange(24, dtype="<c8").reshape(2, 3, 4), id="3-d complex"),
        pytest.param(np.asfortranarray(np.arange(24).reshape(2, 3, 4)), id="3-d Fortran"),
        pytest.param(np.array([True, False]), id="bool"),
    ],
)
@pytest.mark.parametrize("max_bytes", [1, 50, 10**6])
def test_array_member_streams_in_c_order(path, value, is_deflated, max_bytes):
    reader = _extra(path, value, is_deflated=is_deflated)
    blocks = list(reader.blocks(max_bytes))
    row = value.nbytes // (value.shape[0] if value.ndim else 1)
    assert all(block.nbytes <= max(max_bytes, row) for block in blocks)
    assert all(block.flags.c_contiguous for block in blocks)
    assert (reader.shape, reader.is_raw) == (value.shape, False)
    got = join(blocks)
    assert got.dtype == reader.dtype == value.dtype.newbyteorder("=")
    assert np.array_equal(got, value)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.lists(st.integers(1, 5), min_size=0, max_size=4),
    order=st.sampled_from("CF"),
    dtype=st.sampled_from(["<f4", ">f8", "|u1", ">c16", "<i2"]),
    is_deflated=st.booleans(),
    max_bytes=st.integers(1, 300),
)
def test_any_array_survives_streaming(path, shape, order, dtype, is_deflated, max_bytes):
    value = np.arange(math.prod(shape)).reshape(shape).astype(dtype, order=order)
    reader = _extra(path, value, is_deflated=is_deflated)
    assert np.array_equal(join(reader.blocks(max_bytes)), value)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (3, 0, 2)])
def test_empty_array_has_no_blocks(path, shape):
    reader = _extra(path, np.zeros(shape))
    assert reader.shape == shape
    assert list(reader.blocks(100)) == []


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(np.array("text"), id="text"),
        pytest.param(np.array(["a", "bcd"]), id="texts"),
        pytest.param(np.array([b"ab", b"c"]), id="bytes"),
        pytest.param(np.array([""]), id="empty text"),
        pytest.param(np.zeros(3, [("a", "<f4"), ("b", ">i2", (2,))]), id="records"),
        pytest.param(np.zeros(3, "V3"), id="void"),
        pytest.param(np.array(["2020-01-01"], "M8[D]"), id="datetime"),
        pytest.param(np.array([3], "m8[25s]"), id="timedelta"),
        pytest.param(np.arange(3, dtype=np.longdouble), id="longdouble"),
        pytest.param(np.arange(3, dtype=np.clongdouble), id="clongdouble"),
        pytest.param(b"no array at all", id="other file"),
        pytest.param(b"", id="empty file"),
    ],
)
@pytest.mark.parametrize("is_deflated", [False, True], ids=["stored", "deflated"])
def test_member_without_a_core_dtype_is_kept_as_its_bytes(path, value, is_deflated):
    reader = _extra(path, value, is_deflated=is_deflated)
    whole = npy_bytes(value)
    assert reader.is_raw
    assert (reader.shape, reader.dtype) == ((len(whole),), np.uint8)
    blocks = list(reader.blocks(20))
    assert all(block.nbytes <= 20 for block in blocks)
    assert b"".join(block.tobytes() for block in blocks) == whole


def test_name_alone_does_not_make_an_array(path):
    write_npz(path, make_arrays() | {"fake.npy": b"plain text", "real": np.arange(3)})
    extra = open_source(path).extra
    assert extra["fake.npy"].is_raw
    assert not extra["real"].is_raw


@pytest.mark.parametrize("is_deflated", [False, True], ids=["stored", "deflated"])
def test_large_fortran_member_is_transposed_in_bounded_memory(path, is_deflated):
    value = np.zeros((2**11, 5 * 2**10), np.float32, order="F")  # 40 MiB
    value[:, 7] = np.arange(2**11)
    reader = _extra(path, value, is_deflated=is_deflated)
    tracemalloc.start()
    column = [block[:, 7].copy() for block in reader.blocks(2**20)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(np.concatenate(column), np.arange(2**11))
    assert peak < 2**24 + 3 * 2**20 + 2**21


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(np.arange(100.0), id="array"),
        pytest.param(np.asfortranarray(np.arange(100.0).reshape(10, 10)), id="Fortran array"),
        pytest.param(np.zeros((5, 0)), id="empty array"),
        pytest.param(b"x" * 100, id="raw"),
    ],
)
def test_damaged_member_is_refused_after_its_last_block(path, value):
    reader = _extra(path, value)
    entry = reader.member.entry
    data = bytearray(path.read_bytes())
    data[entry.offset + entry.packed_size - 2] ^= 0x29  # a space of a header becomes a tab
    path.write_bytes(data)
    name = entry.name.removesuffix(".npy")
    with pytest.raises(SourceError, match="CRC-32"):
        list(open_source(path).extra[name].blocks(64))


@pytest.mark.parametrize("value", [np.arange(4), b"raw"], ids=["array", "raw"])
def test_block_of_no_bytes_is_refused(path, value):
    with pytest.raises(ConfigError, match="max_bytes"):
        next(_extra(path, value).blocks(0))


def test_spool_goes_where_it_is_told_and_leaves_nothing(path, tmp_path, monkeypatch):
    spool_dir = tmp_path / "spool"
    spool_dir.mkdir()
    value = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    reader = _extra(path, value, is_deflated=True, spool_dir=spool_dir)
    used = []
    original = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: used.append(len(data)) or original(fd, data))
    blocks = reader.blocks(32)
    next(blocks)
    assert sum(used) == reader.member.entry.size
    assert list(spool_dir.iterdir()) == []
    blocks.close()


def test_missing_spool_directory_is_a_storage_error(path, tmp_path):
    value = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    reader = _extra(path, value, is_deflated=True, spool_dir=tmp_path / "absent")
    with pytest.raises(StorageError, match="absent"):
        list(reader.blocks(32))


def test_full_disk_is_a_storage_error(path, monkeypatch):
    value = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    reader = _extra(path, value, is_deflated=True)

    def refuse(descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(StorageError, match="No space left") as caught:
        list(reader.blocks(32))
    assert caught.value.code == "storage"
