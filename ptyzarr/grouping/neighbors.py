"""Nearest neighbours of scan positions, from one search tree over the whole scan.

Splitting the queries never changes a row; splitting the tree would (on equal distances the
structure of the tree decides), so there is one tree, built over all positions in acquisition
order with the arguments that the reference uses.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask.array as da
import numpy as np
from dask.delayed import delayed
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from ptyzarr.compiled import available_cores
from ptyzarr.errors import DtypeError, GroupingError, ShapeError
from ptyzarr.scan import ScanLike

QUERY_BLOCK = 16384
"""Positions queried at once by one thread; bounds the distances that a query returns besides."""


class PositionTree:
    """One search tree over all positions, built at the first query.

    Pickling carries the positions alone, so a dask worker that receives the object builds the
    tree once and uses it for all its blocks.

    Parameters
    ----------
    positions : (n, 2) real, pixels
        Columns x, y in acquisition order; searched as float64.

    Raises
    ------
    ShapeError
        If `positions` is not (n, 2).
    DtypeError
        If `positions` is not real numbers.
    GroupingError
        If a position is NaN or infinite, or they are too far apart; see `as_points`.
    """

    def __init__(self, positions: ArrayLike) -> None:
        self._positions = as_points(positions)
        self._tree: Any = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[PositionTree], tuple[NDArray[np.float64]]]:
        return PositionTree, (self._positions,)

    def query(self, points: slice | NDArray[np.integer[Any]], k: int) -> NDArray[np.int64]:
        """Return the `k` positions nearest to each of `points`, nearest first.

        Parameters
        ----------
        points : slice or (m,) integers
            The positions to start from, by their numbers.
        k
            1 to n; the row contains the point itself unless coincident positions crowd it out.

        Returns
        -------
        rows : (m, k) int64
        """
        rows = self._built().query(self._positions[points], k=k)[1]
        return np.asarray(rows, dtype=np.int64).reshape(-1, k)

    def count_within(
        self, points: slice | NDArray[np.integer[Any]], radius: float
    ) -> NDArray[np.int64]:
        """Return how many positions, itself included, lie within `radius` pixels of each point.

        Returns
        -------
        counts : (m,) int64
        """
        counts = self._built().query_ball_point(self._positions[points], radius, return_length=True)
        return np.asarray(counts, dtype=np.int64)

    def _built(self) -> Any:
        with self._lock:
            if self._tree is None:
                self._tree = cKDTree(self._positions)
        return self._tree

    def visit(
        self,
        points: NDArray[np.integer[Any]],
        k: int,
        use: Callable[[slice, NDArray[np.int64]], None],
        *,
        block: int = QUERY_BLOCK,
        n_threads: int | None = None,
    ) -> None:
        """Query `points` block by block in threads and give each block to `use`.

        Parameters
        ----------
        points : (m,) integers
            The positions to start from, by their numbers.
        k
            1 to n.
        use
            Called in any order and from several threads with a slice of `points` and its rows
            (block, k) int64; the slices do not overlap.
        block
            Points queried at once.
        n_threads
            Threads (default: the processor cores that this process may use).
        """

        def run(part: slice) -> None:
            use(part, self.query(points[part], k))

        run_blocks(len(points), run, block=block, n_threads=n_threads)


def run_blocks(
    count: int,
    run: Callable[[slice], None],
    *,
    block: int = QUERY_BLOCK,
    n_threads: int | None = None,
) -> None:
    """Call `run` with slices that make up ``range(count)``, in any order and in threads.

    Parameters
    ----------
    count
        Points in all.
    run
        Called from several threads; the slices do not overlap.
    block
        Points in a slice; the last one may have fewer.
    n_threads
        Threads (default: the processor cores that this process may use).
    """
    slices = [slice(start, min(start + block, count)) for start in range(0, count, block)]
    n_threads = min(n_threads or available_cores(), len(slices))
    if n_threads <= 1:
        for part in slices:
            run(part)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(run, slices))


def neighbors(
    store_or_positions: ScanLike | ArrayLike, n_neighbors: int, block: int = 65536
) -> Any:
    """Return the neighbour candidates of every position as a lazy dask array, nearest first.

    The order of equally distant neighbours is the one of the reference's search tree, whatever
    the block size and the scheduler.

    Parameters
    ----------
    store_or_positions : ScanLike or (n, 2) real, pixels
        A scan, or its positions (columns x, y) in acquisition order.
    n_neighbors
        K, the number of neighbours besides the nearest result.
    block
        Positions per dask chunk.

    Returns
    -------
    rows : (n, min(n_neighbors + 1, n)) int64 dask array
        Row i holds acquisition indices by ascending distance from position i; the first one is i
        itself unless other positions coincide with it.

    Raises
    ------
    GroupingError
        If there are no positions, one is not finite, they are too far apart, or `n_neighbors` or
        `block` is too small.

    References
    ----------
    PtychoPINN, ``ptycho/raw_data.py``, ``get_neighbor_indices``.
    """
    positions = as_positions(getattr(store_or_positions, "positions", store_or_positions))
    n_positions = len(positions)
    k = min(as_integer("n_neighbors", n_neighbors, minimum=0) + 1, n_positions)
    block = as_integer("block", block, minimum=1)
    if n_positions == 0:
        raise GroupingError("the scan has no positions; expected at least one")
    # One graph node for the tree: tasks share it, a distributed worker receives it once.
    tree = delayed(PositionTree(positions), traverse=False, pure=False)
    query = delayed(PositionTree.query, pure=False)
    parts = [
        da.from_delayed(query(tree, slice(start, stop), k), shape=(stop - start, k), dtype=np.int64)
        for start in range(0, n_positions, block)
        for stop in [min(start + block, n_positions)]
    ]
    return da.concatenate(parts)


def as_positions(positions: Any) -> NDArray[Any]:
    """Return `positions` as an (n, 2) array of real numbers.

    Raises
    ------
    ShapeError
        If the shape is another one.
    DtypeError
        If they are not real numbers.
    """
    array = np.asarray(positions)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ShapeError(f"positions have shape {array.shape}; expected (n, 2), columns x and y")
    if array.dtype.kind not in "fiu":
        raise DtypeError(f"positions have dtype {array.dtype}; expected real numbers")
    return array


def check_finite(positions: NDArray[Any]) -> NDArray[Any]:
    """Return `positions` (n, 2) unchanged.

    Raises
    ------
    GroupingError
        If one is NaN or infinite: such a distance has no place in an order.
    """
    is_bad = ~np.isfinite(positions).all(axis=1)
    if is_bad.any():
        first = int(np.argmax(is_bad))
        x, y = positions[first]
        raise GroupingError(
            f"position {first} is ({x}, {y}) and {int(is_bad.sum())} of {len(positions)} are not "
            "finite; expected finite coordinates; leave these frames out"
        )
    return positions


def as_points(positions: Any) -> NDArray[np.float64]:
    """Return positions (n, 2) as float64 points between which there are distances.

    Raises
    ------
    ShapeError, DtypeError
        As `as_positions`.
    GroupingError
        If one is NaN or infinite, or their extents squared are more than float64 holds: a tree
        then finds no neighbours.
    """
    found = check_finite(as_positions(positions))
    with np.errstate(over="ignore"):
        points = found.astype(np.float64, copy=False)
        extents = np.ptp(points, axis=0) if len(points) else np.zeros(2)
        is_far = not np.isfinite(np.square(extents).sum())
    if is_far:
        raise GroupingError(
            f"the positions reach over {extents[0]:g} x {extents[1]:g} pixels, whose squares "
            "overflow float64; expected distances that can be compared; leave out or repair the "
            "points that are far away"
        )
    return points


def as_integer(name: str, value: Any, *, minimum: int | None = None) -> int:
    """Return `value` as a plain int.

    Raises
    ------
    DtypeError
        If it is not an integer.
    GroupingError
        If it is below `minimum`.
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise DtypeError(f"{name} is {value!r}; expected an integer") from error
    if minimum is not None and number < minimum:
        raise GroupingError(f"{name} is {number}; expected {minimum} or more")
    return number
