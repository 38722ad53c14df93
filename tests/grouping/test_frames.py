from __future__ import annotations

import sys

import numpy as np
import pytest
import zarr

from ptyzarr.grouping.frames import ArrayStack, ScanStack, gather_groups, gather_normalized

from .memory_scan import make_counting, make_scan


@pytest.mark.parametrize("route", ["store", "array"])
def test_eager_groups_read_each_needed_frame_once(route, monkeypatch):
    # Three frames at a time.
    monkeypatch.setattr(sys.modules[gather_groups.__module__], "READ_NBYTES", 3 * 8 * 8 * 4)
    raw, reads = make_counting(route)
    assert reads == []
    table = raw.generate_grouped_data(8, K=6, nsamples=5, seed=0, gridsize=2)["nn_indices"]
    assert len(reads) > 1
    assert max(map(len, reads)) == 3
    np.testing.assert_array_equal(np.concatenate(reads), np.unique(table))


def as_zarr(frames, chunks):
    array = zarr.create_array({}, shape=frames.shape, dtype=frames.dtype, chunks=chunks)
    array[:] = frames
    return array


@pytest.mark.parametrize(
    "make_stack",
    [
        pytest.param(lambda scan: ArrayStack(scan.frames), id="numpy"),
        pytest.param(lambda scan: ArrayStack(as_zarr(scan.frames, (3, 5, 8))), id="zarr"),
        pytest.param(ScanStack, id="scan"),
    ],
)
def test_every_stack_gives_the_frames_asked_for(make_stack):
    scan = make_scan(20)
    stack = make_stack(scan)
    assert (stack.shape, stack.dtype) == ((20, 8, 8), np.float32)
    wanted = np.array([0, 3, 4, 19])
    np.testing.assert_array_equal(stack.read(wanted), scan.frames[wanted], strict=True)


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16", "uint8", ">f4", "float16"])
def test_groups_keep_the_dtype_and_are_normalized_in_float32(dtype):
    frames = (make_scan(20).frames * 200).astype(dtype)
    table = np.random.default_rng(0).integers(0, 20, (30, 4))
    diffraction, normalized = gather_normalized(ArrayStack(frames), table, 8)
    np.testing.assert_array_equal(diffraction, frames[table].transpose(0, 2, 3, 1), strict=True)
    assert normalized.dtype == np.float32
    mean = np.square(frames[table].astype(np.float64)).sum(axis=(2, 3)).mean()
    factor = np.float32(np.sqrt(16 / mean))
    np.testing.assert_allclose(normalized, factor * diffraction.astype(np.float32), rtol=2e-7)


def test_known_powers_are_used_as_they_are():
    stack = ArrayStack(make_scan(20).frames)
    table = np.array([[0, 1], [5, 6]])
    _, normalized = gather_normalized(stack, table, 8, np.full(20, 4.0))
    np.testing.assert_array_equal(normalized, 2 * gather_groups(stack, table), strict=True)


def test_no_groups_read_nothing():
    raw, reads = make_counting("array")
    grouped = raw.generate_grouped_data(8, K=6, nsamples=0, seed=0, gridsize=2)
    assert reads == []
    assert grouped["diffraction"].shape == grouped["X_full"].shape == (0, 8, 8, 4)
