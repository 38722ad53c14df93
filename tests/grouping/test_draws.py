from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyzarr.errors import DtypeError, GroupingError
from ptyzarr.grouping.draws import draw_ranks, legacy_stream


def same_place(one: np.random.RandomState, other: np.random.RandomState) -> bool:
    return bool((one.random_sample(3) == other.random_sample(3)).all())


@settings(deadline=None)  # the first example compiles
@given(
    seed=st.integers(0, 2**32 - 1),
    skipped=st.integers(0, 700),
    n_groups=st.integers(0, 60),
    n_candidates=st.integers(1, 40),
    data=st.data(),
)
def test_ranks_and_end_state_are_those_of_numpys_choice(
    seed, skipped, n_groups, n_candidates, data
):
    size = data.draw(st.integers(1, n_candidates))
    ours, theirs = np.random.RandomState(seed), np.random.RandomState(seed)
    for stream in (ours, theirs):
        stream.tomaxint(skipped)
    ranks = draw_ranks(ours, n_groups, n_candidates, size)
    wanted = [theirs.choice(n_candidates, size, replace=False) for _ in range(n_groups)]
    assert ranks.dtype == np.int32
    np.testing.assert_array_equal(ranks, np.reshape(wanted, (n_groups, size)))
    assert same_place(ours, theirs)


def test_ranks_do_not_depend_on_how_the_groups_are_cut():
    whole = draw_ranks(np.random.RandomState(3), 1000, 7, 4)
    stream = np.random.RandomState(3)
    parts = [draw_ranks(stream, n, 7, 4) for n in (1, 0, 399, 600)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_cached_gaussian_survives_the_draws():
    ours, theirs = np.random.RandomState(5), np.random.RandomState(5)
    for stream in (ours, theirs):
        stream.standard_normal()
    draw_ranks(ours, 1, 6, 4)
    theirs.choice(6, 4, replace=False)
    assert ours.standard_normal() == theirs.standard_normal()


def test_the_global_generator_is_not_touched():
    before = np.random.get_state()[1].copy(), np.random.get_state()[2]
    draw_ranks(legacy_stream(None), 100, 6, 4)
    draw_ranks(legacy_stream(11), 100, 6, 4)
    after = np.random.get_state()
    assert (before[0] == after[1]).all()
    assert before[1] == after[2]


def test_more_members_than_candidates_are_refused():
    with pytest.raises(GroupingError, match="3 candidates for groups of 4"):
        draw_ranks(np.random.RandomState(0), 1, 3, 4)


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(7, id="int"),
        pytest.param(np.int64(7), id="numpy-int"),
        pytest.param(np.uint8(7), id="numpy-uint8"),
        pytest.param(True, id="bool-as-the-generator-takes-it"),
        pytest.param(2**32 - 1, id="largest"),
    ],
)
def test_integer_seeds_are_those_of_the_generator(seed):
    assert same_place(legacy_stream(seed), np.random.RandomState(int(seed)))


def test_no_seed_is_fresh_entropy():
    assert not same_place(legacy_stream(None), legacy_stream(None))


def test_a_generator_is_continued():
    stream = np.random.RandomState(1)
    assert legacy_stream(stream) is stream


@pytest.mark.parametrize(
    ("seed", "error"),
    [
        pytest.param(-1, GroupingError, id="negative"),
        pytest.param(2**32, GroupingError, id="too-large"),
        pytest.param(3.5, DtypeError, id="float"),
        pytest.param(3.0, DtypeError, id="integral-float"),
        pytest.param("3", DtypeError, id="text"),
        pytest.param(np.random.MT19937(3), DtypeError, id="bit-generator"),
    ],
)
def test_seeds_that_the_generator_refuses_are_refused(seed, error):
    with pytest.raises(error, match="expected an integer"):
        legacy_stream(seed)
