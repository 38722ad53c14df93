"""`repair` makes what is damaged again from the source, and touches nothing else."""

from __future__ import annotations

import importlib
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import make_arrays, make_npz, tree_state

from ptyzarr.config import IngestConfig
from ptyzarr.errors import (
    DamagedStoreError,
    InterruptedIngestError,
    PtyzarrError,
    ScanExistsError,
    ScanNotFoundError,
    SchemaError,
    SourceError,
)
from ptyzarr.ingestion import ingest, plan_parts, publish, repair, verify, write_part
from ptyzarr.ingestion.lock import lock
from ptyzarr.store import open_store

MASK = IngestConfig(nonfinite="mask")


@pytest.fixture
def rich(make_scan_store, set_sizes, tmp_path) -> Path:
    """A store with shards, a partial one, extras, raw bytes and masks; its folder."""
    set_sizes(2, 8)
    frames = make_arrays(37, 8)["diff3d"]
    frames[3, 3, 3] = frames[36, 7, 7] = np.nan
    extras = {"note": np.array("text"), "table": np.ones((3, 2))}
    make_scan_store(config=MASK, n_frames=37, N=8, diff3d=frames, **extras).close()
    return tmp_path / "scan.zarr"


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def flip(path: Path, position: int = 20, bit: int = 3) -> None:
    raw = bytearray(path.read_bytes())
    raw[position % len(raw)] ^= 1 << bit
    path.write_bytes(raw)


DAMAGES = [
    pytest.param(lambda path: flip(path), id="flipped"),
    pytest.param(lambda path: path.unlink(), id="missing"),
    pytest.param(lambda path: os.truncate(path, 0), id="empty"),
    pytest.param(lambda path: os.truncate(path, 11), id="truncated"),
    pytest.param(lambda path: shutil.rmtree(path.parent), id="folder gone"),
]


def test_whole_store_is_left_alone(rich, tmp_path):
    before = tree_state(rich)
    report = repair(rich, tmp_path / "scan.npz")
    assert report.rewritten == ()
    assert report.digest == open_store(rich).digest
    assert tree_state(rich) == before
    assert sorted(os.listdir(tmp_path)) == ["scan.npz", "scan.zarr"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_shard_alone_is_rewritten(rich, tmp_path, monkeypatch, damage):
    before, files = contents(rich), tree_state(rich)
    key = "diffraction/c/2/0/0"
    damage(rich / key)
    module = importlib.import_module("ptyzarr.ingestion.write")
    write_shard, written = module.write_shard, []

    def note(*args: Any) -> Any:
        written.append(args)
        return write_shard(*args)

    monkeypatch.setattr(module, "write_shard", note)
    report = repair(rich, tmp_path / "scan.npz")
    assert report.rewritten == (key,)
    assert report.n_files == len(before)
    assert contents(rich) == before
    after = tree_state(rich)
    assert {name for name in files if files[name] != after[name]} == {key}
    assert len(written) == 1
    assert sorted(os.listdir(tmp_path)) == ["scan.npz", "scan.zarr"]


def test_any_damaged_file_is_rewritten_and_no_other(rich, tmp_path):
    before = contents(rich)
    for key in {"zarr.json", "positions/c/0/0", *sorted(before)[::3]}:
        files = tree_state(rich)
        flip(rich / key)
        assert repair(rich, tmp_path / "scan.npz").rewritten == (key,)
        after = tree_state(rich)
        assert {name for name in files if files[name] != after[name]} == {key}
        # A root that is made again names the source as it is called now; here it is the same.
        assert contents(rich) == before


@pytest.mark.parametrize("damage", DAMAGES[1:4])
@pytest.mark.parametrize("layout", ["hilbert", "acquisition"])
def test_root_that_is_lost_is_made_again(make_scan_store, set_sizes, tmp_path, layout, damage):
    set_sizes(2, 8)
    make_scan_store(config=IngestConfig(layout=layout)).close()
    before = contents(tmp_path / "scan.zarr")
    damage(tmp_path / "scan.zarr/zarr.json")
    report = repair(tmp_path / "scan.zarr", tmp_path / "scan.npz")
    assert report.rewritten == ("zarr.json",)
    assert contents(tmp_path / "scan.zarr") == before


@pytest.mark.parametrize(
    ("config", "scan"),
    [
        pytest.param(IngestConfig(), {"compressed": True}, id="deflated"),
        pytest.param(
            IngestConfig(quantity="counts"), {"diff3d": np.ones((40, 16, 16), "u2")}, id="counts"
        ),
        pytest.param(
            IngestConfig(frames_key="other"), {"other": make_arrays()["diff3d"]}, id="frames key"
        ),
        pytest.param(
            IngestConfig(incomplete="truncate"),
            {"diff3d": make_arrays(45)["diff3d"]},
            id="surplus frames",
        ),
        pytest.param(
            IngestConfig(), {"diff3d": make_arrays()["diff3d"].astype("f8") / 3}, id="amplitudes"
        ),
    ],
)
@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(["diffraction/c/1/0/0", "diffraction/c/3/0/0"], id="shards"),
        pytest.param(["zarr.json", "diffraction/c/0/0/0"], id="root and shard"),
    ],
)
def test_options_of_the_ingest_are_known_to_repair(
    make_scan_store, set_sizes, tmp_path, config, scan, keys
):
    set_sizes(2, 8)
    make_scan_store(config=config, **scan).close()
    store = tmp_path / "scan.zarr"
    before = contents(store)
    for key in keys:
        flip(store / key)
    assert sorted(repair(store, tmp_path / "scan.npz").rewritten) == sorted(keys)
    assert contents(store) == before


def test_sizes_of_the_store_are_kept_whatever_would_be_chosen_now(rich, tmp_path, set_sizes):
    before = contents(rich)
    set_sizes(4, 16, 32)
    flip(rich / "diffraction/c/1/0/0")
    flip(rich / "scan_index/c/0")
    repair(rich, tmp_path / "scan.npz")
    assert contents(rich) == before


def test_moved_store_and_renamed_source_are_repaired(rich, tmp_path):
    rich.rename(tmp_path / "moved.zarr")
    (tmp_path / "scan.npz").rename(tmp_path / "copy.npz")
    os.utime(tmp_path / "copy.npz", (1, 1))
    (tmp_path / "link.zarr").symlink_to("moved.zarr")
    flip(tmp_path / "moved.zarr/zarr.json")
    flip(tmp_path / "moved.zarr/diffraction/c/0/0/0")
    assert len(repair(tmp_path / "link.zarr", tmp_path / "copy.npz").rewritten) == 2
    assert (tmp_path / "link.zarr").is_symlink()
    verify(tmp_path / "moved.zarr", tmp_path / "copy.npz")


@pytest.mark.parametrize("key", ["diffraction/c/2/0/0", "zarr.json", "probe_guess/c/0/0"])
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({"seed": 5}, id="another scan"),
        pytest.param({"probeGuess": np.full((8, 8), 2j)}, id="another probe"),
        pytest.param({"probeGuess": None}, id="no probe"),
        pytest.param({"more": np.ones(3)}, id="one member more"),
    ],
)
def test_another_source_is_refused_and_nothing_is_changed(
    make_scan_store, set_sizes, tmp_path, key, overrides
):
    set_sizes(2, 8)
    make_scan_store(n_frames=37, N=8).close()
    flip(tmp_path / "scan.zarr" / key)
    before = tree_state(tmp_path / "scan.zarr")
    other = make_npz(tmp_path / "other.npz", **{"n_frames": 37, "N": 8, **overrides})
    with pytest.raises(SourceError, match=r"other\.npz is not the source of .*nothing was changed"):
        repair(tmp_path / "scan.zarr", other)
    assert tree_state(tmp_path / "scan.zarr") == before
    assert sorted(os.listdir(tmp_path)) == ["other.npz", "scan.npz", "scan.zarr"]


def test_root_with_its_frames_metadata_is_too_much(rich, tmp_path):
    flip(rich / "zarr.json")
    os.truncate(rich / "diffraction/zarr.json", 30)
    with pytest.raises(DamagedStoreError, match="are damaged"):
        repair(rich, tmp_path / "scan.npz")


def test_bytes_of_another_version_are_not_put_into_a_store(rich, tmp_path, monkeypatch):
    flip(rich / "diffraction/c/2/0/0")
    before = tree_state(rich)
    monkeypatch.setattr("ptyzarr.store.shardwriter._LEVEL", 1)
    with pytest.raises(DamagedStoreError, match="not the one in the manifest"):
        repair(rich, tmp_path / "scan.npz")
    assert tree_state(rich) == before


@pytest.mark.parametrize(
    ("make", "error"),
    [
        pytest.param(lambda path: None, ScanNotFoundError, id="nothing"),
        pytest.param(lambda path: path.mkdir(), ScanNotFoundError, id="empty folder"),
        pytest.param(lambda path: path.write_text("x"), SchemaError, id="a file"),
    ],
)
def test_what_is_no_store_is_not_repaired(tmp_path, make, error):
    source = make_npz(tmp_path / "scan.npz")
    make(tmp_path / "scan.zarr")
    with pytest.raises(error):
        repair(tmp_path / "scan.zarr", source)
    assert not (tmp_path / "scan.zarr.staging").exists()


def test_store_that_is_being_written_is_not_repaired(rich, tmp_path):
    flip(rich / "diffraction/c/2/0/0")
    with (
        lock(tmp_path / "scan.zarr.staging"),
        pytest.raises(ScanExistsError, match="being written"),
    ):
        repair(rich, tmp_path / "scan.npz")


def test_parts_that_overwrite_a_store_are_not_discarded_by_its_repair(rich, tmp_path):
    flip(rich / "diffraction/c/2/0/0")
    other = make_npz(tmp_path / "other.npz")
    config = IngestConfig(overwrite=True)
    plan_parts(other, rich, config)
    write_part(other, rich, 0, 2, config)
    with pytest.raises(ScanExistsError, match="ptyzarr publish"):
        repair(rich, tmp_path / "scan.npz")
    write_part(other, rich, 1, 2, config)
    publish(rich).close()
    verify(rich, other)


def test_repair_that_stops_between_two_files_goes_on(rich, tmp_path, monkeypatch):
    before = contents(rich)
    for shard in (0, 2, 4):
        flip(rich / f"diffraction/c/{shard}/0/0")
    replace, moved = os.replace, []

    def stop(source: Path, target: Path) -> None:
        if "scan.zarr/diffraction" in os.fspath(target):
            moved.append(target)
            if len(moved) == 2:
                raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(InterruptedIngestError, match="to go on"):
            repair(rich, tmp_path / "scan.npz")
    damaged = {key for key, raw in contents(rich).items() if raw != before[key]}
    assert damaged == {"diffraction/c/2/0/0", "diffraction/c/4/0/0"}
    assert set(repair(rich, tmp_path / "scan.npz").rewritten) == damaged
    assert contents(rich) == before


@pytest.mark.slow
def test_random_damage_is_repaired_or_refused(rich, tmp_path):
    """Several files at once: the store is whole afterwards, or an error says why not."""
    chance = random.Random(7)
    before = contents(rich)
    n_repaired = 0
    for _ in range(12):
        for key in chance.sample(sorted(before), chance.randint(1, 3)):
            path = rich / key
            chance.choice([flip, lambda p: os.truncate(p, 5), os.remove])(path)
        try:
            repair(rich, tmp_path / "scan.npz")
        except PtyzarrError:
            for key, raw in before.items():
                (rich / key).write_bytes(raw)
        else:
            assert contents(rich) == before
            n_repaired += 1
    assert n_repaired > 5


def test_reader_that_is_open_goes_on_reading(rich, tmp_path):
    store = open_store(rich)
    expected = store.amplitude(np.arange(8)).tobytes()
    flip(rich / "scan_index/c/0")
    repair(rich, tmp_path / "scan.npz")
    assert store.amplitude(np.arange(8)).tobytes() == expected
    store.close()


def test_repair_is_not_an_ingest_to_resume(rich, tmp_path, monkeypatch):
    """What an interrupted repair leaves does not decide how an ingest stores the scan."""
    flip(rich / "diffraction/c/2/0/0")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(InterruptedIngestError):
            repair(rich, tmp_path / "scan.npz")
    config = IngestConfig(nonfinite="mask", overwrite=True)
    ingest(tmp_path / "scan.npz", rich, config).close()
    verify(rich, tmp_path / "scan.npz")
    assert sorted(os.listdir(tmp_path)) == ["scan.npz", "scan.zarr"]


@pytest.mark.parametrize("key", ["diffraction/c/2/0/0", "positions/c/0/0", "zarr.json"])
def test_folder_in_place_of_a_file_is_named(rich, tmp_path, key):
    (rich / key).unlink()
    (rich / key).mkdir()
    with pytest.raises(ScanExistsError, match=rf"scan\.zarr/{key} is a folder; expected .*; move"):
        repair(rich, tmp_path / "scan.npz")
    assert sorted(os.listdir(tmp_path)) == ["scan.npz", "scan.zarr"]


def test_pipe_in_place_of_a_shard_is_replaced(rich, tmp_path):
    before, key = contents(rich), "diffraction/c/2/0/0"
    (rich / key).unlink()
    os.mkfifo(rich / key)
    assert repair(rich, tmp_path / "scan.npz").rewritten == (key,)
    assert contents(rich) == before


def test_link_in_place_of_a_shard_is_replaced(rich, tmp_path):
    before, key = contents(rich), "diffraction/c/2/0/0"
    (rich / key).rename(tmp_path / "elsewhere")
    (rich / key).symlink_to(tmp_path / "elsewhere")
    assert repair(rich, tmp_path / "scan.npz").rewritten == (key,)
    assert not (rich / key).is_symlink()
    assert contents(rich) == before


def test_folder_of_a_store_that_is_a_link_is_named(rich, tmp_path):
    (rich / "diffraction").rename(tmp_path / "elsewhere")
    (rich / "diffraction").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ScanExistsError, match=r"diffraction is a link; expected a folder"):
        repair(rich, tmp_path / "scan.npz")
    assert (rich / "diffraction").is_symlink()
