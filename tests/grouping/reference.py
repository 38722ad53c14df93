"""The grouping contract in plain Python: one generator call and one query a group.

Written from the contract alone, without the package, for comparison with it.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy.spatial import cKDTree


def reference_groups(
    positions: np.ndarray,
    n_samples: int,
    gridsize: int,
    n_neighbors: int,
    stream: np.random.RandomState,
    sequential: bool = False,
    pool_size: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (nn_indices, seeds), advancing `stream`, which was seeded by the caller."""
    n, size = len(positions), gridsize * gridsize
    if n_samples > n and size > 1:
        pool_size = n_neighbors if pool_size is None else pool_size
        return _oversampled(positions, n_samples, size, pool_size, stream, sequential)
    if sequential:
        stream.seed(0)
    seeds = _seeds(n, min(n_samples, n), stream, sequential)
    if size == 1:
        return np.array(seeds, dtype=np.int64).reshape(-1, 1), np.array(seeds, dtype=np.int64)
    tree = cKDTree(positions)
    groups = []
    for seed in seeds:
        row = np.atleast_1d(tree.query(positions[seed], k=min(n_neighbors + 1, n))[1])
        candidates = row[1:] if n >= n_neighbors + 1 else row
        groups.append(stream.choice(candidates, size, replace=False))
    return np.array(groups, dtype=np.int32).reshape(-1, size), np.array(seeds, dtype=np.int64)


def _seeds(n: int, wanted: int, stream: np.random.RandomState, sequential: bool) -> list[int]:
    if sequential or wanted == n:
        return list(range(wanted))
    return list(stream.choice(np.arange(n), wanted, replace=False))


def _oversampled(
    positions: np.ndarray,
    n_samples: int,
    size: int,
    pool_size: int,
    stream: np.random.RandomState,
    sequential: bool,
) -> tuple[np.ndarray, np.ndarray]:
    n = len(positions)
    needed = max(1, math.ceil(n_samples / math.comb(pool_size, size)))
    seeds = _seeds(n, min(2 * needed, n), stream, sequential)
    tree = cKDTree(positions)
    pool: list[tuple[int, ...]] = []
    owners: list[int] = []
    for seed in seeds:
        row = list(np.atleast_1d(tree.query(positions[seed], k=min(pool_size + 1, n))[1]))[1:]
        row = row if len(row) >= size else [seed, *row]
        for subset in itertools.combinations(row, size):
            if len(pool) < 2 * n_samples:
                pool.append(subset)
                owners.append(seed)
    chosen = stream.choice(len(pool), n_samples, replace=n_samples > len(pool))
    groups = np.array(pool, dtype=np.int64)[chosen]
    return groups, np.array(owners, dtype=np.int64)[chosen]
