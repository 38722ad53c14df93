"""The reader: chunks out of shards beside the codec alone, a full shuffle beside its decoding.

python benchmarks/decode.py --scan medium --memory 224MiB
"""

from __future__ import annotations

import argparse

from scans import add_arguments, scan_store

from ptyzarr.bench import BenchReport, Workload, format_table, measure_decoding, save_reports
from ptyzarr.compiled import available_cores


def run(options: argparse.Namespace) -> list[BenchReport]:
    """Measure both tables."""
    store = scan_store(options.scan, options.cache)
    work = Workload(
        store=store.path,
        folder=str(options.cache / f"{options.scan}-peers"),
        channels="last",
        memory=options.memory,
        n_threads=available_cores(),
        round_s=options.round_s,
    )
    reports = measure_decoding(work, n_rounds=options.rounds)
    for report in reports:
        print(format_table(report), end="\n\n", flush=True)
    save_reports(reports, options.out / f"decode-{options.scan}.json")
    return reports


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--memory", default="224MiB", help="small, so that not all stays decoded")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round-s", type=float, default=2.0, help="longest round in seconds")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(parse())
