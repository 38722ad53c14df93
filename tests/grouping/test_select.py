from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyzarr.config import GroupingConfig
from ptyzarr.errors import DtypeError, GroupingError, ShapeError
from ptyzarr.grouping import group_table, select_groups

from .golden_cases import DRAWN, REFUSED
from .memory_scan import make_scan
from .reference import reference_groups


def select_case(case, seed):
    scan, params = case.load_scan(), case.params
    return select_groups(
        np.stack([scan["xcoords"], scan["ycoords"]], axis=1),
        params["nsamples"],
        params["gridsize"],
        params["K"],
        seed=seed,
        sequential_sampling=params["sequential_sampling"],
        enable_oversampling=params["enable_oversampling"],
        neighbor_pool_size=params["neighbor_pool_size"],
    )


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in DRAWN])
def test_golden_groups_and_end_of_the_stream(case):
    stream = case.legacy_stream()
    table = select_case(case, stream)
    np.testing.assert_array_equal(table.nn_indices, case.arrays["nn_indices"], strict=True)
    assert list(stream.random_sample(2)) == case.next_random_sample


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.id) for case in REFUSED if case.error_type is ValueError],
)
def test_golden_refusals(case):
    with pytest.raises(GroupingError):
        select_case(case, case.params["seed"])


tied = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=9, max_size=40)
untied = st.builds(
    lambda n, seed: np.random.default_rng(seed).random((n, 2)),
    st.integers(9, 40),
    st.integers(0, 1000),
)
positions_strategy = st.one_of(tied.map(lambda p: np.array(p, dtype=np.float64)), untied)


@settings(deadline=None)
@given(
    positions=positions_strategy,
    n_samples=st.integers(0, 100),
    gridsize=st.sampled_from([1, 2, 3]),
    extra=st.integers(0, 40),
    pool_extra=st.one_of(st.none(), st.integers(0, 4)),
    seed=st.integers(0, 2**32 - 1),
    sequential=st.booleans(),
)
def test_groups_seeds_and_stream_equal_a_plain_implementation(
    positions, n_samples, gridsize, extra, pool_extra, seed, sequential
):
    size = gridsize * gridsize
    # Combinations of 9 out of many candidates are too many for the plain implementation.
    n_neighbors = size + (min(extra, 3) if gridsize == 3 else extra)
    pool_size = None if pool_extra is None else size + min(pool_extra, 3)
    if gridsize == 2 and n_samples > len(positions) and pool_size is None:
        n_neighbors = min(n_neighbors, 12)
    stream, wanted_stream = np.random.RandomState(seed), np.random.RandomState(seed)
    table = select_groups(
        positions, n_samples, gridsize, n_neighbors, seed=stream,
        sequential_sampling=sequential, enable_oversampling=True, neighbor_pool_size=pool_size,
    )  # fmt: skip
    groups, seeds = reference_groups(
        positions, n_samples, gridsize, n_neighbors, wanted_stream, sequential, pool_size
    )
    np.testing.assert_array_equal(table.nn_indices, groups, strict=True)
    np.testing.assert_array_equal(table.seeds, seeds, strict=True)
    assert (stream.random_sample(2) == wanted_stream.random_sample(2)).all()


@pytest.mark.parametrize("n", [4, 5, 6, 7, 8])
@pytest.mark.parametrize("n_neighbors", [4, 6, 8])
@pytest.mark.parametrize("n_samples", [2, 9, 30])
def test_scans_hardly_larger_than_a_group_equal_a_plain_implementation(n, n_neighbors, n_samples):
    positions = np.random.default_rng(n).integers(0, 3, (n, 2)).astype(np.float64)
    table = select_groups(positions, n_samples, 2, n_neighbors, seed=1, enable_oversampling=True)
    groups, _ = reference_groups(positions, n_samples, 2, n_neighbors, np.random.RandomState(1))
    np.testing.assert_array_equal(table.nn_indices, groups, strict=True)


def test_many_threads_blocks_and_seeds_equal_a_plain_implementation():
    # More seed points than one query block holds.
    positions = np.random.default_rng(0).random((20_000, 2))
    table = select_groups(positions, 19_000, 2, 5, seed=9)
    stream = np.random.RandomState(9)
    groups, seeds = reference_groups(positions[:, :], 19_000, 2, 5, stream)
    np.testing.assert_array_equal(table.nn_indices, groups)
    np.testing.assert_array_equal(table.seeds, seeds)


def test_an_integer_seed_repeats_and_none_does_not():
    positions = make_scan(60).positions
    one, two = (select_groups(positions, 30, 2, 6, seed=4).nn_indices for _ in range(2))
    np.testing.assert_array_equal(one, two)
    free = [select_groups(positions, 30, 2, 6, seed=None).nn_indices for _ in range(2)]
    assert (free[0] != free[1]).any()


def test_sequential_sampling_ignores_any_seed():
    positions = make_scan(60).positions
    wanted = select_groups(positions, 30, 2, 6, seed=0, sequential_sampling=True).nn_indices
    for seed in (5, None, -1, "no seed at all"):
        table = select_groups(positions, 30, 2, 6, seed=seed, sequential_sampling=True)
        np.testing.assert_array_equal(table.nn_indices, wanted)


def test_sequential_sampling_takes_a_negative_count_as_none():
    table = select_groups(make_scan(20).positions, -3, 2, 6, sequential_sampling=True)
    assert table.nn_indices.shape == (0, 4)
    assert table.seeds.shape == (0,)


def test_a_pool_that_would_not_fit_in_memory_is_never_made():
    positions = np.random.default_rng(0).random((400, 2))
    assert math.comb(390, 9) > 10**17
    table = select_groups(
        positions, 500, 3, 9, seed=2, enable_oversampling=True, neighbor_pool_size=390
    )
    assert table.nn_indices.shape == (500, 9)
    # All of the first 1000 combinations belong to the first seed point.
    assert len(np.unique(table.seeds)) == 1


def test_warnings_are_logged(caplog):
    positions = make_scan(10).positions
    with caplog.at_level(logging.WARNING, logger="ptyzarr"):
        assert select_groups(positions, 12, 1, 4, seed=0).n_groups == 10
        assert select_groups(positions, 50, 2, 4, seed=0, enable_oversampling=True).n_groups == 50
    messages = [record.getMessage() for record in caplog.records]
    assert "capped" in messages[0]
    assert "repeatedly" in messages[1]


BAD = make_scan(20).positions.copy()
BAD[7, 1] = np.nan


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        pytest.param({"n_samples": 21}, GroupingError, "enable_oversampling", id="no-oversampling"),
        pytest.param(
            {"n_samples": 21, "enable_oversampling": True, "neighbor_pool_size": 3},
            GroupingError, "neighbor_pool_size", id="small-pool",
        ),
        pytest.param({"seed": 2**32}, GroupingError, "seed is 4294967296", id="seed-range"),
        pytest.param({"seed": 1.5}, DtypeError, "seed is 1.5", id="seed-type"),
        pytest.param({"gridsize": 5, "n_neighbors": 25}, GroupingError, "20 positions", id="few"),
        pytest.param({"n_neighbors": 3}, GroupingError, "n_neighbors is 3", id="small-k"),
        pytest.param({"gridsize": 1, "n_neighbors": 0}, GroupingError, "n_neighbors", id="k-0"),
        pytest.param({"n_samples": -1}, GroupingError, "n_samples is -1", id="negative"),
        pytest.param({"gridsize": 0}, GroupingError, "gridsize is 0", id="gridsize-0"),
        pytest.param({"n_samples": 2.5}, DtypeError, "n_samples is 2.5", id="float-count"),
        pytest.param({"positions": BAD}, GroupingError, "position 7", id="nan"),
        pytest.param({"positions": BAD, "gridsize": 1}, GroupingError, "position 7", id="nan-c1"),
        pytest.param({"positions": BAD.T}, ShapeError, r"\(2, 20\)", id="transposed"),
        # Two faults each: the one that the contract checks first is reported.
        pytest.param(
            {"n_samples": 21, "seed": -1}, GroupingError, "enable_oversampling", id="route-first"
        ),
        pytest.param(
            {"seed": -1, "n_neighbors": 1}, GroupingError, "seed is -1", id="seed-before-counts"
        ),
        pytest.param(
            {"gridsize": 5, "n_neighbors": 1}, GroupingError, "20 positions", id="n-before-k"
        ),
        pytest.param(
            {"n_neighbors": 1, "n_samples": -1}, GroupingError, "n_neighbors", id="k-before-s"
        ),
    ],
)  # fmt: skip
def test_impossible_requests_are_refused_in_the_contracts_order(changes, error, message):
    request = {
        "positions": make_scan(20).positions, "n_samples": 5, "gridsize": 2, "n_neighbors": 6,
        "seed": 0,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        select_groups(**request | changes)


def test_a_seed_out_of_range_matters_when_oversampling_in_sequence():
    positions = make_scan(20).positions
    with pytest.raises(GroupingError, match="seed is -1"):
        select_groups(
            positions, 30, 2, 6, seed=-1, sequential_sampling=True, enable_oversampling=True
        )


def test_the_config_asks_for_every_position_by_default():
    scan = make_scan(33)
    table = group_table(scan, GroupingConfig(gridsize=2, n_neighbors=5, seed=3))
    wanted = select_groups(scan.positions, 33, 2, 5, seed=3)
    np.testing.assert_array_equal(table.nn_indices, wanted.nn_indices)
    np.testing.assert_array_equal(table.seeds, np.arange(33))
    assert (table.n_groups, table.group_size) == (33, 4)
    assert scan.reads == []


def test_every_option_of_the_config_counts():
    scan = make_scan(20)
    config = GroupingConfig(
        gridsize=2, n_neighbors=5, n_samples=40, seed=3, sequential_sampling=True,
        enable_oversampling=True, neighbor_pool_size=6,
    )  # fmt: skip
    wanted, _ = reference_groups(scan.positions, 40, 2, 5, np.random.RandomState(3), True, 6)
    np.testing.assert_array_equal(group_table(scan, config).nn_indices, wanted)
