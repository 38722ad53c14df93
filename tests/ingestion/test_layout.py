"""Orders are permutations that keep neighbours together; sizes are bounded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ptyzarr.ingestion.layout import ORDERS, choose_sizes, hilbert_order

positions = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 60), st.just(2)),
    elements=st.floats(allow_nan=False, allow_infinity=False),
)


@settings(deadline=None)
@given(points=positions)
@pytest.mark.parametrize("order", ORDERS)
def test_order_is_a_permutation(order, points):
    found = ORDERS[order](points)
    assert found.dtype == np.int64
    assert sorted(found.tolist()) == list(range(len(points)))


def test_curve_visits_cell_after_cell():
    """On a full grid of 2^k x 2^k each step of the curve goes to an adjacent point."""
    for width in (2, 4, 16):
        y, x = np.divmod(np.arange(width * width), width)
        points = np.stack([x, y], axis=1)
        path = points[hilbert_order(points)]
        assert (np.abs(np.diff(path, axis=0)).sum(axis=1) == 1).all()


def test_order_depends_on_shape_alone():
    points = np.random.default_rng(0).uniform(0, 50, (200, 2))
    expected = hilbert_order(points)
    for scale, shift in [(2.0, 0.0), (0.25, 1024.0), (1.0, -(2.0**20))]:
        moved = points * scale + shift
        assert (hilbert_order(moved) == expected).mean() > 0.95  # a rounding may swap a pair
    assert np.array_equal(
        hilbert_order(points.astype(np.float32).astype(np.float64) * 4),
        hilbert_order(points.astype(np.float32)),
    )


def test_tiles_are_small_parts_of_the_sample():
    points = np.random.default_rng(1).uniform(0, 1, (4096, 2))
    ordered = points[hilbert_order(points)].reshape(64, 64, 2)
    extent = np.ptp(ordered, axis=1).max(axis=1)
    assert np.median(extent) < 0.2  # a square of 1/64 of the area has an edge of 0.125


@pytest.mark.parametrize(
    "points",
    [
        pytest.param(np.zeros((5, 2)), id="one place"),
        pytest.param(np.array([[0.0, 0], [0, 5e-324]]), id="smallest distance"),
        pytest.param(np.array([[-1.7e308, 0], [1.7e308, 1]]), id="largest distance"),
        pytest.param(np.array([[1, 2]], np.uint8), id="one position"),
    ],
)
def test_extreme_positions_keep_acquisition_order(points):
    assert hilbert_order(points).tolist() == list(range(len(points)))


def test_coincident_positions_keep_acquisition_order():
    points = np.tile([[3.0, 4.0], [1.0, 1.0]], (20, 1))
    order = hilbert_order(points)
    assert order.tolist() == [*range(1, 40, 2), *range(0, 40, 2)]


@given(
    n_frames=st.integers(1, 10**7),
    frame_size=st.integers(1, 5000),
    itemsize=st.sampled_from([1, 2, 4, 8]),
)
def test_sizes_are_bounded_and_nested(n_frames, frame_size, itemsize):
    sizes = choose_sizes(n_frames, frame_size, itemsize)
    chunk, shard, tile = sizes.chunk_frames, sizes.shard_frames, sizes.tile_frames
    assert 1 <= chunk <= 16
    assert shard % chunk == 0
    assert shard < n_frames + chunk
    frame_bytes = frame_size**2 * itemsize
    assert tile == 16 or (tile * 256 <= n_frames and tile * frame_bytes <= 16 * 1024**2)
    assert chunk == 1 or chunk * frame_bytes <= 16 * 1024
    assert shard == chunk or shard * frame_bytes <= 256 * 1024**2
