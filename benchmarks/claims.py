"""What is promised beside what was measured, from the results of the other benchmarks.

python benchmarks/claims.py --out RESULTS
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tables import Cell, Table, save_tables

from ptyzarr.bench import BenchReport, load_reports
from ptyzarr.config import parse_size

RAM_ONE = "RAM float32 index_select, 1 thread"
RAM_ALL = "RAM float32 index_select, all threads"
KERNEL = "ceiling: gather kernel alone"
#: Rows of the smallest budget, 23 % of the scan as float32, by their beginnings.
WINDOW = "ptyzarr window, 287"
FULL = "ptyzarr full"
UNMEASURED = "unmeasured"


class Results:
    """The JSON documents of a folder."""

    def __init__(self, folder: Path, scan: str) -> None:
        self.folder, self.scan = folder, scan

    def reports(self, name: str) -> list[BenchReport]:
        """Return the reports of a document; none where it is not there."""
        path = self.folder / f"{name}.json"
        return load_reports(path) if path.exists() else []

    def epoch(self, channels: str, consumer: str) -> BenchReport | None:
        """Return the table of one layout and one consumer: ``"drops"`` or ``"takes"``."""
        for report in self.reports(f"epoch-{self.scan}"):
            found = report.conditions
            if found["channels"] == channels and found["consumer"].startswith(consumer):
                return report
        return None

    def column(self, name: str, column: str) -> dict[str, Any]:
        """Return a column of the first table of a document by the names of its rows."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            return {}
        table = json.loads(path.read_text())["tables"][0]
        if column not in table["columns"]:
            return {}
        place = table["columns"].index(column)
        return {row[0]: row[place] for row in table["rows"]}


Measure = Callable[[Results], float | None]


def save(out: Path, scan: str = "medium") -> Table:
    """Print and write the table of promises."""
    results = Results(out, scan)
    rows: list[list[Cell]] = []
    for subject, promise, at_least, measure in PROMISES:
        value = measure(results)
        target = f">= {at_least:g}" if at_least > 0 else f"<= {-at_least:g}"
        if value is None:
            rows.append([subject, promise, target, UNMEASURED, ""])
            continue
        holds = value >= at_least if at_least > 0 else value <= -at_least
        rows.append([subject, promise, target, round(value, 3), "yes" if holds else "no"])
    table = Table(
        name="claims",
        title="Promises",
        columns=("subject", "what", "promised", "measured", "kept"),
        rows=rows,
        conditions={"scan of the epochs": scan},
    )
    save_tables([table], out / "claims.json")
    return table


def row_ratio(report: BenchReport | None, ours: str, theirs: str) -> float | None:
    """Return the median rate of one row over that of another, by the beginnings of their names."""
    if report is None:
        return None
    medians = [
        next((row.median for row in report.rows if row.label.startswith(name) and row.rates), None)
        for name in (ours, theirs)
    ]
    return None if None in medians else medians[0] / medians[1]


def epoch_ratio(channels: str, consumer: str, ours: str, theirs: str) -> Measure:
    """Return what asks the epoch table for a ratio."""
    return lambda results: row_ratio(results.epoch(channels, consumer), ours, theirs)


def window_distance(results: Results) -> float | None:
    """Return the in-batch distance of the window's epochs over that of a uniform shuffle."""
    report = results.epoch("first", "drops")
    rows = [] if report is None else [r for r in report.rows if r.label.startswith(WINDOW)]
    found = [row.facts.get("distance") for row in rows]
    return found[0] if found else None


def disk_ratio(results: Results) -> float | None:
    """Return the bytes of duplicated groups over those of our store."""
    report = results.epoch("first", "drops")
    if report is None:
        return None
    sizes = {row.label: row.disk_bytes for row in report.rows}
    theirs = sizes.get("TensorDict map of duplicated groups")
    ours = next((n for label, n in sizes.items() if label.startswith(WINDOW)), None)
    return theirs / ours if theirs and ours else None


def ingest_ratio(kind: str, ours: str, theirs: str) -> Measure:
    """Return what asks an ingest table for a ratio."""
    return lambda results: row_ratio(ingest_report(results, kind), ours, theirs)


def ingest_over_parts(results: Results) -> float | None:
    """Return the rate of an ingest over the lower one of codec and disk alone."""
    report = ingest_report(results, "stored")
    ratios = [row_ratio(report, "ptyzarr ingest", part) for part in ("codec alone", "disk alone")]
    known = [ratio for ratio in ratios if ratio is not None]
    return max(known) if known else None


def ingest_report(results: Results, kind: str) -> BenchReport | None:
    """Return the ingest table of a stored or a deflated file."""
    reports = results.reports(f"ingest-{results.scan}")
    return next((report for report in reports if kind in report.title), None)


def decode_ratio(place: int, ours: str, theirs: str) -> Measure:
    """Return what asks the tables of the reader for a ratio."""

    def measure(results: Results) -> float | None:
        reports = results.reports(f"decode-{results.scan}")
        return row_ratio(reports[place], ours, theirs) if reports else None

    return measure


def growth_ratio(column: str, base: int, name: str = "growth") -> Measure:
    """Return what compares the last row of a growth table with the row at `base`."""

    def measure(results: Results) -> float | None:
        values = list(results.column(name, column).values())
        return values[-1] / values[base] if values and values[base] else None

    return measure


def growth_value(column: str) -> Measure:
    """Return what takes a cell of the last row of the growth table."""

    def measure(results: Results) -> float | None:
        values = list(results.column("growth", column).values())
        return values[-1] if values else None

    return measure


def growth_over_budget(results: Results) -> float | None:
    """Return the largest memory that a row of the growth table added, over its budget."""
    added = [mib for mib in results.column("growth", "added MiB").values() if mib is not None]
    if not added:
        return None
    document = json.loads((results.folder / "growth.json").read_text())
    budget = parse_size(document["tables"][0]["conditions"]["memory"].replace(" ", ""))
    return max(added) * 2**20 / budget


def cell(name: str, column: str, start: str) -> Measure:
    """Return what takes one cell of a table, of the row that begins with `start`."""

    def measure(results: Results) -> float | None:
        values = results.column(name, column)
        found = [v for row, v in values.items() if row.startswith(start)]
        return found[0] if found and isinstance(found[0], int | float) else None

    return measure


def amplification(results: Results) -> float | None:
    """Return decoded over distinct of the largest scan's window where the buffer has 8 %."""
    path = results.folder / "amplification.json"
    if not path.exists():
        return None
    columns = json.loads(path.read_text())["tables"][0]["columns"]
    window = next(name for name in reversed(columns) if name.endswith("window"))
    return results.column("amplification", window)["8 %"]


def memory_kept(results: Results) -> float | None:
    """Return the largest memory of any step over its budget."""
    path = results.folder / "memory.json"
    if not path.exists():
        return None
    rows = json.loads(path.read_text())["rows"]
    return max(row["added_bytes"] / row["limit_bytes"] for row in rows)


#: Subject, what, the least value (negative: minus the largest), and how it is found.
PROMISES: tuple[tuple[str, str, float, Measure], ...] = (
    ("epoch (B, C, N, N)", "window in 23 % of the scan over RAM, all threads", 1.3,
     epoch_ratio("first", "drops", WINDOW, RAM_ALL)),
    ("", "the same, 1 thread of RAM", 2.2, epoch_ratio("first", "drops", WINDOW, RAM_ONE)),
    ("", "over the fused kernel alone, from integers in RAM", 0.8,
     epoch_ratio("first", "drops", WINDOW, KERNEL)),
    ("", "over RAM, all threads, each batch read at once", 1,
     epoch_ratio("first", "takes", WINDOW, RAM_ALL)),
    ("epoch (B, N, N, C)", "window in 23 % of the scan over RAM, all threads", 2.8,
     epoch_ratio("last", "drops", WINDOW, RAM_ALL)),
    ("", "the same, 1 thread of RAM", 4.5, epoch_ratio("last", "drops", WINDOW, RAM_ONE)),
    ("", "over RAM, all threads, each batch read at once", 1,
     epoch_ratio("last", "takes", WINDOW, RAM_ALL)),
    ("shuffle", "in-batch distance of a window epoch over a uniform one", 0.95, window_distance),
    ("peers (B, C, N, N)", "full shuffle over TensorStore, our store", 3,
     epoch_ratio("first", "drops", FULL, "TensorStore index array, our store")),
    ("", "full shuffle over TensorStore, chunk 1", 3,
     epoch_ratio("first", "drops", FULL, "TensorStore index array, chunk 1")),
    ("", "window over blocks of duplicated groups", 5,
     epoch_ratio("first", "drops", WINDOW, "blocks of duplicated groups")),
    ("", "window over a map of duplicated groups", 5,
     epoch_ratio("first", "drops", WINDOW, "TensorDict map of duplicated groups")),
    ("", "bytes of that map over ours", 60, disk_ratio),
    ("", "window over DataLoader, a group an item, zarr-python", 40,
     epoch_ratio("first", "drops", WINDOW, "DataLoader workers, zarr-python")),
    ("", "window over oindex of zarr-python at its best", 40,
     epoch_ratio("first", "drops", WINDOW, "zarr-python oindex, chunk 1")),
    ("", "window over oindex through zarrs at its best", 15,
     epoch_ratio("first", "drops", WINDOW, "zarrs oindex, chunk 1")),
    ("ingest", "stored, over the slower of codec and disk", 0.7, ingest_over_parts),
    ("", "deflated, over numpy.load", 3,
     ingest_ratio("deflated", "ptyzarr ingest", "numpy.load")),
    ("growth", "groups/s of the largest over the smallest, first epoch", 0.9,
     growth_ratio("groups/s", 0)),
    ("", "the same over the next smaller, first epoch", 0.9, growth_ratio("groups/s", 1)),
    ("", "the same over the smallest, later epochs, in a budget that keeps both", 0.9,
     growth_ratio("groups/s", 2, "growth-kept")),
    ("", "decoded / distinct of the largest in this budget", -1.15,
     growth_value("decoded / distinct")),
    ("", "the same by the planner, first epoch, buffer of 8 %", -1.15, amplification),
    ("", "peak memory of the largest over the next smaller", -1.05,
     growth_ratio("peak MiB", -2)),
    ("several", "8 stores over one", 0.9, cell("several", "ratio", "8 stores, 1 process")),
    ("", "ranks, one for each core, over one process", 0.9,
     cell("several", "ratio", "1 store, 2 ranks")),
    ("start", "first batch, groups cached, s", -0.5,
     cell("start", "first batch s", "groups cached")),
    ("", "first batch, groups not cached, s", -15,
     cell("start", "first batch s", "groups not cached")),
    ("reader", "random chunks over the codec alone, 1 thread", 0.95,
     decode_ratio(0, "random chunks", "codec alone")),
    ("", "full shuffle over its chunks decoded alone", 0.8,
     decode_ratio(1, "ptyzarr full", "the same chunks")),
    ("neighbours", "canonical draws of all positions, s", -5,
     cell("neighbors", "seconds", "ptyzarr: compiled draws")),
    ("memory", "largest added over the budget", -1, memory_kept),
    ("", "the same in the table of growth", -1, growth_over_budget),
    ("GPU", "bus over a pinned copy", 0.9,
     cell("device", "of a pinned copy", "ptyzarr, batches dropped")),
    ("", "stall share, steps of 20 ms", -0.01,
     cell("device", "stall share", "ptyzarr, a model step of 20 ms")),
    ("service", "stored bytes over static serving of the same files", 0.9,
     cell("service", "to static", "stored bytes, 4 at once: service")),
)  # fmt: skip


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scan", default="medium")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    options = parse()
    save(options.out, options.scan)
