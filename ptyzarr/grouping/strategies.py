"""The rules by which a scan's groups are drawn, by name: the canonical one and the torch loader's.

The torch loader of the reference draws groups around *centres*: the positions within bounds, each
`n_subsample` times. What a centre draws depends on the positions, the options, the seed and its
place among the centres, never on blocks or threads.

References
----------
PtychoPINN, ``ptycho_torch/dataloader.py`` and ``ptycho_torch/patch_generator.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.config import GroupingConfig
from ptyzarr.errors import DtypeError, GroupingError
from ptyzarr.grouping.eligible import eligible_positions
from ptyzarr.grouping.neighbors import (
    QUERY_BLOCK,
    PositionTree,
    as_points,
    as_positions,
    check_finite,
    run_blocks,
)
from ptyzarr.grouping.picks import keep_band, pick_quadrants, pick_subsets, random_words
from ptyzarr.grouping.select import GroupTable, select_groups
from ptyzarr.scan import ScanLike

logger = logging.getLogger(__name__)

BLOCK_ITEMS = 2**21  # random words, and neighbours found, that a thread holds at once
_QUERY_STEP = 8  # numbers of neighbours that are queried together; few queries, little surplus


def group_table(scan: ScanLike, config: GroupingConfig) -> GroupTable:
    """Draw the groups of `scan` by the strategy of `config`.

    Canonical groups with ``n_samples=None`` are one for each position.

    Raises
    ------
    GroupingError
        If these groups cannot be drawn: too few positions or neighbours, none that the options
        allow, a seed out of range, positions that are not finite.
    DtypeError
        If the seed is not an integer, or the positions are not real numbers.
    ShapeError
        If the positions are not (n, 2).
    """
    return STRATEGIES[config.strategy](scan.positions, config)


def canonical_groups(positions: NDArray[Any], config: GroupingConfig) -> GroupTable:
    """Return the groups that the reference's ``generate_grouped_data`` draws."""
    return select_groups(
        positions,
        len(positions) if config.n_samples is None else config.n_samples,
        config.gridsize,
        config.n_neighbors,
        seed=config.seed,
        sequential_sampling=config.sequential_sampling,
        enable_oversampling=config.enable_oversampling,
        neighbor_pool_size=config.neighbor_pool_size,
    )


def nearest_groups(positions: NDArray[Any], config: GroupingConfig) -> GroupTable:
    """Return random C-subsets of each centre and its K nearest centres.

    Centres alone are candidates: nothing outside the bounds is in a group. Groups of one frame
    are the centres themselves.
    """
    points, centers = _centers(positions, config)
    draw = _Draw(centers, config)
    if config.group_size == 1:
        draw.members[:] = centers[:, np.newaxis, np.newaxis]
        return draw.table()
    _check_candidates(config.n_neighbors + 1, config, "n_neighbors + 1")
    _check_candidates(len(centers), config, "positions within bounds")
    tree = PositionTree(points[centers])
    k = min(config.n_neighbors + 1, len(centers))

    def fill(part: slice) -> None:
        rows = centers[tree.query(part, k)]
        pick_subsets(rows, np.full(len(rows), k), draw.words(part), draw.members[part])

    draw.run(fill, k)
    return draw.table()


def band_groups(positions: NDArray[Any], config: GroupingConfig) -> GroupTable:
    """Return random C-subsets of each centre's K nearest centres between two distances.

    Both distances are in the band, so with a least distance of 0 the centre is a candidate. A
    centre with fewer than C candidates has no groups.
    """
    points, centers = _centers(positions, config)
    _check_candidates(config.n_neighbors, config, "n_neighbors")
    n_neighbors = min(config.n_neighbors, len(centers))
    draw = _Draw(centers, config)
    points = points[centers]
    tree = PositionTree(points)
    limits = _limits(config)

    def fill(part: slice) -> None:
        kept = np.empty((part.stop - part.start, n_neighbors), np.int64)
        for block, k in _band_queries(tree, part, config, len(centers)):
            numbers = part.start + block
            found = np.empty((len(block), n_neighbors), np.int64)
            keep_band(points, numbers, tree.query(numbers, k), limits, found)
            kept[block] = found
        counts = np.count_nonzero(kept >= 0, axis=1)
        is_kept = draw.is_kept[part] = counts >= config.group_size
        members = draw.members[part]
        picked = np.empty((int(is_kept.sum()), *members.shape[1:]), np.int32)
        pick_subsets(centers[kept[is_kept]], counts[is_kept], draw.words(part)[is_kept], picked)
        members[is_kept] = picked

    draw.run(fill, n_neighbors)
    return draw.table()


def quadrant_groups(positions: NDArray[Any], config: GroupingConfig) -> GroupTable:
    """Return groups of one neighbour in each quadrant around a centre.

    The K nearest positions are candidates, those outside the bounds too, at least
    `min_neighbor_distance` and less than `max_neighbor_distance` away and not on an axis through
    the centre. At most one of the four may be the centre instead. A centre with two empty
    quadrants has no groups.
    """
    points, centers = _centers(positions, config)
    draw = _Draw(centers, config)
    tree = PositionTree(points)
    limits = _limits(config)
    k = min(config.n_neighbors + 1, len(points))

    def fill(part: slice) -> None:
        numbers = centers[part]
        pick_quadrants(
            points, numbers, tree.query(numbers, k), limits,
            draw.words(part, 1)[:, :, 0], draw.members[part], draw.is_kept[part],
        )  # fmt: skip

    draw.run(fill, k)
    return draw.table()


#: What draws the groups, by the names that `GroupingConfig.strategy` takes.
STRATEGIES: Mapping[str, Callable[[NDArray[Any], GroupingConfig], GroupTable]] = {
    "canonical": canonical_groups,
    "nearest": nearest_groups,
    "band": band_groups,
    "quadrant": quadrant_groups,
}


class _Draw:
    """The groups of all centres while they are filled in, and the random words they take.

    Attributes
    ----------
    members : (m, n_subsample, C) int32
    is_kept : (m,) bool
        Centres that have groups.
    """

    def __init__(self, centers: NDArray[np.int64], config: GroupingConfig) -> None:
        self.members = np.empty((len(centers), config.n_subsample, config.group_size), np.int32)
        self.is_kept = np.ones(len(centers), dtype=bool)
        self._centers = centers
        self._config = config
        self._source = _random_source(config.seed)

    def words(self, part: slice, n_words: int | None = None) -> NDArray[np.uint64]:
        """Return the words (m, n_subsample, C or `n_words`) uint64 of some centres."""
        n_subsample = self.members.shape[1]
        n_words = n_words or self.members.shape[2]
        width = n_subsample * n_words
        words = random_words(self._source, part.start * width, (part.stop - part.start) * width)
        return words.reshape(-1, n_subsample, n_words)

    def run(self, fill: Callable[[slice], None], n_candidates: int) -> None:
        """Call `fill` for blocks of centres, in threads; a block's memory is bounded."""
        items = max(n_candidates, int(np.prod(self.members.shape[1:])))
        run_blocks(len(self._centers), fill, block=max(1, min(QUERY_BLOCK, BLOCK_ITEMS // items)))

    def table(self) -> GroupTable:
        """Return the groups, centre after centre.

        Raises
        ------
        GroupingError
            If no centre has any.
        """
        members, centers = self.members, self._centers
        n_kept, strategy = int(self.is_kept.sum()), self._config.strategy
        if n_kept == 0:
            raise GroupingError(
                f"none of {len(centers)} positions has the neighbours that strategy {strategy!r} "
                "asks for; expected some; raise n_neighbors or widen the distances or bounds"
            )
        if n_kept < len(centers):
            logger.warning(
                "%d of %d positions have too few neighbours for strategy %r and no groups",
                len(centers) - n_kept, len(centers), strategy,
            )  # fmt: skip
            members, centers = members[self.is_kept], centers[self.is_kept]
        seeds = np.repeat(centers, members.shape[1])
        return GroupTable(members.reshape(len(seeds), members.shape[2]), seeds)


def _centers(
    positions: NDArray[Any], config: GroupingConfig
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return all positions (n, 2) as the distances take them, and the numbers of the centres."""
    points = check_finite(as_positions(positions))
    centers = eligible_positions(points, config.x_bounds, config.y_bounds)
    if len(centers) == 0:
        raise GroupingError(
            f"none of {len(points)} positions is within x_bounds {config.x_bounds} and y_bounds "
            f"{config.y_bounds}; expected some; widen the bounds"
        )
    return np.ascontiguousarray(as_points(points)), centers


def _check_candidates(count: int, config: GroupingConfig, what: str) -> None:
    if count < config.group_size:
        raise GroupingError(
            f"{what}: {count} for groups of {config.group_size}; expected at least as many; raise "
            "n_neighbors, widen the bounds or use a smaller gridsize"
        )


def _limits(config: GroupingConfig) -> NDArray[np.float64]:
    most = config.max_neighbor_distance
    return np.array([config.min_neighbor_distance, np.inf if most is None else most])


def _band_queries(
    tree: PositionTree, part: slice, config: GroupingConfig, n_points: int
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Yield places in `part` and how many neighbours they must be asked for, each place once.

    Those nearer than the band come first in a query. How many it must return is decided for each
    position by itself: equal distances at the end of a row would otherwise be cut by what else
    is in the block.
    """
    # A little more than the least distance: the tree rounds in its own way.
    radius = config.min_neighbor_distance * (1 + 1e-9)
    wanted = tree.count_within(part, radius) + config.n_neighbors
    steps = np.minimum(-(-wanted // _QUERY_STEP) * _QUERY_STEP, n_points)
    for k in np.unique(steps).tolist():
        places = np.flatnonzero(steps == k)
        for block in np.array_split(places, -(-len(places) * k // BLOCK_ITEMS)):
            yield block, k


def _random_source(seed: Any) -> np.random.SeedSequence:
    """Return what the words are made from; None is fresh entropy.

    Raises
    ------
    GroupingError
        If the seed is negative.
    DtypeError
        If it is no integer.
    """
    if seed is None:
        return np.random.SeedSequence()
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise DtypeError(f"seed is {seed!r}; expected an integer")
    if seed < 0:
        raise GroupingError(f"seed is {seed}; expected 0 or more")
    return np.random.SeedSequence(int(seed))
