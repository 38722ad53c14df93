"""How well an order is shuffled: how far apart the groups of a batch are, how alike batches are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PAIRS = 200_000
_MIN_BATCHES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffleQuality:
    """What an order is like beside a uniform shuffle.

    Attributes
    ----------
    distance
        Mean distance between two groups of a batch over that between any two groups: 1 for a
        uniform shuffle, near 0 for neighbours.
    lag1
        Correlation between the centres of successive batches, x and y averaged: near 0 for a
        uniform shuffle, 1 for batches that creep over the sample.
    """

    distance: float
    lag1: float


def shuffle_quality(
    positions: NDArray[np.floating], batches: Sequence[NDArray[np.integer]]
) -> ShuffleQuality | None:
    """Return the quality of an order, or None for too few batches to tell.

    Parameters
    ----------
    positions : (n, 2), pixels
        Positions of the frames.
    batches
        (B, C) acquisition indices of each batch, in order of delivery.
    """
    full = [batch for batch in batches if len(batch) > 1]
    if len(full) < _MIN_BATCHES:
        return None
    centers = [positions[batch].mean(axis=1) for batch in full]
    every = np.concatenate(centers)
    rng = np.random.default_rng(0)
    pairs = rng.integers(len(every), size=(2, _PAIRS))
    pairs = pairs[:, pairs[0] != pairs[1]]
    anywhere = np.linalg.norm(every[pairs[0]] - every[pairs[1]], axis=1).mean()
    inside = np.mean([_mean_distance(center) for center in centers])
    middles = np.array([center.mean(axis=0) for center in centers])
    lag1 = np.mean([_correlation(middles[:-1, axis], middles[1:, axis]) for axis in range(2)])
    return ShuffleQuality(distance=float(inside / anywhere), lag1=float(lag1))


def _mean_distance(points: NDArray[np.floating]) -> float:
    """Return the mean distance over all pairs of different points (m, 2)."""
    difference = points[:, np.newaxis] - points[np.newaxis]
    total = np.linalg.norm(difference, axis=2).sum()
    return float(total / (len(points) * (len(points) - 1)))


def _correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return Pearson's correlation; 0 where one of them does not vary."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / norm) if norm > 0 else 0.0
