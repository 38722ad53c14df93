"""``ptyzarr transform``: a store becomes another one, its frames cut, padded, turned or masked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from ptyzarr.cli.options import config_from, config_options
from ptyzarr.cli.output import json_flag, print_json, uninterrupted
from ptyzarr.cli.progress import terminal_progress
from ptyzarr.config import TransformConfig, format_size
from ptyzarr.ingestion import transform
from ptyzarr.store import ScanStore


@click.command("transform")
@click.argument("store")
@click.argument("dest")
@config_options(TransformConfig)
@json_flag
def transform_command(store: str, dest: str, as_json: bool, **options: Any) -> None:
    """Make a store of a store with frames cut, padded, flipped, turned or masked.

    \b
    ptyzarr transform scan.zarr small.zarr --frame-size 64 --bad-pixels mask.npy
    ptyzarr transform scan.zarr turned.zarr --flip-x --quarter-turns 1

    Probe, object and positions change along, as the far field asks for it. Pixels are masked
    first, then frames are cut or padded, flipped, turned. STORE stays as it is; DEST appears when
    it is whole, and the same command resumes it.
    """
    config = config_from(TransformConfig, options)
    made = transform(store, dest, config, progress=terminal_progress())
    with uninterrupted():
        _tell_transformed(made, dest, as_json)


def _tell_transformed(made: ScanStore, dest: str, as_json: bool) -> None:
    step = made.transforms[-1]
    if as_json:
        print_json(
            {
                "store": dest,
                "n_frames": made.n_frames,
                "frame_size": made.frame_size,
                "digest": made.digest,
                "bytes_stored": made.bytes_stored,
                "transform": step,
            }
        )
        return
    click.echo(
        f"{dest}: {made.n_frames} frames of {made.frame_size}x{made.frame_size}, {made.quantity}, "
        f"{format_size(made.bytes_stored)}; {describe_step(step)}"
    )
    if step["left_out"]:
        click.echo(f"left out, as they no longer hold: {', '.join(step['left_out'])}", err=True)


def describe_step(step: Mapping[str, Any]) -> str:
    """Return a step of `ScanStore.transforms` for people."""
    parts = []
    mask = step["bad_pixels"]
    if mask is not None:
        done = "set to 0" if mask["mode"] == "zero" else "marked"
        parts.append(f"with {mask['n_bad']} bad pixels {done}")
    old, new = step["frame_size"]
    if old != new:
        parts.append(f"{'cut' if new < old else 'padded'} from {old} to {new} pixels")
    parts += [f"flipped in {axis}" for axis in "xy" if step[f"flip_{axis}"]]
    if step["quarter_turns"]:
        parts.append(f"turned by {90 * step['quarter_turns']} degrees")
    return f"{step['store']} {', '.join(parts)}"
