"""The canonical groups: which frames form each group, exactly as the reference draws them."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptyzarr.compiled import kernel
from ptyzarr.errors import GroupingError
from ptyzarr.grouping.draws import Seed, draw_ranks, legacy_stream
from ptyzarr.grouping.neighbors import PositionTree, as_integer, as_positions, check_finite

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class GroupTable:
    """The members of every group.

    Attributes
    ----------
    nn_indices : (n_groups, C) int32 or int64
        Acquisition indices of the members in channel order. Canonical: int32 for groups of several
        frames without oversampling, as in the reference, else int64. Other strategies: int32.
    seeds : (n_groups,) int64
        The position that each group was drawn for. It need not be a member of its group.
    """

    nn_indices: NDArray[np.int32] | NDArray[np.int64]
    seeds: NDArray[np.int64]

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return int(self.nn_indices.shape[0])

    @property
    def group_size(self) -> int:
        """C, the number of frames in a group."""
        return int(self.nn_indices.shape[1])


@dataclass(frozen=True, slots=True)
class _Request:
    """The numbers of one selection: n, S, C, K, P and the mode."""

    n_positions: int
    n_samples: int
    group_size: int
    n_neighbors: int
    pool_size: int
    is_sequential: bool
    may_oversample: bool

    @property
    def oversamples(self) -> bool:
        return self.n_samples > self.n_positions and self.group_size > 1

    def check_route(self) -> None:
        if not self.oversamples:
            return
        if not self.may_oversample:
            raise GroupingError(
                f"n_samples is {self.n_samples} for {self.n_positions} positions; expected at most "
                "as many; ask for fewer groups or set enable_oversampling"
            )
        if self.pool_size < self.group_size:
            raise GroupingError(
                f"the neighbour pool has {self.pool_size} positions; expected at least "
                f"{self.group_size}, the group size; raise neighbor_pool_size"
            )

    def check_counts(self) -> None:
        if self.n_positions < self.group_size:
            raise GroupingError(
                f"the scan has {self.n_positions} positions; expected at least {self.group_size}, "
                "the group size; use a smaller gridsize"
            )
        if self.n_neighbors < self.group_size:
            raise GroupingError(
                f"n_neighbors is {self.n_neighbors}; expected at least {self.group_size}, the "
                "group size; raise it or use a smaller gridsize"
            )
        if self.n_samples < 0 and not self.is_sequential:
            raise GroupingError(f"n_samples is {self.n_samples}; expected 0 or more")


def select_groups(
    positions: ArrayLike,
    n_samples: int,
    gridsize: int,
    n_neighbors: int,
    seed: Seed = None,
    sequential_sampling: bool = False,
    enable_oversampling: bool = False,
    neighbor_pool_size: int | None = None,
) -> GroupTable:
    """Draw the canonical groups of a scan.

    Parameters
    ----------
    positions : (n, 2) real, pixels
        Columns x, y in acquisition order.
    n_samples
        S, the number of groups asked for. Groups of one frame are capped at n with a warning.
    gridsize
        Groups have C = gridsize**2 frames.
    n_neighbors
        K, the nearest neighbours among which a group is drawn.
    seed
        Seed of the legacy stream, None for fresh entropy, or a ``RandomState``, which is continued
        and left where the reference would leave the global generator.
    sequential_sampling
        Take the first positions in order; the stream then restarts from 0 whatever `seed` is,
        except when oversampling.
    enable_oversampling
        Allow more groups than positions for C > 1, drawn from combinations of neighbours.
    neighbor_pool_size
        P, neighbours that oversampling combines (default K).

    Returns
    -------
    GroupTable

    Raises
    ------
    GroupingError
        If these groups cannot be drawn: too few positions or neighbours, S > n without
        oversampling, a seed out of range, positions that are not finite.
    DtypeError
        If the seed or a count is not an integer.
    ShapeError
        If `positions` is not (n, 2).

    References
    ----------
    PtychoPINN, ``ptycho/raw_data.py``, ``generate_grouped_data`` and the functions it calls.
    """
    positions = as_positions(positions)
    n_neighbors = as_integer("n_neighbors", n_neighbors)
    pool = n_neighbors if neighbor_pool_size is None else neighbor_pool_size
    request = _Request(
        n_positions=len(positions),
        n_samples=as_integer("n_samples", n_samples),
        group_size=as_integer("gridsize", gridsize, minimum=1) ** 2,
        n_neighbors=n_neighbors,
        pool_size=as_integer("neighbor_pool_size", pool),
        is_sequential=bool(sequential_sampling),
        may_oversample=bool(enable_oversampling),
    )
    request.check_route()
    if request.oversamples or not request.is_sequential:
        stream = legacy_stream(seed)
    else:
        # The reference restarts its stream here and never looks at the seed.
        stream = seed if isinstance(seed, np.random.RandomState) else np.random.RandomState(0)
        stream.seed(0)
    request.check_counts()
    if request.oversamples:
        return _select_oversampled(positions, request, stream)
    return _select_standard(positions, request, stream)


def _select_standard(
    positions: NDArray[Any], request: _Request, stream: np.random.RandomState
) -> GroupTable:
    n_groups = max(0, min(request.n_samples, request.n_positions))
    seeds = _draw_seeds(request, n_groups, stream)
    if request.group_size == 1:
        check_finite(positions)
        if request.n_samples > request.n_positions:
            logger.warning(
                "n_samples is %d for %d positions; groups of one frame are capped at the latter",
                request.n_samples, request.n_positions,
            )  # fmt: skip
        return GroupTable(seeds[:, np.newaxis].copy(), seeds)
    tree = PositionTree(positions)
    k = min(request.n_neighbors + 1, request.n_positions)
    # The first result goes whatever it is, but only where K + 1 results exist.
    first = 1 if request.n_positions >= request.n_neighbors + 1 else 0
    members = draw_ranks(stream, n_groups, k - first, request.group_size)

    def replace_ranks(part: slice, rows: NDArray[np.int64]) -> None:
        members[part] = np.take_along_axis(rows[:, first:], members[part].astype(np.int64), axis=1)

    tree.visit(seeds, k, replace_ranks)
    return GroupTable(members, seeds)


def _draw_seeds(
    request: _Request, n_seeds: int, stream: np.random.RandomState
) -> NDArray[np.int64]:
    """Return the positions (n_seeds,) int64 that groups are drawn for, in drawn order."""
    if request.is_sequential or n_seeds == request.n_positions:
        return np.arange(n_seeds, dtype=np.int64)
    drawn = stream.choice(request.n_positions, n_seeds, replace=False)
    # A copy: the draw is a view of a permutation of all positions.
    return drawn.astype(np.int64)


def _select_oversampled(
    positions: NDArray[Any], request: _Request, stream: np.random.RandomState
) -> GroupTable:
    """Draw from the pool of neighbour combinations without making the pool.

    Every seed point contributes equally many combinations, so a pool entry is a pair (seed point,
    combination number).
    """
    n_samples, group_size = request.n_samples, request.group_size
    per_seed = math.comb(request.pool_size, group_size)
    n_wanted = max(1, -(-n_samples // per_seed))
    seeds = _draw_seeds(request, min(2 * n_wanted, request.n_positions), stream)
    candidates = _pool_candidates(positions, request, seeds)
    per_seed = min(math.comb(candidates.shape[1], group_size), 2 * n_samples)
    n_pool = min(2 * n_samples, len(seeds) * per_seed)
    if n_samples > n_pool:
        logger.warning(
            "oversampling found %d combinations for %d groups; some are drawn repeatedly",
            n_pool, n_samples,
        )  # fmt: skip
    chosen = stream.choice(n_pool, n_samples, replace=n_samples > n_pool)
    seed_numbers, subset_numbers = np.divmod(chosen.astype(np.int64), per_seed)
    subsets = _first_subsets(candidates.shape[1], group_size, min(per_seed, n_pool))
    members = np.empty((n_samples, group_size), dtype=np.int64)
    for channel in range(group_size):
        members[:, channel] = candidates[seed_numbers, subsets[subset_numbers, channel]]
    return GroupTable(members, seeds[seed_numbers])


def _pool_candidates(
    positions: NDArray[Any], request: _Request, seeds: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the candidates (n_seeds, m) int64 that each seed point combines, nearest first."""
    tree = PositionTree(positions)
    k = min(request.pool_size + 1, request.n_positions)
    rows = np.empty((len(seeds), k), dtype=np.int64)

    def keep(part: slice, found: NDArray[np.int64]) -> None:
        rows[part] = found

    tree.visit(seeds, k, keep)
    if k - 1 >= request.group_size:
        return rows[:, 1:]
    # Only as many positions as a group needs: the seed point joins, ahead of its neighbours.
    rows[:, 0] = seeds
    return rows


def _first_subsets(n_items: int, size: int, count: int) -> NDArray[np.int32]:
    """Return the first `count` subsets (count, size) of ``range(n_items)``, lexicographic."""
    subsets = np.empty((count, size), dtype=np.int32)
    _fill_subsets(n_items, subsets)
    return subsets


@kernel
def _fill_subsets(n_items: int, subsets: NDArray[np.int32]) -> None:  # pragma: no cover - compiled
    """Fill `subsets` with the lexicographically first subsets of ``range(n_items)``."""
    count, size = subsets.shape
    for i in range(size):
        subsets[0, i] = i
    for row in range(1, count):
        last = size - 1
        while subsets[row - 1, last] == n_items - size + last:
            last -= 1
        for i in range(size):
            subsets[row, i] = subsets[row - 1, i]
        subsets[row, last] += 1
        for i in range(last + 1, size):
            subsets[row, i] = subsets[row, i - 1] + 1
