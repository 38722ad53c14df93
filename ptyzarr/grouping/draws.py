"""The reference's random stream, drawn in compiled code.

The reference shuffles with NumPy's legacy generator, one Python call per group. Which *ranks*
of the candidate list a group takes depends on the seed and the number of candidates alone, so
all of them are drawn here in one loop that consumes exactly the words that the generator would,
and the generator is put where it would stand. NumPy's global generator is never touched.

References
----------
PtychoPINN, ``ptycho/raw_data.py``, ``sample_groups``; M. Matsumoto and T. Nishimura, "Mersenne
Twister", ACM TOMACS 8 (1998) 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.compiled import kernel
from ptyzarr.errors import DtypeError, GroupingError

Seed = int | np.random.RandomState | None


def legacy_stream(seed: Seed) -> np.random.RandomState:
    """Return the legacy generator that `seed` stands for.

    Parameters
    ----------
    seed
        An integer (0 to 2**32 - 1), None for fresh entropy, or a generator, which is returned as
        it is and continued by whoever draws from it.

    Raises
    ------
    GroupingError
        If the integer is out of range.
    DtypeError
        If `seed` is no integer; the generator refuses floats, integral ones too.
    """
    if isinstance(seed, np.random.RandomState):
        return seed
    if seed is None:
        return np.random.RandomState()
    stream = np.random.RandomState(0)
    try:
        # Not RandomState(seed), which takes objects that the reference's own seeding refuses.
        stream.seed(seed)
    except ValueError as error:
        raise GroupingError(f"seed is {seed!r}; expected an integer from 0 to 2**32 - 1") from error
    except TypeError as error:
        raise DtypeError(f"seed is {seed!r}; expected an integer") from error
    return stream


def draw_ranks(
    stream: np.random.RandomState, n_groups: int, n_candidates: int, group_size: int
) -> NDArray[np.int32]:
    """Draw the candidate ranks of `n_groups` groups, continuing `stream`.

    Row j equals ``stream.choice(n_candidates, group_size, replace=False)``, and afterwards the
    stream stands where `n_groups` such calls would have left it.

    Parameters
    ----------
    stream
        The legacy generator; advanced in place.
    n_groups, n_candidates, group_size
        G, K' and C.

    Returns
    -------
    ranks : (n_groups, group_size) int32
        Distinct in a row, in drawn order, 0 to n_candidates - 1.

    Raises
    ------
    GroupingError
        If there are fewer candidates than a group has frames.
    """
    if group_size > n_candidates:
        raise GroupingError(
            f"{n_candidates} candidates for groups of {group_size}; expected at least as many"
        )
    ranks = np.empty((n_groups, group_size), dtype=np.int32)
    # legacy=False: the cached Gaussian, which stays as it is, travels with the state.
    state: dict[str, Any] = stream.get_state(legacy=False)
    key = state["state"]["key"]
    state["state"]["pos"] = int(_fill_ranks(key, state["state"]["pos"], n_candidates, ranks))
    stream.set_state(state)
    return ranks


@kernel
def _fill_ranks(  # pragma: no cover - compiled
    key: NDArray[np.uint32], position: int, n_candidates: int, ranks: NDArray[np.int32]
) -> int:
    """Fill `ranks` (G, C) from the generator state (`key`, `position`); return the new position.

    Each row is the head of a Fisher-Yates shuffle with bounded integers by masked rejection.
    """
    shuffled = np.empty(n_candidates, dtype=np.int32)
    for group in range(ranks.shape[0]):
        for i in range(n_candidates):
            shuffled[i] = i
        mask = 1
        while mask < n_candidates - 1:
            mask = 2 * mask + 1
        for i in range(n_candidates - 1, 0, -1):
            while mask >> 1 >= i:
                mask >>= 1
            value = i + 1
            while value > i:
                if position == 624:
                    _twist(key)
                    position = 0
                # int64: numba would turn uint32 mixed with literals into floats or wrap late.
                word = np.int64(key[position])
                position += 1
                word ^= word >> 11
                word ^= (word << 7) & 0x9D2C5680
                word ^= (word << 15) & 0xEFC60000
                value = int(word ^ (word >> 18)) & mask
            swapped = shuffled[i]
            shuffled[i] = shuffled[value]
            shuffled[value] = swapped
        for i in range(ranks.shape[1]):
            ranks[group, i] = shuffled[i]
    return position


@kernel
def _twist(key: NDArray[np.uint32]) -> None:  # pragma: no cover - compiled
    """Replace the 624 words of `key` by the next 624 of the Mersenne twister."""
    for i in range(624):
        ahead = i + 1 if i < 623 else 0
        middle = i + 397 if i < 227 else i - 227
        joined = (np.int64(key[i]) & 0x80000000) | (np.int64(key[ahead]) & 0x7FFFFFFF)
        word = np.int64(key[middle]) ^ (joined >> 1)
        if joined & 1:
            word ^= 0x9908B0DF
        key[i] = word
