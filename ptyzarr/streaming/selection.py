"""Which of a scan's canonical groups are delivered, as a user says it."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptyzarr.errors import ConfigError

Groups = ArrayLike | Sequence[ArrayLike | None] | None
"""Group numbers or a mask, or one of these (or None) for each store; None is all groups."""

_EXPECTED = "expected distinct group numbers or a boolean mask"


def split_selection(groups: Groups, n_scans: int) -> list[ArrayLike | None]:
    """Return the selection of each scan, not yet checked.

    Parameters
    ----------
    groups
        For one scan an array of numbers or a mask; for several a sequence with one for each.
    n_scans
        Number of scans.

    Raises
    ------
    ConfigError
        If there is not one selection for each of several scans.
    """
    if groups is None:
        return [None] * n_scans
    if n_scans == 1 and not _is_list_of_one(groups):
        return [groups]  # type: ignore[list-item]
    if not isinstance(groups, Sequence | np.ndarray) or len(groups) != n_scans:
        found = f"{len(groups)} entries" if isinstance(groups, Sized) else repr(groups)
        raise ConfigError(
            f"groups has {found} for {n_scans} stores; {_EXPECTED}, or None, for each store"
        )
    return list(groups)


def selected_groups(groups: ArrayLike | None, n_groups: int, path: str) -> NDArray[np.int64] | None:
    """Return the selected groups of one scan in canonical order, None where it is all of them.

    Parameters
    ----------
    groups : (m,) integers or (n_groups,) bool, or None
        Numbers in any order, or a mask.
    n_groups
        Groups in the canonical selection.
    path
        The scan, for messages.

    Returns
    -------
    selected : (m,) int64, ascending

    Raises
    ------
    ConfigError
        If a number is out of range or given twice, the mask has another length, or nothing is
        selected.
    """
    if groups is None:
        return None
    numbers = _as_numbers(groups, n_groups, path)
    if numbers.size == 0:
        raise ConfigError(
            f"groups selects none of the {n_groups} groups of {path}; expected one or more; leave "
            "the store out"
        )
    if numbers[0] < 0 or numbers[-1] >= n_groups:
        wrong = numbers[0] if numbers[0] < 0 else numbers[-1]
        raise ConfigError(
            f"groups has {wrong} for {path}; expected numbers from 0 to {n_groups - 1}: with this "
            f"grouping the store has {n_groups} groups"
        )
    repeated = np.flatnonzero(numbers[1:] == numbers[:-1])
    if repeated.size:
        raise ConfigError(
            f"groups has {numbers[repeated[0]]} and {repeated.size - 1} other numbers more than "
            f"once for {path}; expected each group once; use numpy.unique"
        )
    return None if numbers.size == n_groups else numbers


def _is_list_of_one(groups: Any) -> bool:
    """Whether a selection for one scan is put as one of a list, as for several."""
    is_list = isinstance(groups, list | tuple) and len(groups) == 1
    return is_list and (groups[0] is None or isinstance(groups[0], list | tuple | np.ndarray))


def _as_numbers(groups: ArrayLike, n_groups: int, path: str) -> NDArray[np.int64]:
    """Return sorted numbers, out of range or repeated perhaps."""
    try:
        array = np.asarray(groups)
    except ValueError as error:
        raise ConfigError(f"groups for {path} is ragged; {_EXPECTED}") from error
    if array.ndim != 1 or (array.dtype.kind not in "biu" and array.size):
        raise ConfigError(
            f"groups for {path} has shape {array.shape} and dtype {array.dtype}; {_EXPECTED}, one "
            "dimension"
        )
    if array.dtype.kind != "b":
        return np.sort(array).astype(np.int64)
    if len(array) != n_groups:
        raise ConfigError(
            f"groups is a mask of {len(array)} for {path}; expected {n_groups}, one for each group "
            "of the canonical selection"
        )
    return np.flatnonzero(array).astype(np.int64)
