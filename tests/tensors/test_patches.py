import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyzarr.errors import DtypeError, ShapeError
from ptyzarr.grouping import object_patches as host_patches
from ptyzarr.tensors import object_patches

from .golden_containers import PATCH_TOLERANCE, load_containers

RNG = np.random.default_rng(0)
OBJECT = (RNG.normal(size=(23, 31)) + 1j * RNG.normal(size=(23, 31))).astype(np.complex64)


def draw(object_guess, offsets, relative, N):
    tensors = [torch.from_numpy(array) for array in (object_guess, offsets, relative)]
    return object_patches(*tensors, N)


def assert_as_host(object_guess, offsets, relative, N):
    got = draw(object_guess, offsets, relative, N)
    want = host_patches(object_guess, offsets, relative, N)
    assert got.dtype == torch.complex64
    # Equal values; where a sample falls on a pixel, zeros may differ in sign.
    np.testing.assert_array_equal(got.numpy(), want, strict=True)


near = st.floats(-12, 40, width=32)
# Coordinates that round up to the next pixel once a whole number is added, and far ones.
odd = st.sampled_from([0.99999994, -1e-9, 7.9999995, 3.0, -0.5, 1e6, -1e30, 2.0**22 + 0.5])


@settings(deadline=None)
@given(
    points=st.lists(st.tuples(near | odd, near | odd), min_size=1, max_size=5),
    N=st.integers(1, 9),
    dtype=st.sampled_from([np.complex64, np.complex128]),
)
def test_patches_have_the_values_of_the_host(points, N, dtype):
    offsets = np.array(points, np.float64)[:, None, :, None]
    assert_as_host(OBJECT.astype(dtype), offsets, np.zeros_like(offsets), N)


@pytest.mark.parametrize("position_dtype", [np.float64, np.float32])
def test_groups_of_several_members_have_the_values_of_the_host(position_dtype):
    offsets = RNG.uniform(0, 30, (7, 1, 2, 1)).astype(position_dtype)
    relative = RNG.uniform(-4, 4, (7, 1, 2, 4)).astype(position_dtype)
    assert_as_host(OBJECT, offsets, relative, 16)


def test_more_windows_than_are_gathered_at_once_make_the_same_patches():
    offsets = RNG.uniform(0, 30, (400, 1, 2, 1))
    relative = RNG.uniform(-4, 4, (400, 1, 2, 4))
    assert_as_host(OBJECT, offsets, relative, 40)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.record["id"])
        for case in load_containers()
        if "Y_head" in case.arrays
    ],
)
def test_golden_patches(case):
    coords = case.arrays["coords_offsets"], case.arrays["coords_relative"]
    size = case.record["params"]["N"]
    patches = draw(case.grouped["objectGuess"], *coords, size)[torch.from_numpy(case.groups)]
    np.testing.assert_allclose(patches, case.arrays["Y_head"], rtol=0, atol=PATCH_TOLERANCE)


def test_an_object_with_infinite_edges_stays_out_of_patches_beyond_them():
    edged = OBJECT.copy()
    edged[0, :] = edged[-1, :] = edged[:, 0] = edged[:, -1] = np.inf
    offsets = np.array([[-50.0, 5.0], [5.0, 90.0]])[:, None, :, None]
    assert not draw(edged, offsets, np.zeros_like(offsets), 8).numpy().any()


def test_coordinates_that_are_not_numbers_read_nothing_beyond_the_object():
    offsets = np.full((1, 1, 2, 1), np.nan)
    assert draw(OBJECT, offsets, np.zeros_like(offsets), 4).isnan().all()


@pytest.mark.parametrize(
    ("object_guess", "error", "message"),
    [
        pytest.param(OBJECT[None], ShapeError, r"shape \(1, 23, 31\); expected \(H, W\)", id="3d"),
        pytest.param(OBJECT.real.copy(), DtypeError, r"dtype torch\.float32; expected", id="real"),
    ],
)
def test_objects_that_are_none_are_refused(object_guess, error, message):
    offsets = np.zeros((1, 1, 2, 1))
    with pytest.raises(error, match=message):
        draw(object_guess, offsets, offsets, 4)
