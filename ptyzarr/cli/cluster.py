"""Many scans, and one scan in parts: what `ingest` does with them, `plan` and `publish`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from typing import Any

import click

from ptyzarr.cli.options import config_from, config_options
from ptyzarr.cli.output import json_flag, print_json, printable, uninterrupted
from ptyzarr.cli.progress import terminal_progress
from ptyzarr.config import IngestConfig, format_size
from ptyzarr.errors import InterruptedIngestError, PtyzarrError
from ptyzarr.ingestion import (
    ScanOutcome,
    find_sources,
    ingest_many,
    is_pattern,
    pair_stores,
    plan_parts,
    publish,
    write_part,
)

_SHOWN = 40  # characters of an argument that cannot be one


@click.command("plan")
@click.argument("source")
@click.argument("dest")
@config_options(IngestConfig, hide=("scheduler", "staging"))
@json_flag
def plan_command(source: str, dest: str, as_json: bool, **options: Any) -> None:
    """Decide how a scan is stored, for parts without a scheduler.

    \b
    ptyzarr plan scan.npz scan.zarr
    ptyzarr ingest scan.npz scan.zarr --part 0/4     (and 1/4, 2/4, 3/4: at once, on any node)
    ptyzarr publish scan.zarr

    A deflated scan is checked and inflated here, once. Give the parts the same options.
    """
    config = config_from(IngestConfig, options)
    report = plan_parts(source, dest, config, progress=terminal_progress())
    if as_json:
        print_json(dataclasses.asdict(report))
    elif report.published:
        click.echo(f"{dest} holds {source} already; nothing is left to do")
    else:
        click.echo(
            f"{dest}: {report.n_shards} shards planned for {report.n_frames} frames; write them "
            f"with 'ptyzarr ingest {source} {dest} --part i/n', then 'ptyzarr publish {dest}'"
        )


@click.command("publish")
@click.argument("dest")
@json_flag
def publish_command(dest: str, as_json: bool) -> None:
    """Publish a store whose parts are all written; everything is digested again first."""
    store = publish(dest, on_wait=_say)
    with uninterrupted(), contextlib.closing(store):
        facts: dict[str, Any] = {
            "store": dest,
            "n_frames": store.n_frames,
            "n_shards": store.format.n_shards,
            "digest": store.digest,
            "bytes_stored": store.bytes_stored,
        }
        if as_json:
            print_json(facts)
        else:
            size = format_size(facts["bytes_stored"])
            click.echo(f"{dest}: {facts['n_frames']} frames, {size}, published")


def _say(line: str) -> None:
    click.echo(printable(line), err=True)


def choose_sources(paths: tuple[str, ...]) -> tuple[list[str], str]:
    """Return the sources that ``SOURCE DEST`` or ``SOURCE... DIR/`` names, and the last path.

    Raises
    ------
    click.UsageError
        If several sources, or what a pattern names, have no folder to go to.
    """
    if len(paths) < 2:
        raise click.UsageError("Expected SOURCE DEST, or SOURCE... DIR/.")
    pattern = next(filter(is_pattern, paths[:-1]), None)
    # However many files match: what a destination is must not depend on what lies there today.
    if pattern is not None and not is_folder(paths[-1]):
        raise click.UsageError(
            f"The pattern {pattern!r} needs a folder for stores: end {paths[-1]!r} with a slash."
        )
    sources = find_sources(paths[:-1])
    if len(sources) > 1 and not is_folder(paths[-1]):
        raise click.UsageError(
            f"{len(sources)} sources need a folder: end {paths[-1]!r} with a slash."
        )
    return sources, paths[-1]


def is_folder(path: str) -> bool:
    """Return whether a destination is a folder for stores: a trailing slash alone says so."""
    return path.endswith(("/", os.sep))


def ingest_part(source: str, dest: str, part: str, config: IngestConfig, as_json: bool) -> None:
    """Write one part of a planned store."""
    if is_folder(dest):
        raise click.UsageError(f"--part is for one scan; name its store, not the folder {dest!r}.")
    match = re.fullmatch(r"([0-9]{1,10})/([0-9]{1,10})", part)
    if match is None:
        shown = part if len(part) <= _SHOWN else f"{part[:_SHOWN]}..."
        raise click.UsageError(f"--part is {shown!r}; expected i/n, e.g. 0/4.")
    report = write_part(
        source, dest, int(match[1]), int(match[2]), config, progress=terminal_progress()
    )
    if as_json:
        print_json(dataclasses.asdict(report))
    elif report.published:
        click.echo(f"{dest} is published; nothing is left to do")
    else:
        click.echo(f"{dest}: part {part}, {report.n_shards} shards, {report.n_frames} frames")


def ingest_folder(sources: list[str], folder: str, config: IngestConfig, as_json: bool) -> None:
    """Ingest scans into a folder; fail at the end if any scan failed.

    Raises
    ------
    PtyzarrError
        If scans failed; the others are done.
    InterruptedIngestError
        After an interrupt.
    """
    pairs = pair_stores(sources, folder)
    outcomes = []
    for outcome in ingest_many(pairs, config, progress=terminal_progress()):
        outcomes.append(outcome)
        if not as_json and outcome.status != "failed":
            click.echo(f"{outcome.store}: {outcome.status}, {outcome.seconds:.1f} s")
    counts = {
        status: sum(outcome.status == status for outcome in outcomes)
        for status in ("done", "present", "failed")
    }
    if as_json:
        scans = [dataclasses.asdict(outcome) for outcome in outcomes]
        print_json({"n_sources": len(pairs), **counts, "scans": scans})
    _report_failures(outcomes, counts, len(pairs))


def _report_failures(outcomes: list[ScanOutcome], counts: dict[str, int], n_sources: int) -> None:
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        message = " ".join((outcome.message or "").split())
        named = message if message.startswith(outcome.source) else f"{outcome.source}: {message}"
        click.echo(printable(f"failed: {named}"), err=True)
    tally = ", ".join(f"{count} {status}" for status, count in counts.items())
    if outcomes and outcomes[-1].code == "interrupted":
        raise InterruptedIngestError(
            f"interrupted at scan {len(outcomes)} of {n_sources} ({tally}); run the same command "
            "to resume"
        )
    if failed:
        raise PtyzarrError(
            f"{len(failed)} of {n_sources} scans failed ({tally}); expected all to be stored; "
            "remove the causes and run the same command again, it does only what is missing"
        )
    click.echo(f"{n_sources} scans: {tally}", err=True)
