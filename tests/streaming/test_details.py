import dataclasses

import numpy as np
import pytest

from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.grouping import group_coords, group_table
from ptyzarr.streaming import GroupLoader

from .fakes import FakeScan

PAIRS = GroupingConfig(gridsize=2, n_neighbors=6)
CONFIG = LoaderConfig(device="numpy", batch_size=16, n_threads=1, shuffle=False, details=True)
NAMES = ("coords_start_nn", "coords_start_offsets", "coords_start_relative")


def with_starts(n_frames=60, seed=1, dtype=np.float64):
    scan = FakeScan(n_frames, seed=seed)
    jitter = np.random.default_rng(seed).uniform(-1, 1, scan.positions.shape)
    scan.positions_start = (scan.positions * 10 + jitter).astype(dtype)
    return scan


def joined(scans, name, config=CONFIG, **options):
    with GroupLoader(scans, PAIRS, config, **options) as loader:
        return np.concatenate([getattr(batch, name) for batch in loader])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
def test_start_coordinates_have_the_bits_of_the_eager_ones(dtype):
    scan = with_starts(dtype=dtype)
    table = group_table(scan, PAIRS)
    want = dict(zip(NAMES, group_coords(scan.positions_start, table.nn_indices), strict=True))
    for name, array in want.items():
        got = joined(scan, name)
        assert got.dtype == array.dtype
        assert got.tobytes() == array.tobytes()


def test_seeds_are_those_that_the_groups_were_drawn_for():
    scan = FakeScan(60, seed=1)
    grouped = group_table(scan, PAIRS)
    got = joined(scan, "seed_indices")
    assert got.dtype == np.int64
    assert got.tolist() == grouped.seeds.tolist()
    shuffled = dataclasses.replace(CONFIG, shuffle="full")
    assert joined(scan, "seed_indices", shuffled).tolist() != got.tolist()
    part = np.array([40, 7])
    assert joined(scan, "seed_indices", groups=part).tolist() == grouped.seeds[[7, 40]].tolist()


def test_positions_stand_in_for_start_positions_scan_by_scan():
    scans = [with_starts(60, 1, np.float32), FakeScan(40, seed=2)]
    relative = [
        group_coords(positions, group_table(scan, PAIRS).nn_indices)[2]
        for scan, positions in (
            (scans[0], scans[0].positions_start),
            (scans[1], scans[1].positions),
        )
    ]
    got = joined(scans, "coords_start_relative")
    assert got.dtype == np.float64
    assert got.tolist() == [*relative[0].astype(np.float64).tolist(), *relative[1].tolist()]
    seeds = joined(scans, "seed_indices", dataclasses.replace(CONFIG, shuffle="full"))
    assert sorted(seeds) == sorted(
        np.concatenate([group_table(scan, PAIRS).seeds for scan in scans])
    )


def test_details_come_only_where_they_are_asked_for():
    with GroupLoader(FakeScan(60), PAIRS, dataclasses.replace(CONFIG, details=False)) as loader:
        batch = next(iter(loader))
    assert [getattr(batch, name) for name in ("seed_indices", *NAMES)] == [None] * 4


@pytest.mark.parametrize(
    ("scan", "per_frame"),
    [
        pytest.param(with_starts(), 16, id="start-positions"),
        pytest.param(FakeScan(60, seed=1), 0, id="positions-shared"),
    ],
)
def test_memory_counts_seeds_and_start_positions(scan, per_frame, monkeypatch):
    # What the process takes is not looked at, so that the tables alone differ.
    monkeypatch.setattr("ptyzarr.streaming.loader.resident_memory", lambda: None)
    with GroupLoader(scan, PAIRS, dataclasses.replace(CONFIG, details=False)) as loader:
        without = loader.projected_memory
    with GroupLoader(scan, PAIRS, CONFIG) as loader:
        assert loader.projected_memory - without == 60 * (8 + per_frame)
