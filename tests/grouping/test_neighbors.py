from __future__ import annotations

import pickle
import sys

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from ptyzarr.errors import DtypeError, GroupingError, ShapeError
from ptyzarr.grouping import neighbors
from ptyzarr.grouping.neighbors import PositionTree

from .memory_scan import make_scan

RASTER = np.stack(np.meshgrid(np.arange(11.0), np.arange(9.0)), axis=-1).reshape(-1, 2)


def whole_query(positions: np.ndarray, k: int) -> np.ndarray:
    return cKDTree(positions).query(positions, k=k)[1].reshape(len(positions), k)


# Coordinates from few values: equal distances and coincident positions are the rule.
tied_positions = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60
).map(lambda pairs: np.array(pairs, dtype=np.float64))


@settings(deadline=None)  # threads start late on a busy machine
@given(positions=tied_positions, n_neighbors=st.integers(0, 12), block=st.integers(1, 70))
def test_rows_do_not_depend_on_the_block_size_even_where_distances_tie(
    positions, n_neighbors, block
):
    k = min(n_neighbors + 1, len(positions))
    rows = neighbors(positions, n_neighbors, block=block)
    assert rows.shape == (len(positions), k)
    assert rows.dtype == np.int64
    wanted = whole_query(positions, k)
    np.testing.assert_array_equal(rows.compute(scheduler="synchronous"), wanted)


@settings(deadline=None)  # threads start late on a busy machine
@given(positions=tied_positions, block=st.integers(1, 20), n_threads=st.integers(1, 4))
def test_eager_rows_do_not_depend_on_blocks_and_threads(positions, block, n_threads):
    k = min(7, len(positions))
    points = np.arange(len(positions))[::-1]
    rows = np.full((len(points), k), -1)

    def keep(part: slice, found: np.ndarray) -> None:
        rows[part] = found

    PositionTree(positions).visit(points, k, keep, block=block, n_threads=n_threads)
    np.testing.assert_array_equal(rows, whole_query(positions, k)[::-1])


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_rows_do_not_depend_on_the_scheduler(scheduler):
    rows = neighbors(RASTER, 6, block=10).compute(scheduler=scheduler)
    np.testing.assert_array_equal(rows, whole_query(RASTER, 7))


@pytest.mark.slow
def test_rows_are_the_same_from_other_processes():
    rows = neighbors(RASTER, 6, block=40).compute(scheduler="processes", num_workers=2)
    np.testing.assert_array_equal(rows, whole_query(RASTER, 7))


def test_building_the_array_builds_no_tree_and_computing_builds_one(monkeypatch):
    built = []

    def counting_tree(positions):
        built.append(len(positions))
        return cKDTree(positions)

    # The package's attribute of this name is the function, not the module.
    monkeypatch.setattr(sys.modules[PositionTree.__module__], "cKDTree", counting_tree)
    rows = neighbors(RASTER, 6, block=5)
    assert built == []
    rows.compute(scheduler="threads", num_workers=4)
    assert built == [len(RASTER)]


def test_a_slice_queries_its_blocks_only(monkeypatch):
    queried = []
    query = PositionTree.query

    def counting_query(self, points, k):
        queried.append(points)
        return query(self, points, k)

    monkeypatch.setattr(PositionTree, "query", counting_query)
    rows = neighbors(RASTER, 6, block=10)[20:30].compute(scheduler="synchronous")
    np.testing.assert_array_equal(rows, whole_query(RASTER, 7)[20:30])
    assert queried == [slice(20, 30)]


def test_pickling_carries_the_positions_and_not_the_tree():
    tree = PositionTree(RASTER)
    before = len(pickle.dumps(tree))
    tree.query(slice(0, 5), 3)
    assert len(pickle.dumps(tree)) == before
    again = pickle.loads(pickle.dumps(tree))
    np.testing.assert_array_equal(again.query(slice(None), 7), whole_query(RASTER, 7))


def test_a_scan_gives_its_positions():
    scan = make_scan(30)
    rows = neighbors(scan, 4).compute()
    np.testing.assert_array_equal(rows, whole_query(scan.positions, 5))
    assert scan.reads == []


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint8"])
def test_positions_are_searched_as_float64(dtype):
    positions = RASTER.astype(dtype)
    np.testing.assert_array_equal(neighbors(positions, 6).compute(), whole_query(RASTER, 7))


def test_few_positions_give_short_rows():
    assert neighbors(RASTER[:3], 10).shape == (3, 3)
    np.testing.assert_array_equal(neighbors(RASTER[:1], 10).compute(), [[0]])


@pytest.mark.parametrize(
    ("positions", "n_neighbors", "block", "error", "message"),
    [
        pytest.param(
            [[0, 1], [np.nan, 2]], 1, 1, GroupingError, r"position 1 is \(nan, 2.0\)", id="nan"
        ),
        pytest.param([[0, np.inf]], 1, 1, GroupingError, "not finite", id="inf"),
        pytest.param([[0, 0], [1e300, 2]], 1, 1, GroupingError, "1e\\+300 x 2 pixels", id="far"),
        pytest.param([[-1e308, 0], [1e308, 2]], 1, 1, GroupingError, "overflow", id="farther"),
        pytest.param(np.empty((0, 2)), 1, 1, GroupingError, "no positions", id="empty"),
        pytest.param(np.zeros((4, 3)), 1, 1, ShapeError, r"\(4, 3\)", id="three-columns"),
        pytest.param(np.zeros(4), 1, 1, ShapeError, r"\(4,\)", id="one-dimension"),
        pytest.param(np.zeros((4, 2), complex), 1, 1, DtypeError, "complex128", id="complex"),
        pytest.param(RASTER, -1, 1, GroupingError, "n_neighbors is -1", id="negative-k"),
        pytest.param(RASTER, 1.5, 1, DtypeError, "n_neighbors is 1.5", id="float-k"),
        pytest.param(RASTER, 1, 0, GroupingError, "block is 0", id="no-block"),
    ],
)
def test_input_that_has_no_neighbours_is_refused(positions, n_neighbors, block, error, message):
    with pytest.raises(error, match=message):
        neighbors(positions, n_neighbors, block=block)


@pytest.mark.slow
def test_a_cluster_gets_the_same_rows():
    distributed = pytest.importorskip("distributed")
    with (
        dask.config.set({"distributed.worker.daemon": False}),
        distributed.Client(processes=False, n_workers=2, dashboard_address=None) as client,
    ):
        rows = client.compute(neighbors(RASTER, 6, block=10)).result()
    np.testing.assert_array_equal(rows, whole_query(RASTER, 7))
