"""Coordinates of groups and the scalar that normalizes their frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def group_coords(
    positions: NDArray[Any], nn_indices: NDArray[np.integer[Any]]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the members' positions, their mean, and the members relative to it.

    The bits do not depend on which groups are computed together.

    Parameters
    ----------
    positions : (n, 2) real, pixels
        Columns x, y in acquisition order.
    nn_indices : (G, C) integers
        Acquisition indices of the members.

    Returns
    -------
    nn : (G, 1, 2, C) dtype of `positions`, pixels
        Positions of the members; axis 2 is x, y.
    offsets : (G, 1, 2, 1), pixels
        Mean position of each group; the dtype of `positions`, float64 for integers.
    relative : (G, 1, 2, C) dtype of `offsets`, pixels
        ``-(nn - offsets)``: the reference's sign convention.

    References
    ----------
    PtychoPINN, ``ptycho/raw_data.py``, ``get_relative_coords``.
    """
    n_groups, group_size = nn_indices.shape
    nn = np.empty((n_groups, 1, 2, group_size), dtype=positions.dtype)
    for axis in range(2):
        nn[:, 0, axis, :] = positions[:, axis][nn_indices]
    # C-contiguous and in the dtype of the sum: only then does NumPy add the channels of every
    # group in one order, whatever the number of groups. (Integers would pass through a buffer
    # whose edges fall anywhere.)
    exact = nn if nn.dtype.kind == "f" else nn.astype(np.float64)
    offsets = np.mean(exact, axis=3, keepdims=True)
    return nn, offsets, -(exact - offsets)


def normalization_factor(
    power: NDArray[np.float64], nn_indices: NDArray[np.integer[Any]], N: int
) -> np.float32:
    """Return the factor that gives the selected frames a mean power of ``(N / 2)**2``.

    Parameters
    ----------
    power : (n,) float64, counts
        Power of every frame (`frame_power`).
    nn_indices : (G, C) integers
        The whole selection; a frame counts as often as it is selected.
    N
        The frame width that the caller declares.

    Returns
    -------
    factor : float32
        NaN for an empty selection, infinity where all selected frames are zero.

    References
    ----------
    PtychoPINN, ``ptycho/raw_data.py``, ``normalize_data``.
    """
    if nn_indices.size == 0:
        return np.float32(np.nan)
    mean = np.mean(np.ascontiguousarray(power[nn_indices], dtype=np.float64))
    with np.errstate(divide="ignore"):
        return np.float32(np.sqrt(np.float64((N / 2) ** 2) / mean))
