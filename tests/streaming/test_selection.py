import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.errors import ConfigError
from ptyzarr.grouping import group_table, normalization_factor
from ptyzarr.streaming import GroupLoader
from ptyzarr.streaming.sampling import SAMPLERS
from ptyzarr.streaming.selection import selected_groups

from .fakes import FakeScan

PAIRS = GroupingConfig(gridsize=2, n_neighbors=6)
CONFIG = LoaderConfig(device="numpy", batch_size=16, n_threads=2, shuffle=False)


def load(scans, groups, grouping=PAIRS, **changes):
    return GroupLoader(scans, grouping, dataclasses.replace(CONFIG, **changes), groups=groups)


def delivered(loader, names=("nn_indices", "experiment_id", "X", "coords_relative")):
    with loader:
        return [
            tuple(getattr(batch, name)[row].tobytes() for name in names)
            for batch in loader
            for row in range(len(batch.X))
        ]


@given(st.data(), st.integers(1, 50))
def test_a_mask_and_its_numbers_in_any_order_are_the_same_selection(data, n_groups):
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n_groups, max_size=n_groups)))
    numbers = np.flatnonzero(mask)
    if not numbers.size:
        return
    shuffled = data.draw(st.permutations(numbers.tolist()))
    by_mask = selected_groups(mask, n_groups, "scan")
    by_numbers = selected_groups(shuffled, n_groups, "scan")
    if mask.all():
        assert by_mask is None
        assert by_numbers is None
    else:
        assert by_mask.dtype == by_numbers.dtype == np.int64
        assert by_mask.tolist() == by_numbers.tolist() == numbers.tolist()


def test_the_selected_groups_come_in_canonical_order():
    scan = FakeScan()
    whole = delivered(load(scan, None))
    assert len(whole) == 200
    numbers = np.array([150, 3, 77, 78, 0])
    assert delivered(load(scan, numbers)) == [whole[i] for i in sorted(numbers)]


@pytest.mark.parametrize("policy", [pytest.param(name, id=str(name)) for name in SAMPLERS])
def test_parts_of_a_scan_are_together_the_scan(policy):
    scan = FakeScan()
    mask = np.random.default_rng(0).random(200) < 0.3
    parts = [delivered(load(scan, part, shuffle=policy)) for part in (mask, ~mask)]
    assert [len(part) for part in parts] == [mask.sum(), 200 - mask.sum()]
    # Equal X too: both parts are scaled by the factor of the whole scan.
    assert sorted(parts[0] + parts[1]) == sorted(delivered(load(scan, None)))


def test_the_factor_is_that_of_the_full_selection():
    scan = FakeScan()
    table = group_table(scan, PAIRS).nn_indices
    whole = normalization_factor(scan.frame_power, table, 8)
    part = normalization_factor(scan.frame_power, table[:20], 8)
    with load(scan, np.arange(20)) as loader:
        scale = next(iter(loader)).scale
    assert (scale == whole).all()
    assert whole != part


@pytest.mark.parametrize("policy", [pytest.param(name, id=str(name)) for name in SAMPLERS])
def test_ranks_share_what_is_selected(policy):
    scan = FakeScan()
    numbers = np.arange(0, 200, 3)
    got = []
    for rank in range(3):
        loader = load(scan, numbers, shuffle=policy, rank=rank, world_size=3, batch_size=4)
        assert len(loader) == 6
        got += delivered(loader)
    assert sorted(got) == sorted(delivered(load(scan, numbers)))


def test_each_of_several_stores_has_its_own_selection():
    scans = [FakeScan(60, seed=1), FakeScan(90, seed=2), FakeScan(70, seed=3)]
    mask = np.arange(70) % 7 == 0
    loader = load(scans, [np.array([4, 2]), None, mask])
    assert loader.n_groups == 2 + 90 + 10
    whole = delivered(load(scans, None))
    kept = [2, 4, *range(60, 150), *(150 + np.flatnonzero(mask))]
    assert delivered(loader) == [whole[i] for i in kept]


def test_one_store_in_a_list_may_have_its_selection_in_one():
    scan = FakeScan(60)
    plain = delivered(load(scan, np.arange(5)))
    assert delivered(load([scan], [np.arange(5)])) == plain
    assert delivered(load([scan], [0, 1, 2, 3, 4])) == plain
    assert delivered(load([scan], [None])) == delivered(load(scan, None))


def test_fewer_groups_take_less_memory():
    scans = [FakeScan(200, seed=1), FakeScan(200, seed=2)]
    budget = [load(scans, groups).projected_memory for groups in (None, [[0, 1], [2]])]
    assert budget[1] < budget[0]


def test_a_state_resumes_the_same_selection_only():
    scan = FakeScan()
    numbers = np.arange(0, 200, 2)
    whole = delivered(load(scan, numbers, shuffle="window"))
    with load(scan, numbers, shuffle="window") as loader:
        iterator = iter(loader)
        next(iterator)
        state = json.loads(json.dumps(loader.state_dict()))
    resumed = load(scan, numbers[::-1], shuffle="window")
    resumed.load_state_dict(state)
    assert delivered(resumed) == whole[16:]
    for other in (None, numbers + 1):
        with (
            load(scan, other, shuffle="window") as loader,
            pytest.raises(ConfigError, match=r"another .*selection"),
        ):
            loader.load_state_dict(state)


def test_a_state_of_all_groups_is_that_of_no_selection():
    scan = FakeScan()
    with load(scan, np.ones(200, bool)) as loader:
        state = loader.state_dict()
    assert state["order"]["selection"] is None
    with load(scan, None) as loader:
        assert loader.state_dict() == state


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        pytest.param([0, 200], r"has 200 for memory.*from 0 to 199", id="beyond"),
        pytest.param([-1, 4], r"has -1 for memory.*from 0 to 199", id="negative"),
        pytest.param([3, 5, 3, 5], r"has 3 and 1 other.*numpy.unique", id="repeated"),
        pytest.param([], r"selects none of the 200", id="empty"),
        pytest.param(np.zeros(200, bool), r"selects none of the 200", id="empty-mask"),
        pytest.param(np.ones(199, bool), r"mask of 199.*expected 200", id="mask-length"),
        pytest.param([0.5, 1.0], r"dtype float64.*expected distinct", id="floats"),
        pytest.param(np.zeros((2, 2), int), r"shape \(2, 2\)", id="two-dimensional"),
        pytest.param(7, r"shape \(\)", id="a-number"),
        pytest.param([[1, 2], [3]], r"ragged", id="ragged"),
    ],
)
def test_a_bad_selection_is_refused(groups, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(FakeScan(), groups)
    assert caught.value.code == "config"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        pytest.param([[0]], "1 entries for 2 stores", id="too-few"),
        pytest.param(np.arange(5), "5 entries for 2 stores", id="an-array-for-all"),
        pytest.param(3, "3 for 2 stores", id="a-number"),
        pytest.param([[0], []], "selects none .* leave the store out", id="one-empty"),
    ],
)
def test_several_stores_need_a_selection_each(groups, message):
    with pytest.raises(ConfigError, match=message):
        load([FakeScan(60, seed=1), FakeScan(60, seed=2)], groups)


def test_groups_that_are_drawn_anew_each_time_cannot_be_selected():
    unseeded = dataclasses.replace(PAIRS, seed=None)
    with pytest.raises(ConfigError, match=r"groups are selected and the seed .* is None"):
        load(FakeScan(), [0], unseeded)
