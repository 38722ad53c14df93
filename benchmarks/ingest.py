"""Ingest of a stored and a deflated NPZ: ours, `numpy.load`, and the parts of the work alone.

python benchmarks/ingest.py --scan medium --memory 512MiB
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from scans import SCANS, add_arguments, scan_file, write_scan

from ptyzarr.bench import BenchReport, draw_report, format_table, measure_ingest, save_reports
from ptyzarr.compiled import available_cores


def run(options: argparse.Namespace) -> list[BenchReport]:
    """Measure one table for each kind of NPZ; write JSON and pictures."""
    options.out.mkdir(parents=True, exist_ok=True)
    reports = []
    for kind in options.kinds:
        report = measure_ingest(
            source(options.scan, kind, options.cache),
            options.cache / "ingest-scratch",
            kind,
            memory=options.memory,
            n_threads=options.threads,
            n_rounds=options.rounds,
        )
        reports.append(report)
        print(format_table(report), end="\n\n", flush=True)
        draw_report(report, options.out / f"ingest-{options.scan}-{kind}.png")
    save_reports(reports, options.out / f"ingest-{options.scan}.json")
    return reports


def source(name: str, kind: str, cache: Path) -> Path:
    """Return the NPZ of a named scan, stored or deflated."""
    if kind == "stored":
        return scan_file(name, cache)
    spec = dataclasses.replace(SCANS[name], compressed=True)
    return write_scan(cache / f"{name}-deflated.npz", spec)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument(
        "--kinds", nargs="+", choices=("stored", "deflated"), default=["stored", "deflated"]
    )
    parser.add_argument("--memory", default="512MiB", help="budget of our ingest")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(parse())
