"""`group --frames`: grouped frames as plain zarr arrays, for programs without our loader."""

from __future__ import annotations

import dataclasses
from typing import Any

from numpy.typing import NDArray

from ptyzarr._version import __version__
from ptyzarr.compiled import available_cores
from ptyzarr.config import GroupingConfig
from ptyzarr.grouping import grouped_arrays
from ptyzarr.ingestion import new_folder
from ptyzarr.progress import Progress
from ptyzarr.store import ScanStore, write_array_set

_MAX_THREADS = 4  # each holds a few blocks of `grouped_arrays`

_IMAGES = ("group", "y", "x", "channel")
_POINTS = ("group", "unit", "xy", "channel")
_CENTRES = ("group", "unit", "xy", "one")
_DIMS = {
    "X": _IMAGES,
    "Y": _IMAGES,
    "nn_indices": ("group", "channel"),
    "coords_nn": _POINTS,
    "coords_offsets": _CENTRES,
    "coords_relative": _POINTS,
    "coords_start_nn": _POINTS,
    "coords_start_offsets": _CENTRES,
    "coords_start_relative": _POINTS,
    "norm_factor": (),
    "objectGuess": ("object_y", "object_x"),
}


def write_groups(
    store: ScanStore,
    config: GroupingConfig,
    nn_indices: NDArray[Any],
    out: str,
    *,
    patches: bool,
    progress: Progress,
) -> None:
    """Write the canonical groups of a scan, frames included, as a new zarr group.

    Parameters
    ----------
    store
        The scan.
    config
        How its groups were drawn; only told.
    nn_indices : (G, C) integers
        The groups.
    out
        Folder to write; nothing may be there. It appears when it is whole.
    patches
        Whether ``Y`` is written too.
    progress
        Receives the bytes.

    Raises
    ------
    ScanExistsError
        If `out` exists.
    GroupingError
        If patches are wanted of a scan without object.
    """
    with new_folder(out) as folder:
        arrays = grouped_arrays(store, nn_indices, patches=patches)
        probe = ("mode", "probe_y", "probe_x")[-store.probe_guess.ndim :]
        n_threads = min(_MAX_THREADS, available_cores())
        write_array_set(
            folder, arrays, {**_DIMS, "probeGuess": probe}, _attributes(store, config),
            n_threads=n_threads, progress=progress,
        )  # fmt: skip


def _attributes(store: ScanStore, config: GroupingConfig) -> dict[str, Any]:
    return {
        "ptyzarr_groups": {
            "created_by": f"ptyzarr {__version__}",
            "grouping": dataclasses.asdict(config),
            "scan": store.attrs["source"]["name"],
            "digest": store.digest,
        }
    }
