"""Shard files: what we write zarr reads, what zarr writes we read, damage is an error."""

from __future__ import annotations

import dataclasses
import gc
import os
import threading
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

from ptyzarr.errors import DamagedStoreError, StorageError
from ptyzarr.store import FrameFormat, encode_frames, shard_key, write_shard
from ptyzarr.store.native import native_functions
from ptyzarr.store.shards import FallbackReader, ShardReader, read_index

DTYPES = ["bool", "uint8", "uint16", "uint32", "int64", "float16", "float32", "float64"]


def make_frames(layout: FrameFormat, seed: int = 0) -> np.ndarray:
    shape = (layout.n_frames, layout.frame_size, layout.frame_size)
    return np.random.default_rng(seed).poisson(3, shape).astype(layout.dtype)


def write_shards(root: Path, layout: FrameFormat, frames: np.ndarray) -> dict[str, int]:
    """Write all shards; return their sizes by key."""
    sizes = {}
    for shard in range(layout.n_shards):
        rows = layout.shard_rows(shard)
        path = root / shard_key(shard)
        path.parent.mkdir(parents=True)
        step = 2 * layout.chunk_frames
        with path.open("wb") as file:
            stops = range(rows.start, rows.stop, step)
            blocks = (frames[i : min(i + step, rows.stop)] for i in stops)
            write_shard(file, layout, (encode_frames(b, layout.chunk_frames) for b in blocks))
        sizes[shard_key(shard)] = path.stat().st_size
    return sizes


def zarr_array(root: Path, layout: FrameFormat) -> Any:
    size = layout.frame_size
    return zarr.create_array(
        store=str(root / "diffraction"),
        shape=(layout.n_frames, size, size),
        dtype=layout.dtype,
        chunks=(layout.chunk_frames, size, size),
        shards=(layout.shard_frames, size, size),
        compressors=[
            BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=layout.dtype.itemsize),
            Crc32cCodec(),
        ],
        serializer=BytesCodec(endian=None if layout.dtype.itemsize == 1 else "little"),
        fill_value=0,
        config={"write_empty_chunks": True},
    )


def native() -> Any:
    functions = native_functions()
    if functions is None:
        pytest.skip("this installation exports no C functions")
    return functions


def open_reader(root: Path, layout: FrameFormat, sizes: dict[str, int]) -> ShardReader:
    return ShardReader(root, layout, {k: {"size": n} for k, n in sizes.items()}, native())


def read(reader: Any, chunks: Any, extra_bytes: int = 0) -> np.ndarray:
    """Return the frames of some chunks, read into slots in reverse."""
    chunks = np.asarray(chunks, np.int64)
    slots = np.arange(len(chunks))[::-1].copy()
    out = np.full((len(chunks), reader.chunk_nbytes + extra_bytes), 255, np.uint8)
    reader.read_chunks(chunks, slots, out)
    assert (out[:, reader.chunk_nbytes :] == 255).all()
    decoded = np.ascontiguousarray(out[slots, : reader.chunk_nbytes]).view(reader.dtype)
    return decoded.reshape(-1, *reader.frame_shape)


layouts = st.builds(
    lambda n, size, dtype, chunk, per_shard: FrameFormat(
        n, size, np.dtype(dtype), chunk, chunk * per_shard
    ),
    st.integers(1, 40),
    st.integers(1, 6),
    st.sampled_from(DTYPES),
    st.integers(1, 5),
    st.integers(1, 6),
)
quick = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@quick
@given(layout=layouts)
def test_own_shards_are_what_zarr_reads(tmp_path_factory, layout):
    root = tmp_path_factory.mktemp("own")
    array = zarr_array(root, layout)
    frames = make_frames(layout)
    write_shards(root, layout, frames)
    assert np.array_equal(array[...], frames)


@quick
@given(layout=layouts, data=st.data())
def test_reader_gives_what_zarr_wrote(tmp_path_factory, layout, data):
    root = tmp_path_factory.mktemp("zarr")
    frames = make_frames(layout)
    array = zarr_array(root, layout)
    array[...] = frames
    sizes = {
        shard_key(shard): (root / shard_key(shard)).stat().st_size
        for shard in range(layout.n_shards)
    }
    reader = open_reader(root, layout, sizes)
    picked = data.draw(st.lists(st.integers(0, layout.n_chunks - 1), min_size=1, unique=True))
    chunks = sorted(picked)
    rows = np.concatenate(
        [np.arange(c * layout.chunk_frames, (c + 1) * layout.chunk_frames) for c in chunks]
    )
    found = read(reader, chunks, extra_bytes=3)
    there = rows < layout.n_frames
    assert np.array_equal(found[there], frames[rows[there]])
    assert not found[~there].any()
    reader.close()


@quick
@given(layout=layouts)
def test_both_readers_agree(tmp_path_factory, layout):
    root = tmp_path_factory.mktemp("both")
    frames = make_frames(layout)
    reader = open_reader(root, layout, write_shards(root, layout, frames))
    fallback = FallbackReader(layout, lambda start, stop: frames[start:stop], "frames")
    every = np.arange(layout.n_chunks)
    assert np.array_equal(read(reader, every), read(fallback, every))
    for name in ("n_frames", "frame_shape", "dtype", "chunk_frames", "n_chunks", "chunk_nbytes"):
        assert getattr(reader, name) == getattr(fallback, name)
    reader.close()
    fallback.close()


LAYOUT = FrameFormat(37, 8, np.dtype(np.uint16), 2, 8)


def test_bytes_read_are_counted_and_gaps_are_bridged(tmp_path):
    frames = make_frames(LAYOUT)
    sizes = write_shards(tmp_path, LAYOUT, frames)
    reader = open_reader(tmp_path, LAYOUT, sizes)
    out = np.empty((2, LAYOUT.chunk_nbytes), np.uint8)
    n_read = reader.read_chunks(np.array([0, 3]), np.array([0, 1]), out)
    assert 0 < n_read <= sizes[shard_key(0)]
    assert reader.read_chunks(np.array([], np.int64), np.array([], np.int64), out) == 0
    reader.close()


def test_closed_reader_opens_again(tmp_path):
    frames = make_frames(LAYOUT)
    reader = open_reader(tmp_path, LAYOUT, write_shards(tmp_path, LAYOUT, frames))
    for _ in range(2):
        assert np.array_equal(read(reader, [1]), frames[2:4])
        reader.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_dropped_reader_leaks_no_descriptor(tmp_path):
    reader = open_reader(tmp_path, LAYOUT, write_shards(tmp_path, LAYOUT, make_frames(LAYOUT)))
    gc.collect()
    before = descriptors()
    read(reader, np.arange(LAYOUT.n_chunks))
    assert descriptors() == before + LAYOUT.n_shards
    del reader
    gc.collect()
    assert descriptors() == before


def test_many_shards_keep_few_files_open(tmp_path):
    layout = FrameFormat(100, 2, np.dtype(np.uint8), 1, 1)
    frames = make_frames(layout)
    reader = open_reader(tmp_path, layout, write_shards(tmp_path, layout, frames))
    before = descriptors()
    assert np.array_equal(read(reader, np.arange(100)), frames)
    assert descriptors() <= before + 64
    reader.close()
    assert descriptors() == before


def test_threads_may_read_and_close_at_once(tmp_path):
    layout = FrameFormat(120, 4, np.dtype(np.uint8), 1, 1)
    frames = make_frames(layout)
    reader = open_reader(tmp_path, layout, write_shards(tmp_path, layout, frames))
    wrong: list[int] = []
    before = descriptors()

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(40):
            chunks = np.unique(rng.integers(0, 120, 20))
            if not np.array_equal(read(reader, chunks), frames[chunks]):
                wrong.append(seed)
            if seed == 0:
                reader.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader.close()
    assert wrong == []
    assert descriptors() == before


def test_missing_shard_is_an_error(tmp_path):
    sizes = write_shards(tmp_path, LAYOUT, make_frames(LAYOUT))
    (tmp_path / shard_key(1)).unlink()
    reader = open_reader(tmp_path, LAYOUT, sizes)
    with pytest.raises(DamagedStoreError, match=r"diffraction/c/1/0/0 is missing"):
        read(reader, [4])


def test_shard_that_no_manifest_lists_is_an_error(tmp_path):
    sizes = write_shards(tmp_path, LAYOUT, make_frames(LAYOUT))
    del sizes[shard_key(2)]
    with pytest.raises(DamagedStoreError, match="lists no file 'diffraction/c/2/0/0'"):
        read(open_reader(tmp_path, LAYOUT, sizes), [8])


@pytest.mark.parametrize("size", [0, 1, 100])
def test_shard_of_another_size_is_an_error(tmp_path, size):
    sizes = write_shards(tmp_path, LAYOUT, make_frames(LAYOUT))
    os.truncate(tmp_path / shard_key(0), size)
    with pytest.raises(
        DamagedStoreError, match=f"has {size} bytes; expected {sizes[shard_key(0)]}"
    ):
        read(open_reader(tmp_path, LAYOUT, sizes), [0])


@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_is_not_taken_for_a_shard_nor_waited_for(tmp_path, put):
    sizes = write_shards(tmp_path, LAYOUT, make_frames(LAYOUT))
    (tmp_path / shard_key(0)).unlink()
    put(tmp_path / shard_key(0))
    with pytest.raises(DamagedStoreError, match=f"is no file; expected {sizes[shard_key(0)]}"):
        read(open_reader(tmp_path, LAYOUT, sizes), [0])


@pytest.mark.parametrize("size", [0, 3, 60])
def test_shard_shorter_than_its_index_is_an_error_even_if_listed_so(tmp_path, size):
    sizes = write_shards(tmp_path, LAYOUT, make_frames(LAYOUT))
    os.truncate(tmp_path / shard_key(0), size)
    sizes[shard_key(0)] = size
    with pytest.raises(DamagedStoreError, match="index fails its checksum"):
        read(open_reader(tmp_path, LAYOUT, sizes), [0])


def test_shard_that_is_cut_off_while_open_is_an_error(tmp_path):
    sizes = write_shards(tmp_path, LAYOUT, make_frames(LAYOUT))
    reader = open_reader(tmp_path, LAYOUT, sizes)
    read(reader, [0])
    os.truncate(tmp_path / shard_key(0), 10)
    with pytest.raises(DamagedStoreError, match="ended or failed while chunk"):
        read(reader, [3])
    reader.close()


def test_shard_that_cannot_be_opened_is_a_storage_error(tmp_path, monkeypatch):
    sizes = write_shards(tmp_path, LAYOUT, make_frames(LAYOUT))
    reader = open_reader(tmp_path, LAYOUT, sizes)

    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match="Too many open files"):
        read(reader, [0])


def forge(path: Path, index: np.ndarray) -> None:
    """Give a shard another index with a right checksum."""
    raw = index.astype("<u8").tobytes()
    raw += google_crc32c.value(raw).to_bytes(4, "little")
    path.write_bytes(path.read_bytes()[: -len(raw)] + raw)


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        pytest.param(2**64 - 1, 2**64 - 1, id="absent"),
        pytest.param(0, 2**63 + 8, id="negative length"),
        pytest.param(2**63 + 8, 20, id="negative offset"),
        pytest.param(2**62, 2**62 + 2**61, id="sum overflows"),
        pytest.param(0, 2**40, id="beyond the end"),
        pytest.param(10**6, 30, id="starts beyond the end"),
        pytest.param(0, 0, id="nothing"),
        pytest.param(0, 19, id="shorter than a header"),
        pytest.param(5, 60, id="elsewhere"),
    ],
)
def test_forged_index_never_reads_outside(tmp_path, offset, length):
    sizes = write_shards(tmp_path, LAYOUT, make_frames(LAYOUT))
    path = tmp_path / shard_key(0)
    raw = path.read_bytes()
    index = np.frombuffer(raw[-68:-4], "<u8").reshape(4, 2).copy()
    index[1] = offset, length
    forge(path, index)
    with pytest.raises(DamagedStoreError):
        read(open_reader(tmp_path, LAYOUT, sizes), [0, 1, 2])


def test_chunk_with_a_right_checksum_but_another_size_is_an_error(tmp_path):
    frames = make_frames(LAYOUT)
    other = dataclasses.replace(LAYOUT, frame_size=4)
    sizes = write_shards(tmp_path, other, make_frames(other))
    assert frames.shape[1:] != (4, 4)
    with pytest.raises(DamagedStoreError, match="cannot be decoded"):
        read(open_reader(tmp_path, LAYOUT, sizes), [0])


def test_flipped_bits_of_a_chunk_are_all_found(tmp_path):
    sizes = write_shards(tmp_path, LAYOUT, make_frames(LAYOUT))
    path = tmp_path / shard_key(0)
    raw = path.read_bytes()
    first_chunk = int(np.frombuffer(raw[-68:-4], "<u8")[1])
    for position in range(first_chunk):
        path.write_bytes(
            raw[:position] + bytes([raw[position] ^ (1 << position % 8)]) + raw[position + 1 :]
        )
        reader = open_reader(tmp_path, LAYOUT, sizes)
        with pytest.raises(DamagedStoreError, match="chunk 0 fails its checksum"):
            read(reader, [0])
        reader.close()


def test_index_is_read_where_positioned_reads_are_missing(tmp_path, monkeypatch):
    sizes = write_shards(tmp_path, LAYOUT, make_frames(LAYOUT))
    path = tmp_path / shard_key(0)
    with path.open("rb") as file:
        expected = read_index(file.fileno(), path, sizes[shard_key(0)], 4)
        monkeypatch.delattr(os, "pread")
        assert np.array_equal(read_index(file.fileno(), path, sizes[shard_key(0)], 4), expected)
    assert expected.shape == (4, 2)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(ValueError("checksum"), DamagedStoreError, id="checksum"),
        pytest.param(RuntimeError("blosc"), DamagedStoreError, id="codec"),
        pytest.param(OSError(5, "Input/output error"), StorageError, id="disk"),
    ],
)
def test_errors_of_another_reader_become_ours(error, expected):
    def fail(start: int, stop: int) -> np.ndarray:
        raise error

    with pytest.raises(expected, match="the frames: chunk 1"):
        read(FallbackReader(LAYOUT, fail, "the frames"), [1])


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("frame_size", [8, 96])
def test_planes_are_the_bytes_of_the_same_pixels(tmp_path, dtype, frame_size):
    layout = FrameFormat(7, frame_size, np.dtype(dtype), 2, 4)
    frames = make_frames(layout)
    reader = open_reader(tmp_path, layout, write_shards(tmp_path, layout, frames))
    assert reader.has_planes
    chunks = np.arange(layout.n_chunks)
    pixels, planes = (np.zeros((len(chunks), layout.chunk_nbytes), np.uint8) for _ in range(2))
    assert reader.read_chunks(chunks, chunks, pixels) == reader.read_planes(chunks, chunks, planes)
    shape = (len(chunks), -1, layout.dtype.itemsize)
    assert planes.tobytes() == np.moveaxis(pixels.reshape(shape), 2, 1).tobytes()


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"shape": [4, 2, 2], "codecs": []}, id="no codec"),
        pytest.param({"shape": [4, 2, 2], "codecs": [{"name": "bytes"}]}, id="not sharded"),
    ],
)
def test_metadata_that_is_not_understood_is_damage(metadata: dict[str, Any]) -> None:
    with pytest.raises(DamagedStoreError, match="not understood"):
        FrameFormat.from_metadata(metadata)
