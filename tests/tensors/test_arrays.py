import numpy as np
import pytest
import torch

from ptyzarr.errors import DtypeError
from ptyzarr.tensors.arrays import as_tensor


def test_a_tensor_shares_memory_with_a_plain_array():
    array = np.arange(6.0).reshape(2, 3)
    as_tensor(array)[0, 0] = 7
    assert array[0, 0] == 7


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(read_only(np.arange(4.0)), id="read_only"),
        pytest.param(np.broadcast_to(np.arange(4.0), (3, 4)), id="broadcast"),
        pytest.param(np.arange(4, dtype=">i4"), id="big_endian"),
        pytest.param(np.arange(4.0)[::-1], id="reversed"),
        pytest.param(np.array(3.0), id="scalar"),
        pytest.param(np.empty((0, 3), np.complex64), id="empty"),
        pytest.param(np.arange(6, dtype=np.uint16).reshape(2, 3).T, id="transposed"),
    ],
)
def test_any_array_becomes_a_tensor_that_may_be_written(array):
    tensor = as_tensor(array)
    assert tensor.shape == array.shape
    np.testing.assert_array_equal(tensor.numpy(), array)
    before = array.copy()
    if not array.flags.writeable:
        tensor.fill_(1)
        np.testing.assert_array_equal(array, before)


def test_a_dtype_that_torch_does_not_have_is_refused():
    with pytest.raises(DtypeError, match=r"dtype float128.*torch does not have") as caught:
        as_tensor(np.zeros(2, np.longdouble))
    assert caught.value.code == "dtype"
    assert isinstance(caught.value, TypeError)


def test_a_tensor_keeps_the_owner_of_its_memory_alive():
    tensor = as_tensor(np.full(1000, 3.0)[10:20])
    assert torch.equal(tensor, torch.full((10,), 3.0, dtype=torch.float64))
