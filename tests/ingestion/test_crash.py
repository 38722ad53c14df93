"""A process that is killed at any moment leaves nothing at the destination, or a whole store."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
from synthetic import make_arrays, make_npz, tree_state
from victim import CHUNK_FRAMES, SHARD_FRAMES, run_victim

from ptyzarr.config import IngestConfig
from ptyzarr.errors import (
    DamagedStoreError,
    InterruptedIngestError,
    ScanExistsError,
    ScanNotFoundError,
)
from ptyzarr.ingestion import ingest, verify
from ptyzarr.sources.frames import StackedFrames
from ptyzarr.store import open_store


@pytest.fixture
def small_shards(set_sizes):
    set_sizes(CHUNK_FRAMES, SHARD_FRAMES)


def check_finished(tmp_path: Path, seed: int) -> None:
    store = open_store(tmp_path / "scan.zarr")
    assert store.amplitude(np.arange(40)).tobytes() == make_arrays(seed=seed)["diff3d"].tobytes()
    store.close()
    verify(tmp_path / "scan.zarr")


@pytest.mark.parametrize(
    ("event", "number", "compressed"),
    [
        pytest.param("before check_block", 3, False, id="some blocks"),
        pytest.param("after check_block", 1, True, id="plan pass, spooling"),
        pytest.param("before write_json", 1, False, id="plan not saved"),
        pytest.param("after save", 1, True, id="plan saved"),
        pytest.param("before replace", 3, False, id="shard written aside"),
        pytest.param("after replace", 2, False, id="shard in place, not journalled"),
        pytest.param("after commit_shard", 3, True, id="three shards journalled"),
        pytest.param("after write_array", 3, False, id="some arrays written"),
        pytest.param("before publish", 1, False, id="before publishing"),
        pytest.param("before rename", 1, False, id="root written, not renamed"),
        pytest.param("after rename", 1, False, id="published, staging left"),
    ],
)
def test_killed_ingest_publishes_nothing_and_resumes(
    tmp_path, small_shards, event, number, compressed
):
    source = make_npz(tmp_path / "scan.npz", compressed=compressed)
    assert run_victim(source, tmp_path / "scan.zarr", event, number)
    if event != "after rename":
        with pytest.raises(ScanNotFoundError):
            open_store(tmp_path / "scan.zarr")
    ingest(source, tmp_path / "scan.zarr").close()
    check_finished(tmp_path, seed=0)
    assert sorted(os.listdir(tmp_path)) == ["scan.npz", "scan.zarr"]


def test_resume_after_a_kill_repeats_neither_plan_nor_finished_shards(
    tmp_path, small_shards, monkeypatch
):
    source = make_npz(tmp_path / "scan.npz")
    assert run_victim(source, tmp_path / "scan.zarr", "after commit_shard", 3)
    journal = tmp_path / "scan.zarr.staging" / "journal"
    finished = {int(path.stem) for path in journal.iterdir()}
    assert 3 <= len(finished) < 5
    staged = tmp_path / "scan.zarr.staging/store/diffraction/c"
    inodes = {shard: (staged / f"{shard}/0/0").stat().st_ino for shard in finished}
    read: list[int] = []
    read_frames = StackedFrames.read_summed

    def note(self: StackedFrames, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        read.extend(indices.tolist())
        return read_frames(self, indices)

    def refuse(*_: object) -> None:
        raise AssertionError("the plan pass was repeated")

    monkeypatch.setattr(StackedFrames, "read_summed", note)
    monkeypatch.setattr(StackedFrames, "blocks", refuse)
    store = ingest(source, tmp_path / "scan.zarr")
    expected = [i for s in set(range(5)) - finished for i in store.frame_index[8 * s : 8 * s + 8]]
    assert sorted(read) == sorted(expected)
    for shard, inode in inodes.items():
        path = tmp_path / f"scan.zarr/diffraction/c/{shard}/0/0"
        assert path.stat().st_ino == inode
    store.close()


@pytest.mark.parametrize(
    ("event", "number"),
    [
        pytest.param("before rename", 1, id="before the first rename"),
        pytest.param("after rename", 1, id="between the renames"),
    ],
)
def test_old_store_comes_back_after_a_kill_before_it_was_replaced(
    tmp_path, small_shards, event, number
):
    old = make_npz(tmp_path / "old.npz", seed=1)
    new = make_npz(tmp_path / "new.npz", seed=2)
    ingest(old, tmp_path / "scan.zarr").close()
    before = tree_state(tmp_path / "scan.zarr")
    assert run_victim(new, tmp_path / "scan.zarr", event, number, overwrite=True)
    with pytest.raises(ScanExistsError, match="another source"):
        ingest(new, tmp_path / "scan.zarr")
    assert tree_state(tmp_path / "scan.zarr") == before
    check_finished(tmp_path, seed=1)
    ingest(new, tmp_path / "scan.zarr", IngestConfig(overwrite=True)).close()
    check_finished(tmp_path, seed=2)
    assert sorted(os.listdir(tmp_path)) == ["new.npz", "old.npz", "scan.zarr"]


def test_new_store_is_there_after_a_kill_that_followed_its_publication(tmp_path, small_shards):
    old = make_npz(tmp_path / "old.npz", seed=1)
    new = make_npz(tmp_path / "new.npz", seed=2)
    ingest(old, tmp_path / "scan.zarr").close()
    assert run_victim(new, tmp_path / "scan.zarr", "after rename", 2, overwrite=True)
    check_finished(tmp_path, seed=2)
    before = tree_state(tmp_path / "scan.zarr")
    ingest(new, tmp_path / "scan.zarr").close()
    assert tree_state(tmp_path / "scan.zarr") == before
    assert sorted(os.listdir(tmp_path)) == ["new.npz", "old.npz", "scan.zarr"]


@pytest.mark.slow
def test_killed_and_torn_again_and_again_the_store_is_right(tmp_path, small_shards):
    source = make_npz(tmp_path / "scan.npz", compressed=True)
    chance = random.Random(20)
    staged = tmp_path / "scan.zarr.staging"
    kills = 0
    events = ["before replace", "after replace", "after write_shard", "before write_array"]
    for _ in range(4):
        event = chance.choice(events)
        kills += run_victim(source, tmp_path / "scan.zarr", event, chance.randint(1, 4))
        for path in sorted(staged.rglob("*")):  # what a power cut may do to files in the cache
            if path.is_file() and "lock" not in path.name and chance.random() < 0.3:
                os.truncate(path, chance.randint(0, path.stat().st_size))
        if (tmp_path / "scan.zarr").exists():
            break
    assert kills
    ingest(source, tmp_path / "scan.zarr").close()
    check_finished(tmp_path, seed=0)


def test_shard_that_was_torn_after_its_journal_is_found_on_resume(
    tmp_path, monkeypatch, small_shards
):
    """The control: without the digest on resume this store would hold zeros."""
    source = make_npz(tmp_path / "scan.npz")

    class Stop:
        def start(self, stage: str, total: int, unit: str) -> None: ...

        def advance(self, amount: int) -> None:
            if (tmp_path / "scan.zarr.staging/journal/0.json").exists():
                raise KeyboardInterrupt

        def finish(self) -> None: ...

    with pytest.raises(RuntimeError, match="interrupted"):
        ingest(source, tmp_path / "scan.zarr", IngestConfig(n_workers=1), progress=Stop())
    os.truncate(tmp_path / "scan.zarr.staging/store/diffraction/c/0/0/0", 0)
    ingest(source, tmp_path / "scan.zarr").close()
    check_finished(tmp_path, seed=0)


@pytest.mark.parametrize("when", ["before a resume", "while shards are written"])
def test_torn_masked_pixels_are_never_published(tmp_path, small_shards, when):
    """They are spooled, and unlike spooled frames have no checksum of their own."""
    frames = make_arrays()["diff3d"]
    frames[::3, 5, 5] = np.nan
    source = make_npz(tmp_path / "scan.npz", compressed=True, diff3d=frames)
    config = IngestConfig(nonfinite="mask", n_workers=1)
    masked = tmp_path / "scan.zarr.staging/spool/masked.bin"

    class Tear:
        done = False
        stage = ""

        def start(self, stage: str, total: int, unit: str) -> None:
            self.stage = stage

        def advance(self, amount: int) -> None:
            if self.stage == "writing" and not self.done:
                self.done = True
                raw = bytearray(masked.read_bytes())
                raw[8] ^= 1
                masked.write_bytes(raw)
                if when == "before a resume":
                    raise KeyboardInterrupt

        def finish(self) -> None: ...

    with pytest.raises((InterruptedIngestError, DamagedStoreError)):
        ingest(source, tmp_path / "scan.zarr", config, progress=Tear())
    assert not (tmp_path / "scan.zarr").exists()
    ingest(source, tmp_path / "scan.zarr", config).close()
    verify(tmp_path / "scan.zarr", source)
