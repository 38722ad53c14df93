"""What grows with the scan: groups per second and memory of one budget, 20 thousand to a million.

    python benchmarks/growth.py --frames 20000 200000 1000000 --memory 512MiB

Frames of 64 x 64 counts repeat from 4,096; positions, groups and chunks do not. A scan whose
decoded frames fit the budget decodes nothing after its first epoch. So that they can be compared,
the first epochs of the smaller ones, of new loaders, have rows of their own.
"""

from __future__ import annotations

import argparse
import math

from scans import add_folders, sized_store
from tables import Cell, Table, save_tables

from ptyzarr.bench import Entry, Row, Workload, run_rounds
from ptyzarr.bench.catalogue import CONTENDERS, DECODERS
from ptyzarr.compiled import available_cores
from ptyzarr.config import format_size

COLUMNS = ("scan", "groups/s", "lo..hi", "ratio", "CPU ratio", "peak MiB", "added MiB",
           "buffer, % of the scan", "decoded / distinct", "distance", "lag 1")  # fmt: skip


def run(options: argparse.Namespace) -> Table:
    """Measure all sizes side by side; the ratios are to the largest scan but one."""
    works = [workload(n_frames, options) for n_frames in options.frames]
    first = DECODERS["first-epoch"]
    entries = [
        Entry(label=f"{n_frames:,} frames, first epoch", contender=first, workload=work)
        for n_frames, work in zip(options.frames[:-1], works[:-1], strict=True)
    ]
    entries += [
        Entry(label=f"{n_frames:,} frames", contender=CONTENDERS["window"], workload=work)
        for n_frames, work in zip(options.frames, works, strict=True)
    ]
    rows = run_rounds(entries, options.rounds, 0)
    reference = rows[-2]
    table = Table(
        name=options.name,
        title="Window shuffle in one budget, by size of the scan",
        columns=COLUMNS,
        rows=[
            cells(row, reference, entry.workload) for row, entry in zip(rows, entries, strict=True)
        ],
        conditions={
            "frame": "64 x 64 counts",
            "memory": format_size(works[0].memory_bytes),
            "threads": works[0].n_threads,
            "batch_size": works[0].batch_size,
            "rounds": options.rounds,
            "ratio to": reference.label,
            "files": "in the page cache",
        },
    )
    save_tables([table], options.out / f"{options.name}.json")
    return table


def workload(n_frames: int, options: argparse.Namespace) -> Workload:
    """Return whole epochs of a scan; its groups are drawn now, so that no row counts that."""
    store = sized_store(n_frames, options.cache)
    work = Workload(
        store=store.path,
        folder=str(options.cache),
        channels="last",
        memory=options.memory,
        n_threads=available_cores(),
        # No epoch is cut short.
        round_s=600.0,
    )
    work.members()
    return work


def cells(row: Row, reference: Row, work: Workload) -> list[Cell]:
    """Return the cells of a scan."""
    facts, chunks = row.facts, work.open().chunks
    decoded, distinct = facts.get("chunks_decoded"), facts.get("distinct_chunks")
    buffer = facts.get("buffer_bytes")
    return [
        row.label,
        row.median,
        f"{min(row.rates):,.0f}..{max(row.rates):,.0f}",
        row.median / reference.median,
        row.cpu_median / reference.cpu_median,
        mebibytes(row.peak_bytes),
        mebibytes(row.added_bytes),
        None if buffer is None else 100 * buffer / (chunks.n_chunks * chunks.chunk_nbytes),
        None if not distinct else decoded / distinct,
        facts.get("distance"),
        facts.get("lag1"),
    ]


def mebibytes(nbytes: int | None) -> int | None:
    """Return bytes in MiB."""
    return None if nbytes is None else math.ceil(nbytes / 2**20)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_folders(parser)
    parser.add_argument("--frames", type=int, nargs="+", default=[20_000, 200_000, 1_000_000])
    parser.add_argument("--memory", default="512MiB", help="a third of a million frames, packed")
    parser.add_argument("--name", default="growth", help="of the table and its file")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(parse())
