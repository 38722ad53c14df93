"""The torch loader's rules: brute-force oracles, and what must hold for any positions."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyzarr.config import GroupingConfig
from ptyzarr.errors import DtypeError, GroupingError, ShapeError
from ptyzarr.grouping import STRATEGIES, GroupTable, group_table, select_groups

from .memory_scan import make_scan

NEAREST = GroupingConfig(strategy="nearest", gridsize=2, n_neighbors=6, n_subsample=3)
BAND = dataclasses.replace(
    NEAREST, strategy="band", min_neighbor_distance=1.0, max_neighbor_distance=4.0
)
QUADRANT = dataclasses.replace(BAND, strategy="quadrant", n_neighbors=30, max_neighbor_distance=8.0)
CONFIGS = [pytest.param(config, id=config.strategy) for config in (NEAREST, BAND, QUADRANT)]


def draw(positions: np.ndarray, config: GroupingConfig, **options: object) -> GroupTable:
    config = dataclasses.replace(config, **options)
    return STRATEGIES[config.strategy](positions, config)


def scatter(n: int = 300, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, 2)) * np.sqrt(n)


def distances(positions: np.ndarray) -> np.ndarray:
    steps = positions[:, np.newaxis].astype(np.float64) - positions[np.newaxis]
    return np.sqrt(np.square(steps).sum(axis=2))


def within(positions: np.ndarray, x_bounds=None, y_bounds=None) -> np.ndarray:
    """Return the acquisition indices that the bounds leave."""
    kept = np.arange(len(positions))
    for axis, bounds in enumerate((x_bounds, y_bounds)):
        if bounds is not None and np.ptp(positions[:, axis]) > 0:
            values = positions[:, axis]
            part = (values - values.min()) / np.ptp(values)
            kept = np.intersect1d(kept, np.flatnonzero((bounds[0] <= part) & (part <= bounds[1])))
    return kept


# Few values: equal distances and coincident positions are the rule.
tied = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=9, max_size=60).map(
    lambda pairs: np.array(pairs, dtype=np.float64)
)
untied = st.builds(scatter, st.integers(9, 80), st.integers(0, 2**32))
bounds = st.sampled_from([None, (0.0, 1.0), (0.1, 0.9), (0.25, 1.0)])


def check_table(table: GroupTable, config: GroupingConfig, centers: np.ndarray) -> None:
    """Check shapes and dtypes, and that centres come in order, each n_subsample times."""
    assert table.nn_indices.shape == (len(table.seeds), config.group_size)
    assert (table.nn_indices.dtype, table.seeds.dtype) == (np.int32, np.int64)
    assert table.nn_indices.flags.c_contiguous
    kept = table.seeds[:: config.n_subsample]
    np.testing.assert_array_equal(table.seeds, np.repeat(kept, config.n_subsample))
    assert np.isin(kept, centers).all()
    assert (np.diff(kept) > 0).all()
    ordered = np.sort(table.nn_indices, axis=1)
    assert (np.diff(ordered, axis=1) > 0).all(), "members are distinct"


@settings(max_examples=60)
@given(positions=tied | untied, x_bounds=bounds, y_bounds=bounds, seed=st.integers(0, 2**63))
def test_nearest_draws_from_the_position_and_its_neighbours(positions, x_bounds, y_bounds, seed):
    config = dataclasses.replace(NEAREST, x_bounds=x_bounds, y_bounds=y_bounds, seed=seed)
    centers = within(positions, x_bounds, y_bounds)
    if len(centers) < 4:
        with pytest.raises(GroupingError, match="within"):
            draw(positions, config)
        return
    table = draw(positions, config)
    check_table(table, config, centers)
    np.testing.assert_array_equal(np.unique(table.seeds), centers)
    assert np.isin(table.nn_indices, centers).all(), "nothing outside the bounds is a member"
    found = distances(positions)
    for seed_position, members in zip(table.seeds, table.nn_indices, strict=True):
        # Of K + 1 candidates, the position counted: ties may choose among equals.
        farthest = np.sort(found[seed_position, centers])[: config.n_neighbors + 1][-1]
        assert (found[seed_position, members] <= farthest).all()


def test_nearest_reaches_every_subset_of_the_neighbours_and_the_position_alike() -> None:
    positions = scatter(40)
    n_subsample = 6000
    table = draw(positions, NEAREST, n_neighbors=5, n_subsample=n_subsample)
    order = np.argsort(distances(positions), axis=1)
    groups = table.nn_indices.reshape(40, n_subsample, 4)
    for center in (0, 17, 39):
        candidates = order[center, :6]
        assert center in candidates
        found, counts = np.unique(groups[center], axis=0, return_counts=True)
        assert sorted(map(tuple, found)) == sorted(itertools.permutations(candidates.tolist(), 4))
        # 360 arrangements, 16.7 expected of each: chi-squared of 359 degrees of freedom.
        expected = n_subsample / 360
        assert np.square(counts - expected).sum() / expected < 460  # p = 2e-4


def test_nearest_groups_of_one_frame_are_the_positions() -> None:
    table = draw(scatter(30), NEAREST, gridsize=1, n_neighbors=0, x_bounds=(0.2, 0.8))
    check_table(table, dataclasses.replace(NEAREST, gridsize=1), np.arange(30))
    np.testing.assert_array_equal(table.nn_indices[:, 0], table.seeds)
    assert 3 < table.n_groups < 90


def band_oracle(positions: np.ndarray, config: GroupingConfig) -> dict[int, np.ndarray]:
    """Return the candidates of each centre that has enough, from all distances."""
    centers = within(positions, config.x_bounds, config.y_bounds)
    limit = np.inf if config.max_neighbor_distance is None else config.max_neighbor_distance
    found = distances(positions)
    rows = {}
    for center in centers:
        row = found[center, centers]
        allowed = centers[(row >= config.min_neighbor_distance) & (row <= limit)]
        nearest = allowed[np.argsort(found[center, allowed], kind="stable")]
        if len(allowed) >= config.group_size:
            rows[int(center)] = nearest[: config.n_neighbors]
    return rows


@settings(max_examples=60)
@given(
    positions=tied | untied,
    x_bounds=bounds,
    least=st.sampled_from([0.0, 1.0, 2.0, 2.5]),
    most=st.sampled_from([None, 3.0, 4.0, 5.0]),
)
def test_band_members_lie_between_the_distances(positions, x_bounds, least, most):
    config = dataclasses.replace(
        BAND, min_neighbor_distance=least, max_neighbor_distance=most, x_bounds=x_bounds
    )
    wanted = band_oracle(positions, config)
    if not wanted:
        with pytest.raises(GroupingError):
            draw(positions, config)
        return
    table = draw(positions, config)
    check_table(table, config, within(positions, x_bounds))
    assert np.unique(table.seeds).tolist() == sorted(wanted)
    found = distances(positions)
    for center, members in zip(table.seeds, table.nn_indices, strict=True):
        farthest = found[center, wanted[int(center)][-1]]
        assert (found[center, members] >= least).all()
        assert (found[center, members] <= farthest).all()


def test_band_candidates_are_the_nearest_in_the_band_however_many_are_nearer() -> None:
    positions = scatter(400)
    config = dataclasses.replace(
        BAND, min_neighbor_distance=5.0, max_neighbor_distance=7.0, n_subsample=300
    )
    table = draw(positions, config)
    wanted = band_oracle(positions, config)
    groups = table.nn_indices.reshape(-1, 300 * 4)
    assert len(groups) == len(wanted)
    for center, members in zip(table.seeds[::300].tolist(), groups, strict=True):
        assert set(members.tolist()) == set(wanted[center].tolist())


def test_a_band_from_zero_has_the_position_itself_as_a_candidate() -> None:
    table = draw(scatter(), BAND, min_neighbor_distance=0.0, n_subsample=20)
    is_member = (table.nn_indices == table.seeds[:, np.newaxis]).any(axis=1)
    assert is_member.any()
    assert not is_member.all()


def quadrants(positions: np.ndarray, center: int, config: GroupingConfig) -> list[list[int]]:
    """Return the candidates in each quadrant of a centre: up left, up right, down left, right."""
    row = distances(positions)[center]
    nearest = np.argsort(row, kind="stable")[: config.n_neighbors + 1]
    step = positions - positions[center]
    limit = np.inf if config.max_neighbor_distance is None else config.max_neighbor_distance
    return [
        [
            int(i)
            for i in nearest
            if config.min_neighbor_distance <= row[i] < limit
            and np.sign(step[i, 0]) == right
            and np.sign(step[i, 1]) == up
        ]
        for up in (1, -1)
        for right in (-1, 1)
    ]


def quadrant_picks(positions: np.ndarray, center: int, config: GroupingConfig) -> list[tuple]:
    """Return every group that a centre may have."""
    choices = [[*found, center] for found in quadrants(positions, center, config)]
    return [pick for pick in itertools.product(*choices) if pick.count(center) <= 1]


@settings(max_examples=60)
@given(positions=tied | untied, x_bounds=bounds, most=st.sampled_from([None, 3.0, 5.0]))
def test_quadrant_members_lie_in_their_quadrants(positions, x_bounds, most):
    # As many neighbours as there are positions: no tie is cut.
    config = dataclasses.replace(
        QUADRANT, n_neighbors=len(positions), max_neighbor_distance=most, x_bounds=x_bounds
    )
    centers = within(positions, x_bounds)
    wanted = {int(center): quadrants(positions, center, config) for center in centers}
    wanted = {center: four for center, four in wanted.items() if sum(map(bool, four)) >= 3}
    if not wanted:
        with pytest.raises(GroupingError):
            draw(positions, config)
        return
    table = draw(positions, config)
    check_table(table, config, centers)
    assert np.unique(table.seeds).tolist() == sorted(wanted)
    for center, members in zip(table.seeds.tolist(), table.nn_indices.tolist(), strict=True):
        for member, candidates in zip(members, wanted[center], strict=True):
            assert member in candidates or member == center


def test_quadrant_reaches_every_allowed_group_alike() -> None:
    positions = scatter(60)
    config = dataclasses.replace(QUADRANT, n_neighbors=9, n_subsample=5_000)
    table = draw(positions, config)
    groups = dict(
        zip(table.seeds[::5_000].tolist(), table.nn_indices.reshape(-1, 5_000, 4), strict=True)
    )
    picks = {center: quadrant_picks(positions, center, config) for center in groups}
    # One whose quadrants are all filled, and one where the position must take a place.
    chosen = [max(picks, key=lambda key: len(picks[key]))]
    chosen += [key for key in picks if all(key in pick for pick in picks[key])][:1]
    assert len(chosen) == 2
    for center in chosen:
        found, counts = np.unique(groups[center], axis=0, return_counts=True)
        assert sorted(map(tuple, found.tolist())) == sorted(picks[center])
        expected = 5_000 / len(counts)
        limit = len(counts) + 4 * np.sqrt(2 * len(counts))
        assert np.square(counts - expected).sum() / expected < limit


def test_quadrant_neighbours_may_lie_outside_the_bounds() -> None:
    positions = scatter()
    table = draw(positions, QUADRANT, x_bounds=(0.1, 0.9), y_bounds=(0.1, 0.9))
    inside = within(positions, (0.1, 0.9), (0.1, 0.9))
    assert np.isin(table.seeds, inside).all()
    assert not np.isin(table.nn_indices, inside).all()


@pytest.mark.parametrize("config", CONFIGS)
def test_one_seed_gives_the_same_groups_and_another_gives_others(config) -> None:
    scan = make_scan(positions=scatter(50))
    one, again = (group_table(scan, config) for _ in range(2))
    np.testing.assert_array_equal(one.nn_indices, again.nn_indices)
    other = group_table(scan, dataclasses.replace(config, seed=1))
    np.testing.assert_array_equal(one.seeds, other.seeds)
    assert (one.nn_indices != other.nn_indices).any()


@pytest.mark.parametrize("config", CONFIGS)
def test_no_seed_gives_new_groups_each_time(config) -> None:
    scan = make_scan(positions=scatter(50))
    tables = [group_table(scan, dataclasses.replace(config, seed=None)) for _ in range(2)]
    assert (tables[0].nn_indices != tables[1].nn_indices).any()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    "positions",
    [
        pytest.param(scatter(500), id="scattered"),
        pytest.param(np.indices((20, 25)).reshape(2, -1).T * 1.0, id="raster"),
    ],
)
def test_groups_do_not_depend_on_blocks_and_threads(config, positions, monkeypatch) -> None:
    if config.strategy == "band":
        # Positions at the edge have fewer neighbours before the band than those inside.
        config = dataclasses.replace(
            config, min_neighbor_distance=3.0, max_neighbor_distance=None, n_subsample=20
        )
    whole = draw(positions, config)
    monkeypatch.setattr("ptyzarr.grouping.strategies.QUERY_BLOCK", 37)
    # The name `ptyzarr.grouping.neighbors` is taken by the function.
    module = sys.modules["ptyzarr.grouping.neighbors"]
    monkeypatch.setattr(module, "available_cores", lambda: 3)
    parts = draw(positions, config)
    monkeypatch.setattr("ptyzarr.grouping.strategies.BLOCK_ITEMS", 1)
    single = draw(positions, config)
    for table in (parts, single):
        np.testing.assert_array_equal(table.nn_indices, whole.nn_indices)
        np.testing.assert_array_equal(table.seeds, whole.seeds)


@pytest.mark.parametrize("config", CONFIGS)
def test_bounds_of_the_whole_extent_exclude_nothing(config) -> None:
    positions = scatter(60, seed=5) / 3
    free = draw(positions, config)
    bound = draw(positions, config, x_bounds=(0, 1), y_bounds=[0, 1])
    np.testing.assert_array_equal(free.nn_indices, bound.nn_indices)


def test_a_line_is_not_cut_across_by_bounds() -> None:
    positions = np.stack([np.arange(50.0), np.full(50, 7.0)], axis=1)
    table = draw(positions, NEAREST, y_bounds=(0.4, 0.6), x_bounds=(0.0, 0.5))
    assert np.unique(table.seeds).tolist() == list(range(25))


def test_positions_without_enough_neighbours_are_left_out_and_counted(caplog) -> None:
    positions = np.concatenate([scatter(100), [[500.0, 500.0], [900.0, 0.0]]])
    with caplog.at_level(logging.WARNING):
        table = draw(positions, BAND)
    missing = np.setdiff1d(np.arange(102), table.seeds)
    assert {100, 101} <= set(missing.tolist())
    assert f"{len(missing)} of 102 positions" in caplog.text


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        pytest.param(NEAREST, {"n_neighbors": 2}, "n_neighbors \\+ 1: 3", id="nearest-k"),
        pytest.param(BAND, {"n_neighbors": 3}, "n_neighbors: 3 for groups of 4", id="band-k"),
        pytest.param(
            BAND, {"max_neighbor_distance": 1.0}, "none of 300 positions has", id="band-empty"
        ),
        pytest.param(QUADRANT, {"n_neighbors": 2}, "'quadrant' asks for", id="quadrant-empty"),
        pytest.param(NEAREST, {"x_bounds": (0.5, 0.5000001)}, "within x_bounds", id="bounds"),
        pytest.param(NEAREST, {"seed": -1}, "seed is -1", id="seed"),
    ],
)
def test_groups_that_cannot_be_drawn_are_refused(config, options, message) -> None:
    with pytest.raises(GroupingError, match=message) as raised:
        draw(scatter(), config, **options)
    assert raised.value.code == "grouping"


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    ("positions", "options", "error"),
    [
        pytest.param(np.zeros((0, 2)), {}, GroupingError, id="no-positions"),
        pytest.param(np.full((9, 2), np.nan), {}, GroupingError, id="not-finite"),
        pytest.param(np.geomspace(1, 1e300, 18).reshape(9, 2), {}, GroupingError, id="far-apart"),
        pytest.param(np.zeros((9, 3)), {}, ShapeError, id="shape"),
        pytest.param(np.zeros((9, 2), complex), {}, DtypeError, id="dtype"),
        pytest.param(scatter(), {"seed": 1.5}, DtypeError, id="seed"),
    ],
)
def test_bad_positions_and_seeds_are_refused(config, positions, options, error) -> None:
    with pytest.raises(error):
        draw(positions, config, **options)


def test_integer_positions_and_more_neighbours_than_positions_are_taken() -> None:
    positions = np.indices((4, 4)).reshape(2, -1).T
    for config in (NEAREST, BAND, QUADRANT):
        table = draw(positions, config, n_neighbors=9000)
        check_table(table, config, np.arange(16))


def test_the_canonical_strategy_is_the_one_without_a_name() -> None:
    scan = make_scan(50)
    table = group_table(scan, GroupingConfig(gridsize=2, n_neighbors=6, seed=3))
    wanted = select_groups(scan.positions, 50, 2, 6, seed=3)
    np.testing.assert_array_equal(table.nn_indices, wanted.nn_indices, strict=True)
    assert set(STRATEGIES) == {"canonical", "nearest", "band", "quadrant"}
