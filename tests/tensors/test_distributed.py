"""Ranks of real gloo process groups: the same number of batches, every group once."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from synthetic import make_npz

from ptyzarr.config import GroupingConfig
from ptyzarr.grouping import group_table
from ptyzarr.ingestion import ingest
from ptyzarr.store import open_store

from .rank_process import BATCH_SIZE, WORLDS

pytestmark = pytest.mark.slow
N_GROUPS = 41
MODES = ("window", "full", "False")


@dataclasses.dataclass
class Run:
    """What each rank of each world was given, and the sorted groups of each world."""

    ranks: dict[int, list[dict[str, Any]]]
    groups: dict[int, list[list[int]]]

    def delivered(self, world: int, key: str) -> list[list[int]]:
        return [row for rank in self.ranks[world] for batch in rank[key] for row in batch]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Let one process for each rank do everything."""
    folder = tmp_path_factory.mktemp("ranks")
    source = make_npz(folder / "scan.npz", n_frames=N_GROUPS)
    ingest(source, folder / "scan.zarr").close()
    script = Path(__file__).with_name("rank_process.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(folder), str(folder / "scan.zarr")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(max(WORLDS))
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * len(processes), errors
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(max(WORLDS))]
    store = open_store(folder / "scan.zarr")
    tables = {
        world: group_table(store, GroupingConfig(gridsize=2, n_neighbors=5, seed=world))
        for world in WORLDS
    }
    store.close()
    return Run(
        {world: [rank[str(world)] for rank in ranks[:world]] for world in WORLDS},
        {world: sorted(table.nn_indices.tolist()) for world, table in tables.items()},
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", WORLDS)
def test_every_group_comes_once_in_as_many_batches_on_each_rank(run, world, mode):
    parts = [rank[f"{mode} 1"] for rank in run.ranks[world]]
    n_batches = math.ceil(math.ceil(N_GROUPS / world) / BATCH_SIZE)
    assert [len(part) for part in parts] == [n_batches] * world
    sizes = [[len(batch) for batch in part] for part in parts]
    assert all(max(same) - min(same) <= 1 for same in zip(*sizes, strict=True))
    assert sorted(run.delivered(world, f"{mode} 1")) == run.groups[world]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", WORLDS)
def test_batches_do_not_depend_on_threads_and_are_resumed(run, world, mode):
    for rank in run.ranks[world]:
        wanted = rank[f"{mode} 1"]
        assert rank[f"{mode} 3"] == wanted
        assert rank[f"{mode} 1 resumed"] == rank[f"{mode} 3 resumed"] == wanted


@pytest.mark.parametrize("world", WORLDS)
def test_one_rank_draws_the_groups(run, world):
    assert sum(rank["drawn"] for rank in run.ranks[world]) == 1


@pytest.mark.parametrize("world", WORLDS)
def test_a_dataset_delivers_what_the_loader_of_its_rank_does(run, world):
    for rank in run.ranks[world]:
        assert rank["dataset"] == rank["window 1"]


@pytest.mark.parametrize("world", WORLDS)
def test_a_sampler_shares_the_groups_of_a_map_style_dataset(run, world):
    delivered = run.delivered(world, "mapped")
    # The sampler repeats a few, so that each rank has as many.
    assert len(delivered) == math.ceil(N_GROUPS / world) * world
    assert sorted({tuple(row) for row in delivered}) == [tuple(row) for row in run.groups[world]]
