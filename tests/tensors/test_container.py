import dask.array as da
import numpy as np
import pytest
import torch

import ptyzarr
from ptyzarr.errors import DtypeError, GroupingError, MissingFieldError
from ptyzarr.grouping import RawDataTorch
from ptyzarr.tensors import PtychoDataContainerTorch

from .golden_containers import PATCH_TOLERANCE, load_containers

GOLDEN = [pytest.param(case, id=case.record["id"]) for case in load_containers()]


def describe(value):
    if value is None:
        return None
    kind = "Tensor" if isinstance(value, torch.Tensor) else "ndarray"
    return {"type": kind, "dtype": str(value.dtype), "shape": list(value.shape)}


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_attributes_have_the_types_of_the_reference(case):
    container = PtychoDataContainerTorch(case.grouped, case.probe)
    for name, want in case.record["container"].items():
        assert describe(getattr(container, name)) == want, name


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_attributes_have_the_values_of_the_reference(case):
    container = PtychoDataContainerTorch(case.grouped, case.probe)
    want, groups = case.arrays, torch.from_numpy(case.groups)
    np.testing.assert_array_equal(container.X[:2], want["X_head"])
    np.testing.assert_array_equal(container.coords_nominal, want["container_coords_nominal"])
    np.testing.assert_array_equal(container.global_offsets, want["container_global_offsets"])
    np.testing.assert_array_equal(container.local_offsets, want["coords_relative"])
    np.testing.assert_array_equal(container.nn_indices, want["nn_indices"])
    np.testing.assert_allclose(
        container.Y_I[groups], want["container_Y_I_head"], rtol=0, atol=PATCH_TOLERANCE
    )
    # An angle moves by the patches' error over their absolute value, which is 0.4 or more.
    np.testing.assert_allclose(
        container.Y_phi[groups], want["container_Y_phi_head"], rtol=0, atol=3 * PATCH_TOLERANCE
    )


@pytest.mark.parametrize("case", [case for case in GOLDEN if "Y_head" in case.values[0].arrays])
def test_golden_patches_have_absolute_value_and_angle_of_the_reference(case):
    want = case.arrays
    grouped = {**case.grouped, "Y": want["Y_head"], "X_full": case.grouped["X_full"][case.groups]}
    container = PtychoDataContainerTorch(grouped, case.probe)
    # To a last bit of values up to pi: the vector routines differ between machines.
    tolerance = {"rtol": 0, "atol": 2.5e-7}
    np.testing.assert_allclose(container.Y_I, want["container_Y_I_head"], **tolerance)
    np.testing.assert_allclose(container.Y_phi, want["container_Y_phi_head"], **tolerance)


def make_grouped(**changes):
    grouped = dict(GOLDEN[0].values[0].grouped)
    grouped.update(changes)
    return {name: value for name, value in grouped.items() if value is not ...}


PROBE = GOLDEN[0].values[0].probe


def test_without_an_object_y_is_ones():
    container = PtychoDataContainerTorch(make_grouped(Y=None, objectGuess=None), PROBE)
    assert torch.equal(container.Y, torch.ones(container.X.shape, dtype=torch.complex64))
    assert (container.Y_I == 1).all()
    assert (container.Y_phi == 0).all()
    assert container.YY_full is None


def test_four_names_are_one_tensor():
    container = PtychoDataContainerTorch(make_grouped(), PROBE)
    assert container.coords is container.coords_nominal
    assert container.coords_true is container.coords_relative is container.coords


def test_x_shares_the_memory_of_the_grouped_array():
    grouped = make_grouped()
    container = PtychoDataContainerTorch(grouped, PROBE)
    assert np.shares_memory(container.X.numpy(), grouped["X_full"])


@pytest.mark.parametrize("missing", [["X_full"], ["coords_offsets", "nn_indices"]])
def test_missing_keys_are_named(missing):
    grouped = make_grouped(**dict.fromkeys(missing, ...))
    with pytest.raises(GroupingError, match=f"have no {', '.join(missing)};") as caught:
        PtychoDataContainerTorch(grouped, PROBE)
    assert isinstance(caught.value, ValueError)


def test_a_missing_y_is_a_key_error():
    with pytest.raises(MissingFieldError, match="no key 'Y'") as caught:
        PtychoDataContainerTorch(make_grouped(Y=...), PROBE)
    assert isinstance(caught.value, KeyError)


@pytest.mark.parametrize("dtype", ["float64", "float16", ">f4", "uint16"])
def test_x_of_another_dtype_is_refused(dtype):
    grouped = make_grouped(X_full=make_grouped()["X_full"].astype(dtype))
    with pytest.raises(DtypeError, match=r"X_full has dtype.*expected float32") as caught:
        PtychoDataContainerTorch(grouped, PROBE)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("dtype", ["complex128", "float32"])
def test_y_of_another_dtype_is_refused(dtype):
    grouped = make_grouped(Y=np.ones(make_grouped()["X_full"].shape, dtype))
    with pytest.raises(GroupingError, match=rf"Y has dtype {dtype}; expected complex64"):
        PtychoDataContainerTorch(grouped, PROBE)


@pytest.mark.parametrize(
    "probe",
    [
        pytest.param(PROBE.astype(np.complex128), id="complex128"),
        pytest.param(torch.from_numpy(PROBE.copy()), id="tensor"),
        pytest.param(PROBE.tolist(), id="list"),
    ],
)
def test_the_probe_is_cast(probe):
    container = PtychoDataContainerTorch(make_grouped(), probe)
    assert container.probe.dtype == torch.complex64
    np.testing.assert_array_equal(container.probe, PROBE)


def test_long_indices_become_short_ones():
    indices = make_grouped()["nn_indices"].astype(np.int64)
    container = PtychoDataContainerTorch(make_grouped(nn_indices=indices), PROBE)
    assert container.nn_indices.dtype == torch.int32
    np.testing.assert_array_equal(container.nn_indices, indices)


def test_tensors_are_taken_as_they_are():
    grouped = make_grouped()
    tensors = {
        name: torch.from_numpy(value.copy()) if name != "objectGuess" else value
        for name, value in grouped.items()
    }
    ours, theirs = (PtychoDataContainerTorch(data, PROBE) for data in (tensors, grouped))
    for name in ("X", "Y", "Y_I", "Y_phi", "local_offsets", "nn_indices"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_extra_keys_are_passed_on():
    container = PtychoDataContainerTorch(make_grouped(norm_Y_I=2.5), PROBE)
    assert container.norm_Y_I == 2.5
    assert PtychoDataContainerTorch(make_grouped(), PROBE).norm_Y_I is None


def test_lazy_values_are_computed_in_one_pass():
    calls = []

    def load(block):
        calls.append(1)
        return block

    grouped = make_grouped()
    shared = da.from_array(grouped["X_full"], chunks=grouped["X_full"].shape).map_blocks(
        load, dtype=np.float32, meta=np.empty((0,) * 4, np.float32)
    )
    lazy = {**grouped, "X_full": shared * np.float32(2), "Y": shared.astype(np.complex64)}
    container = PtychoDataContainerTorch(lazy, PROBE)
    assert len(calls) == 1
    np.testing.assert_array_equal(container.X, 2 * grouped["X_full"])


def test_lazy_and_eager_groups_make_the_same_container(make_scan_store):
    raw = RawDataTorch.from_store(make_scan_store())
    options = {"N": 16, "K": 5, "nsamples": 12, "seed": 3, "gridsize": 2}
    eager, lazy = (
        ptyzarr.PtychoDataContainerTorch(
            raw.generate_grouped_data(**options, lazy=lazy), raw.probeGuess
        )
        for lazy in (False, True)
    )
    for name in ("X", "Y", "Y_I", "coords", "global_offsets", "nn_indices", "probe"):
        assert torch.equal(getattr(eager, name), getattr(lazy, name)), name
    assert repr(lazy) == "<PtychoDataContainerTorch: 12 groups of 4 frames 16x16>"
