"""The commands: arguments in, one library call, a few lines or one JSON object out."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import sys
import time
import warnings
from typing import Any, NoReturn

import click

from ptyzarr._version import __version__
from ptyzarr.bench import format_table as format_bench
from ptyzarr.bench import run_bench
from ptyzarr.cli.cluster import (
    choose_sources,
    ingest_folder,
    ingest_part,
    is_folder,
    plan_command,
    publish_command,
)
from ptyzarr.cli.groups import group_command
from ptyzarr.cli.options import GROUPS, config_from, config_options
from ptyzarr.cli.output import json_flag, print_json, printable, uninterrupted
from ptyzarr.cli.progress import terminal_progress
from ptyzarr.cli.repairing import repair_command
from ptyzarr.cli.serving import serve_command
from ptyzarr.cli.staging import stage_command
from ptyzarr.cli.transforming import describe_step, transform_command
from ptyzarr.config import GroupingConfig, IngestConfig, LoaderConfig, format_size
from ptyzarr.demo import format_table, run_demo
from ptyzarr.errors import PtyzarrError
from ptyzarr.ingestion import export, ingest, verify
from ptyzarr.progress import Progress
from ptyzarr.store import ScanStore, open_store, scan_name
from ptyzarr.streaming import GroupLoader
from ptyzarr.view import draw_scan

#: Exit status by error code; every other `PtyzarrError` is bad input.
EXIT_CODES = {"config": 2, "verification": 4, "interrupted": 75}
BAD_INPUT = 3
INTERRUPTED = 75


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ptyzarr")
def cli() -> None:
    """Feed large ptychography scans to GPUs from compressed zarr stores.

    \b
    A first look:       ptyzarr demo
    Your own scan:      ptyzarr ingest scan.npz scan.zarr
                        ptyzarr info scan.zarr
                        ptyzarr view scan.zarr -o scan.png
                        ptyzarr stream scan.zarr --gridsize 2 --n-neighbors 6

    Exit codes: 0 ok, 2 usage, 3 bad input, 4 verification failed, 75 interrupted (run the same
    command again to resume).
    """


cli.add_command(plan_command)
cli.add_command(publish_command)
cli.add_command(group_command)
cli.add_command(repair_command)
cli.add_command(transform_command)
cli.add_command(serve_command)
cli.add_command(stage_command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit; every error is one line on stderr."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # An interrupt may come right after zarr has made a coroutine, which then says so on stderr.
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
    try:
        cli.main(arguments, prog_name="ptyzarr", standalone_mode=False)
    except PtyzarrError as error:
        _fail(str(error), EXIT_CODES.get(error.code, BAD_INPUT))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "ptyzarr"
        _fail(f"{error.format_message()} See '{command} --help'.", 2)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", INTERRUPTED)
    except OSError as error:
        if error.filename is not None:
            _fail(f"{error.filename}: {error.strerror}; remove the cause and try again", BAD_INPUT)
        # What has no name is standard output.
        _discard_output()
        _fail(f"standard output cannot be written: {error.strerror}", BAD_INPUT)
    except Exception as error:
        # A library that was interrupted may have failed while it tidied up (numba compiling).
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        _fail("interrupted", INTERRUPTED)
    sys.exit(0)


@cli.command("ingest")
@click.argument("paths", nargs=-1, required=True, metavar="SOURCE... DEST")
@config_options(IngestConfig)
@click.option("--part", metavar="I/N", help="Write one part of a scan that 'ptyzarr plan' planned.")
@json_flag
def ingest_command(paths: tuple[str, ...], part: str | None, as_json: bool, **options: Any) -> None:
    """Make a zarr store of a scan.

    \b
    ptyzarr ingest scan.npz scan.zarr      one scan
    ptyzarr ingest 'runs/*.npz' stores/    many scans: stores/a.zarr, stores/b.zarr, ...
    ptyzarr ingest scan.npz s3://bucket/runs/scan.zarr      by way of the folder --staging

    Every frame is checked before anything is published. The store appears at DEST when it is
    whole; after an interrupt, run the same command to resume. A DEST that holds this source
    already is left alone. Of many scans, those that fail do not stop the others.
    """
    config = config_from(IngestConfig, options)
    sources, destination = choose_sources(paths)
    if part is not None and len(sources) == 1:
        ingest_part(sources[0], destination, part, config, as_json)
    elif part is not None:
        raise click.UsageError(f"--part is for one scan; {len(sources)} are given.")
    elif is_folder(destination):
        ingest_folder(sources, destination, config, as_json)
    else:
        _ingest_one(sources[0], destination, config, as_json)


@cli.command("info")
@click.argument("store")
@json_flag
def info_command(store: str, as_json: bool) -> None:
    """Say what a store holds."""
    opened = open_store(store)
    facts = summary(opened)
    if as_json:
        print_json(facts)
        return
    size = opened.frame_size
    source = facts["source"]
    positions = opened.positions
    low, high = positions.min(axis=0), positions.max(axis=0)
    lines = {
        "scan": facts["name"],
        "frames": f"{opened.n_frames} of {size}x{size}, {opened.quantity} as {opened.format.dtype}",
        "positions": f"x {low[0]:g} to {high[0]:g}, y {low[1]:g} to {high[1]:g} object pixels",
        "probe": "x".join(map(str, opened.probe_guess.shape)),
        "object": "none"
        if opened.object_guess is None
        else "x".join(map(str, opened.object_guess.shape)),
        "other members": ", ".join(opened.extra) or "none",
        "layout": f"{opened.layout} order; {opened.format.chunk_frames} frames a chunk, "
        f"{opened.format.shard_frames} a shard, {opened.tile_frames} a tile",
        "stored": f"{format_size(facts['bytes_stored'])} "
        f"({facts['bytes_logical'] / facts['bytes_stored']:.1f} times smaller than "
        f"{opened.amplitude_dtype} frames)",
        "source": f"{source['name']}, {format_size(source['size'])}",
        "digest": facts["digest"],
        "frames digest": facts["frames_digest"],
    }
    if source["incomplete"] is not None:
        found = ", ".join(f"{key} {n}" for key, n in source["incomplete"]["found"].items())
        kept = source["incomplete"]["kept"]
        lines["incomplete"] = f"found {found}; the first {kept} are frames, export gives back all"
    for number, step in enumerate(opened.transforms, start=1):
        lines[f"transform {number}"] = describe_step(step)
    if facts["bad_pixels"] is not None:
        lines["bad pixels"] = str(facts["bad_pixels"])
    for key, value in opened.attrs["physics"].items():
        lines[key] = f"{value:g}"
    for key, value in lines.items():
        click.echo(f"{key + ':':<15} {printable(value)}")


@cli.command("verify")
@click.argument("store")
@click.option("--source", type=click.Path(), help="Also compare every value with this source.")
@json_flag
def verify_command(store: str, source: str | None, as_json: bool) -> None:
    """Check every byte and every value of a store."""
    report = verify(store, source, progress=terminal_progress())
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    compared = f"; every value equals {source}" if source else ""
    click.echo(
        f"{store}: {report.n_files} files, {format_size(report.n_bytes)}, {report.n_frames} frames "
        f"verified{compared}"
    )
    if report.unlisted:
        click.echo(f"not part of the store: {', '.join(report.unlisted[:5])}", err=True)


@cli.command("export")
@click.argument("store")
@click.argument("out", type=click.Path())
@json_flag
def export_command(store: str, out: str, as_json: bool) -> None:
    """Write the source of a store again, bit for bit, as an uncompressed NPZ."""
    path = export(store, out, progress=terminal_progress())
    size = path.stat().st_size
    if as_json:
        print_json({"path": str(path), "size": size})
    else:
        click.echo(f"{path}: {format_size(size)}, equal to the source bit for bit")


@cli.command("stream")
@click.argument("stores", nargs=-1, required=True, metavar="STORE...")
@config_options(GroupingConfig, hide=("seed",), defaults=GROUPS)
@config_options(LoaderConfig, help={"seed": "seed of the groups and of the epoch order"})
@click.option("--epochs", type=click.IntRange(1), default=1, show_default=True)
@json_flag
def stream_command(stores: tuple[str, ...], epochs: int, as_json: bool, **options: Any) -> None:
    """Run the loader over one or several stores and report what it moved.

    The consumer does nothing with the batches, so this is the most that a training loop can get
    from these stores within this budget.
    """
    grouping = config_from(GroupingConfig, options)
    config = config_from(LoaderConfig, options)
    opened = [open_store(path) for path in stores]
    facts = run_epochs(opened, grouping, config, epochs, terminal_progress())
    if as_json:
        print_json(facts)
        return
    click.echo(
        f"{facts['groups']} groups in {facts['seconds']:.2f} s: {facts['groups_per_s']:,.0f} "
        f"groups/s, {facts['gb_per_s']:.2f} GB/s delivered\n"
        f"{format_size(facts['bytes_read'])} read, {facts['decoded_per_delivered']:.2f} frames "
        f"decoded for each one delivered, {facts['stall_s']:.2f} s waited, peak memory "
        f"{format_size(facts['peak_memory_bytes'])}"
    )


@cli.command("view")
@click.argument("store")
@click.option("-o", "--out", type=click.Path(), required=True, help="Picture to write (.png, ...).")
@config_options(GroupingConfig, defaults=GROUPS)
@click.option("--n-groups", type=click.IntRange(0), default=4, show_default=True)
@json_flag
def view_command(store: str, out: str, n_groups: int, as_json: bool, **options: Any) -> None:
    """Draw a scan: positions, mean pattern, a few groups with their frames."""
    config = config_from(GroupingConfig, options)
    path = draw_scan(open_store(store), out, grouping=config, n_groups=n_groups)
    if as_json:
        print_json({"path": str(path)})
    else:
        click.echo(f"{path} written")


@cli.command("bench")
@click.argument("source")
@click.option(
    "-o",
    "--out",
    type=click.Path(),
    default="ptyzarr-bench",
    show_default=True,
    help="Folder for the JSON and the plot.",
)
@config_options(GroupingConfig, only=("gridsize", "n_neighbors"), defaults=GROUPS)
@config_options(LoaderConfig, only=("batch_size", "channels", "memory", "n_threads", "seed"))
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@json_flag
def bench_command(source: str, out: str, rounds: int, as_json: bool, **options: Any) -> None:
    """Measure shuffled epochs of your scan on this machine: ours beside the plain ways.

    SOURCE is a store or a file to ingest. Every contender runs in a process of its own, rounds
    interleaved; peers that are not installed are named and skipped.
    """
    report = run_bench(source, out, n_rounds=rounds, progress=terminal_progress(), **options)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        click.echo(format_bench(report))


@cli.command("demo")
@click.argument("out", type=click.Path(), default="ptyzarr-demo")
@json_flag
def demo_command(out: str, as_json: bool) -> None:
    """Run the whole path on a small measured scan: ingest, verify, group, stream, draw.

    Everything is written to the folder OUT.
    """
    report = run_demo(out, progress=terminal_progress())
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        click.echo(format_table(report))


def _ingest_one(source: str, destination: str, config: IngestConfig, as_json: bool) -> None:
    store = ingest(source, destination, config, progress=terminal_progress())
    with uninterrupted():
        _tell_ingested(store, destination, as_json)


def _tell_ingested(store: ScanStore, destination: str, as_json: bool) -> None:
    facts = summary(store)
    if as_json:
        print_json(facts)
        return
    ratio = store.attrs["source"]["size"] / facts["bytes_stored"]
    click.echo(
        f"{destination}: {store.n_frames} frames of {store.frame_size}x{store.frame_size}, "
        f"{store.quantity}, {format_size(facts['bytes_stored'])} "
        f"({ratio:.1f} times smaller than the source file)"
    )


def run_epochs(
    stores: list[ScanStore],
    grouping: GroupingConfig,
    config: LoaderConfig,
    epochs: int,
    progress: Progress,
) -> dict[str, Any]:
    """Iterate over epochs, drop every batch, and return what ``stream --json`` prints."""
    with GroupLoader(stores, grouping, config) as loader:
        n_groups = nbytes = bytes_read = 0
        stall_s = frames_decoded = 0.0
        began = time.perf_counter()
        for epoch in range(epochs):
            progress.start(f"epoch {epoch}", len(loader), "batches")
            for batch in loader:
                n_groups += len(batch.nn_indices)
                nbytes += batch.X.nbytes
                progress.advance(1)
            progress.finish()
            stats = loader.stats
            bytes_read += stats.bytes_read
            stall_s += stats.stall_s
            frames_decoded += stats.decoded_per_delivered * stats.groups
        seconds = time.perf_counter() - began
        return {
            "groups": n_groups,
            "epochs": epochs,
            "seconds": seconds,
            "groups_per_s": n_groups / seconds,
            "gb_per_s": nbytes / seconds / 1e9,
            "bytes_read": bytes_read,
            "decoded_per_delivered": frames_decoded / n_groups,
            "stall_s": stall_s,
            "peak_memory_bytes": peak_memory(),
            "projected_memory_bytes": loader.projected_memory,
        }


def peak_memory() -> int:
    """Return the largest resident size that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def summary(store: ScanStore) -> dict[str, Any]:
    """Return the facts that ``info --json`` prints."""
    source = store.attrs["source"]
    return {
        "name": scan_name(store.path),
        "path": store.path,
        "n_frames": store.n_frames,
        "frame_size": store.frame_size,
        "quantity": store.quantity,
        "dtype": str(store.format.dtype),
        "layout": store.layout,
        "chunk_frames": store.format.chunk_frames,
        "shard_frames": store.format.shard_frames,
        "tile_frames": store.tile_frames,
        "digest": store.digest,
        "frames_digest": store.frames_digest,
        "bytes_stored": store.bytes_stored,
        "bytes_logical": store.bytes_logical,
        "schema_version": store.attrs["schema_version"],
        "physics": store.attrs["physics"],
        "extra": list(store.extra),
        "bad_pixels": None if store.bad_pixels is None else int(store.bad_pixels.sum()),
        "transforms": list(store.transforms),
        "source": {
            key: source.get(key) for key in ("name", "format", "size", "frames_key", "incomplete")
        },
    }


def _discard_output() -> None:
    """Let the interpreter's last flush go nowhere, so that it does not complain once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> NoReturn:
    click.echo("ptyzarr: " + printable(" ".join(message.split())), err=True)
    sys.exit(code)
