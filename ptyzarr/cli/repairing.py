"""``ptyzarr repair``: damaged files of a store are made again from its source."""

from __future__ import annotations

import dataclasses
import json

import click

from ptyzarr.cli.progress import terminal_progress
from ptyzarr.ingestion import repair


@click.command("repair")
@click.argument("store")
@click.option("--source", type=click.Path(), required=True, help="The file it was made from.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")
def repair_command(store: str, source: str, as_json: bool) -> None:
    """Make the damaged files of a store again from its source, and no others.

    Damaged is what differs from the store's own digests. The store is verified afterwards, also
    against the source.
    """
    report = repair(store, source, progress=terminal_progress())
    if as_json:
        click.echo(json.dumps({"store": store, **dataclasses.asdict(report)}))
        return
    for key in report.rewritten:
        click.echo(f"rewritten: {key}")
    click.echo(
        f"{store}: {len(report.rewritten)} of {report.n_files} files rewritten; every value "
        f"equals {source}"
    )
