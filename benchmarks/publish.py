"""Write the measured numbers into README and docs, from the JSON of the benchmarks.

    python benchmarks/publish.py --out RESULTS

A block stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` and is replaced whole;
what is outside is written by people and has no numbers. A block without results stays as it is.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from claims import RAM_ALL, RAM_ONE, Results
from tables import format_markdown_table

from ptyzarr.bench import BenchReport, Row, format_markdown
from ptyzarr.config import format_size

ROOT = Path(__file__).parent.parent
PLACES = (
    "README.md",
    "docs/performance.md",
    "docs/ptychopinn.md",
    "docs/grouping.md",
    "docs/service.md",
)
PICTURES = {
    "epoch-medium-last.png": "epoch.png",
    "timeline.png": "memory.png",
    "disk-medium.png": "disk.png",
    "example/object.png": "example-star.png",
    "example/loss.png": "example-loss.png",
    "amplification.png": "amplification.png",
}
_BLOCK = re.compile(r"<!-- begin (?P<name>[\w-]+) -->\n.*?<!-- end (?P=name) -->", re.DOTALL)
_PACKAGES = ("numpy", "zarr", "torch", "zarrs", "tensorstore", "h5py", "tensordict")
#: Rows of the README by the beginnings of their names, and what they are called there.
_README_ROWS = {
    "ptyzarr window, 287 MiB": "**ptyzarr**, window shuffle, 287 MiB",
    "ptyzarr window, 224 MiB": "**ptyzarr**, window shuffle, 224 MiB",
    "ptyzarr full, 287 MiB": "**ptyzarr**, full shuffle, 287 MiB",
    RAM_ALL: "whole scan in RAM, torch `index_select`, all threads",
    RAM_ONE: "whole scan in RAM, torch `index_select`, 1 thread",
    "numpy.memmap gather": "`numpy.memmap`",
    "TensorStore index array, our store, 287 MiB": "TensorStore, index arrays, 287 MiB of cache",
    "TensorStore index array, our store, 512 MiB": "TensorStore, index arrays, 512 MiB of cache",
    "TensorDict map": "TensorDict memory map of duplicated groups (PtychoPINN's way)",
    "blocks of duplicated": "shuffled blocks of duplicated groups (annbatch's way)",
    "h5py": "h5py, a frame a chunk",
    "DataLoader workers, zarrs": "torch DataLoader, a group an item, zarrs",
    "zarr-python oindex, chunk 1": "zarr-python `oindex`",
}


class MissingResultsError(Exception):
    """There is no JSON for a block."""


def publish(out: Path, root: Path = ROOT) -> dict[str, list[str]]:
    """Rewrite all blocks; return, by file, those for which there are no results."""
    results = Results(out, "medium")
    left: dict[str, list[str]] = {}
    for place in PLACES:
        path = root / place
        names: list[str] = []
        path.write_text(rewrite(path.read_text(), results, names))
        left[place] = names
    for source, target in PICTURES.items():
        if (out / source).exists():
            shutil.copyfile(out / source, root / "docs" / target)
    return left


def rewrite(text: str, results: Results, left: list[str]) -> str:
    """Return a text with its blocks replaced; names of those that stay are added to `left`."""

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        try:
            body = BLOCKS[name](results)
        except MissingResultsError:
            left.append(name)
            return match[0]
        return f"<!-- begin {name} -->\n{body}\n<!-- end {name} -->"

    return _BLOCK.sub(replace, text)


def describe(results: Results) -> str:
    """Return the machine, the packages and the scan of the epochs, as a paragraph."""
    report = epoch_report(results, "last", "drops")
    machine, facts = report.machine, report.conditions
    packages = [f"{name} {report.packages[name]}" for name in _PACKAGES if name in report.packages]
    return (
        f"{machine['cores']} cores of {machine['cpu']}, {format_size(machine['memory_bytes'])} of "
        f"memory, {machine['system']}, Python {machine['python']}, "
        f"{', '.join(packages)}. Load {machine['load_1min']} at the beginning and "
        f"{machine['load_1min_at_end']} at the end of the epochs; files in the page cache as far "
        f"as it holds them.\n\nThe scan of the epochs has {facts['frames']:,} frames of "
        f"{facts['frame_size']} x {facts['frame_size']}, stored as {facts['stored_as']}, "
        f"{facts['chunk_frames']} a chunk; {facts['groups']:,} canonical groups of "
        f"{facts['group_size']} among {facts['n_neighbors']} neighbours, batches of "
        f"{facts['batch_size']}, {facts['threads']} threads. Figures are medians of "
        f"{facts['rounds']} interleaved rounds."
    )


def readme_epoch(results: Results) -> str:
    """Return the README's table: some rows, in order of their rates."""
    report = epoch_report(results, "last", "drops")
    machine, facts = report.machine, report.conditions
    found: list[tuple[Row, str]] = []
    for start, name in _README_ROWS.items():
        found += [(row, name) for row in report.rows if row.label.startswith(start) and row.rates]
    found.sort(key=lambda pair: pair[0].median, reverse=True)
    cells = [
        [name, round(row.median), f"{report.ratio(row):.2f}", *sizes(row)] for row, name in found
    ]
    columns = ("loader", "groups/s", "ratio", "memory added, MiB", "on disk, MiB")
    return (
        f"A shuffled epoch over {facts['groups']:,} groups of {facts['group_size']} frames of "
        f"{facts['frame_size']} x {facts['frame_size']}, batches of {facts['batch_size']} in the "
        f"layout (B, N, N, C), consumer that {facts['consumer']}; {machine['cores']} cores of "
        f"{machine['cpu']}, page cache, median of {facts['rounds']} interleaved rounds:\n\n"
        + format_markdown_table(columns, cells)
    )


def sizes(row: Row) -> list[int | None]:
    """Return added memory and bytes on disk in MiB."""
    return [
        None if nbytes is None else round(nbytes / 2**20)
        for nbytes in (row.added_bytes, row.disk_bytes)
    ]


def epoch_report(results: Results, channels: str, consumer: str) -> BenchReport:
    """Return the table of one layout and consumer."""
    report = results.epoch(channels, consumer)
    if report is None:
        raise MissingResultsError
    return report


def epoch_block(channels: str, consumer: str) -> Callable[[Results], str]:
    """Return what renders an epoch table."""
    return lambda results: format_markdown(epoch_report(results, channels, consumer))


def report_block(name: str, place: int = 0) -> Callable[[Results], str]:
    """Return what renders a report of a document."""

    def render(results: Results) -> str:
        reports = results.reports(name)
        if not reports:
            raise MissingResultsError
        return format_markdown(reports[place])

    return render


def table_block(name: str, place: int = 0) -> Callable[[Results], str]:
    """Return what renders a table of a document, its conditions below."""

    def render(results: Results) -> str:
        table = read(results, name)["tables"][place]
        facts = [f"{key} {value}" for key, value in table["conditions"].items()]
        return format_markdown_table(table["columns"], table["rows"]) + f"\n\n{'; '.join(facts)}."

    return render


def memory_block(results: Results) -> str:
    """Return the promises of memory."""
    document = read(results, "memory")
    rows = [
        [row["step"], row["added_bytes"] // 2**20, row["limit_bytes"] // 2**20,
         "yes" if row["is_kept"] else "no"]
        for row in document["rows"]
    ]  # fmt: skip
    table = format_markdown_table(("step", "MiB added", "budget MiB", "kept"), rows)
    return f"Frames of {format_size(document['size_bytes'])} as float32.\n\n{table}"


def example_block(results: Results) -> str:
    """Return the figures of the training run in ``examples/``."""
    rows = [[name, value] for name, value in read(results, "example/report").items()]
    return format_markdown_table(("figure", "value"), rows)


def hows(results: Results) -> str:
    """Return one line for each contender on how it works."""
    report = epoch_report(results, "last", "drops")
    lines: dict[str, str] = {}
    for row in report.rows:
        text = row.how if row.skipped is None else f"skipped: {row.skipped}"
        lines.setdefault(text, f"- **{row.label}**: {text}.")
    return "\n".join(lines.values())


def read(results: Results, name: str) -> dict:
    """Return a document."""
    path = results.folder / f"{name}.json"
    if not path.exists():
        raise MissingResultsError
    return json.loads(path.read_text())


BLOCKS: Mapping[str, Callable[[Results], str]] = {
    "conditions": describe,
    "readme-epoch": readme_epoch,
    "claims": table_block("claims"),
    "epoch-first": epoch_block("first", "drops"),
    "epoch-last": epoch_block("last", "drops"),
    "epoch-first-read": epoch_block("first", "takes"),
    "epoch-last-read": epoch_block("last", "takes"),
    "epoch-real": report_block("epoch-real", -2),
    "contenders": hows,
    "ingest-stored": report_block("ingest-medium", 0),
    "ingest-deflated": report_block("ingest-medium", 1),
    "transform": table_block("transform"),
    "memory": memory_block,
    "growth": table_block("growth"),
    "growth-kept": table_block("growth-kept"),
    "several": table_block("several"),
    "start": table_block("start"),
    "neighbors": table_block("neighbors"),
    "draws": report_block("draws"),
    "strategies": table_block("strategies"),
    "amplification": table_block("amplification"),
    "quality": table_block("quality"),
    "decode-chunks": report_block("decode-medium", 0),
    "decode-epoch": report_block("decode-medium", 1),
    "disk": table_block("disk-medium"),
    "timeline": table_block("timeline"),
    "device": table_block("device"),
    "migration": table_block("migration"),
    "service": table_block("service", 0),
    "service-load": table_block("service", 1),
    "example": example_block,
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    for file, names in publish(parse().out).items():
        print(f"{file}: " + (f"no results for {', '.join(names)}" if names else "rewritten"))
