from __future__ import annotations

import sys

import dask.array as da
import numpy as np
import pytest

from ptyzarr.grouping import RawDataTorch
from ptyzarr.grouping.lazy import LazyArray, lazy_normalized

from .memory_scan import compute, make_counting, make_raw, make_scan

REQUEST = {"N": 8, "K": 6, "nsamples": 40, "seed": 0, "gridsize": 2}


@pytest.mark.parametrize("route", ["store", "array"])
@pytest.mark.parametrize("key", ["diffraction", "X_full"])
@pytest.mark.parametrize(
    "groups",
    [
        pytest.param(slice(3, 13), id="ten"),
        pytest.param(slice(15, 18), id="across-blocks"),
        pytest.param(slice(39, 40), id="last"),
        pytest.param(slice(2, 40, 9), id="steps"),
        pytest.param(7, id="one"),
    ],
)
def test_a_lazy_slice_reads_the_frames_of_its_groups_only(route, key, groups, monkeypatch):
    # Sixteen groups to a block.
    monkeypatch.setattr(sys.modules[lazy_normalized.__module__], "READ_NBYTES", 16 * 4 * 8 * 8 * 4)
    raw, reads = make_counting(route, n_frames=200)
    eager = raw.generate_grouped_data(**REQUEST)
    reads.clear()
    lazy = raw.generate_grouped_data(**REQUEST, lazy=True)
    assert lazy[key].numblocks[0] == 3
    assert reads == []
    got = lazy[key][groups].compute(scheduler="synchronous")
    np.testing.assert_array_equal(got, eager[key][groups], strict=True)
    # The factor of frames in an array is not known: it takes every selected frame.
    needs_all = key == "X_full" and route == "array"
    wanted = np.unique(eager["nn_indices"] if needs_all else eager["nn_indices"][groups])
    np.testing.assert_array_equal(np.unique(np.concatenate(reads)), wanted)


@pytest.mark.parametrize("key", ["diffraction", "X_full", "Y"])
@pytest.mark.parametrize(
    "index",
    [
        pytest.param(np.s_[5:20, 2:7, ::2, 1], id="all-axes"),
        pytest.param(np.s_[[30, 2, 2, 17]], id="list"),
        pytest.param(np.s_[4:5, 1:2, :, [3, 0]], id="list-of-channels"),
        pytest.param(np.s_[20:4:-3, 1], id="backwards"),
        pytest.param(np.s_[..., -1], id="ellipsis"),
        pytest.param(np.s_[10:10], id="nothing"),
        pytest.param(np.s_[3:4, 5, 6, 2], id="scalar-per-group"),
    ],
)
@pytest.mark.parametrize("source", ["store", "dask", "numpy"])
def test_lazy_arrays_are_indexed_like_the_eager_ones(source, key, index):
    scan = make_scan(60)
    raw = make_raw(scan, source)
    eager, lazy = (raw.generate_grouped_data(**REQUEST, lazy=lazy) for lazy in (False, True))
    got = lazy[key][index]
    np.testing.assert_array_equal(got.compute(scheduler="sync"), eager[key][index], strict=True)
    assert got.shape == eager[key][index].shape


def test_groups_of_dask_frames_compute_no_more_chunks_than_they_need():
    scan, computed = make_scan(300), []

    def load(block_info=None):
        (start, stop), *_ = block_info[None]["array-location"]
        computed.append(start)
        return scan.frames[start:stop]

    frames = da.map_blocks(
        load, chunks=((10,) * 30, (8,), (8,)), dtype=np.float32, meta=np.empty((0, 0, 0), "f4")
    )
    computed.clear()
    raw = RawDataTorch(*scan.positions.T, frames, scan.probe_guess, None)
    request = REQUEST | {"nsamples": 64}
    lazy = raw.generate_grouped_data(**request, lazy=True)
    assert computed == []
    table = lazy["nn_indices"]
    lazy["diffraction"][0:10].compute(scheduler="synchronous")
    assert sorted(computed) == sorted(np.unique(table[:16] // 10) * 10)
    computed.clear()
    raw.generate_grouped_data(**request)
    assert sorted(computed) == sorted(np.unique(table // 10) * 10)


@pytest.mark.parametrize("source", ["store", "dask", "numpy"])
@pytest.mark.parametrize(
    "scheduler",
    ["synchronous", "threads", pytest.param("processes", marks=pytest.mark.slow)],
)
def test_lazy_arrays_are_the_same_under_every_scheduler(source, scheduler):
    raw = make_raw(make_scan(60), source)
    eager, lazy = (raw.generate_grouped_data(**REQUEST, lazy=lazy) for lazy in (False, True))
    for key in ("diffraction", "X_full", "Y"):
        got = lazy[key].compute(scheduler=scheduler, num_workers=2)
        np.testing.assert_array_equal(got, eager[key], err_msg=key, strict=True)


@pytest.mark.parametrize("source", ["store", "dask", "numpy"])
def test_dark_frames_become_nan_without_a_warning(source):
    scan = make_scan(20)
    scan.frames[:] = 0
    raw = make_raw(scan, source)
    for lazy in (False, True):
        grouped = compute(raw.generate_grouped_data(8, K=4, nsamples=5, gridsize=2, lazy=lazy))
        assert np.isnan(grouped["X_full"]).all()
        assert not grouped["diffraction"].any()


@pytest.mark.parametrize("source", ["store", "dask", "numpy"])
def test_no_groups_make_empty_arrays(source):
    lazy = make_raw(make_scan(20), source).generate_grouped_data(
        **REQUEST | {"nsamples": 0}, lazy=True
    )
    for key, dtype in (("diffraction", "f4"), ("X_full", "f4"), ("Y", "c8")):
        assert lazy[key].compute().shape == (0, 8, 8, 4)
        assert lazy[key].dtype == dtype


def test_a_lazy_array_takes_index_lists_as_their_outer_product():
    values = np.arange(120).reshape(5, 4, 3, 2)
    array = LazyArray(values.shape, values.dtype, values.__getitem__)
    got = array[[3, 0], 1, [2, 0, 1], :]
    np.testing.assert_array_equal(got, values[[3, 0]][:, 1][:, [2, 0, 1]])
    np.testing.assert_array_equal(array[2], values[2])


@pytest.mark.slow
def test_a_cluster_computes_groups_of_frames_that_live_on_it():
    distributed = pytest.importorskip("distributed")
    scan = make_scan(60)
    eager = make_raw(scan, "numpy").generate_grouped_data(**REQUEST)
    with distributed.Client(processes=False, n_workers=2, dashboard_address=None) as client:
        frames = client.persist(da.from_array(scan.frames, chunks=(7, 8, 8)))
        raws = [make_raw(scan, "store"), make_raw(scan, "numpy")]
        raws.append(RawDataTorch(*scan.positions.T, frames, scan.probe_guess, None))
        for raw in raws:
            lazy = raw.generate_grouped_data(**REQUEST, lazy=True)
            for key in ("diffraction", "X_full"):
                got = client.compute(lazy[key]).result()
                np.testing.assert_array_equal(got, eager[key], err_msg=key, strict=True)
