"""Which positions groups are drawn for, where only a part of the scan is wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.config import Bounds


def eligible_positions(
    positions: NDArray[Any], x_bounds: Bounds | None, y_bounds: Bounds | None
) -> NDArray[np.int64]:
    """Return the positions within fractional bounds of the scan's extent.

    Parameters
    ----------
    positions : (n, 2) real, pixels
        Columns x, y in acquisition order; finite.
    x_bounds, y_bounds
        Fractions (low, high) of the extent along an axis, both inclusive; None is all of it. An
        axis along which the scan does not extend excludes nothing.

    Returns
    -------
    eligible : (m,) int64
        Acquisition indices, ascending.

    References
    ----------
    PtychoPINN, ``ptycho_torch/dataloader.py``, ``PtychoDataset.calculate_length``.
    """
    is_within = np.ones(len(positions), dtype=bool)
    for axis, bounds in enumerate((x_bounds, y_bounds)):
        if bounds is None or len(positions) == 0:
            continue
        values = positions[:, axis].astype(np.float64, copy=False)
        first, last = values.min(), values.max()
        if last > first:
            low, high = (first + fraction * (last - first) for fraction in bounds)
            # Rounding must not put the outermost positions outside of (0, 1).
            high = last if bounds[1] == 1 else high
            is_within &= (values >= low) & (values <= high)
    return np.flatnonzero(is_within).astype(np.int64, copy=False)
