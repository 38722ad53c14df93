"""`ScanStore`: what opens, what is refused, and that nothing is ever read as zeros."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import make_arrays, make_npz
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from ptyzarr.config import IngestConfig
from ptyzarr.errors import (
    DamagedStoreError,
    DtypeError,
    ScanNotFoundError,
    SchemaError,
    ShapeError,
    StorageError,
)
from ptyzarr.ingestion import ingest
from ptyzarr.scan import ScanLike, frame_power
from ptyzarr.store import ROOT_KEY, ScanStore, open_store, open_stores
from ptyzarr.store.manifest import compose_root, file_digest, list_keys, read_root
from ptyzarr.store.shards import FallbackReader, ShardReader


@pytest.fixture
def store(make_scan_store, set_sizes):
    set_sizes(4, 16)
    return make_scan_store(table=np.arange(6.0).reshape(3, 2), index=np.arange(5))


# Reading.


def test_store_is_a_scan(store):
    assert isinstance(store, ScanLike)
    assert "40 frames 16x16, counts, hilbert order" in repr(store)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(indices=st.lists(st.integers(0, 39), max_size=60))
def test_amplitudes_come_in_the_order_asked(store, indices):
    expected = make_arrays()["diff3d"][np.array(indices, np.int64)]
    found = store.amplitude(np.array(indices, np.int64))
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "indices", [[3, 1], (5,), np.array(7), np.arange(3, dtype=np.uint8), range(4), []]
)
def test_other_integers_are_indices_too(store, indices):
    expected = make_arrays()["diff3d"][np.asarray(indices, np.int64).reshape(-1)]
    assert np.array_equal(store.amplitude(indices), expected)


@pytest.mark.parametrize(
    "indices", [np.ones(40, bool), np.array([0.0, 1.5]), np.array(["1"])], ids=str
)
def test_what_is_no_integer_is_refused(store, indices):
    with pytest.raises(DtypeError, match="frame indices have dtype"):
        store.amplitude(indices)


@pytest.mark.parametrize(
    "index", [-1, 40, 2**40, pytest.param(np.uint64(2**64 - 1), id="largest uint64")]
)
def test_index_outside_the_scan_is_refused(store, index):
    with pytest.raises(ShapeError, match="expected 0 to 39"):
        store.amplitude(np.array([index]))


def test_reading_in_pieces_gives_the_same(store, monkeypatch):
    monkeypatch.setattr("ptyzarr.store.scanstore.DECODE_BYTES", 1)
    picked = np.random.default_rng(0).integers(0, 40, 100)
    assert np.array_equal(store.amplitude(picked), make_arrays()["diff3d"][picked])


def test_frame_power_is_numpys_own_sum(store):
    frames = make_arrays()["diff3d"].astype(np.float64)
    assert store.frame_power.tolist() == [float(np.sum(frame**2)) for frame in frames]


@pytest.mark.parametrize("size", [1, 7, 64, 129])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "f8"])
def test_power_does_not_depend_on_what_is_summed_together(size, dtype):
    frames = np.random.default_rng(0).uniform(0, 200, (5, size, size)).astype(dtype)
    alone = [float(np.sum(np.square(frame.astype(np.float64)))) for frame in frames]
    assert frame_power(frames).tolist() == alone
    assert frame_power(frames[1:3]).tolist() == alone[1:3]


@pytest.mark.parametrize("layout", ["hilbert", "acquisition"])
def test_rows_and_frame_index_are_inverse(make_scan_store, layout):
    store = make_scan_store(config=IngestConfig(layout=layout))
    assert np.array_equal(store.rows[store.frame_index], np.arange(40))
    assert (store.frame_index.tolist() == list(range(40))) == (layout == "acquisition")
    stored = np.asarray(store.array("positions")[...])
    assert np.array_equal(stored[store.rows], store.positions)


def test_arrays_are_read_only_in_memory(store):
    with pytest.raises(ValueError, match="read-only"):
        store.frame_index[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        store.probe_guess[0, 0] = 1


def test_absent_fields_have_their_defaults(make_scan_store):
    names = ("xcoords_start", "ycoords_start", "objectGuess", "scan_index")
    store = make_scan_store(**dict.fromkeys(names))
    assert store.positions_start is None
    assert store.object_guess is None
    assert store.scan_index.tolist() == [0] * 40
    assert store.scan_index.dtype == np.int64
    assert dict(store.extra) == {}


@pytest.mark.parametrize(
    "key",
    [
        slice(3, 30, 4),
        slice(None, None, -1),
        (slice(2, 9), 3),
        (slice(None), slice(1, 5), slice(None, None, 2)),
        7,
        (5, 2, 3),
        [3, 3, 39, 0],
        (..., 0),
    ],
    ids=str,
)
def test_dask_array_slices_like_numpy(store, key):
    frames = make_arrays()["diff3d"]
    assert np.array_equal(np.asarray(store.diffraction[key]), frames[key])


def test_building_the_dask_array_reads_nothing(store, tmp_path):
    shutil.rmtree(tmp_path / "scan.zarr" / "diffraction" / "c")
    lazy = store.diffraction
    assert (lazy.shape, lazy.dtype) == ((40, 16, 16), np.float32)
    assert lazy[3:5].shape == (2, 16, 16)


def test_dask_array_computes_in_other_processes(store):
    lazy = store.diffraction.rechunk((10, 16, 16)).sum(axis=(1, 2))
    with dask.config.set({"multiprocessing.context": "forkserver"}):
        found = lazy.compute(scheduler="processes", num_workers=1)
    assert np.array_equal(found, make_arrays()["diff3d"].sum(axis=(1, 2)))


def test_pickled_store_opens_again_anywhere(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(open_store("scan.zarr"))
    monkeypatch.chdir("/")
    again = pickle.loads(data)
    assert again.digest == store.digest
    assert np.array_equal(again.amplitude([3]), store.amplitude([3]))
    again.close()


def test_pickled_zarr_handle_goes_on_checking(store, tmp_path):
    handle = pickle.loads(pickle.dumps(store.array("diffraction")))
    assert handle.shape == (40, 16, 16)
    (tmp_path / "scan.zarr/diffraction/c/0/0/0").unlink()
    with pytest.raises(DamagedStoreError):
        handle[0]


def test_unknown_array_and_group_are_refused(store):
    with pytest.raises(SchemaError, match="no array 'nothing'"):
        store.array("nothing")
    with pytest.raises(SchemaError, match="is a group"):
        store.array("extra")


def test_nodes_are_arrays_alone(store):
    assert "extra" not in store.nodes()
    assert {"diffraction", "extra/table", "frame_hash"} <= set(store.nodes())


# Other readers.


def test_plain_zarr_opens_the_store(store, tmp_path):
    group = zarr.open_group(tmp_path / "scan.zarr", mode="r")
    rows = np.asarray(group["frame_index"])
    counts = np.asarray(group["diffraction"])
    assert np.array_equal(np.sqrt(counts.astype("f4")), make_arrays()["diff3d"][rows])
    assert group["diffraction"].metadata.dimension_names == ("frame", "y", "x")
    assert group["diffraction"].attrs["quantity"] == "counts"
    assert set(group["extra"].array_keys()) == {"table", "index"}
    assert group.metadata.consolidated_metadata is not None


def test_plain_zarr_without_consolidated_metadata_opens_it_too(store, tmp_path):
    group = zarr.open_group(tmp_path / "scan.zarr", mode="r", use_consolidated=False)
    assert {"diffraction", "positions"} <= set(group.array_keys())
    assert list(group.group_keys()) == ["extra"]


def test_xarray_opens_the_store(make_scan_store, tmp_path):
    frames = make_arrays()["diff3d"]
    frames[1, 2, 3] = np.nan
    make_scan_store(
        config=IngestConfig(nonfinite="mask"),
        diff3d=frames,
        probeGuess=np.ones((2, 16, 16), np.complex64),
        index=np.arange(5),
    )
    with xr.open_zarr(tmp_path / "scan.zarr") as dataset:
        assert dict(dataset.sizes) == {
            "frame": 40, "y": 16, "x": 16, "xy": 2, "mode": 2, "probe_y": 16, "probe_x": 16,
            "object_y": 53, "object_x": 53,
        }  # fmt: skip
        assert dataset["positions"].dims == ("frame", "xy")
        assert dataset["positions"].attrs["unit"] == "object pixels"
        assert int(dataset["diffraction"].sum()) == int(np.rint(np.nansum(frames**2)))
    with xr.open_datatree(tmp_path / "scan.zarr", engine="zarr") as tree:
        assert set(tree.children) == {"extra", "masked"}
        assert dict(tree["masked"].to_dataset().sizes)["masked_pixel"] == 1
        assert tree["extra"]["index"].dims == ("index_0",)


# Refusals.


def rewrite_root(root: Path, change: Any) -> None:
    """Change the attributes of a store and give it a right manifest, as another version would."""
    document = json.loads((root / ROOT_KEY).read_bytes())
    attributes = document["attributes"]["ptyzarr"]
    del attributes["manifest"]
    change(attributes)
    files = {key: file_digest(root / key) for key in list_keys(root)}
    metadata = {
        os.path.dirname(key): json.loads((root / key).read_bytes())
        for key in files
        if key.endswith(f"/{ROOT_KEY}")
    }
    (root / ROOT_KEY).write_bytes(compose_root(attributes, metadata, files))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        pytest.param(lambda path: None, ScanNotFoundError, "does not exist", id="nothing"),
        pytest.param(Path.mkdir, ScanNotFoundError, "no finished store", id="empty folder"),
        pytest.param(make_npz, SchemaError, "'ptyzarr ingest' makes one", id="npz"),
        pytest.param(
            lambda path: zarr.create_group(str(path)), SchemaError, "not a ptyzarr", id="zarr group"
        ),
        pytest.param(
            lambda path: zarr.create_array(str(path), shape=(2,), dtype="u1"),
            SchemaError,
            "not a ptyzarr",
            id="zarr array",
        ),
        pytest.param(
            lambda path: zarr.create_group(str(path), attributes={"ptyzarr": {"a": 1}}),
            DamagedStoreError,
            "its own digest",
            id="attribute without manifest",
        ),
    ],
)
def test_what_is_no_store_is_refused(tmp_path, make, error, match):
    make(tmp_path / "scan.zarr")
    with pytest.raises(error, match=match):
        open_store(tmp_path / "scan.zarr")


def test_staging_folder_is_refused(tmp_path):
    source = make_npz(tmp_path / "scan.npz")

    class Look:
        looks = 0

        def start(self, stage: str, total: int, unit: str) -> None: ...

        def advance(self, amount: int) -> None:
            for folder in ("scan.zarr.staging", "scan.zarr.staging/store"):
                with pytest.raises(ScanNotFoundError, match="no finished store"):
                    open_store(tmp_path / folder)
                self.looks += 1

        def finish(self) -> None: ...

    look = Look()
    ingest(source, tmp_path / "scan.zarr", progress=look).close()
    assert look.looks


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_schema_version_is_refused(store, tmp_path, version):
    rewrite_root(tmp_path / "scan.zarr", lambda a: a.__setitem__("schema_version", version))
    with pytest.raises(SchemaError, match=f"schema version {version!r}; this ptyzarr reads 1"):
        open_store(tmp_path / "scan.zarr")


@pytest.mark.parametrize("key", ["diffraction/c/0/0/0", "positions/zarr.json", "extra/zarr.json"])
def test_incomplete_store_is_refused(store, tmp_path, key):
    path = tmp_path / "scan.zarr" / key
    raw = path.read_bytes()
    path.write_bytes(raw + b" ")
    with pytest.raises(DamagedStoreError, match=f"'{key}' has {len(raw) + 1} bytes"):
        open_store(tmp_path / "scan.zarr")
    path.unlink()
    with pytest.raises(DamagedStoreError, match=f"'{key}' is missing"):
        open_store(tmp_path / "scan.zarr")


def test_root_that_links_to_nothing_is_refused(store, tmp_path):
    root = tmp_path / "scan.zarr" / ROOT_KEY
    root.unlink()
    root.symlink_to("nowhere")
    with pytest.raises(ScanNotFoundError):
        open_store(tmp_path / "scan.zarr")


READS = {
    "amplitude": lambda store: store.amplitude(np.arange(40)),
    "stored": lambda store: store.stored(np.arange(40)),
    "dask": lambda store: store.diffraction.compute(scheduler="synchronous"),
    "array": lambda store: store.array("diffraction")[...],
    "one row": lambda store: [store.array("diffraction")[i] for i in range(40)],
    "positions": lambda store: store.positions,
    "probe": lambda store: store.probe_guess,
    "power": lambda store: store.frame_power,
    "extra": lambda store: store.extra["table"][...],
}
FILES = {"positions": "positions/c/0/0", "probe": "probe_guess/c/0/0", "power": "frame_power/c/0"}
FILES["extra"] = "extra/table/c/0/0"


@pytest.mark.parametrize("native", [True, False], ids=["native", "fallback"])
@pytest.mark.parametrize("damage", ["missing", "empty", "shorter"])
@pytest.mark.parametrize("way", READS)
def test_file_damaged_after_opening_is_an_error_never_zeros(
    store, tmp_path, monkeypatch, way, damage, native
):
    if not native:
        monkeypatch.setattr("ptyzarr.store.scanstore.native_functions", lambda: None)
    opened = open_store(tmp_path / "scan.zarr")
    path = tmp_path / "scan.zarr" / FILES.get(way, "diffraction/c/1/0/0")
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, 0 if damage == "empty" else path.stat().st_size - 1)
    with pytest.raises(DamagedStoreError, match=r"missing|bytes"):
        READS[way](opened)
    opened.close()


def test_file_removed_between_the_look_and_the_read_is_an_error(store, tmp_path, monkeypatch):
    opened = open_store(tmp_path / "scan.zarr")
    stat = os.stat

    def stat_then_remove(path: Any, **options: Any) -> os.stat_result:
        result = stat(path, **options)
        if str(path).endswith("frame_power/c/0"):
            os.unlink(path)
        return result

    monkeypatch.setattr(os, "stat", stat_then_remove)
    with pytest.raises(DamagedStoreError, match="disappeared"):
        _ = opened.frame_power


def test_published_store_cannot_be_written_through_its_handles(store):
    with pytest.raises(ValueError, match=r"read-only|read only"):
        store.array("diffraction")[0] = 1
    with pytest.raises(StorageError, match="published store"):
        store.array("diffraction").store.with_read_only(read_only=False)


# Stores whose frames somebody else wrote.


def rewrite_frames(root: Path, **options: Any) -> None:
    """Write the frames of a store again with zarr."""
    group = zarr.open_group(root, mode="r")
    frames = np.asarray(group["diffraction"])
    attributes = dict(group["diffraction"].attrs)
    shutil.rmtree(root / "diffraction")
    array = zarr.create_array(
        str(root / "diffraction"),
        shape=frames.shape,
        dtype=options.pop("dtype", frames.dtype),
        dimension_names=("frame", "y", "x"),
        attributes=attributes,
        config={"write_empty_chunks": True},
        **options,
    )
    array[...] = frames
    rewrite_root(root, lambda attributes: None)


LZ4 = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=1)


@pytest.mark.parametrize(
    ("options", "reader"),
    [
        pytest.param(
            {
                "chunks": (4, 16, 16),
                "shards": (12, 16, 16),
                "compressors": [LZ4, Crc32cCodec()],
            },
            ShardReader,
            id="our codecs, other shards",
        ),
        pytest.param(
            {"chunks": (4, 16, 16), "shards": (16, 16, 16), "compressors": [ZstdCodec()]},
            FallbackReader,
            id="zstd",
        ),
        pytest.param(
            {"chunks": (5, 16, 16), "compressors": [ZstdCodec(), Crc32cCodec()]},
            FallbackReader,
            id="no shards",
        ),
        pytest.param(
            {
                "chunks": (4, 8, 8),
                "shards": (16, 16, 16),
                "compressors": [LZ4, Crc32cCodec()],
            },
            FallbackReader,
            id="frames cut into pieces",
        ),
        pytest.param(
            {
                "chunks": (4, 16, 8),
                "shards": (16, 16, 8),
                "compressors": [LZ4, Crc32cCodec()],
            },
            FallbackReader,
            id="shards cut across frames",
        ),
        pytest.param(
            {
                "chunks": (4, 16, 16),
                "shards": (16, 16, 16),
                "compressors": [LZ4, Crc32cCodec()],
                "chunk_key_encoding": {"name": "default", "separator": "."},
            },
            FallbackReader,
            id="other keys",
        ),
        pytest.param(
            {"chunks": (8, 16, 16), "dtype": ">u2", "compressors": None},
            FallbackReader,
            id="big-endian",
        ),
    ],
)
def test_frames_written_by_zarr_are_read(store, tmp_path, options, reader):
    root = tmp_path / "scan.zarr"
    rewrite_frames(root, **options)
    again = open_store(root)
    assert isinstance(again.chunks, reader)
    assert again.amplitude(np.arange(40)).tobytes() == make_arrays()["diff3d"].tobytes()
    chunk = again.chunks.chunk_frames
    out = np.full((1, again.chunks.chunk_nbytes), 255, np.uint8)
    again.chunks.read_chunks(np.array([again.chunks.n_chunks - 1]), np.array([0]), out)
    padded = out.view(again.chunks.dtype).reshape(chunk, 16, 16)[(40 - 1) % chunk + 1 :]
    assert not padded.any()
    again.close()


@pytest.mark.parametrize(
    "codecs", [[ZstdCodec(checksum=True)], [ZstdCodec(), Crc32cCodec()]], ids=["zstd", "crc32c"]
)
def test_flip_in_a_chunk_of_another_codec_is_an_error(store, tmp_path, codecs):
    root = tmp_path / "scan.zarr"
    rewrite_frames(root, chunks=(40, 16, 16), compressors=codecs)
    path = root / "diffraction/c/0/0/0"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 16
    path.write_bytes(raw)
    with pytest.raises(DamagedStoreError, match="chunk 0 cannot be decoded"):
        open_store(root).amplitude([0])


# Several stores.


def test_stores_are_opened_in_natural_order(make_scan_store, tmp_path):
    for name in ("run_10", "run_9", "run_2"):
        make_scan_store(name, n_frames=3, N=4)
    found = open_stores(tmp_path / "run_*.zarr")
    assert [Path(store.path).stem for store in found] == ["run_2", "run_9", "run_10"]


def test_no_match_is_said(tmp_path):
    with pytest.raises(ScanNotFoundError, match=r"no store matches .*none\*"):
        open_stores(tmp_path / "none*")


def test_store_can_be_opened_in_any_way(store, tmp_path):
    for path in (str(tmp_path / "scan.zarr"), tmp_path / "scan.zarr", f"{tmp_path}/scan.zarr/"):
        assert ScanStore(path).digest == store.digest
    assert read_root(tmp_path / "scan.zarr" / ROOT_KEY)["zarr_format"] == 3


def test_extra_members_are_looked_up_by_their_keys_and_decoded(make_scan_store: Any) -> None:
    odd = {
        "words": np.array(["alpha", "beta"]),
        "days": np.array(["2026-01-02"], "datetime64[D]"),
        "pairs": np.array([(1, 2.5)], [("a", "i4"), ("b", "f8")]),
        "näme with spaces": np.arange(3),
    }
    store = make_scan_store(n_frames=9, N=8, seed=0, **odd)
    assert set(odd) <= set(store.extra)
    for key, values in odd.items():
        found = np.asarray(store.extra[key][...])
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values)
    with pytest.raises(KeyError):
        store.extra["nothing"]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        pytest.param({"max_nonzero": 9, "max_wide": 0}, (9, 0), id="recorded"),
        pytest.param({}, None, id="by an older or another program"),
        pytest.param({"max_nonzero": 9}, None, id="half"),
    ],
)
def test_pixel_limits_are_optional(store, tmp_path, attributes, expected):
    path = tmp_path / "scan.zarr" / "diffraction" / ROOT_KEY
    metadata = json.loads(path.read_bytes())
    metadata["attributes"] = {"quantity": store.quantity, **attributes}
    path.write_text(json.dumps(metadata))
    rewrite_root(tmp_path / "scan.zarr", lambda _: None)
    assert open_store(tmp_path / "scan.zarr").pixel_limits == expected
