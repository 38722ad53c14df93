"""Masks of bad pixels go along with batches, like probes."""

from __future__ import annotations

import numpy as np
import pytest

from ptyzarr.config import GroupingConfig, LoaderConfig, TransformConfig
from ptyzarr.ingestion import transform
from ptyzarr.streaming import GroupLoader

from .fakes import FakeScan

PAIRS = GroupingConfig(gridsize=2, n_neighbors=6)


def batches(scans, **options):
    config = LoaderConfig(batch_size=50, n_threads=1, **{"device": "numpy", **options})
    with GroupLoader(scans, PAIRS, config) as loader:
        return list(loader)


@pytest.fixture
def masked():
    scan = FakeScan(seed=1)
    scan.bad_pixels = np.zeros((8, 8), bool)
    scan.bad_pixels[2, 5] = True
    return scan


def test_without_a_mask_there_is_none():
    assert {batch.bad_pixels for batch in batches(FakeScan())} == {None}


def test_masks_are_indexed_by_experiment_and_one_object_for_all_batches(masked):
    delivered = batches([FakeScan(), masked])
    first = delivered[0].bad_pixels
    assert (first.shape, first.dtype) == ((2, 8, 8), bool)
    assert np.argwhere(first).tolist() == [[1, 2, 5]]
    assert all(batch.bad_pixels is first for batch in delivered)


def test_torch_gets_a_tensor_of_bool(masked):
    torch = pytest.importorskip("torch")
    mask = batches(masked, device="cpu")[0].bad_pixels
    assert mask.dtype == torch.bool
    assert mask.nonzero().tolist() == [[0, 2, 5]]


@pytest.mark.parametrize("mode", ["zero", "keep"])
def test_a_transformed_store_is_streamed_with_its_mask(make_scan_store, tmp_path, mode):
    mask = np.zeros((16, 16), np.uint8)
    mask[8, 9] = 1
    np.save(tmp_path / "mask.npy", mask)
    config = TransformConfig(bad_pixels=tmp_path / "mask.npy", bad_pixel_mode=mode, frame_size=12)
    store = transform(make_scan_store(), tmp_path / "made.zarr", config)
    (batch,) = batches(store)
    assert np.argwhere(batch.bad_pixels).tolist() == [[0, 6, 7]]
    assert batch.X.shape == (40, 12, 12, 4)
    assert batch.X[:, 6, 7].any() == (mode == "keep")
    good = ~batch.bad_pixels[batch.experiment_id]
    assert np.count_nonzero(batch.X * good[..., np.newaxis]) > 0
