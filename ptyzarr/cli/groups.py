"""`group`: the table of groups, or grouped frames as arrays for programs without our loader."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from ptyzarr._version import __version__
from ptyzarr.cli.options import GROUPS, config_from, config_options
from ptyzarr.cli.output import json_flag, print_json
from ptyzarr.cli.progress import terminal_progress
from ptyzarr.compiled import available_cores
from ptyzarr.config import GroupingConfig
from ptyzarr.errors import ScanExistsError, StorageError
from ptyzarr.grouping import (
    cached_group_table,
    group_coords,
    grouped_arrays,
    normalization_factor,
)
from ptyzarr.ingestion import new_folder
from ptyzarr.progress import Progress
from ptyzarr.store import ScanStore, open_store, write_array_set

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


@click.command("group")
@click.argument("store")
@config_options(GroupingConfig, defaults=GROUPS)
@click.option("-o", "--out", type=click.Path(), help="Write the group table to this NPZ.")
@click.option("--frames", is_flag=True, help="Write a zarr group that holds the frames too.")
@click.option("--patches", is_flag=True, help="With --frames: write Y, the object patches, too.")
@json_flag
def group_command(
    store: str, out: str | None, frames: bool, patches: bool, as_json: bool, **options: Any
) -> None:
    """Draw the groups of a scan, the canonical ones unless --strategy names another rule.

    The table holds nn_indices, coords_nn, coords_offsets, coords_relative and norm_factor, for
    canonical groups as the reference gives them for the same seed; no frame is read.

    \b
    ptyzarr group scan.zarr -o groups.npz              the table
    ptyzarr group scan.zarr --frames -o groups.zarr    the grouped, normalised frames as well

    With --frames they become arrays of a zarr group, written chunk by chunk, for programs that
    cannot use the loader; X is C times the size of the scan.
    """
    config = config_from(GroupingConfig, options)
    if (frames and out is None) or (patches and not frames):
        raise click.UsageError("--frames needs -o, the group to write, and --patches --frames.")
    opened = open_store(store)
    table = grouped_table(opened, config)
    if frames and out is not None:
        write_groups(
            opened, config, table["nn_indices"], out, patches=patches, progress=terminal_progress()
        )
    elif out is not None:
        _write_npz(Path(out), table)
    facts = {
        "store": store,
        "n_groups": len(table["nn_indices"]),
        "group_size": config.group_size,
        "norm_factor": float(table["norm_factor"]),
        "nn_indices_dtype": str(table["nn_indices"].dtype),
        "frames_used": len(np.unique(table["nn_indices"])),
        "out": out,
    }
    if as_json:
        print_json(facts)
    else:
        where = f"; written to {out}" if out else ""
        click.echo(
            f"{facts['n_groups']} groups of {config.group_size} from {opened.n_frames} frames, "
            f"{facts['frames_used']} of them used, normalisation {facts['norm_factor']:.6g}{where}"
        )


def grouped_table(store: ScanStore, config: GroupingConfig) -> dict[str, Any]:
    """Return indices, coordinates and factor of the groups; reads no frame."""
    nn_indices = cached_group_table(store, config).nn_indices
    nn, offsets, relative = group_coords(store.positions, nn_indices)
    return {
        "nn_indices": nn_indices,
        "coords_nn": nn,
        "coords_offsets": offsets,
        "coords_relative": relative,
        "norm_factor": normalization_factor(store.frame_power, nn_indices, store.frame_size),
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
    """Write groups of a scan, frames included, as a new zarr group.

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
            "grouping": config.deciding_options(),
            "scan": store.attrs["source"]["name"],
            "digest": store.digest,
        }
    }


def _write_npz(path: Path, arrays: dict[str, Any]) -> None:
    if path.exists():
        raise ScanExistsError(f"{path} exists; remove it or choose another name")
    scratch = path.with_name(f".{path.name}.partial")
    try:
        with scratch.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(scratch, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise StorageError(
            f"{path} cannot be written: {error.strerror}; choose another place"
        ) from error
