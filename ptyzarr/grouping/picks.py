"""Random picks among candidates: the words they take, and the kernels that make them.

The words come from Philox, a generator that can be put anywhere in its stream: the picks of
position j take words j * w, ..., (j + 1) * w - 1, whatever block and thread they are made in. A
raw word is the same in every version of NumPy.

References
----------
PtychoPINN, ``ptycho_torch/patch_generator.py``, ``sample_rows`` and
``get_fixed_quadrant_neighbors_c4``; J. K. Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC '11.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.compiled import kernel

_WORDS_A_STEP = 4  # 64-bit words that Philox makes of one value of its counter


def random_words(source: np.random.SeedSequence, first: int, count: int) -> NDArray[np.uint64]:
    """Return words number `first` to ``first + count - 1`` of the stream that `source` begins.

    Returns
    -------
    words : (count,) uint64
    """
    generator = np.random.Philox(source)
    generator.advance(first // _WORDS_A_STEP)
    skipped = first % _WORDS_A_STEP
    return np.asarray(generator.random_raw(skipped + count)[skipped:])


@kernel
def pick_subsets(  # pragma: no cover - compiled
    candidates: NDArray[np.int64],
    counts: NDArray[np.int64],
    words: NDArray[np.uint64],
    members: NDArray[np.int32],
) -> None:
    """Fill `members` with subsets of each row's candidates, uniform and in drawn order.

    Parameters
    ----------
    candidates : (m, k) int64
        Row i has ``counts[i]`` of them, at least the size of a subset.
    counts : (m,) int64
    words : (m, n_subsample, C) uint64
    members : (m, n_subsample, C) int32
        Written.
    """
    n_rows, n_subsample, size = words.shape
    shuffled = np.empty(candidates.shape[1], dtype=np.int64)
    for row in range(n_rows):
        count = counts[row]
        for sample in range(n_subsample):
            shuffled[:count] = candidates[row, :count]
            for i in range(size):
                place = i + _bounded(words[row, sample, i], count - i)
                picked = shuffled[place]
                shuffled[place] = shuffled[i]
                shuffled[i] = picked
                members[row, sample, i] = picked


@kernel
def keep_band(  # pragma: no cover - compiled
    positions: NDArray[np.float64],
    centers: NDArray[np.int64],
    rows: NDArray[np.int64],
    limits: NDArray[np.float64],
    kept: NDArray[np.int64],
) -> None:
    """Fill `kept` with the first candidates of each row that lie in the band; -1 after them.

    Parameters
    ----------
    positions : (n, 2) float64, pixels
    centers : (m,) int64
    rows : (m, k) int64
        Neighbours of each centre, nearest first.
    limits : (2,) float64, pixels
        Least and largest distance, both in the band.
    kept : (m, K) int64
        Written.
    """
    for i in range(rows.shape[0]):
        found = 0
        for neighbor in rows[i]:
            distance = _distance(positions, centers[i], neighbor)
            if found < kept.shape[1] and limits[0] <= distance <= limits[1]:
                kept[i, found] = neighbor
                found += 1
        kept[i, found:] = -1


@kernel
def pick_quadrants(  # pragma: no cover - compiled
    positions: NDArray[np.float64],
    centers: NDArray[np.int64],
    rows: NDArray[np.int64],
    limits: NDArray[np.float64],
    words: NDArray[np.uint64],
    members: NDArray[np.int32],
    is_kept: NDArray[np.bool_],
) -> None:
    """Fill `members` with one neighbour of each quadrant, at most one of the four the centre.

    All groups of that kind are equally likely. A position has one unless two quadrants are empty.

    Parameters
    ----------
    positions : (n, 2) float64, pixels
    centers : (m,) int64
    rows : (m, k) int64
        Neighbours of each centre.
    limits : (2,) float64, pixels
        Least distance, and the one that all distances are below.
    words : (m, n_subsample) uint64
    members : (m, n_subsample, 4) int32
        Written: upper left, upper right, lower left, lower right; y is up.
    is_kept : (m,) bool
        Written: whether the position has a group.
    """
    found = np.empty((4, rows.shape[1]), dtype=np.int64)
    for i in range(rows.shape[0]):
        center = centers[i]
        counts = np.zeros(4, dtype=np.int64)
        for neighbor in rows[i]:
            distance = _distance(positions, center, neighbor)
            right = positions[neighbor, 0] - positions[center, 0]
            up = positions[neighbor, 1] - positions[center, 1]
            if right != 0 and up != 0 and limits[0] <= distance < limits[1]:
                quadrant = (1 if right > 0 else 0) + (2 if up < 0 else 0)
                found[quadrant, counts[quadrant]] = neighbor
                counts[quadrant] += 1
        is_kept[i] = np.count_nonzero(counts) >= 3
        if is_kept[i]:
            for sample in range(words.shape[1]):
                _pick_four(found, counts, center, words[i, sample], members[i, sample])


@kernel
def _pick_four(  # pragma: no cover - compiled
    found: NDArray[np.int64],
    counts: NDArray[np.int64],
    center: int,
    word: Any,
    members: NDArray[np.int32],
) -> None:
    """Fill `members` (4,) with pick number ``word`` of all that `found` (4, k) allows."""
    n_picks = 0
    for replaced in range(-1, 4):
        n_picks += _count_picks(counts, replaced)
    pick = _bounded(word, n_picks)
    replaced = -1
    while pick >= _count_picks(counts, replaced):
        pick -= _count_picks(counts, replaced)
        replaced += 1
    for quadrant in range(4):
        if quadrant == replaced:
            members[quadrant] = center
        else:
            members[quadrant] = found[quadrant, pick % counts[quadrant]]
            pick //= counts[quadrant]


@kernel
def _count_picks(counts: NDArray[np.int64], replaced: int) -> int:  # pragma: no cover - compiled
    """Return in how many ways the quadrants but `replaced` (-1 is none) give one each."""
    product = 1
    for quadrant in range(4):
        if quadrant != replaced:
            product *= counts[quadrant]
    return product


@kernel
def _bounded(word: Any, count: int) -> int:  # pragma: no cover - compiled
    """Return 0 to ``count - 1`` from the upper 53 bits of a word.

    The product never rounds up to `count`, and a value is off by one part in 2**53 / count.
    """
    return int(np.float64(word >> np.uint64(11)) * 2.0**-53 * count)


@kernel
def _distance(  # pragma: no cover - compiled
    positions: NDArray[np.float64], one: int, other: int
) -> float:
    x = positions[other, 0] - positions[one, 0]
    y = positions[other, 1] - positions[one, 1]
    return math.sqrt(x * x + y * y)
