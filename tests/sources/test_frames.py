import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptyzarr.errors import ConfigError, SourceError
from ptyzarr.sources import open_source

from .npzfiles import join, make_arrays, write_npz

_METHODS = [pytest.param(False, id="stored"), pytest.param(True, id="deflated")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan.npz"


def _lay_out(frames: np.ndarray, axes: str, order: str) -> np.ndarray:
    moved = {
        "nyx": frames,
        "nyx1": frames[..., np.newaxis],
        "yxn": np.moveaxis(frames, 0, -1),
    }[axes]
    return np.array(moved, order=order)


@pytest.mark.parametrize("is_deflated", _METHODS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("axes", ["nyx", "nyx1", "yxn"])
@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("dtype", ["<f4", ">u2"])
def test_frames_are_the_same_however_they_lie(path, is_deflated, order, axes, n, dtype):
    frames = np.arange(n * 25).reshape(n, 5, 5).astype(dtype)
    arrays = make_arrays(n=n) | {"diff3d": _lay_out(frames, axes, order)}
    write_npz(path, arrays, is_deflated=is_deflated)
    with np.load(path) as reference:
        assert reference["diff3d"].flags.f_contiguous or order == "C"
    scan = open_source(path)
    assert scan.axes == axes
    for max_frames in (1, 3, 100):
        blocks = list(scan.frames.blocks(max_frames))
        assert all(block.flags.c_contiguous for block in blocks)
        assert np.array_equal(join(blocks), frames)
    assert join(blocks).dtype == scan.frames.dtype == np.dtype(dtype).newbyteorder("=")
    if scan.frames.has_random_access:
        wanted = np.arange(n)[::-1].copy()
        assert np.array_equal(scan.frames.read(wanted), frames[wanted])


@pytest.mark.parametrize(
    ("axes", "order", "is_deflated", "expected"),
    [
        ("nyx", "C", False, True),
        ("nyx1", "C", False, True),
        ("yxn", "F", False, True),
        ("nyx", "F", False, False),
        ("yxn", "C", False, False),
        ("nyx", "C", True, False),
    ],
)
def test_random_access_needs_a_stored_member_with_frame_after_frame(
    path, axes, order, is_deflated, expected
):
    arrays = make_arrays()
    arrays["diff3d"] = _lay_out(arrays["diff3d"], axes, order)
    write_npz(path, arrays, is_deflated=is_deflated)
    assert open_source(path).frames.has_random_access is expected


@pytest.mark.parametrize(
    "dtype",
    ["?", "<f2", ">f4", "<f8", ">f8", "|i1", "|u1", ">i2", "<u2", "<i4", ">u4", ">i8", "<u8"],
)
def test_every_real_dtype_comes_in_native_order(path, dtype):
    frames = (np.arange(7 * 16).reshape(7, 4, 4) % 2).astype(dtype)
    scan = open_source(write_npz(path, make_arrays() | {"diff3d": frames}))
    native = np.dtype(dtype).newbyteorder("=")
    assert scan.frames.dtype == native
    for got in (join(scan.frames.blocks(3)), scan.frames.read(np.arange(7))):
        assert got.dtype == native
        assert np.array_equal(got, frames)


@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(indices=st.lists(st.integers(0, 11), max_size=20))
def test_read_equals_fancy_indexing(path, indices):
    arrays = make_arrays(n=12, dtype=">f8")
    if not path.exists():
        write_npz(path, arrays)
    wanted = np.array(indices, dtype=np.int64)
    assert np.array_equal(open_source(path).frames.read(wanted), arrays["diff3d"][wanted])


@pytest.mark.parametrize("dtype", ["<f4", ">f8"])
@pytest.mark.parametrize(
    ("order", "n_positions"),
    [
        pytest.param("C", 12, id="frame after frame"),
        pytest.param("C", 9, id="truncated"),
        pytest.param("F", 12, id="transposed frames"),
    ],
)
def test_checksums_of_frames_read_at_random_are_that_of_the_member(path, order, dtype, n_positions):
    arrays = make_arrays(n=12)
    arrays = {k: v[:n_positions] if k.startswith(("x", "y")) else v for k, v in arrays.items()}
    axes = "nyx" if order == "C" else "yxn"
    arrays["diff3d"] = _lay_out(arrays["diff3d"].astype(dtype), axes, order)
    reader = open_source(write_npz(path, arrays), incomplete="truncate").frames
    assert reader.has_random_access
    order_read = np.random.default_rng(0).permutation(len(reader.span))
    frames, sums = reader.read_summed(order_read)
    assert np.array_equal(frames, reader.read(order_read))
    in_file = np.empty_like(sums)
    in_file[order_read] = sums
    reader.check_sums(in_file)
    in_file[[1, 2]] = in_file[[2, 1]]
    with pytest.raises(SourceError, match=r"diff3d.npy' has CRC-32 \w{8}; expected \w{8}"):
        reader.check_sums(in_file)


def test_frames_without_random_access_have_no_checksums_of_their_own(path):
    for axes, is_deflated in (("nyx", True), ("yxn", False)):
        arrays = make_arrays()
        arrays["diff3d"] = _lay_out(arrays["diff3d"], axes, "C")
        reader = open_source(write_npz(path, arrays, is_deflated=is_deflated)).frames
        for refused in (
            lambda r=reader: r.read(np.arange(2)),
            lambda r=reader: r.read_summed(np.arange(2)),
        ):
            with pytest.raises(SourceError, match="front to back"):
                refused()
    with pytest.raises(SourceError, match="front to back"):
        reader.check_sums(np.zeros(7, np.uint32))


def test_opening_reads_no_frames(path):
    frames = np.zeros((7, 256, 256), np.float64)
    write_npz(path, make_arrays() | {"diff3d": frames}, is_deflated=True)
    tracemalloc.start()
    open_source(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < frames.nbytes / 8


@pytest.mark.parametrize("is_deflated", _METHODS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("axes", ["nyx", "yxn"])
def test_blocks_hold_a_stated_amount_at_most(path, is_deflated, order, axes):
    n, size = 640, 128
    frames = np.zeros((n, size, size), np.float32)  # 40 MiB
    arrays = make_arrays(n=n) | {"diff3d": _lay_out(frames, axes, order)}
    write_npz(path, arrays, is_deflated=is_deflated)
    reader = open_source(path).frames
    block_bytes = 32 * size * size * 4  # 2 MiB
    tracemalloc.start()
    assert sum(block.nbytes for block in reader.blocks(32)) == frames.nbytes
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The receiver's block, the next one and its transposed form; buffers of 2 MiB; and the
    # columns that small blocks share where the frame axis is the last in the file.
    shared = 2**24 if (order == "F") != (axes == "yxn") else 0
    assert peak < shared + 3 * block_bytes + 2**21


@pytest.mark.parametrize("is_deflated", _METHODS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_many_frames_are_gathered_run_by_run(path, is_deflated, order):
    # Long rows: the gap between two wanted runs is more than what is cheap to read over.
    frames = (np.arange(20_000 * 256, dtype=np.uint32) % 251).reshape(20_000, 16, 16)
    arrays = make_arrays(n=20_000, size=1) | {"diff3d": _lay_out(frames, "yxn", order)}
    write_npz(path, arrays, is_deflated=is_deflated)
    assert np.array_equal(join(open_source(path).frames.blocks(3000)), frames)


@pytest.mark.parametrize("is_deflated", _METHODS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_checksum_covers_the_whole_member(path, is_deflated, order):
    arrays = make_arrays(n=9)
    arrays["diff3d"] = np.asarray(arrays["diff3d"], order=order)
    write_npz(path, arrays, is_deflated=is_deflated)
    scan = open_source(path)
    data = bytearray(path.read_bytes())
    entry = scan.frames.member.entry
    data[entry.offset + entry.packed_size - 5] ^= 0x04
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"scan\.npz.*diff3d\.npy"):
        list(open_source(path).frames.blocks(4))


def test_file_cut_off_while_open_is_a_source_error(path):
    scan = open_source(write_npz(path, make_arrays()))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(SourceError, match="truncated while reading"):
        scan.frames.read(np.array([6]))
    with pytest.raises(SourceError, match="truncated while reading"):
        list(scan.frames.blocks(7))


@pytest.mark.parametrize("order", ["C", "F"])
def test_block_of_no_frames_is_refused(path, order):
    arrays = make_arrays()
    arrays["diff3d"] = np.asarray(arrays["diff3d"], order=order)
    scan = open_source(write_npz(path, arrays))
    with pytest.raises(ConfigError, match="max_frames"):
        next(scan.frames.blocks(0))
