from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ptyzarr.grouping import group_coords, normalization_factor
from ptyzarr.scan import frame_power

from .golden_cases import DRAWN


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in DRAWN])
def test_golden_coordinates_and_factor(case):
    scan, want = case.load_scan(), case.arrays
    for prefix, x, y in (
        ("coords_", scan["xcoords"], scan["ycoords"]),
        (
            "coords_start_",
            scan.get("xcoords_start", scan["xcoords"]),
            scan.get("ycoords_start", scan["ycoords"]),
        ),
    ):
        got = group_coords(np.stack([x, y], axis=1), want["nn_indices"])
        for name, array in zip(("nn", "offsets", "relative"), got, strict=True):
            np.testing.assert_array_equal(array, want[prefix + name], strict=True)
    power = frame_power(scan["diff3d"])
    factor = normalization_factor(power, want["nn_indices"], case.params["N"])
    assert factor.dtype == np.float32
    np.testing.assert_array_equal(factor, case.factor)


real_positions = hnp.arrays(
    dtype=st.sampled_from([np.float64, np.float32, np.float16, np.int64, np.int32, np.uint16]),
    shape=st.tuples(st.integers(20, 30), st.just(2)),
    elements=st.integers(0, 1000),
).flatmap(
    lambda array: st.sampled_from(
        [array, np.asfortranarray(array), array[::-1], (array * 7 // 3).astype(array.dtype)]
    )
)


@settings(deadline=None)
@given(
    positions=real_positions,
    noise=st.integers(0, 1000),
    gridsize=st.integers(1, 4),
    cuts=st.lists(st.integers(0, 50), max_size=5),
)
def test_coordinates_of_a_batch_have_the_bits_of_the_whole(positions, noise, gridsize, cuts):
    rng = np.random.default_rng(noise)
    if positions.dtype.kind == "f":
        positions = positions + rng.random(positions.shape).astype(positions.dtype)
    table = rng.integers(0, len(positions), (50, gridsize**2))
    whole = group_coords(positions, table)
    bounds = [0, *sorted(cuts), 50]
    for layout in (np.ascontiguousarray, np.asfortranarray):
        parts = [
            group_coords(positions, layout(table[start:stop]))
            for start, stop in itertools.pairwise(bounds)
        ]
        for one, arrays in zip(whole, zip(*parts, strict=True), strict=True):
            np.testing.assert_array_equal(np.concatenate(arrays), one, strict=True)


def test_every_single_group_has_the_bits_of_the_whole():
    # Sixteen members: pairwise and sequential sums differ.
    rng = np.random.default_rng(0)
    positions = rng.random((5000, 2)) * 1e3
    table = rng.integers(0, 5000, (3000, 16))
    _, offsets, _ = group_coords(positions, table)
    for group in range(0, 3000, 7):
        one = group_coords(positions, table[group : group + 1])[1]
        np.testing.assert_array_equal(one[0], offsets[group])


@pytest.mark.parametrize(
    ("dtype", "derived"),
    [
        pytest.param("float64", "float64", id="float64"),
        pytest.param("float32", "float32", id="float32"),
        pytest.param("int32", "float64", id="integers"),
        pytest.param("uint16", "float64", id="unsigned"),
    ],
)
def test_coordinates_keep_the_dtype_and_integers_get_float64_means(dtype, derived):
    positions = np.array([[0, 5], [2, 6], [7, 1]], dtype=dtype)
    nn, offsets, relative = group_coords(positions, np.array([[2, 0]]))
    assert (nn.dtype, offsets.dtype, relative.dtype) == (dtype, derived, derived)
    np.testing.assert_array_equal(nn, [[[[7, 0], [1, 5]]]])
    np.testing.assert_array_equal(offsets, [[[[3.5], [3]]]])
    np.testing.assert_array_equal(relative, [[[[-3.5, 3.5], [2, -2]]]])


def test_relative_coordinates_of_single_frames_are_zero():
    nn, offsets, relative = group_coords(np.random.default_rng(0).random((9, 2)), np.c_[0:9])
    np.testing.assert_array_equal(nn, offsets)
    assert not relative.any()


@settings(deadline=None)
@given(
    n_frames=st.integers(0, 12),
    width=st.sampled_from([1, 8, 91, 128]),
    dtype=st.sampled_from(["float32", "float64", "uint8", "uint16", "float16", "bool"]),
    cut=st.integers(0, 12),
)
def test_power_is_numpys_sum_of_each_frame_however_frames_are_cut(n_frames, width, dtype, cut):
    rng = np.random.default_rng(n_frames)
    frames = (rng.random((n_frames, width, width)) * 200).astype(dtype)
    power = frame_power(frames)
    assert power.dtype == np.float64
    wanted = [np.sum(np.square(frame.astype(np.float64)).ravel()) for frame in frames]
    np.testing.assert_array_equal(power, np.array(wanted, dtype=np.float64))
    parts = [frame_power(frames[:cut]), frame_power(frames[cut:])]
    np.testing.assert_array_equal(np.concatenate(parts), power)
    np.testing.assert_array_equal(frame_power(np.asfortranarray(frames)), power)


def test_power_of_integers_does_not_overflow():
    frames = np.full((2, 4, 4), 65535, dtype=np.uint16)
    np.testing.assert_array_equal(frame_power(frames), [16 * 65535.0**2] * 2)


def test_factor_gives_the_selection_its_mean_power():
    frames = np.random.default_rng(0).random((10, 16, 16))
    table = np.array([[0, 1, 1, 4], [1, 9, 3, 3]])
    factor = normalization_factor(frame_power(frames), table, 16)
    scaled = float(factor) * frames[table]
    # float32 factor: 1e-7 relative, doubled by the square.
    assert math.isclose(np.square(scaled).sum(axis=(2, 3)).mean(), 64, rel_tol=3e-7)


def test_factor_of_nothing_is_nan_and_of_darkness_infinite():
    assert np.isnan(normalization_factor(np.ones(3), np.empty((0, 4), dtype=int), 16))
    assert normalization_factor(np.zeros(3), np.array([[0, 1]]), 16) == np.inf
