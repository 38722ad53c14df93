import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyzarr.errors import ConfigError
from ptyzarr.streaming.sampling import MIN_WINDOW_TILES, SAMPLERS, SampledScan, share_epoch

# 40 groups in tiles of 2 and 24 in tiles of 4, seed 7, epoch 3.
GOLDEN_FULL = """
18 50 31 30 21 32 3 44 43 0 49 26 60 59 17 38 48 33 22 23 52 24
4 1 2 51 42 63 20 61 40 14 45 56 53 29 13 28 54 25 34 47 9 16
11 58 6 36 57 46 35 19 39 10 7 8 41 12 27 37 62 5 55 15
"""
GOLDEN_WINDOW = """
29 57 33 62 58 15 63 51 2 50 54 4 31 7 0 44 11 21 24 19 35 3
10 48 37 22 34 23 8 59 43 61 40 6 41 27 25 52 14 20 46 9 28 17
13 42 26 16 5 32 18 55 47 45 38 39 12 30 53 36 49 56 1 60
"""

POLICIES = [pytest.param(name, id=str(name)) for name in SAMPLERS]


def scan(n_groups, tile_frames=8, digest="a", layout="hilbert"):
    return SampledScan(digest, layout, tile_frames, np.arange(n_groups) // tile_frames)


def orders(policy, scans, *, seed=0, epoch=0, world_size=1, batch_size=1):
    sampler = SAMPLERS[policy](scans, seed)
    n_groups = sum(each.n_groups for each in scans)
    return [
        sampler.order(epoch, share_epoch(n_groups, batch_size, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]


@pytest.mark.parametrize("policy", POLICIES)
@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=3),
    tile_frames=st.integers(1, 9),
    parts=st.integers(1, 5),
    epoch=st.integers(0, 3),
)
def test_ranks_together_hold_each_group_once(policy, sizes, tile_frames, parts, epoch):
    total = sum(sizes)
    world_size = next(w for w in range(min(parts, total), 0, -1) if total % w == 0)
    scans = [scan(size, tile_frames, str(number)) for number, size in enumerate(sizes)]
    parts = orders(policy, scans, epoch=epoch, world_size=world_size)
    assert sorted(np.concatenate(parts).tolist()) == list(range(total))
    assert all(part.dtype == np.int64 for part in parts)


@settings(deadline=None)
@given(
    n_groups=st.integers(1, 500),
    batch_size=st.integers(1, 20),
    world_size=st.integers(1, 9),
    drop_last=st.booleans(),
)
def test_ranks_have_equal_numbers_of_batches(n_groups, batch_size, world_size, drop_last):
    try:
        shares = [
            share_epoch(n_groups, batch_size, rank=rank, world_size=world_size, drop_last=drop_last)
            for rank in range(world_size)
        ]
    except ConfigError:
        short = n_groups // world_size
        most = -(-n_groups // world_size)
        too_few = short < (batch_size if drop_last else 1)
        assert too_few or (batch_size == 1 and most > short and not drop_last)
        return
    sizes = np.array([np.diff(share.edges()) for share in shares])
    if drop_last:
        assert sizes.shape[1] == n_groups // world_size // batch_size
        assert (sizes == batch_size).all()
    else:
        assert sizes.shape[1] == math.ceil(math.ceil(n_groups / world_size) / batch_size)
        assert sizes.sum() == n_groups
        assert sizes.min() >= 1
        assert sizes.max() <= batch_size
        assert (np.ptp(sizes, axis=0) <= 1).all()
        assert [s.start for s in shares[1:]] == [s.stop for s in shares[:-1]]


def test_a_short_rank_gives_up_a_group_before_it_has_an_empty_batch():
    # 5 groups on 2 ranks in batches of 2: 2 + 1 and 1 + 1, not 2 + 0.
    assert share_epoch(5, 2, rank=0, world_size=2).edges().tolist() == [0, 2, 3]
    assert share_epoch(5, 2, rank=1, world_size=2).edges().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        pytest.param({"n_groups": 3, "batch_size": 1, "world_size": 2}, "drop_last", id="uneven"),
        pytest.param({"n_groups": 1, "batch_size": 8, "world_size": 2}, "fewer ranks", id="few"),
        pytest.param({"n_groups": 0, "batch_size": 8}, "n_samples", id="none"),
        pytest.param(
            {"n_groups": 7, "batch_size": 8, "drop_last": True}, "smaller batch_size", id="drop"
        ),
    ],
)
def test_too_few_groups_are_refused(arguments, remedy):
    with pytest.raises(ConfigError, match=remedy) as caught:
        share_epoch(**arguments)
    assert caught.value.code == "config"


def test_canonical_order_is_scan_after_scan():
    first, second = orders(False, [scan(5), scan(5, digest="b")], world_size=2)
    assert first.tolist() == [0, 1, 2, 3, 4]
    assert second.tolist() == [5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        pytest.param("full", GOLDEN_FULL, id="full"),
        pytest.param("window", GOLDEN_WINDOW, id="window"),
    ],
)
def test_orders_never_change(policy, expected):
    # Resumed trainings, and ranks with different releases, rely on these very numbers.
    (order,) = orders(policy, [scan(40, 2), scan(24, 4, "b", "acquisition")], seed=7, epoch=3)
    assert order.tolist() == [int(group) for group in expected.split()]


@pytest.mark.parametrize(
    "policy", [pytest.param("full", id="full"), pytest.param("window", id="window")]
)
@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"seed": 1}, id="seed"),
        pytest.param({"epoch": 1}, id="epoch"),
        pytest.param({"scans": [scan(400, digest="b")]}, id="digest"),
    ],
)
def test_orders_differ_where_their_inputs_do(policy, changed):
    given = {"scans": [scan(400)], **changed}
    (order,) = orders(policy, **given)
    (reference,) = orders(policy, [scan(400)])
    assert order.tolist() != reference.tolist()


def test_full_order_does_not_depend_on_layout_and_tiles():
    (order,) = orders("full", [scan(400, 8)])
    (other,) = orders("full", [scan(400, 16, layout="acquisition")])
    assert order.tolist() == other.tolist()


@settings(deadline=None)
@given(n_tiles=st.integers(24, 100), tile_frames=st.integers(1, 5), epoch=st.integers(0, 5))
def test_a_tile_stays_in_one_window(n_tiles, tile_frames, epoch):
    (order,) = orders("window", [scan(n_tiles * tile_frames, tile_frames)], epoch=epoch)
    n_windows = n_tiles // MIN_WINDOW_TILES
    window = np.minimum(np.arange(len(order)) // (MIN_WINDOW_TILES * tile_frames), n_windows - 1)
    tiles = order // tile_frames
    for tile in range(n_tiles):
        assert len(np.unique(window[tiles == tile])) == 1


def test_a_window_is_a_random_mixture_of_its_tiles():
    (order,) = orders("window", [scan(96 * 64, 64)])
    tiles = (order // 64).reshape(4, 24 * 64)
    for window in tiles:
        assert len(np.unique(window)) == 24
        # Any batch of 64 from a window has groups of most of its 24 tiles.
        assert min(len(np.unique(batch)) for batch in window.reshape(-1, 64)) > 16


@settings(deadline=None)
@given(n_tiles=st.integers(24, 300), epoch=st.integers(0, 3))
def test_each_window_has_a_tile_of_every_part_of_the_scan(n_tiles, epoch):
    (order,) = orders("window", [scan(n_tiles * 2, 2)], epoch=epoch)
    n_windows = n_tiles // MIN_WINDOW_TILES
    for window in range(n_windows - 1):
        groups = order[window * MIN_WINDOW_TILES * 2 : (window + 1) * MIN_WINDOW_TILES * 2]
        tiles = np.unique(groups // 2)
        # Parts differ in length by a tile at most, so each tile is within one of its part's place.
        expected = np.arange(MIN_WINDOW_TILES) * n_tiles / MIN_WINDOW_TILES
        assert (tiles > expected - MIN_WINDOW_TILES).all()
        assert (tiles < expected + n_tiles / MIN_WINDOW_TILES + MIN_WINDOW_TILES).all()


def test_the_middles_of_successive_batches_are_hardly_correlated():
    (order,) = orders("window", [scan(24 * 40 * 16, 16)])
    middles = order.reshape(-1, 64).mean(axis=1)
    assert abs(np.corrcoef(middles[:-1], middles[1:])[0, 1]) < 0.3


def test_a_short_rest_joins_the_last_window():
    (order,) = orders("window", [scan(56 * 32, 32)])
    tiles = order // 32
    assert len(np.unique(tiles[: 24 * 32])) == 24
    assert len(np.unique(tiles[24 * 32 :])) == 32
    # One window, not 24 tiles and then 8: the last 8 tiles' worth mixes all 32.
    assert len(np.unique(tiles[-8 * 32 :])) == 32


def test_scans_mix_in_proportion():
    (order,) = orders("window", [scan(6400, 64), scan(3200, 64, "b")])
    shares = [(batch < 6400).mean() for batch in order.reshape(-1, 2400)]
    assert shares == pytest.approx([2 / 3] * 4, abs=0.2)


def test_groups_of_one_tile_may_come_from_anywhere():
    tiles = np.array([5, 0, 5, 2, 0, 2, 5])
    (order,) = orders("window", [SampledScan("a", "hilbert", 8, tiles)])
    assert sorted(order.tolist()) == list(range(7))
