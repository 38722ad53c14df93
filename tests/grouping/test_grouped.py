from __future__ import annotations

import numpy as np
import pytest

from ptyzarr.errors import GroupingError
from ptyzarr.grouping import RawDataTorch, grouped_arrays

from .memory_scan import make_scan

REQUEST = {"N": 8, "K": 6, "nsamples": 40, "seed": 0, "gridsize": 2}


@pytest.fixture
def small_blocks(monkeypatch):
    # Sixteen groups to a block of X, eight to one of Y.
    monkeypatch.setattr("ptyzarr.grouping.grouped.BLOCK_NBYTES", 16 * 4 * 8 * 8 * 4)


def test_arrays_are_those_of_the_reference_and_are_read_block_by_block(small_blocks):
    scan = make_scan(200)
    expected = RawDataTorch.from_store(scan).generate_grouped_data(**REQUEST)
    scan.reads.clear()
    arrays = grouped_arrays(scan, expected["nn_indices"], patches=True)
    assert scan.reads == []
    assert arrays["X"].numblocks[0] == 3
    assert arrays["Y"].numblocks[0] == 5
    block = arrays["X"].blocks[0].compute(scheduler="synchronous")
    np.testing.assert_array_equal(block, expected["X_full"][:16], strict=True)
    np.testing.assert_array_equal(
        np.unique(np.concatenate(scan.reads)), np.unique(expected["nn_indices"][:16])
    )
    expected["X"] = expected.pop("X_full")
    for key in set(arrays) - {"norm_factor", "probeGuess"}:
        np.testing.assert_array_equal(arrays[key], expected[key], err_msg=key, strict=True)
    assert set(expected) - set(arrays) == {"diffraction"}


def test_start_positions_are_the_positions_where_there_are_none():
    arrays = grouped_arrays(make_scan(9), np.array([[0, 1], [4, 7]]))
    np.testing.assert_array_equal(arrays["coords_start_nn"], arrays["coords_nn"])


def test_patches_need_an_object():
    scan = make_scan(9, object_guess=None)
    scan.object_guess = None
    assert "objectGuess" not in grouped_arrays(scan, np.zeros((2, 4), np.int64))
    with pytest.raises(GroupingError, match="has no object"):
        grouped_arrays(scan, np.zeros((2, 4), np.int64), patches=True)
