"""Many scans: each source has its store, failures do not spread, a repetition does what is left."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from synthetic import make_npz, tree_state

from ptyzarr.config import IngestConfig
from ptyzarr.errors import ConfigError, DeviceError, ScanExistsError, ScanNotFoundError
from ptyzarr.ingestion import find_sources, ingest_many, pair_stores
from ptyzarr.ingestion.staging import Staging
from ptyzarr.store import open_stores

SMALL = {"n_frames": 9, "N": 8}


def test_patterns_are_expanded_in_natural_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run_10.npz", "run_9.npz", "run_1.npz", "other.txt"):
        Path(name).touch()
    assert find_sources(["run_*.npz"]) == ["run_1.npz", "run_9.npz", "run_10.npz"]


def test_a_file_is_taken_once_however_often_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        Path(f"{name}.npz").touch()
    assert find_sources(["b.npz", "*.npz", "./b.npz"]) == ["b.npz", "a.npz"]


def test_folders_of_any_depth_are_searched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x/y").mkdir(parents=True)
    Path("x/y/a.npz").touch()
    assert find_sources(["**/*.npz"]) == ["x/y/a.npz"]


def test_names_are_no_patterns_where_a_file_has_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("scan[1].npz", "scan1.npz"):
        Path(name).touch()
    assert find_sources(["scan[1].npz"]) == ["scan[1].npz"]
    assert find_sources(["gone.npz"]) == ["gone.npz"]


def test_a_pattern_that_matches_nothing_is_refused(tmp_path):
    with pytest.raises(ScanNotFoundError, match="no file matches"):
        find_sources([f"{tmp_path}/*.npz"])


@pytest.mark.parametrize("pattern", ["d[1]/*.npz", "d[1]/a*[2].npz", "d[1]/gone*.npz"])
def test_a_bracket_that_a_name_has_is_explained(tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(tmp_path)
    Path("d[1]").mkdir()
    Path("d[1]/a[2].npz").touch()
    escaped = pattern.replace("[", "[[]")
    with pytest.raises(ScanNotFoundError) as caught:
        find_sources([pattern])
    assert repr(escaped) in str(caught.value)
    assert find_sources(["d[[]1]/*.npz"]) == ["d[1]/a[2].npz"]


def test_equal_stems_are_refused():
    with pytest.raises(ScanExistsError, match=r"x/a\.npz and y/a\.npz would both become"):
        pair_stores(["x/a.npz", "b.npz", "y/a.npz"], "stores/")
    assert pair_stores(["x/a.b.npz"], "stores/") == [("x/a.b.npz", "stores/a.b.zarr")]


@pytest.fixture
def pairs(tmp_path) -> list[tuple[str, str]]:
    """Four scans; the second has a refused pixel, the third is missing."""
    bad = np.ones((9, 8, 8), np.float32)
    bad[4, 1, 2] = np.nan
    make_npz(tmp_path / "run_1.npz", **SMALL, seed=1)
    make_npz(tmp_path / "run_2.npz", **SMALL, diff3d=bad)
    make_npz(tmp_path / "run_10.npz", **SMALL, seed=10, compressed=True)
    names = [str(tmp_path / f"run_{number}.npz") for number in (1, 2, 3, 10)]
    return pair_stores(names, f"{tmp_path}/stores/")


def test_failing_scans_do_not_stop_the_others(tmp_path, pairs):
    outcomes = list(ingest_many(pairs))
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "failed", "done"]
    assert [outcome.code for outcome in outcomes] == [None, "source", "not_found", None]
    assert "frame 4" in (outcomes[1].message or "")
    assert sorted(os.listdir(tmp_path / "stores")) == ["run_1.zarr", "run_10.zarr"]
    assert [(outcome.source, outcome.store) for outcome in outcomes] == pairs
    assert all(outcome.seconds > 0 for outcome in outcomes)


def test_a_repetition_does_only_what_is_missing(tmp_path, pairs):
    list(ingest_many(pairs))
    before = tree_state(tmp_path / "stores")
    make_npz(tmp_path / "run_2.npz", **SMALL, seed=2)
    outcomes = list(ingest_many(pairs))
    assert [outcome.status for outcome in outcomes] == ["present", "done", "failed", "present"]
    after = tree_state(tmp_path / "stores")
    assert {key: state for key, state in after.items() if "run_2.zarr" not in key} == before
    stores = open_stores(str(tmp_path / "stores" / "*.zarr"))
    assert [store.attrs["source"]["name"] for store in stores] == [
        "run_1.npz", "run_2.npz", "run_10.npz"
    ]  # fmt: skip


def test_a_store_that_is_replaced_is_done_not_present(tmp_path, pairs):
    list(ingest_many(pairs[:1]))
    make_npz(tmp_path / "run_1.npz", **SMALL, seed=7)
    (refused,) = ingest_many(pairs[:1])
    assert (refused.status, refused.code) == ("failed", "exists")
    (outcome,) = ingest_many(pairs[:1], IngestConfig(overwrite=True))
    assert outcome.status == "done"


def test_too_small_a_budget_fails_one_scan(tmp_path):
    make_npz(tmp_path / "large.npz", **SMALL, probeGuess=np.ones((4096, 4096), np.complex64))
    make_npz(tmp_path / "small.npz", **SMALL)
    pairs = pair_stores(find_sources([f"{tmp_path}/*.npz"]), f"{tmp_path}/stores/")
    outcomes = list(ingest_many(pairs, IngestConfig(memory="128MiB", n_workers=1)))
    assert [outcome.code for outcome in outcomes] == ["budget", None]


class Stages:
    """A `Progress` that remembers stages, and interrupts in one of them."""

    def __init__(self, interrupt: str = "") -> None:
        self.names: list[str] = []
        self.done = 0
        self._interrupt = interrupt

    def start(self, stage: str, total: int, unit: str) -> None:
        self.names.append(stage)
        if stage == self._interrupt:
            raise KeyboardInterrupt

    def advance(self, amount: int) -> None:
        self.done += amount

    def finish(self) -> None: ...


def test_progress_names_the_scan_and_how_many_there_are(pairs):
    stages = Stages()
    list(ingest_many(pairs, progress=stages))
    assert stages.names[0] == "1/4 run_1.npz: writing"
    assert stages.names[-1] == "4/4 run_10.npz: writing"
    assert stages.done >= 9 * 3


def test_an_interrupt_stops_the_rest_and_can_be_resumed(tmp_path, pairs):
    make_npz(tmp_path / "run_2.npz", **SMALL, seed=2)
    outcomes = list(ingest_many(pairs, progress=Stages("2/4 run_2.npz: writing")))
    assert [outcome.code for outcome in outcomes] == [None, "interrupted"]
    assert not (tmp_path / "stores/run_2.zarr").exists()
    resumed = list(ingest_many(pairs))
    assert [outcome.status for outcome in resumed] == ["present", "done", "failed", "done"]


def test_an_interrupt_after_a_scan_was_published_stops_the_rest(tmp_path, pairs, monkeypatch):
    make_npz(tmp_path / "run_2.npz", **SMALL, seed=2)
    discard, interrupts = Staging.discard, iter([KeyboardInterrupt])

    def interrupt(staging):
        discard(staging)
        for error in interrupts:
            raise error

    monkeypatch.setattr(Staging, "discard", interrupt)
    outcomes = list(ingest_many(pairs))
    assert [outcome.status for outcome in outcomes] == ["done", "failed"]
    assert outcomes[-1].code == "interrupted"
    assert "before it was begun" in outcomes[-1].message
    statuses = [outcome.status for outcome in ingest_many(pairs)]
    assert statuses == ["present", "done", "failed", "done"]


@pytest.mark.parametrize("error", [ConfigError, DeviceError])
def test_options_that_work_for_no_scan_stop_at_once(pairs, monkeypatch, error):
    def refuse(*_: object, **__: object) -> None:
        raise error("no scheduler answers")

    monkeypatch.setattr("ptyzarr.ingestion.many.ingest_and_land", refuse)
    with pytest.raises(error):
        list(ingest_many(pairs))
