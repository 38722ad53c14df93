"""Three other implementations of zarr v3 read our stores, and we read what they write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from synthetic import make_arrays
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

from ptyzarr.config import IngestConfig
from ptyzarr.store import FrameFormat, shard_key
from ptyzarr.store.native import native_functions
from ptyzarr.store.shards import ShardReader

LAYOUT = FrameFormat(43, 96, np.dtype(np.uint16), 2, 8)


@contextmanager
def opened_by_zarr(path: Path) -> Iterator[Any]:
    yield zarr.open_array(str(path), mode="r+")


@contextmanager
def opened_by_zarrs(path: Path) -> Iterator[Any]:
    pytest.importorskip("zarrs")
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        array = zarr.open_array(str(path), mode="r+")
        assert type(array.async_array.codec_pipeline).__name__ == "ZarrsCodecPipeline"
        yield array


@contextmanager
def opened_by_tensorstore(path: Path) -> Iterator[Any]:
    tensorstore = pytest.importorskip("tensorstore")
    kvstore = {"driver": "file", "path": str(path)}
    array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, open=True).result()
    yield _Sliced(array)


class _Sliced:
    """A TensorStore array whose slices are NumPy arrays, and that is written at once."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __getitem__(self, key: Any) -> Any:
        return self._array[key].read().result()

    def __setitem__(self, key: Any, values: Any) -> None:
        self._array[key].write(values).result()


ENGINES = [
    pytest.param(opened_by_zarr, id="zarr-python"),
    pytest.param(opened_by_zarrs, id="zarrs"),
    pytest.param(opened_by_tensorstore, id="tensorstore"),
]
Engine = Callable[[Path], Any]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("hidden", [True, False], ids=["counts", "amplitudes"])
def test_others_read_what_we_store(
    engine: Engine, hidden: bool, make_scan_store: Any, set_sizes: Any, tmp_path: Path
) -> None:
    set_sizes(2, 8)
    frames = make_arrays()["diff3d"] + np.float32(0 if hidden else 0.25)
    store = make_scan_store(config=IngestConfig(), diff3d=frames)
    stored = store.stored(store.frame_index)
    with engine(tmp_path / "scan.zarr" / "diffraction") as array:
        assert np.array_equal(array[...], stored)
        assert np.array_equal(array[3:29], stored[3:29])
        assert np.array_equal(array[17], stored[17])
    with engine(tmp_path / "scan.zarr" / "positions") as array:
        assert np.array_equal(array[...], store.positions[store.frame_index])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("values", ["counts", "noise", "zeros"])
def test_we_read_what_others_write(engine: Engine, values: str, tmp_path: Path) -> None:
    frames = make_frames(values)
    create_array(tmp_path)
    with engine(tmp_path / "diffraction") as array:
        array[...] = frames
    keys = [shard_key(shard) for shard in range(LAYOUT.n_shards)]
    files = {key: {"size": (tmp_path / key).stat().st_size} for key in keys}
    functions = native_functions()
    if functions is None:
        pytest.skip("this installation exports no C functions")
    reader = ShardReader(tmp_path, LAYOUT, files, functions)
    chunks = np.arange(LAYOUT.n_chunks)
    out = np.empty((len(chunks), LAYOUT.chunk_nbytes), np.uint8)
    reader.read_chunks(chunks, chunks, out)
    read = out.reshape(-1).view(np.uint16).reshape(-1, 96, 96)
    assert np.array_equal(read[: LAYOUT.n_frames], frames)
    reader.close()


def make_frames(values: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    shape = (LAYOUT.n_frames, LAYOUT.frame_size, LAYOUT.frame_size)
    if values == "counts":
        return rng.poisson(0.5, shape).astype(np.uint16)
    if values == "noise":
        return rng.integers(0, 2**16, shape, dtype=np.uint16)
    return np.zeros(shape, np.uint16)


def create_array(root: Path) -> None:
    zarr.create_array(
        store=str(root / "diffraction"),
        shape=(LAYOUT.n_frames, LAYOUT.frame_size, LAYOUT.frame_size),
        dtype=LAYOUT.dtype,
        chunks=(LAYOUT.chunk_frames, LAYOUT.frame_size, LAYOUT.frame_size),
        shards=(LAYOUT.shard_frames, LAYOUT.frame_size, LAYOUT.frame_size),
        compressors=[
            BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=2),
            Crc32cCodec(),
        ],
        serializer=BytesCodec(endian="little"),
        # No frame is full of this, so that every chunk is written whatever its writer leaves out.
        fill_value=7,
    )
