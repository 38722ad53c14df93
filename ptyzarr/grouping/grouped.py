"""All arrays of one selection of groups of a store, the large ones lazy: to be written out."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptyzarr.errors import GroupingError
from ptyzarr.grouping.coords import group_coords, normalization_factor
from ptyzarr.grouping.frames import GroupIndices, ScanStack
from ptyzarr.grouping.lazy import lazy_normalized, lazy_patches
from ptyzarr.scan import ScanLike

BLOCK_NBYTES = 4 << 20
"""Size of a lazy block; loading one takes a few times this."""


def grouped_arrays(
    store: ScanLike, nn_indices: GroupIndices, *, patches: bool = False
) -> dict[str, Any]:
    """Return what `RawDataTorch` gives for the same groups, the large arrays in small blocks.

    Parameters
    ----------
    store
        The scan.
    nn_indices : (G, C) integers
        Acquisition indices of the whole selection, as `group_table` gives them.
    patches
        Whether ``Y`` is wanted.

    Returns
    -------
    dict
        ``X`` (G, N, N, C) float32, there ``X_full``, and ``Y`` (G, N, N, C) complex64 are dask
        arrays; ``nn_indices`` (G, C) and the ``coords_*`` of `GroupedData` are NumPy's;
        ``norm_factor`` () is the factor in ``X``; ``probeGuess``, ``objectGuess`` if there is one.

    Raises
    ------
    GroupingError
        If patches are wanted and there is no object.
    """
    size, positions, object_guess = store.frame_size, store.positions, store.object_guess
    _, normalized = lazy_normalized(
        ScanStack(store), nn_indices, size, store.frame_power, BLOCK_NBYTES
    )
    arrays: dict[str, Any] = {"X": normalized, "nn_indices": nn_indices}
    start = positions if store.positions_start is None else store.positions_start
    for prefix, points in (("coords", positions), ("coords_start", start)):
        names = (f"{prefix}_nn", f"{prefix}_offsets", f"{prefix}_relative")
        arrays |= dict(zip(names, group_coords(points, nn_indices), strict=True))
    factor = normalization_factor(store.frame_power, nn_indices, size)
    arrays |= {"norm_factor": np.asarray(factor), "probeGuess": store.probe_guess}
    if object_guess is not None:
        arrays["objectGuess"] = object_guess
    if not patches:
        return arrays
    if object_guess is None:
        raise GroupingError(
            "this scan has no object; expected one to cut patches from; leave out --patches"
        )
    offsets, relative = arrays["coords_offsets"], arrays["coords_relative"]
    arrays["Y"] = lazy_patches(object_guess, offsets, relative, size, BLOCK_NBYTES)
    return arrays
