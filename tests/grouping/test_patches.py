from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyzarr.errors import ShapeError
from ptyzarr.grouping import group_coords, object_patches

from .golden_cases import DRAWN, PATCH_TOLERANCE
from .memory_scan import make_object

WITH_OBJECT = [case for case in DRAWN if "Y_head" in case.arrays]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in WITH_OBJECT])
def test_golden_patches(case):
    want = case.arrays
    patches = object_patches(
        case.load_scan()["objectGuess"],
        want["coords_offsets"],
        want["coords_relative"],
        case.params["N"],
    )
    assert patches.dtype == np.complex64
    picked = patches[want["Y_groups"]]
    np.testing.assert_allclose(picked, want["Y_head"], rtol=0, atol=PATCH_TOLERANCE)


def plain_patch(object_guess: np.ndarray, x: float, y: float, N: int) -> np.ndarray:
    """Return one patch in float64 from an object laid in a wide margin of zeros."""
    margin = 64
    wide = np.pad(object_guess.astype(np.complex128), margin)
    patch = np.empty((N, N), dtype=np.complex128)
    for r in range(N):
        for q in range(N):
            row, column = r + y - N // 2 + margin, q + x - N // 2 + margin
            i, j = int(np.floor(row)), int(np.floor(column))
            v, u = row - i, column - j
            patch[r, q] = (1 - v) * ((1 - u) * wide[i, j] + u * wide[i, j + 1]) + v * (
                (1 - u) * wide[i + 1, j] + u * wide[i + 1, j + 1]
            )
    return patch


def as_offsets(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return offsets and zero relative coordinates of one-frame groups at `points` (G, 2)."""
    offsets = points[:, np.newaxis, :, np.newaxis]
    return offsets, np.zeros_like(offsets)


# Eighths are exact in float32, so the comparison needs no room for rounded coordinates.
eighths = st.integers(-160, 400).map(lambda number: number / 8)


@settings(deadline=None)  # the first example compiles
@given(
    points=st.lists(st.tuples(eighths, eighths), min_size=1, max_size=4),
    N=st.integers(1, 9),
    shape=st.tuples(st.integers(1, 25), st.integers(1, 25)),
    dtype=st.sampled_from([np.complex64, np.complex128]),
)
def test_patches_are_bilinear_samples_of_an_object_in_zeros(points, N, shape, dtype):
    object_guess = make_object(np.random.default_rng(N), shape).astype(dtype)
    patches = object_patches(object_guess, *as_offsets(np.array(points)), N)
    assert patches.shape == (len(points), N, N, 1)
    for (x, y), patch in zip(points, patches[..., 0], strict=True):
        # |object| < 1.5: three float32 roundings.
        np.testing.assert_allclose(patch, plain_patch(object_guess, x, y, N), rtol=0, atol=3e-7)


def test_the_middle_pixel_shows_the_object_at_the_position():
    object_guess = make_object(np.random.default_rng(0), (40, 50))
    patches = object_patches(object_guess, *as_offsets(np.array([[31.0, 12.0]])), 8)
    assert patches[0, 4, 4, 0] == object_guess[12, 31]
    np.testing.assert_array_equal(patches[0, :, :, 0], object_guess[8:16, 27:35])


def test_patches_of_groups_are_reflected_through_their_mean():
    object_guess = make_object(np.random.default_rng(0), (40, 40))
    _, offsets, relative = group_coords(np.array([[18.0, 20.0], [22.0, 20.0]]), np.array([[0, 1]]))
    patches = object_patches(object_guess, offsets, relative, 4)
    assert patches[0, 2, 2, 0] == object_guess[20, 22]
    assert patches[0, 2, 2, 1] == object_guess[20, 18]


@pytest.mark.parametrize("far", [1e2, -1e2, 4e6, -4e6, 1e12, -1e12, 1e300, -1e300])
@pytest.mark.parametrize("axis", [0, 1])
def test_positions_far_outside_give_zeros(far, axis):
    point = np.array([[12.25, 12.75]])
    point[0, axis] = far
    object_guess = make_object(np.random.default_rng(0), (30, 30))
    assert not object_patches(object_guess, *as_offsets(point), 16).any()


def test_an_infinite_pixel_stays_in_its_neighbourhood():
    object_guess = make_object(np.random.default_rng(0), (30, 30))
    object_guess[0, 0] = np.nan
    points = np.array([[-40.5, 10.0], [15.5, 15.5]])
    patches = object_patches(object_guess, *as_offsets(points), 8)
    assert not patches[0].any()
    assert np.isfinite(patches[1]).all()


def test_patches_do_not_depend_on_what_is_computed_together():
    rng = np.random.default_rng(1)
    object_guess = make_object(rng, (60, 60))
    _, offsets, relative = group_coords(rng.random((40, 2)) * 60, rng.integers(0, 40, (400, 4)))
    whole = object_patches(object_guess, offsets, relative, 6)
    for part in (slice(0, 1), slice(3, 10), slice(250, 400)):
        one = object_patches(object_guess, offsets[part], relative[part], 6)
        np.testing.assert_array_equal(one, whole[part])


def test_double_precision_objects_are_interpolated_in_double_precision():
    rng = np.random.default_rng(2)
    object_guess = rng.random((20, 20)) + 1j * rng.random((20, 20))
    point = np.float32(rng.random((1, 2)) * 10 + 5)
    patch = object_patches(object_guess, *as_offsets(point), 8)[0, :, :, 0]
    x, y = point[0].astype(np.float64)
    # Rounded once, at the end.
    np.testing.assert_array_equal(patch, plain_patch(object_guess, x, y, 8).astype(np.complex64))


@pytest.mark.parametrize(
    "convert",
    [
        pytest.param(np.asfortranarray, id="fortran"),
        pytest.param(lambda array: array.astype(">c8"), id="big-endian"),
        pytest.param(lambda array: np.repeat(array, 2, axis=1)[:, ::2], id="strided"),
    ],
)
def test_the_objects_memory_layout_does_not_matter(convert):
    object_guess = make_object(np.random.default_rng(0), (30, 30))
    where = as_offsets(np.array([[10.3, 14.2], [3.3, 28.9]]))
    np.testing.assert_array_equal(
        object_patches(convert(object_guess), *where, 8), object_patches(object_guess, *where, 8)
    )


def test_real_objects_become_complex64():
    patches = object_patches(np.ones((9, 9)), *as_offsets(np.array([[4.0, 4.0]])), 2)
    assert patches.dtype == np.complex64
    assert (patches == 1).all()


def test_no_groups_no_patches():
    empty = np.empty((0, 1, 2, 4)), np.empty((0, 1, 2, 4))
    assert object_patches(np.ones((9, 9), complex), *empty, 8).shape == (0, 8, 8, 4)


def test_an_object_with_modes_is_refused():
    with pytest.raises(ShapeError, match=r"\(2, 9, 9\)"):
        object_patches(np.ones((2, 9, 9), complex), *as_offsets(np.zeros((1, 2))), 8)
