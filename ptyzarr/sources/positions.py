"""Coordinate columns become one (n, 2) array, or are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import ShapeError, SourceError
from ptyzarr.sources.options import Incomplete

#: Distances between positions below this have squares that float64 holds.
_FARTHEST = 1e150


def common_length(lengths: dict[str, int], incomplete: Incomplete, name: str) -> int:
    """Return the number of frames that every per-frame field has.

    Parameters
    ----------
    lengths
        Length of each per-frame field by its key.
    incomplete
        Whether to refuse differing lengths or to keep the common beginning.
    name
        Of the file, for messages.

    Raises
    ------
    ShapeError
        If the lengths differ and ``incomplete`` is ``"refuse"``, or if one is zero.
    """
    shortest = min(lengths.values())
    listed = ", ".join(f"{key} {length}" for key, length in lengths.items())
    if shortest != max(lengths.values()) and incomplete == "refuse":
        raise ShapeError(
            f"{name}: lengths differ: {listed}; expected one length; check the file, or keep the "
            "common beginning with --incomplete truncate"
        )
    if shortest == 0:
        raise ShapeError(f"{name}: the scan is empty: {listed}; expected at least one frame")
    return shortest


def check_column_dtype(dtype: np.dtype[Any], what: str) -> None:
    """Refuse coordinates that are no numbers; `what` is file and member, for messages.

    Raises
    ------
    SourceError
        If these are neither integers nor floats.
    """
    if dtype.kind not in "iuf":
        raise SourceError(
            f"{what} has dtype {dtype!s:.80}; expected integers or floats in object pixels; "
            "convert the positions"
        )


def check_column(column: NDArray[Any], what: str) -> None:
    """Refuse a coordinate that no tree of neighbours can hold.

    Parameters
    ----------
    column : (n,) integer or float, object pixels
    what
        File and member, for messages.

    Raises
    ------
    SourceError
        If a value is NaN, infinite or so large that its square overflows.
    """
    # Compared below zero and above, since the absolute value of the least integer overflows. In
    # float16 and float32 the bounds themselves become infinite, which leaves what is finite.
    with np.errstate(over="ignore"):
        bad = np.flatnonzero(~((column > -_FARTHEST) & (column < _FARTHEST)))
    if len(bad):
        raise SourceError(
            f"{what} has {column[bad[0]]} at index {bad[0]}; expected a finite position below "
            f"{_FARTHEST:g} (a distance to it would break the order of neighbours); remove or "
            "repair that point"
        )


def pair_dtype(x: np.dtype[Any], y: np.dtype[Any]) -> np.dtype[Any]:
    """Return NumPy's result type of two columns, float64 for extended precision.

    Parameters
    ----------
    x, y
        Of the columns, integers or floats.
    """
    dtype = np.result_type(x, y)
    return np.dtype(np.float64) if dtype.kind == "f" and dtype.itemsize > 8 else dtype


def is_exact(column: NDArray[Any], converted: NDArray[Any]) -> bool:
    """Return whether converting back gives the column bit for bit.

    Parameters
    ----------
    column : (n,)
        As in the source.
    converted : (n,)
        The same in another dtype.
    """
    if column.dtype.kind == "f" and column.dtype.itemsize > 8:
        return False  # unused bits of extended precision are not kept
    if column.dtype.kind in "iu" and converted.dtype.kind == "f":
        # Rounding up to one past the largest integer would make the way back undefined.
        limit = float(np.iinfo(column.dtype).max) + 1
        if np.any(converted >= limit):
            return False
    return bool(np.array_equal(converted.astype(column.dtype), column))
