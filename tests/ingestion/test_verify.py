"""`verify` finds any change of a store, and any difference from its source."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import make_arrays, make_npz

from ptyzarr.config import IngestConfig
from ptyzarr.errors import (
    DamagedStoreError,
    PtyzarrError,
    ScanNotFoundError,
    SchemaError,
    SourceError,
    VerificationError,
)
from ptyzarr.ingestion import ingest, verify
from ptyzarr.store import StoreWriter, open_store, writer

MASK = IngestConfig(nonfinite="mask")
VERIFY = importlib.import_module("ptyzarr.ingestion.verify")  # the room's function has its name


@pytest.fixture
def rich_store(make_scan_store, set_sizes):
    """A store with every kind of array: shards, a partial one, extras, raw bytes, masks."""
    set_sizes(2, 8)
    frames = make_arrays(37, 8)["diff3d"]
    frames[3, 3, 3] = frames[36, 7, 7] = np.nan
    return make_scan_store(
        config=MASK, n_frames=37, N=8, diff3d=frames, note=np.array("text"), table=np.ones((3, 2))
    )


def flip(path: Path, position: int, bit: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1 << bit
    path.write_bytes(raw)


def test_whole_store_passes_and_is_counted(rich_store, tmp_path):
    report = verify(tmp_path / "scan.zarr", tmp_path / "scan.npz")
    assert report.n_files == len(rich_store.files) + 1
    assert report.n_bytes == sum(
        path.stat().st_size for path in (tmp_path / "scan.zarr").rglob("*") if path.is_file()
    )
    assert (report.n_frames, report.digest, report.unlisted) == (37, rich_store.digest, ())
    assert report.compared_source == str(tmp_path / "scan.npz")


def test_flipped_bit_in_any_file_is_found(rich_store, tmp_path):
    rng = np.random.default_rng(4)
    root = tmp_path / "scan.zarr"
    for key in rich_store.files:
        size = (root / key).stat().st_size
        for position in {0, size - 1, *rng.integers(0, size, 1).tolist()}:
            bit = int(rng.integers(8))
            flip(root / key, position, bit)
            with pytest.raises(VerificationError, match=key):
                verify(root)
            flip(root / key, position, bit)
    verify(root)


def test_flipped_bit_anywhere_in_the_root_is_found(rich_store, tmp_path):
    rng = np.random.default_rng(5)
    path = tmp_path / "scan.zarr" / "zarr.json"
    raw = path.read_bytes()
    marker = raw.index(b'"root_sha256"')
    attribute = raw.index(b'"ptyzarr"')
    positions = {0, len(raw) - 1, *range(marker, marker + 90), *range(attribute, attribute + 10)}
    positions |= set(rng.integers(0, len(raw), 300).tolist())
    for position in positions:
        flip(path, position, int(rng.integers(8)))
        with pytest.raises(VerificationError, match="digest"):
            verify(tmp_path / "scan.zarr")
        with pytest.raises(DamagedStoreError):
            open_store(tmp_path / "scan.zarr")
        path.write_bytes(raw)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        pytest.param(lambda c: (c / "1/0/0").unlink(), "c/1/0/0 cannot be read", id="missing"),
        pytest.param(lambda c: os.truncate(c / "1/0/0", 40), "has 40 bytes", id="truncated"),
        pytest.param(lambda c: os.truncate(c / "1/0/0", 0), "has 0 bytes", id="empty"),
        pytest.param(
            lambda c: (c / "1/0/0").write_bytes((c / "1/0/0").read_bytes() + b"x"),
            r"c/1/0/0 has \d+ bytes",
            id="longer",
        ),
    ],
)
def test_damaged_shard_is_found(rich_store, tmp_path, damage, match):
    damage(tmp_path / "scan.zarr/diffraction/c")
    with pytest.raises(VerificationError, match=match):
        verify(tmp_path / "scan.zarr")


def test_swapped_shards_are_found(make_scan_store, set_sizes, tmp_path):
    set_sizes(2, 8)
    frames = np.ones((40, 8, 8), np.float32)  # equal sizes, so that opening has nothing to see
    frames[8:16] = np.sqrt(np.float32(2))
    config = IngestConfig(layout="acquisition")
    make_scan_store(config=config, diff3d=frames, probeGuess=np.ones((8, 8), complex))
    shards = tmp_path / "scan.zarr/diffraction/c"
    assert (shards / "1/0/0").stat().st_size == (shards / "2/0/0").stat().st_size
    os.rename(shards / "1", shards / "x")
    os.rename(shards / "2", shards / "1")
    os.rename(shards / "x", shards / "2")
    open_store(tmp_path / "scan.zarr").close()
    with pytest.raises(VerificationError, match="c/1/0/0 has other content"):
        verify(tmp_path / "scan.zarr")


@pytest.mark.parametrize("is_native", [True, False])
def test_swapped_shards_of_one_size_are_found_where_they_are_read(
    make_scan_store, set_sizes, tmp_path, is_native, monkeypatch
):
    if not is_native:
        monkeypatch.setattr("ptyzarr.store.scanstore.native_functions", lambda: None)
    set_sizes(1, 8)
    frames = np.zeros((40, 16, 16), np.float32)
    # The same chunks in another order: equal sizes, other indexes.
    rng = np.random.default_rng(0)
    noise = np.sqrt(rng.integers(0, 200, (16, 16)).astype(np.float32))
    frames[8], frames[17] = noise, noise
    make_scan_store(
        config=IngestConfig(layout="acquisition"),
        diff3d=frames,
        probeGuess=np.ones((16, 16), complex),
    )
    shards = tmp_path / "scan.zarr/diffraction/c"
    assert (shards / "1/0/0").stat().st_size == (shards / "2/0/0").stat().st_size
    store = open_store(tmp_path / "scan.zarr")
    assert np.array_equal(store.amplitude([8, 17]), frames[[8, 17]])
    store.close()
    os.rename(shards / "1", shards / "x")
    os.rename(shards / "2", shards / "1")
    os.rename(shards / "x", shards / "2")
    for frame in (8, 17):
        with pytest.raises(DamagedStoreError, match="another shard"):
            open_store(tmp_path / "scan.zarr").amplitude([frame])


def test_file_that_is_not_listed_is_reported(rich_store, tmp_path):
    extra = tmp_path / "scan.zarr/diffraction/c/9/0/0"
    extra.parent.mkdir(parents=True)
    extra.write_bytes(b"x")
    assert verify(tmp_path / "scan.zarr").unlisted == ("diffraction/c/9/0/0",)


def test_first_differences_are_named_and_the_rest_counted(rich_store, tmp_path):
    for path in list((tmp_path / "scan.zarr").rglob("c/0*")) + list(
        (tmp_path / "scan.zarr").rglob("0/0/0")
    ):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(VerificationError, match=r"has 0 bytes.*and \d+ more; .ptyzarr repair"):
        verify(tmp_path / "scan.zarr")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        pytest.param({"frames_digest": "0" * 64}, "differ from their digest", id="frames"),
        pytest.param({"digest": "0" * 64}, "digest of the scan", id="scan"),
    ],
)
def test_wrong_digest_is_found_though_all_files_agree(tmp_path, monkeypatch, change, match):
    finish = StoreWriter.finish
    monkeypatch.setattr(
        StoreWriter, "finish", lambda self, attrs, n: finish(self, {**attrs, **change}, n)
    )
    source = make_npz(tmp_path / "scan.npz")
    ingest(source, tmp_path / "scan.zarr").close()
    with pytest.raises(VerificationError, match=match):
        verify(tmp_path / "scan.zarr")


@pytest.mark.parametrize(
    ("node", "match"),
    [
        pytest.param("positions", "array positions differs", id="positions"),
        pytest.param("probe_guess", "array probe_guess differs", id="probe"),
        pytest.param("frame_hash", "frame 0 differs from its hash", id="hashes"),
    ],
)
def test_wrong_values_are_found_though_all_files_agree(tmp_path, monkeypatch, node, match):
    write, digest = StoreWriter.write_array, writer.array_digest

    def write_other(self: StoreWriter, name: str, values: Any, **options: Any) -> None:
        right = digest(values)
        if name == node:
            values = values + np.ones((), values.dtype)
        monkeypatch.setattr(writer, "array_digest", lambda _: right)
        write(self, name, values, **options)

    monkeypatch.setattr(StoreWriter, "write_array", write_other)
    source = make_npz(tmp_path / "scan.npz")
    ingest(source, tmp_path / "scan.zarr").close()
    with pytest.raises(VerificationError, match=match):
        verify(tmp_path / "scan.zarr")


def one_changed(key: str) -> Callable[[dict[str, Any]], Any]:
    def change(arrays: dict[str, Any]) -> Any:
        values = np.array(arrays[key])
        values.reshape(-1)[-1] += 1
        return values

    return change


@pytest.mark.parametrize("key", ["diff3d", "xcoords", "scan_index", "probeGuess", "objectGuess"])
def test_source_with_one_other_value_is_found(make_scan_store, tmp_path, key):
    make_scan_store()
    other = make_npz(tmp_path / "other.npz", **{key: one_changed(key)(make_arrays())})
    with pytest.raises(VerificationError, match=r"other\.npz is not the source"):
        verify(tmp_path / "scan.zarr", other)


@pytest.mark.parametrize(
    ("key", "match"),
    [
        pytest.param("diff3d", "frame 39 differs from the source", id="frame"),
        pytest.param("xcoords", "positions differs from the source", id="positions"),
        pytest.param("ycoords_start", "positions_start differs", id="start positions"),
        pytest.param("scan_index", "scan_index differs from the source", id="scan index"),
        pytest.param("probeGuess", "probe_guess differs from the source", id="probe"),
        pytest.param("objectGuess", "object_guess differs from the source", id="object"),
        pytest.param("more", "member 'more' differs from the source", id="extra"),
    ],
)
def test_store_with_one_other_value_is_found(make_scan_store, tmp_path, monkeypatch, key, match):
    """A store that is consistent in itself, but not what the source holds."""
    arrays = {**make_arrays(), "more": np.arange(4.0)}
    make_scan_store("other", **{**arrays, key: one_changed(key)(arrays)})
    source = make_npz(tmp_path / "scan.npz", **arrays)
    monkeypatch.setattr(VERIFY, "is_same_scan", lambda *_: True)
    with pytest.raises(VerificationError, match=match):
        verify(tmp_path / "other.zarr", source)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda f: f.__setitem__((3, 3, 3), np.inf), id="other value"),
        pytest.param(lambda f: f.__setitem__((9, 0, 0), np.nan), id="one more"),
        pytest.param(
            lambda f: f.view(np.uint32).__setitem__((3, 3, 3), 0x7FC00001), id="nan payload"
        ),
    ],
)
def test_other_masked_pixels_are_found(make_scan_store, tmp_path, monkeypatch, change):
    frames = make_arrays()["diff3d"]
    frames[9, 0, 0] = 0
    frames[3, 3, 3] = np.nan
    make_scan_store(config=MASK, diff3d=frames)
    change(frames)
    source = make_npz(tmp_path / "other.npz", diff3d=frames)
    monkeypatch.setattr(VERIFY, "is_same_scan", lambda *_: True)
    with pytest.raises(VerificationError, match="masked pixels differ"):
        verify(tmp_path / "scan.zarr", source)


@pytest.mark.parametrize(
    ("config", "scan"),
    [
        pytest.param(
            IngestConfig(quantity="counts"), {"diff3d": np.ones((40, 16, 16), "u2")}, id="counts"
        ),
        pytest.param(
            IngestConfig(incomplete="truncate"),
            {"diff3d": make_arrays(45)["diff3d"]},
            id="surplus frames",
        ),
        pytest.param(IngestConfig(layout="acquisition"), {"compressed": True}, id="deflated"),
        pytest.param(
            IngestConfig(frames_key="other"), {"other": make_arrays()["diff3d"]}, id="frames key"
        ),
    ],
)
def test_options_of_the_ingest_are_known_to_verify(make_scan_store, tmp_path, config, scan):
    make_scan_store(config=config, **scan)
    verify(tmp_path / "scan.zarr", tmp_path / "scan.npz")


def test_damaged_source_is_bad_input(make_scan_store, tmp_path):
    make_scan_store()
    raw = bytearray((tmp_path / "scan.npz").read_bytes())
    raw[2000] ^= 1
    (tmp_path / "scan.npz").write_bytes(raw)
    with pytest.raises((SourceError, VerificationError), match=r"diff3d|frame"):
        verify(tmp_path / "scan.zarr", tmp_path / "scan.npz")


@pytest.mark.parametrize(
    ("make", "error"),
    [
        pytest.param(lambda path: None, ScanNotFoundError, id="nothing"),
        pytest.param(lambda path: path.mkdir(), ScanNotFoundError, id="empty folder"),
        pytest.param(lambda path: path.write_text("x"), SchemaError, id="a file"),
    ],
)
def test_what_is_no_store_is_not_verified(tmp_path, make, error):
    make(tmp_path / "scan.zarr")
    with pytest.raises(error):
        verify(tmp_path / "scan.zarr")


def test_copied_store_verifies_and_has_the_same_digest(rich_store, tmp_path):
    shutil.copytree(tmp_path / "scan.zarr", tmp_path / "copy.zarr")
    assert verify(tmp_path / "copy.zarr").digest == rich_store.digest


def test_progress_of_verify_adds_up(rich_store, tmp_path):
    totals: dict[str, int] = {}
    done: dict[str, int] = {}

    class Recorder:
        stage = ""

        def start(self, stage: str, total: int, unit: str) -> None:
            self.stage = stage
            totals[stage], done[stage] = total, 0

        def advance(self, amount: int) -> None:
            done[self.stage] += amount

        def finish(self) -> None: ...

    verify(tmp_path / "scan.zarr", tmp_path / "scan.npz", progress=Recorder())
    assert totals == done
    assert set(totals) == {"files", "frames", "source"}


@pytest.mark.parametrize("seed", range(3))
def test_flip_in_a_chunk_is_found_where_it_is_read(make_scan_store, set_sizes, tmp_path, seed):
    set_sizes(2, 8)
    arrays = make_arrays()
    make_scan_store().close()
    rng = np.random.default_rng(seed)
    path = tmp_path / "scan.zarr/diffraction/c/2/0/0"
    raw = path.read_bytes()
    for _ in range(40):
        flip(path, int(rng.integers(len(raw))), int(rng.integers(8)))
        store = open_store(tmp_path / "scan.zarr")
        damaged = 0
        for start in range(0, 40, 2):
            indices = store.frame_index[start : start + 2]
            try:
                frames = store.amplitude(indices)
            except DamagedStoreError as error:
                damaged += "c/2/0/0" in str(error)
            else:
                assert frames.tobytes() == arrays["diff3d"][indices].tobytes()
        assert damaged in (1, 4)  # one chunk, or the index and with it all of the shard
        store.close()
        path.write_bytes(raw)


@pytest.mark.parametrize("node", ["positions", "probe_guess", "frame_power", "extra/table"])
def test_flip_in_a_small_array_is_found_where_it_is_read(rich_store, tmp_path, node):
    files = [key for key in rich_store.files if key.startswith(f"{node}/c")]
    flip(tmp_path / "scan.zarr" / files[0], 20, 3)
    store = open_store(tmp_path / "scan.zarr")
    with pytest.raises(ValueError, match=r"decoded|checksum"):
        np.asarray(store.array(node)[...] if "/" in node else getattr(store, node))
    assert issubclass(DamagedStoreError, PtyzarrError)


@pytest.mark.parametrize(
    "change", [pytest.param((1, 0), id="non-zero"), pytest.param((0, 1), id="wide")]
)
def test_wrong_pixel_limits_are_found_though_all_files_agree(tmp_path, monkeypatch, change):
    create = StoreWriter.create_frames

    def misstate(writer, layout, quantity, limits):
        create(writer, layout, quantity, (limits[0] + change[0], limits[1] + change[1]))

    monkeypatch.setattr(StoreWriter, "create_frames", misstate)
    ingest(make_npz(tmp_path / "scan.npz"), tmp_path / "scan.zarr").close()
    with pytest.raises(VerificationError, match="max_nonzero and max_wide are"):
        verify(tmp_path / "scan.zarr")


@pytest.mark.parametrize("name", ["diffraction/c/2/0/0", "positions/c/0/0", "diffraction/c"])
def test_link_to_the_same_bytes_elsewhere_is_told(rich_store, tmp_path, name):
    """They may be changed or removed there without a look at the store."""
    path = tmp_path / "scan.zarr" / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VerificationError, match=r"a link; expected a (file|folder) of the store"):
        verify(tmp_path / "scan.zarr")


def test_store_that_is_reached_over_a_link_is_verified(rich_store, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "scan.zarr").rename(tmp_path / "disk" / "scan.zarr")
    (tmp_path / "linked").symlink_to(tmp_path / "disk")
    (tmp_path / "scan.zarr").symlink_to(tmp_path / "linked" / "scan.zarr")
    assert verify(tmp_path / "scan.zarr", tmp_path / "scan.npz").n_frames == 37
