"""Groups per second of a shuffled epoch: ours, the plain ways, the peers, and the ceilings.

Two tables for each layout: of a consumer that drops each batch, and of one that reads it at once.

python benchmarks/epoch.py --scan medium --memory 287MiB
"""

from __future__ import annotations

import argparse
import itertools

from scans import add_arguments, scan_store

from ptyzarr.bench import (
    DROPS,
    EVERY,
    READ,
    BenchReport,
    Workload,
    draw_report,
    format_table,
    measure_epochs,
    save_reports,
)
from ptyzarr.compiled import available_cores


def run(options: argparse.Namespace) -> list[BenchReport]:
    """Measure one table for each layout; write JSON and pictures."""
    store = scan_store(options.scan, options.cache)
    reports = []
    for channels, consumer in itertools.product(options.channels, ("drops", "reads")):
        keys = [key for key in options.contenders if consumer == "drops" or key in READ]
        if not keys:
            continue
        work = Workload(
            store=store.path,
            folder=str(options.cache / f"{options.scan}-peers"),
            seed=options.seed,
            batch_size=options.batch_size,
            channels=channels,
            memory=options.memory,
            n_threads=options.threads,
            round_s=options.round_s,
            consumer=consumer,
        )
        report = measure_epochs(
            work,
            keys,
            n_rounds=options.rounds,
            budgets=options.budgets if consumer == "drops" else (),
            max_disk=options.max_disk,
        )
        reports.append(report)
        print(format_table(report), end="\n\n", flush=True)
    name = f"epoch-{options.scan}"
    save_reports(reports, options.out / f"{name}.json")
    for report in reports:
        if report.conditions["consumer"] == DROPS:
            draw_report(report, options.out / f"{name}-{report.conditions['channels']}.png")
    return reports


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    # 23 % of `medium` as float32; the others hold part of it, and all with room to spare.
    parser.add_argument("--memory", default="287MiB", help="budget of our loader")
    parser.add_argument(
        "--budgets", nargs="*", default=["224MiB", "512MiB"], help="other budgets for the window"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--channels", nargs="+", choices=("first", "last"), default=["first", "last"]
    )
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round-s", type=float, default=1.0, help="longest round in seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-disk", type=int, default=16 * 1024**3, help="largest file to make")
    parser.add_argument("--contenders", nargs="+", choices=EVERY, default=EVERY)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(parse())
