"""`ingest` from end to end: what is stored, what is refused, what repeats and resumes."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.callbacks
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import make_arrays, make_npz, member_crcs, tree_state, write_npz

from ptyzarr.config import IngestConfig
from ptyzarr.errors import (
    BudgetError,
    ConfigError,
    InterruptedIngestError,
    MissingFieldError,
    ScanExistsError,
    ScanNotFoundError,
    ShapeError,
    SourceChangedError,
    SourceError,
    StorageError,
)
from ptyzarr.ingestion import export, ingest
from ptyzarr.ingestion.layout import Sizes
from ptyzarr.scan import frame_power
from ptyzarr.sources.frames import StackedFrames
from ptyzarr.store import open_store

ACQUIRED = IngestConfig(layout="acquisition")
COUNTS = IngestConfig(quantity="counts")


class Recorder:
    """A `Progress` that remembers what it was told; `on_advance` is called with the stage."""

    def __init__(self, on_advance: Callable[[str], None] = lambda stage: None) -> None:
        self.totals: dict[str, int] = {}
        self.done: dict[str, int] = {}
        self.finished: list[str] = []
        self._on_advance = on_advance
        self._stage = ""

    def start(self, stage: str, total: int, unit: str) -> None:
        self._stage = stage
        self.totals[stage], self.done[stage] = total, 0

    def advance(self, amount: int) -> None:
        self.done[self._stage] += amount
        self._on_advance(self._stage)

    def finish(self) -> None:
        self.finished.append(self._stage)


@contextlib.contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Count passes over the frames, frames read at random, and dask tasks."""
    seen = {"passes": 0, "frames_in_passes": 0, "frames_read": 0, "tasks": 0}
    blocks, read = StackedFrames.blocks, StackedFrames.read_summed

    def count_blocks(self: Any, max_frames: int) -> Iterator[Any]:
        seen["passes"] += 1
        for block in blocks(self, max_frames):
            seen["frames_in_passes"] += len(block)
            yield block

    def count_read(self: Any, indices: Any) -> Any:
        seen["frames_read"] += len(indices)
        return read(self, indices)

    def count_task(*_: Any) -> None:
        seen["tasks"] += 1

    with monkeypatch.context() as patch, dask.callbacks.Callback(pretask=count_task):
        patch.setattr(StackedFrames, "blocks", count_blocks)
        patch.setattr(StackedFrames, "read_summed", count_read)
        yield seen


def stored_limits(store) -> tuple[int, int]:
    """Count from the stored frames what the store says of its pixels."""
    frames = store.stored(np.arange(store.n_frames))
    bits = frames.view(f"u{frames.itemsize}").reshape(len(frames), -1)
    wide = (bits > 255).sum(axis=1).max() if frames.dtype.kind == "u" else 0
    return int((bits != 0).sum(axis=1).max()), int(wide)


def ptyzarr_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ptyzarr-")]


def test_stored_scan_is_the_source_bit_for_bit(make_scan_store, set_sizes):
    set_sizes(4, 16)
    arrays = make_arrays()
    store = make_scan_store()
    every = np.arange(store.n_frames)
    assert (store.n_frames, store.frame_size, store.quantity) == (40, 16, "counts")
    assert store.amplitude(every).tobytes() == arrays["diff3d"].tobytes()
    assert np.asarray(store.diffraction).tobytes() == arrays["diff3d"].tobytes()
    assert np.array_equal(store.positions, np.stack([arrays["xcoords"], arrays["ycoords"]], 1))
    start = np.stack([arrays["xcoords_start"], arrays["ycoords_start"]], 1)
    assert np.array_equal(store.positions_start, start)
    for field, key in [("probe_guess", "probeGuess"), ("object_guess", "objectGuess")]:
        assert np.array_equal(getattr(store, field), arrays[key])
    assert np.array_equal(store.scan_index, arrays["scan_index"])
    assert store.scan_index.dtype == np.int64
    assert np.array_equal(store.frame_power, frame_power(arrays["diff3d"]))


def test_each_frame_is_read_once_beside_a_sample_in_one_task_for_each_shard(
    tmp_path, set_sizes, monkeypatch
):
    set_sizes(4, 8)
    monkeypatch.setattr("ptyzarr.ingestion.kinds.SAMPLE_FRAMES", 5)
    source = make_npz(tmp_path / "scan.npz", n_frames=41)
    with counted(monkeypatch) as seen:
        store = ingest(source, tmp_path / "scan.zarr")
    assert seen == {"passes": 0, "frames_in_passes": 0, "frames_read": 5 + 41, "tasks": 6}
    assert len([key for key in store.files if key.startswith("diffraction/c/")]) == 6
    store.close()


def test_deflated_source_is_inflated_once(tmp_path, set_sizes, monkeypatch):
    set_sizes(4, 8)
    source = make_npz(tmp_path / "scan.npz", compressed=True)
    with counted(monkeypatch) as seen:
        store = ingest(source, tmp_path / "scan.zarr")
    assert seen == {"passes": 1, "frames_in_passes": 40, "frames_read": 0, "tasks": 5}
    assert store.amplitude(np.arange(40)).tobytes() == make_arrays()["diff3d"].tobytes()
    store.close()


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(ACQUIRED, id="acquisition order"),
        pytest.param(IngestConfig(n_workers=1), id="one worker"),
        pytest.param(IngestConfig(n_workers=5, memory="200MiB"), id="five workers"),
    ],
)
def test_values_and_digests_do_not_depend_on_order_and_workers(make_scan_store, set_sizes, config):
    set_sizes(2, 8)
    one = make_scan_store("one")
    set_sizes(4, 12)
    other = make_scan_store("other", config)
    assert (other.digest, other.frames_digest) == (one.digest, one.frames_digest)
    for field in ("positions", "positions_start", "scan_index", "frame_power"):
        assert np.array_equal(getattr(one, field), getattr(other, field))
    assert one.amplitude(np.arange(40)).tobytes() == other.amplitude(np.arange(40)).tobytes()


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    n_frames=st.integers(1, 30),
    size=st.integers(1, 7),
    seed=st.integers(0, 99),
    chunk=st.sampled_from([1, 2, 4]),
    per_shard=st.integers(1, 4),
    layout=st.sampled_from(["hilbert", "acquisition"]),
    compressed=st.booleans(),
)
def test_round_trip_is_exact_whatever_the_sizes(
    tmp_path_factory, monkeypatch, n_frames, size, seed, chunk, per_shard, layout, compressed
):
    folder = tmp_path_factory.mktemp("trip")
    arrays = make_arrays(n_frames, size, seed)
    source = write_npz(folder / "scan.npz", arrays, compressed=compressed)
    sizes = Sizes(chunk, chunk * per_shard, 16)
    monkeypatch.setattr("ptyzarr.ingestion.plan.choose_sizes", lambda *_: sizes)
    store = ingest(source, folder / "scan.zarr", IngestConfig(layout=layout, n_workers=2))
    picked = np.random.default_rng(seed).integers(0, n_frames, 2 * n_frames)
    assert store.amplitude(picked).tobytes() == arrays["diff3d"][picked].tobytes()
    assert sorted(store.frame_index.tolist()) == list(range(n_frames))
    assert np.array_equal(store.frame_index[store.rows], np.arange(n_frames))
    assert np.array_equal(store.positions[:, 0], arrays["xcoords"])
    store.close()


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [
        pytest.param(255, "uint8", id="255"),
        pytest.param(256, "uint16", id="256"),
        pytest.param(65535, "uint16", id="65535"),
        pytest.param(65536, "uint32", id="65536"),
        pytest.param(2**24 - 1, "uint32", id="2^24-1"),
        pytest.param(2**24, "float32", id="2^24"),
        pytest.param(2**24 + 2, "float32", id="2^24+2"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_smallest_dtype_that_holds_the_largest_count(make_scan_store, largest, dtype, compressed):
    frames = make_arrays()["diff3d"]
    frames[37, 3, 5] = np.sqrt(np.float32(largest))
    store = make_scan_store(diff3d=frames, compressed=compressed)
    assert store.array("diffraction").dtype == dtype
    assert store.quantity == ("amplitude" if dtype == "float32" else "counts")
    assert store.amplitude_dtype == np.float32
    assert store.amplitude(np.arange(40)).tobytes() == frames.tobytes()
    assert store.pixel_limits == stored_limits(store)


@pytest.mark.parametrize("frame", [0, 39])
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(np.nextafter(np.float32(2), np.float32(3)), id="one ulp above a root"),
        pytest.param(np.float32(-0.0), id="negative zero"),
        pytest.param(np.float32(0.5), id="no root"),
        pytest.param(np.float32(1e-40), id="subnormal"),
        pytest.param(np.float32(1e18), id="huge"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_one_pixel_without_a_count_keeps_all_amplitudes(make_scan_store, frame, value, compressed):
    frames = make_arrays()["diff3d"]
    frames[frame, -1, -1] = value
    store = make_scan_store(diff3d=frames, compressed=compressed)
    assert (store.quantity, store.array("diffraction").dtype) == ("amplitude", np.float32)
    assert store.amplitude(np.arange(40)).tobytes() == frames.tobytes()


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int16", "uint16", "uint32", "int64", "uint64"]
)
@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_integer_amplitudes_keep_their_dtype(make_scan_store, dtype, compressed):
    frames = np.rint(make_arrays()["diff3d"]).astype(dtype)
    frames[3, 2, 1] = True if dtype == "bool" else np.iinfo(dtype).max
    store = make_scan_store(diff3d=frames, compressed=compressed)
    assert (store.quantity, store.amplitude_dtype) == ("amplitude", np.dtype(dtype))
    assert store.amplitude(np.arange(40)).tobytes() == frames.tobytes()
    assert np.array_equal(store.frame_power, frame_power(frames))
    assert store.pixel_limits == stored_limits(store)


@pytest.mark.parametrize("dtype", ["<f2", "<f8", ">f4", ">f8"])
def test_other_float_amplitudes_round_trip(make_scan_store, dtype):
    frames = make_arrays()["diff3d"].astype(dtype)
    store = make_scan_store(diff3d=frames)
    assert store.quantity == ("counts" if dtype == ">f4" else "amplitude")
    assert store.amplitude_dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(store.amplitude(np.arange(40)), frames)


@pytest.mark.parametrize("dtype", ["uint16", "int32", "uint64", "float32", "float64", "bool"])
@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_declared_counts_are_stored_and_read_as_their_roots(make_scan_store, dtype, compressed):
    counts = np.rint(np.square(make_arrays()["diff3d"])).astype(dtype)
    store = make_scan_store(config=COUNTS, diff3d=counts, compressed=compressed)
    assert (store.quantity, store.amplitude_dtype) == ("counts", np.float32)
    expected = np.sqrt(counts.astype(np.float32))
    assert store.amplitude(np.arange(40)).tobytes() == expected.tobytes()
    assert np.array_equal(store.stored(np.arange(40)), counts)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        pytest.param("int32", 2**24, id="beyond exact float32"),
        pytest.param("uint64", 2**63 + 5, id="beyond 32 bits"),
        pytest.param("float32", 2.5, id="fraction"),
        pytest.param("float64", -0.0, id="negative zero"),
        pytest.param("int32", -1, id="negative"),
    ],
)
def test_values_that_are_no_counts_are_refused(tmp_path, dtype, value):
    counts = np.rint(np.square(make_arrays()["diff3d"])).astype(dtype)
    counts[31, 4, 7] = value
    source = make_npz(tmp_path / "scan.npz", diff3d=counts)
    with pytest.raises(SourceError) as caught:
        ingest(source, tmp_path / "scan.zarr", COUNTS)
    message = str(caught.value)
    for part in ("scan.npz", "'diff3d.npy'", "frame 31", "row 4, column 7", "expected"):
        assert part in message
    assert os.listdir(tmp_path) == ["scan.npz"]


def test_counts_of_two_to_the_24_minus_1_are_accepted(make_scan_store):
    counts = np.zeros((40, 16, 16), np.int32)
    counts[39, 15, 15] = 2**24 - 1
    store = make_scan_store(config=COUNTS, diff3d=counts)
    assert np.array_equal(store.stored(np.arange(40)), counts)


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
@pytest.mark.parametrize(
    ("value", "parts"),
    [
        pytest.param(np.nan, ["value nan", "finite"], id="nan"),
        pytest.param(np.inf, ["value inf", "finite"], id="inf"),
        pytest.param(-1.0, ["value -1.0", "0 or more"], id="negative"),
    ],
)
def test_refused_pixel_is_named_and_nothing_is_left(tmp_path, compressed, value, parts):
    frames = make_arrays()["diff3d"]
    frames[23, 2, 9] = value
    source = make_npz(tmp_path / "bad.npz", diff3d=frames, compressed=compressed)
    with pytest.raises(SourceError) as caught:
        ingest(source, tmp_path / "scan.zarr")
    for part in ["bad.npz: member 'diff3d.npy': frame 23", "row 2, column 9", *parts]:
        assert part in str(caught.value)
    assert os.listdir(tmp_path) == ["bad.npz"]
    assert ptyzarr_threads() == []


def test_amplitude_that_cannot_be_squared_is_refused(tmp_path):
    frames = make_arrays()["diff3d"].astype(np.float64)
    frames[5, 0, 0] = 1e200
    source = make_npz(tmp_path / "bad.npz", diff3d=frames)
    with pytest.raises(SourceError, match=r"bad.npz: member 'diff3d.npy': frame 5 has pixels"):
        ingest(source, tmp_path / "scan.zarr")


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
@pytest.mark.parametrize("hidden", [True, False], ids=["counts", "amplitudes"])
def test_masked_pixels_are_stored_as_zero(make_scan_store, set_sizes, compressed, hidden):
    set_sizes(2, 8)
    frames = make_arrays()["diff3d"] + np.float32(0 if hidden else 0.25)
    frames[0, 0, 0] = frames[39, 15, 15] = np.nan
    frames[7] = np.inf
    store = make_scan_store(
        config=IngestConfig(nonfinite="mask"), diff3d=frames, compressed=compressed
    )
    expected = np.where(np.isfinite(frames), frames, 0)
    assert store.quantity == ("counts" if hidden else "amplitude")
    assert store.amplitude(np.arange(40)).tobytes() == expected.tobytes()
    assert store.array("masked/index").shape == (2 + 256,)
    assert np.array_equal(store.frame_power, frame_power(expected))
    assert store.pixel_limits == stored_limits(store)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 4 frames, so that a small scan is looked at in many of them."""
    for module in ("plan", "runner"):
        monkeypatch.setattr(f"ptyzarr.ingestion.{module}.block_frames", lambda *_: 4)


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
@pytest.mark.parametrize(
    ("pixels", "dtype"),
    [
        pytest.param({}, "uint8", id="small counts"),
        pytest.param({30: 300.0}, "uint32", id="large count later"),
        pytest.param({0: 300.0}, "uint32", id="large count at once"),
        pytest.param({30: 0.3}, "float32", id="no count later"),
        pytest.param({12: 300.0, 30: 0.3}, "float32", id="large, then none"),
        pytest.param({0: 0.3, 30: 300.0}, "float32", id="none, then large"),
        pytest.param({39: 0.3}, "float32", id="no count in the last frame"),
        pytest.param({3: 20.0, 17: 300.0, 31: 0.3}, "float32", id="three times another"),
        pytest.param({5: np.nan, 30: np.inf, 39: np.nan}, "uint8", id="masked"),
        pytest.param({5: np.nan, 30: 0.3, 39: np.nan}, "float32", id="masked, no count"),
    ],
)
@pytest.mark.parametrize("n_workers", [1, 3])
@pytest.mark.parametrize("chunk_frames", [1, 2])
def test_later_blocks_may_change_what_is_stored(
    tmp_path, set_sizes, small_blocks, monkeypatch, compressed, pixels, dtype, n_workers,
    chunk_frames,
):  # fmt: skip
    monkeypatch.setattr("ptyzarr.ingestion.kinds.SAMPLE_FRAMES", 2)
    set_sizes(chunk_frames, 8)
    frames = make_arrays()["diff3d"]
    for frame, value in pixels.items():
        frames[frame, 7, 8] = value
    source = make_npz(tmp_path / "scan.npz", diff3d=frames, compressed=compressed)
    config = IngestConfig(nonfinite="mask", n_workers=n_workers)
    store = ingest(source, tmp_path / "scan.zarr", config)
    assert store.array("diffraction").dtype == dtype
    expected = np.where(np.isfinite(frames), frames, 0)
    assert store.amplitude(np.arange(40)).tobytes() == expected.tobytes()
    assert store.pixel_limits == stored_limits(store)
    out = export(store, tmp_path / "out.npz")
    assert member_crcs(out) == member_crcs(source)
    store.close()


def test_masked_store_is_not_taken_for_a_refusing_one(make_scan_store, tmp_path):
    frames = make_arrays()["diff3d"]
    frames[1, 1, 1] = np.nan
    make_scan_store(config=IngestConfig(nonfinite="mask"), diff3d=frames)
    with pytest.raises(ScanExistsError, match="masked pixels"):
        ingest(tmp_path / "scan.npz", tmp_path / "scan.zarr")


@pytest.mark.parametrize(
    ("n_frames", "n_positions"), [pytest.param(40, 33, id="frames"), pytest.param(33, 40, id="pos")]
)
def test_truncate_keeps_the_common_beginning(make_scan_store, n_frames, n_positions):
    arrays = make_arrays()
    longer = {key: arrays[key][:n_positions] for key in arrays if key.startswith(("x", "y"))}
    longer["scan_index"] = arrays["scan_index"][:n_positions]
    config = IngestConfig(incomplete="truncate")
    store = make_scan_store(config=config, diff3d=arrays["diff3d"][:n_frames], **longer)
    assert store.n_frames == 33
    assert np.array_equal(store.amplitude(np.arange(33)), arrays["diff3d"][:33])
    assert np.array_equal(store.positions[:, 1], arrays["ycoords"][:33])


def test_extra_members_are_kept_in_source_order(make_scan_store):
    extra = np.random.default_rng(1).normal(size=(40, 3))
    store = make_scan_store(dwell=extra, note=np.array("a text"))
    assert np.array_equal(store.extra["dwell"][...], extra)
    assert store.array("extra/note").attrs["raw"] is True


def test_pixel_size_and_energy_are_found(make_scan_store):
    store = make_scan_store(
        object_pixel_m=np.array(8e-9), wavelength_m=np.array(1.0e-10, np.float32)
    )
    assert store.attrs["physics"]["pixel_size_m"] == 8e-9
    assert store.attrs["physics"]["energy_ev"] == pytest.approx(12398.4, rel=1e-5)


# Repetition, other sources, overwriting.


def test_second_ingest_changes_no_file(make_scan_store, tmp_path, monkeypatch):
    store = make_scan_store()
    before = tree_state(tmp_path)
    with counted(monkeypatch) as seen:
        again = ingest(tmp_path / "scan.npz", tmp_path / "scan.zarr")
    assert again.digest == store.digest
    assert tree_state(tmp_path) == before
    assert seen == {"passes": 0, "frames_in_passes": 0, "frames_read": 0, "tasks": 0}


def test_copied_and_touched_source_is_the_same_source(make_scan_store, tmp_path):
    make_scan_store()
    copy = tmp_path / "copy.npz"
    copy.write_bytes((tmp_path / "scan.npz").read_bytes())
    os.utime(copy, (1, 1))
    before = tree_state(tmp_path / "scan.zarr")
    ingest(copy, tmp_path / "scan.zarr", IngestConfig(overwrite=True))
    assert tree_state(tmp_path / "scan.zarr") == before


@pytest.mark.parametrize(
    ("overrides", "config", "match"),
    [
        pytest.param({"seed": 1}, IngestConfig(), "another source", id="other values"),
        pytest.param({}, ACQUIRED, "hilbert order", id="other order"),
        pytest.param({"extra": np.ones(3)}, IngestConfig(), "another source", id="more members"),
    ],
)
def test_another_source_is_refused_then_overwrites(
    make_scan_store, tmp_path, overrides, config, match
):
    old = make_scan_store()
    before = tree_state(tmp_path / "scan.zarr")
    source = make_npz(tmp_path / "other.npz", **overrides)
    with pytest.raises(ScanExistsError, match=match):
        ingest(source, tmp_path / "scan.zarr", config)
    assert tree_state(tmp_path / "scan.zarr") == before
    new = ingest(source, tmp_path / "scan.zarr", IngestConfig(layout=config.layout, overwrite=True))
    assert (new.digest == old.digest) == (config is ACQUIRED)
    assert np.array_equal(
        new.amplitude(np.arange(40)), make_arrays(seed=overrides.get("seed", 0))["diff3d"]
    )
    assert sorted(os.listdir(tmp_path)) == ["other.npz", "scan.npz", "scan.zarr"]
    new.close()


def test_counts_and_amplitudes_of_one_file_are_different_sources(make_scan_store, tmp_path):
    make_scan_store(diff3d=np.ones((40, 16, 16), np.uint16))
    with pytest.raises(ScanExistsError, match="read in another way"):
        ingest(tmp_path / "scan.npz", tmp_path / "scan.zarr", COUNTS)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda root: (root / "zarr.json").unlink(), id="no root"),
        pytest.param(lambda root: os.truncate(root / "zarr.json", 2000), id="root cut off"),
        pytest.param(lambda root: os.truncate(root / "diffraction/c/0/0/0", 9), id="shard cut off"),
    ],
)
def test_damaged_store_is_refused_then_replaced(make_scan_store, tmp_path, damage):
    digest = make_scan_store().digest
    root = tmp_path / "scan.zarr"
    damage(root)
    with pytest.raises(ScanExistsError, match="--overwrite"):
        ingest(tmp_path / "scan.npz", root)
    assert ingest(tmp_path / "scan.npz", root, IngestConfig(overwrite=True)).digest == digest


def test_overwrite_repairs_a_flipped_bit_of_the_same_source(make_scan_store, tmp_path):
    make_scan_store()
    shard = tmp_path / "scan.zarr/diffraction/c/0/0/0"
    good = shard.read_bytes()
    shard.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    ingest(tmp_path / "scan.npz", tmp_path / "scan.zarr", IngestConfig(overwrite=True))
    assert shard.read_bytes() == good


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "occupy",
    [
        pytest.param(lambda path: path.write_text("mine"), id="a file"),
        pytest.param(lambda path: (path / "deep").mkdir(parents=True), id="a folder"),
        pytest.param(lambda path: path.symlink_to("nowhere"), id="a broken link"),
    ],
)
def test_what_is_no_store_is_never_replaced(tmp_path, occupy, overwrite):
    source = make_npz(tmp_path / "scan.npz")
    occupy(tmp_path / "scan.zarr")
    with pytest.raises(ScanExistsError, match="remove it"):
        ingest(source, tmp_path / "scan.zarr", IngestConfig(overwrite=overwrite))
    assert os.path.lexists(tmp_path / "scan.zarr")
    assert sorted(os.listdir(tmp_path)) == ["scan.npz", "scan.zarr"]


@pytest.mark.parametrize("destination", ["scan.npz", "."])
def test_source_survives_being_named_as_destination(tmp_path, monkeypatch, destination):
    source = make_npz(tmp_path / "scan.npz")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScanExistsError):
        ingest(source, destination, IngestConfig(overwrite=True))
    assert source.stat().st_size > 0


def test_destination_without_a_name_is_refused(tmp_path):
    source = make_npz(tmp_path / "scan.npz")
    with pytest.raises(ConfigError, match=r"like scan\.zarr"):
        ingest(source, "/")


def test_overwriting_a_link_leaves_what_it_points_to(make_scan_store, tmp_path):
    digest = make_scan_store().digest
    os.rename(tmp_path / "scan.zarr", tmp_path / "real.zarr")
    (tmp_path / "scan.zarr").symlink_to("real.zarr")
    other = make_npz(tmp_path / "other.npz", seed=5)
    ingest(other, tmp_path / "scan.zarr", IngestConfig(overwrite=True))
    assert open_store(tmp_path / "real.zarr").digest == digest
    assert open_store(tmp_path / "scan.zarr").digest != digest


def test_folder_of_somebody_else_in_place_of_staging_is_not_emptied(tmp_path):
    source = make_npz(tmp_path / "scan.npz")
    mine = tmp_path / "scan.zarr.staging" / "thesis.tex"
    mine.parent.mkdir()
    mine.write_text("four years")
    with pytest.raises(ScanExistsError, match=r"thesis\.tex"):
        ingest(source, tmp_path / "scan.zarr")
    assert mine.read_text() == "four years"
    assert os.listdir(mine.parent) == ["thesis.tex"]


def test_leftover_of_a_call_killed_after_publishing_is_removed(make_scan_store, tmp_path):
    make_scan_store()
    (tmp_path / "scan.zarr.staging" / "journal").mkdir(parents=True)
    (tmp_path / "scan.zarr.staging" / "journal" / "0.json").write_text("{}")
    before = tree_state(tmp_path / "scan.zarr")
    ingest(tmp_path / "scan.npz", tmp_path / "scan.zarr")
    assert sorted(os.listdir(tmp_path)) == ["scan.npz", "scan.zarr"]
    assert tree_state(tmp_path / "scan.zarr") == before


# Refusals before anything is written.


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        pytest.param({"probeGuess": None}, MissingFieldError, id="no probe"),
        pytest.param({"diff3d": np.ones((40, 16, 8), np.float32)}, ShapeError, id="not square"),
        pytest.param({"xcoords": np.full(40, np.nan)}, SourceError, id="nan position"),
        pytest.param({"ycoords": np.ones(39)}, ShapeError, id="lengths differ"),
    ],
)
def test_refused_source_leaves_nothing(tmp_path, overrides, error):
    source = make_npz(tmp_path / "scan.npz", **overrides)
    with pytest.raises(error, match=r"scan\.npz"):
        ingest(source, tmp_path / "new" / "scan.zarr")
    assert os.listdir(tmp_path) == ["scan.npz"]


def test_missing_source_is_said_to_be_missing(tmp_path):
    with pytest.raises(ScanNotFoundError, match=r"none\.npz"):
        ingest(tmp_path / "none.npz", tmp_path / "scan.zarr")


def test_memory_that_is_too_small_names_the_least(tmp_path):
    source = make_npz(tmp_path / "scan.npz")
    with pytest.raises(BudgetError, match=r"at least \d+MiB") as caught:
        ingest(source, tmp_path / "scan.zarr", IngestConfig(memory="10MiB", n_workers=2))
    assert os.listdir(tmp_path) == ["scan.npz"]
    least = str(caught.value).split("at least ")[1].split(";")[0]
    ingest(source, tmp_path / "scan.zarr", IngestConfig(memory=least, n_workers=2)).close()


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_damaged_frames_are_refused_by_their_checksum(tmp_path, compressed):
    source = make_npz(tmp_path / "scan.npz", compressed=compressed)
    raw = bytearray(source.read_bytes())
    raw[2000] ^= 4
    source.write_bytes(raw)
    with pytest.raises(SourceError, match=r"scan\.npz: member 'diff3d\.npy'"):
        ingest(source, tmp_path / "scan.zarr")
    assert os.listdir(tmp_path) == ["scan.npz"]


# Progress, interruption, change of the source.


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_progress_adds_up(tmp_path, set_sizes, compressed):
    set_sizes(4, 8)
    source = make_npz(tmp_path / "scan.npz", compressed=compressed)
    progress = Recorder()
    ingest(source, tmp_path / "scan.zarr", progress=progress).close()
    stages = ["checking", "writing"] if compressed else ["writing"]
    assert progress.totals == progress.done == dict.fromkeys(stages, 40)
    assert progress.finished == stages


STAGES = [
    pytest.param("writing", False, id="stored"),
    pytest.param("checking", True, id="deflated, checking"),
    pytest.param("writing", True, id="deflated, writing"),
]


@pytest.mark.parametrize(("stage", "compressed"), STAGES)
def test_interrupted_ingest_resumes(
    tmp_path, set_sizes, monkeypatch, small_blocks, stage, compressed
):
    set_sizes(2, 8)
    source = make_npz(tmp_path / "scan.npz", compressed=compressed)

    def interrupt(current: str) -> None:
        if current == stage and stopping.done[stage] >= 16:
            raise KeyboardInterrupt

    stopping = Recorder(interrupt)
    with pytest.raises(InterruptedIngestError, match="run the same command"):
        ingest(source, tmp_path / "scan.zarr", IngestConfig(n_workers=1), progress=stopping)
    assert not (tmp_path / "scan.zarr").exists()
    assert ptyzarr_threads() == []
    progress = Recorder()
    with counted(monkeypatch) as seen:
        store = ingest(source, tmp_path / "scan.zarr", progress=progress)
    assert store.amplitude(np.arange(40)).tobytes() == make_arrays()["diff3d"].tobytes()
    assert progress.totals == progress.done
    assert ("checking" in progress.totals) == (stage == "checking")
    assert seen["passes"] == (1 if stage == "checking" else 0)
    if stage == "writing" and not compressed:
        assert seen["frames_read"] <= 24
    assert sorted(os.listdir(tmp_path)) == ["scan.npz", "scan.zarr"]
    store.close()


def test_signal_while_shards_are_written_is_an_interrupt(tmp_path, set_sizes, monkeypatch, request):
    set_sizes(2, 8)
    source = make_npz(tmp_path / "scan.npz")
    write = importlib.import_module("ptyzarr.ingestion.write")
    write_shard = write.write_shard
    sent: list[int] = []

    def send_signal(*args: Any) -> Any:
        if not sent:
            sent.append(1)
            os.kill(os.getpid(), signal.SIGINT)
        return write_shard(*args)

    with monkeypatch.context() as patch:
        patch.setattr(write, "write_shard", send_signal)
        # dask.distributed, where another test has loaded it, has a callback in the collector, in
        # which Python drops exceptions, an interrupt too.
        gc.disable()
        request.addfinalizer(gc.enable)
        with pytest.raises(InterruptedIngestError):
            ingest(source, tmp_path / "scan.zarr", IngestConfig(n_workers=2))
    assert ptyzarr_threads() == []
    store = ingest(source, tmp_path / "scan.zarr")
    assert store.amplitude(np.arange(40)).tobytes() == make_arrays()["diff3d"].tobytes()
    store.close()


def test_resume_does_not_trust_a_guess_that_was_given_up(tmp_path, set_sizes, monkeypatch):
    """Shards of the first guess are gone; those of the second are kept."""
    monkeypatch.setattr("ptyzarr.ingestion.kinds.SAMPLE_FRAMES", 2)
    set_sizes(2, 8)
    frames = make_arrays()["diff3d"]
    frames[20, 3, 3] = 300.0
    source = make_npz(tmp_path / "scan.npz", diff3d=frames)

    def interrupt(stage: str) -> None:
        plan = (tmp_path / "scan.zarr.staging/plan.json").read_text()
        if "u4" in plan and stopping.done["writing"] >= 16:
            raise KeyboardInterrupt

    stopping = Recorder(interrupt)
    with pytest.raises(InterruptedIngestError):
        ingest(source, tmp_path / "scan.zarr", IngestConfig(n_workers=1), progress=stopping)
    with counted(monkeypatch) as seen:
        store = ingest(source, tmp_path / "scan.zarr")
    assert seen["frames_read"] <= 24
    assert store.array("diffraction").dtype == np.uint32
    assert store.amplitude(np.arange(40)).tobytes() == frames.tobytes()
    store.close()


@pytest.mark.parametrize("name", ["records/0.bin", "records/3.bin"])
@pytest.mark.parametrize("damage", ["cut off", "gone"])
def test_records_that_are_damaged_before_a_resume_are_made_again(tmp_path, set_sizes, name, damage):
    set_sizes(2, 8)
    source = make_npz(tmp_path / "scan.npz")
    staging = tmp_path / "scan.zarr.staging"

    def interrupt(stage: str) -> None:
        if (staging / name).exists():
            raise KeyboardInterrupt

    with pytest.raises(InterruptedIngestError):
        ingest(
            source, tmp_path / "scan.zarr", IngestConfig(n_workers=1), progress=Recorder(interrupt)
        )
    if damage == "gone":
        (staging / name).unlink()
    else:
        os.truncate(staging / name, 30)
    store = ingest(source, tmp_path / "scan.zarr")
    assert np.array_equal(store.frame_power, frame_power(make_arrays()["diff3d"]))
    store.close()


def test_records_that_are_damaged_after_writing_are_made_again(tmp_path, set_sizes):
    set_sizes(2, 8)
    source = make_npz(tmp_path / "scan.npz")
    damaged = []

    def damage(stage: str) -> None:
        path = tmp_path / "scan.zarr.staging/records/0.bin"
        if path.exists() and not damaged:
            damaged.append(path)
            os.truncate(path, 30)

    store = ingest(source, tmp_path / "scan.zarr", progress=Recorder(damage))
    assert damaged
    assert np.array_equal(store.frame_power, frame_power(make_arrays()["diff3d"]))
    store.close()


def test_resume_with_another_source_starts_afresh(tmp_path, set_sizes):
    set_sizes(2, 8)
    one = make_npz(tmp_path / "one.npz", seed=1)

    def interrupt(stage: str) -> None:
        if stage == "writing":
            raise KeyboardInterrupt

    with pytest.raises(InterruptedIngestError):
        ingest(one, tmp_path / "scan.zarr", IngestConfig(n_workers=1), progress=Recorder(interrupt))
    two = make_npz(tmp_path / "two.npz", seed=2)
    store = ingest(two, tmp_path / "scan.zarr")
    assert store.amplitude(np.arange(40)).tobytes() == make_arrays(seed=2)["diff3d"].tobytes()
    store.close()


def test_resume_with_a_deflated_copy_of_a_stored_source(tmp_path, set_sizes):
    set_sizes(2, 8)

    def interrupt(stage: str) -> None:
        if stage == "writing":
            raise KeyboardInterrupt

    source = make_npz(tmp_path / "scan.npz")
    with pytest.raises(InterruptedIngestError):
        ingest(source, tmp_path / "scan.zarr", progress=Recorder(interrupt))
    make_npz(tmp_path / "scan.npz", compressed=True)
    store = ingest(source, tmp_path / "scan.zarr")
    assert store.amplitude(np.arange(40)).tobytes() == make_arrays()["diff3d"].tobytes()
    store.close()


@pytest.mark.parametrize("name", ["frames.bin", "masked.bin", "records.bin"])
def test_lost_temporary_file_starts_the_plan_again(tmp_path, set_sizes, name):
    set_sizes(2, 8)
    frames = make_arrays()["diff3d"]
    frames[4, 4, 4] = np.nan
    source = make_npz(tmp_path / "scan.npz", diff3d=frames, compressed=True)
    config = IngestConfig(nonfinite="mask")

    def interrupt(stage: str) -> None:
        if stage == "writing":
            raise KeyboardInterrupt

    with pytest.raises(InterruptedIngestError):
        ingest(source, tmp_path / "scan.zarr", config, progress=Recorder(interrupt))
    (tmp_path / "scan.zarr.staging" / "spool" / name).unlink()
    progress = Recorder()
    store = ingest(source, tmp_path / "scan.zarr", config, progress=progress)
    assert progress.done["checking"] == 40
    assert store.array("masked/index").shape == (1,)
    store.close()


@pytest.mark.parametrize(("stage", "compressed"), STAGES)
def test_source_that_changes_during_ingest_is_refused(tmp_path, set_sizes, stage, compressed):
    set_sizes(2, 8)
    source = make_npz(tmp_path / "scan.npz", compressed=compressed)
    changed = make_npz(tmp_path / "changed.npz", seed=9, compressed=compressed)

    def change(current: str) -> None:
        if current == stage:
            with source.open("r+b") as file:  # in place, as an instrument would
                file.write(changed.read_bytes())

    with pytest.raises(SourceChangedError, match=r"scan\.npz"):
        ingest(source, tmp_path / "scan.zarr", progress=Recorder(change))
    assert sorted(os.listdir(tmp_path)) == ["changed.npz", "scan.npz"]


def test_source_that_is_only_touched_while_writing_is_refused(tmp_path):
    source = make_npz(tmp_path / "scan.npz")

    def touch(stage: str) -> None:
        if stage == "writing":
            os.utime(source, (1, 1))

    with pytest.raises(SourceChangedError, match="changed"):
        ingest(source, tmp_path / "scan.zarr", progress=Recorder(touch))
    assert os.listdir(tmp_path) == ["scan.npz"]


def test_shard_that_is_damaged_after_writing_is_written_again(tmp_path, set_sizes, monkeypatch):
    set_sizes(2, 8)
    source = make_npz(tmp_path / "scan.npz")
    starts = []

    def damage(stage: str) -> None:
        shard = tmp_path / "scan.zarr.staging/store/diffraction/c/0/0/0"
        if stage == "writing" and shard.exists() and not starts:
            starts.append(shard)
            os.truncate(shard, 5)

    store = ingest(source, tmp_path / "scan.zarr", progress=Recorder(damage))
    assert starts
    assert store.amplitude(np.arange(40)).tobytes() == make_arrays()["diff3d"].tobytes()
    store.close()


# The file system fails.


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_full_disk_is_one_line_and_can_be_resumed(tmp_path, file_size_limit, compressed):
    rng = np.random.default_rng(0)
    frames = np.sqrt(rng.poisson(60, (40, 64, 64)).astype(np.float32))
    source = make_npz(
        tmp_path / "scan.npz", diff3d=frames, probeGuess=np.ones((64, 64)), compressed=compressed
    )
    with file_size_limit(100_000), pytest.raises(StorageError, match="File too large") as caught:
        ingest(source, tmp_path / "scan.zarr")
    assert "\n" not in str(caught.value)
    assert "resume" in str(caught.value)
    assert ptyzarr_threads() == []
    assert not (tmp_path / "scan.zarr").exists()
    store = ingest(source, tmp_path / "scan.zarr")
    assert store.amplitude(np.arange(40)).tobytes() == frames.tobytes()
    assert sorted(os.listdir(tmp_path)) == ["scan.npz", "scan.zarr"]
    store.close()


@pytest.mark.parametrize("function", ["rename", "replace", "fsync"])
def test_error_of_a_system_call_publishes_nothing(tmp_path, monkeypatch, function):
    source = make_npz(tmp_path / "scan.npz")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(StorageError, match="Input/output error"):
            ingest(source, tmp_path / "scan.zarr")
    assert not (tmp_path / "scan.zarr").exists()
    ingest(source, tmp_path / "scan.zarr").close()


def test_failed_publication_of_an_overwrite_puts_the_old_store_back(
    make_scan_store, tmp_path, monkeypatch
):
    digest = make_scan_store().digest
    other = make_npz(tmp_path / "other.npz", seed=3)
    rename = os.rename

    def fail_second(old: Any, new: Any) -> None:
        if Path(old).name == "store":
            raise OSError(5, "Input/output error")
        rename(old, new)

    monkeypatch.setattr(os, "rename", fail_second)
    with pytest.raises(StorageError, match="Input/output error"):
        ingest(other, tmp_path / "scan.zarr", IngestConfig(overwrite=True))
    assert open_store(tmp_path / "scan.zarr").digest == digest


def test_rename_that_reports_failure_after_success_is_success(tmp_path, monkeypatch):
    source = make_npz(tmp_path / "scan.npz")
    rename = os.rename

    def lie(old: Any, new: Any) -> None:
        rename(old, new)
        raise FileNotFoundError(2, "No such file or directory")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", lie)
        store = ingest(source, tmp_path / "scan.zarr")
    assert store.n_frames == 40


def test_destination_that_appears_meanwhile_is_not_replaced(tmp_path):
    source = make_npz(tmp_path / "scan.npz")

    def occupy(stage: str) -> None:
        if stage == "writing":
            (tmp_path / "scan.zarr" / "deep").mkdir(parents=True, exist_ok=True)

    with pytest.raises(ScanExistsError, match="cannot be published"):
        ingest(source, tmp_path / "scan.zarr", progress=Recorder(occupy))
    assert os.listdir(tmp_path / "scan.zarr") == ["deep"]


def test_parent_that_is_a_file_is_a_storage_error(tmp_path):
    source = make_npz(tmp_path / "scan.npz")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="ingest of"):
        ingest(source, tmp_path / "file" / "scan.zarr")


def test_relative_paths_and_changed_working_directory(tmp_path, monkeypatch):
    make_npz(tmp_path / "scan.npz")
    monkeypatch.chdir(tmp_path)
    store = ingest("scan.npz", "new/scan.zarr")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store.amplitude(np.arange(40)).tobytes() == make_arrays()["diff3d"].tobytes()
    store.close()
