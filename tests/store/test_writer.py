"""Writing arrays into a staged store."""

from __future__ import annotations

import os

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyzarr.errors import StorageError
from ptyzarr.store import StoreWriter, array_digest, list_keys, sync_file
from ptyzarr.store.writer import chunk_shape


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.array(1.5), id="0-d"),
        pytest.param(np.empty((0, 3)), id="no rows"),
        pytest.param(np.empty((3, 0), "f4"), id="no columns"),
        pytest.param(np.arange(12, dtype=">i2").reshape(3, 4), id="big-endian"),
        pytest.param(np.asfortranarray(np.ones((3, 4), "c8")), id="fortran"),
        pytest.param(np.array([True, False]), id="bool"),
        pytest.param(np.zeros((2, 3, 4)), id="zeros"),
    ],
)
def test_written_and_streamed_arrays_are_the_same(tmp_path, values):
    writer = StoreWriter(tmp_path)
    writer.write_array("whole", values)
    blocks = [values] if not values.shape else [values[i : i + 1] for i in range(len(values))]
    writer.stream_array("extra/parts", values.shape, values.dtype, blocks)
    assert writer.contents == dict.fromkeys(["whole", "extra/parts"], array_digest(values))
    for node in ("whole", "extra/parts"):
        array = zarr.open_array(tmp_path / node, mode="r")
        assert np.array_equal(array[...], values)
        assert array.nchunks == array.nchunks_initialized or 0 in values.shape


@pytest.mark.parametrize("n_rows", [2, 4])
def test_stream_of_another_length_is_an_error(tmp_path, n_rows):
    writer = StoreWriter(tmp_path)
    blocks = (np.ones((1, 2)) for _ in range(n_rows))
    with pytest.raises((StorageError, ValueError), match=r"got 2 rows; expected 3|rows|shape"):
        writer.stream_array("table", (3, 2), np.dtype("f8"), blocks)


def test_new_writer_removes_all_but_the_shards(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.write_array("positions", np.ones((3, 2)))
    shard = tmp_path / "diffraction" / "c" / "0" / "0" / "0"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"frames")
    (tmp_path / "diffraction" / "zarr.json").write_text("{")
    (tmp_path / "zarr.json").write_text("{")
    StoreWriter(tmp_path)
    assert list(list_keys(tmp_path)) == ["diffraction/c/0/0/0"]
    assert sorted(os.listdir(tmp_path)) == ["diffraction"]


def test_no_root_document_is_written_before_the_end(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.write_array("positions", np.ones((3, 2)))
    writer.stream_array("extra/a", (1,), np.dtype("f8"), [np.ones(1)])
    root = writer.finish({})
    assert not (tmp_path / "zarr.json").exists()
    assert (tmp_path / "extra" / "zarr.json").exists()
    assert set(writer.files) == set(list_keys(tmp_path))
    assert b'"root_sha256"' in root


@settings(deadline=None)
@given(
    shape=st.lists(st.integers(0, 5000), max_size=4).map(tuple),
    itemsize=st.sampled_from([1, 2, 4, 8, 16]),
)
def test_chunks_are_bounded_and_fit_the_shape(shape, itemsize):
    chunks = chunk_shape(shape, np.dtype(f"V{itemsize}"))
    assert len(chunks) == len(shape)
    assert all(1 <= chunk <= max(1, length) for chunk, length in zip(chunks, shape, strict=True))
    assert int(np.prod(chunks)) * itemsize <= 8 * 1024**2


def test_files_are_flushed(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    flushed = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    sync_file(path)
    assert len(flushed) == 1
