from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from ptyzarr.config import GroupingConfig
from ptyzarr.errors import ConfigError
from ptyzarr.grouping import group_table, illumination_diameter, split_groups, split_scans

from .memory_scan import make_scan

PAIRS = GroupingConfig(gridsize=2, n_neighbors=6)
SINGLE = GroupingConfig()


@pytest.fixture(scope="module", autouse=True)
def group_cache(tmp_path_factory):
    """Keep cached groups of scans in memory out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def make(n_frames=200, seed=0, *, is_raster=False, **fields):
    """A scan whose rows are stored in stripes of x, with ties and twins where it is a raster."""
    rng = np.random.default_rng(seed)
    positions = rng.random((n_frames, 2)) * 20
    if is_raster:
        positions = np.floor(positions)
    scan = make_scan(
        n_frames, 2, seed, positions=positions, digest=f"{seed}-{n_frames}-{is_raster}", **fields
    )
    scan.frame_index = np.lexsort((positions[:, 1], positions[:, 0] // 3))
    return scan


def split_or_skip(scan, grouping, **options):
    try:
        return split_groups(scan, grouping, **options)
    except ConfigError as error:
        if "is left with" not in str(error):
            raise
        assume(False)


@given(
    seed=st.integers(0, 50),
    n_frames=st.integers(20, 120),
    gridsize=st.integers(1, 2),
    is_raster=st.booleans(),
    validation=st.floats(0.05, 0.6),
    guard=st.floats(0, 6) | st.integers(0, 6),
    n_regions=st.integers(1, 4),
)
def test_no_frame_and_no_neighbour_is_in_both(
    seed, n_frames, gridsize, is_raster, validation, guard, n_regions
):
    scan = make(n_frames, seed, is_raster=is_raster)
    grouping = GroupingConfig(gridsize=gridsize, n_neighbors=6)
    assume(n_regions <= validation * n_frames)
    options = {"validation": validation, "guard": guard, "n_regions": n_regions}
    split = split_or_skip(scan, grouping, seed=seed, **options)
    table = group_table(scan, grouping).nn_indices
    training, held_out = (np.unique(table[part]) for part in (split.training, split.validation))
    assert split.training_frames[training].all()
    assert split.validation_frames[held_out].all()
    assert not (split.training_frames & split.validation_frames).any()
    distances = cdist(
        scan.positions[split.training_frames], scan.positions[split.validation_frames]
    )
    # Between whole numbers squares and roots are exact; else their last bits may differ.
    assert (distances > (guard if is_raster else guard * (1 - 1e-15))).all()
    assert distances.min() > 0
    both = np.concatenate([split.training, split.validation])
    assert len(np.unique(both)) == len(both) == len(table) - split.n_dropped
    dropped = np.setdiff1d(np.arange(len(table)), both)
    for group in table[dropped]:
        assert not split.training_frames[group].all()
        assert not split.validation_frames[group].all()
    for part in (split.training, split.validation):
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()


@given(seed=st.integers(0, 1000), n_regions=st.integers(1, 5), n_held=st.integers(5, 60))
def test_regions_are_runs_of_stored_rows_of_the_size_asked_for(seed, n_regions, n_held):
    scan = make(100)
    options = {"validation": n_held / 100, "guard": 0.0, "n_regions": n_regions}
    split = split_or_skip(scan, SINGLE, seed=seed, **options)
    held = split.validation_frames[scan.frame_index]
    assert held.sum() == n_held
    n_runs = np.count_nonzero(np.diff(held.astype(int), prepend=0) == 1)
    assert 1 <= n_runs <= n_regions


def test_every_row_can_be_held_out():
    scan = make(60)
    held = sum(split_groups(scan, SINGLE, guard=0, seed=s).validation_frames for s in range(150))
    assert (held > 0).all()


def test_the_same_arguments_give_the_same_split_and_another_seed_another():
    first, again, other = (
        split_groups(make(), PAIRS, guard=1.0, seed=seed, n_regions=2) for seed in (1, 1, 2)
    )
    for field in dataclasses.fields(first):
        assert np.array_equal(getattr(first, field.name), getattr(again, field.name))
    assert not np.array_equal(first.validation_frames, other.validation_frames)


def test_copies_of_a_scan_with_other_content_are_split_elsewhere():
    scan, other = make(), make()
    other.digest = "another"
    splits = [split_groups(s, SINGLE, guard=0) for s in (scan, other)]
    assert not np.array_equal(splits[0].validation, splits[1].validation)


def test_splitting_reads_no_frames():
    scan = make()
    split_groups(scan, PAIRS, guard=1.0)
    assert scan.reads == []


def test_the_default_guard_is_the_diameter_of_the_illumination():
    probe = np.zeros((40, 40), np.complex64)
    probe[10, 10:14] = 2j
    scan = make(probe_guess=probe)
    split = split_groups(scan, SINGLE)
    assert split.guard == illumination_diameter(probe) == pytest.approx(2 * np.sqrt(4 / np.pi))
    # The band is used, not only reported.
    assert split.n_dropped == split_groups(scan, SINGLE, guard=split.guard).n_dropped > 0
    assert split_groups(scan, SINGLE, guard=0.0).n_dropped == 0


def squared_radius(size):
    axis = np.arange(size) - size // 2
    return axis[:, None] ** 2 + axis[None, :] ** 2


@pytest.mark.parametrize("sigma", [4.0, 9.0])
@pytest.mark.parametrize("factor", [1.0, 1e-30, 1e30j])
def test_a_gaussian_illumination_is_four_sigma_wide(sigma, factor):
    intensity = np.exp(-squared_radius(128) / (2 * sigma**2))
    assert illumination_diameter(np.sqrt(intensity) * factor) == pytest.approx(4 * sigma, rel=1e-6)


def test_a_disc_of_light_has_its_own_diameter():
    disc = squared_radius(128) <= 30**2
    # A disc of pixels has the area of the round one to about a pixel's share of its edge.
    assert illumination_diameter(disc * 3.0) == pytest.approx(60, rel=0.01)


def test_the_intensities_of_modes_add():
    upper, lower = np.zeros((2, 8, 8))
    upper[0], lower[1] = 1, 1
    both = upper + lower
    assert illumination_diameter(np.stack([upper, lower])) == illumination_diameter(both)


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_a_probe_without_a_diameter_is_refused(value):
    scan = make(probe_guess=np.full((8, 8), value, np.complex64))
    with pytest.raises(ConfigError, match=r"largest amplitude of .*give guard, in pixels"):
        split_groups(scan, SINGLE)
    assert split_groups(scan, SINGLE, guard=1.0).guard == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"validation": 0.0}, "validation is 0.0", id="no-validation"),
        pytest.param({"validation": 1.0}, "validation is 1.0", id="no-training"),
        pytest.param({"validation": float("nan")}, "validation is nan", id="nan"),
        pytest.param({"validation": "a"}, "validation is 'a'", id="text"),
        pytest.param({"guard": -1.0}, r"guard is -1.0.*0 or more pixels", id="negative-guard"),
        pytest.param({"guard": float("inf")}, "guard is inf", id="infinite-guard"),
        pytest.param({"guard": "wide"}, "guard is 'wide'", id="guard-text"),
        pytest.param({"seed": -1}, "seed is -1", id="seed"),
        pytest.param({"seed": None}, "seed is None", id="no-seed"),
        pytest.param({"n_regions": 0}, "n_regions is 0", id="no-region"),
        pytest.param({"n_regions": 21}, "n_regions is 21 for 20 validation", id="many-regions"),
        pytest.param(
            {"guard": 100.0},
            r"0 groups for training and 20 for validation of 200: 20 frames.*guard of 100.0 pixels "
            r"drops 180.*give a smaller guard",
            id="guard-of-everything",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        split_groups(make(), SINGLE, **options)
    assert caught.value.code == "config"


def test_groups_that_are_drawn_anew_each_time_cannot_be_split():
    with pytest.raises(ConfigError, match=r"seed of the grouping is None.*expected a number"):
        split_groups(make(), GroupingConfig(seed=None), guard=0.0)


def test_no_whole_group_in_the_regions_is_an_error():
    with pytest.raises(ConfigError, match=r"0 for validation of 200.*some of both"):
        split_groups(make(), PAIRS, guard=0, validation=0.01)


def test_a_default_guard_that_drops_most_is_an_error_and_the_same_one_given_is_not():
    wide = np.ones((8, 8), np.complex64)
    scan = make(probe_guess=wide)
    with pytest.raises(ConfigError, match=r"illumination, drops .*at most half dropped"):
        split_groups(scan, SINGLE)
    assert split_groups(scan, SINGLE, guard=illumination_diameter(wide)).training.size > 0


@dataclasses.dataclass
class Named:
    digest: str


@given(n_scans=st.integers(2, 20), validation=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_whole_scans_are_in_one_part_whatever_their_order(n_scans, validation, seed):
    scans = [Named(str(number)) for number in range(n_scans)]
    training, held_out = split_scans(scans, validation=validation, seed=seed)
    assert sorted(s.digest for s in training + held_out) == sorted(s.digest for s in scans)
    assert training
    assert held_out
    shuffled = np.random.default_rng(seed).permutation(n_scans)
    again = split_scans([scans[i] for i in shuffled], validation=validation, seed=seed)
    assert {s.digest for s in again[1]} == {s.digest for s in held_out}


def test_copies_of_a_scan_stay_together():
    scans = [Named("a"), Named("b"), Named("a"), Named("c"), Named("b")]
    for seed in range(6):
        training, held_out = split_scans(scans, validation=0.5, seed=seed)
        assert not {s.digest for s in training} & {s.digest for s in held_out}
        assert len(training) + len(held_out) == 5


def test_one_scan_cannot_be_split_by_scans():
    with pytest.raises(ConfigError, match=r"1 different scans among 2.*use split_groups"):
        split_scans([Named("a"), Named("a")])
    with pytest.raises(ConfigError, match="validation is 2"):
        split_scans([Named("a"), Named("b")], validation=2)
