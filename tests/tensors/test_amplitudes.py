import numpy as np
import pytest
import torch

from ptyzarr.tensors.amplitudes import CARRIERS, root_table, root_wide, widen_pixels

TABLE = torch.from_numpy(root_table())


def carry(values):
    """Return an array as the tensor that stands for it."""
    view = values.view(f"i{values.itemsize}") if values.dtype in (np.uint16, np.uint32) else values
    tensor = torch.from_numpy(view.copy())
    assert tensor.dtype == CARRIERS[values.dtype]
    return tensor


def assert_bits(got, want):
    assert got.dtype == torch.float32
    np.testing.assert_array_equal(got.numpy().view(np.uint32), want.view(np.uint32))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["uint8", "uint16"])
def test_every_short_count_has_the_root_that_numpy_has(dtype):
    counts = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    got = widen_pixels(carry(counts), np.dtype(dtype), TABLE, is_counts=True)
    assert_bits(got, np.sqrt(counts.astype(np.float32)))


def test_every_count_below_2_to_24_has_the_root_that_numpy_has():
    for start in range(0, 1 << 24, 1 << 22):
        counts = np.arange(start, start + (1 << 22), dtype=np.uint32)
        got = widen_pixels(carry(counts), np.dtype(np.uint32), TABLE, is_counts=True)
        assert_bits(got, np.sqrt(counts.astype(np.float32)))


def test_roots_of_any_float_are_correctly_rounded():
    bits = np.random.default_rng(0).integers(0, 0x7F800000, 1 << 18).astype(np.uint32)
    values = bits.view(np.float32)
    assert_bits(root_wide(torch.from_numpy(values)), np.sqrt(values))


@pytest.mark.parametrize("dtype", [pytest.param(dtype, id=dtype.name) for dtype in CARRIERS])
def test_amplitudes_of_every_staged_dtype_are_widened_as_numpy_does(dtype):
    bits = np.random.default_rng(1).integers(0, 256, 4096 * dtype.itemsize).astype(np.uint8)
    values = bits.view(dtype)
    values = np.where(np.isfinite(values), values, 1).astype(dtype)
    got = widen_pixels(carry(values), dtype, TABLE, is_counts=False)
    assert_bits(got, values.astype(np.float32))
