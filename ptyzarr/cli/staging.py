"""``ptyzarr stage``: a store is copied to a local disk."""

from __future__ import annotations

import dataclasses

import click

from ptyzarr.cli.output import json_flag, print_json, uninterrupted
from ptyzarr.cli.progress import terminal_progress
from ptyzarr.config import format_size
from ptyzarr.ingestion import StageReport, stage


@click.command("stage")
@click.argument("store", metavar="URL")
@click.argument("out", type=click.Path(), metavar="DIR")
@click.option("--key", help="Key of the server (default: PTYZARR_KEY).")
@json_flag
def stage_command(store: str, out: str, key: str | None, as_json: bool) -> None:
    """Copy a store to a local disk, verified by its digests.

    \b
    ptyzarr stage s3://bucket/runs/scan.zarr /local/scan.zarr
    ptyzarr stage http://host:8080/v1/scans/scan/zarr /local/      as /local/scan.zarr

    URL may be a folder, too. The copy appears at DIR when it is whole; after an interrupt, run the
    same command to go on. Prefer PTYZARR_KEY to --key where others see the list of processes.
    """
    report = stage(store, out, key, progress=terminal_progress())
    with uninterrupted():
        _tell_staged(report, as_json)


def _tell_staged(report: StageReport, as_json: bool) -> None:
    if as_json:
        facts = dataclasses.asdict(report)
        print_json({**facts, "bytes_per_s": report.n_bytes_copied / max(report.seconds, 1e-9)})
        return
    rate = format_size(report.n_bytes_copied / max(report.seconds, 1e-9))
    click.echo(
        f"{report.path}: {report.n_files} files, {format_size(report.n_bytes)}; "
        f"{format_size(report.n_bytes_copied)} copied in {report.seconds:.1f} s ({rate}/s)"
    )
