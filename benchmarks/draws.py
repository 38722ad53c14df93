"""Canonical draws: compiled in one pass, beside one call of the legacy generator for each group.

    python benchmarks/draws.py --groups 1000000

The reference draws group after group in Python. It is run on a fraction of the groups, which the
table states; its rate does not depend on how many there are. Both must give equal ranks and leave
the generator in the same state.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from numpy.typing import NDArray
from scans import add_folders

from ptyzarr.bench import BenchReport, Row, format_table, make_report, save_reports
from ptyzarr.grouping.draws import draw_ranks

REFERENCE = "RandomState.choice per group"


def draw_by_choice(
    stream: np.random.RandomState, n_groups: int, n_candidates: int, group_size: int
) -> NDArray[np.int64]:
    """Return the ranks (n_groups, group_size) as the reference draws them."""
    ranks = np.empty((n_groups, group_size), np.int64)
    for group in range(n_groups):
        ranks[group] = stream.choice(n_candidates, group_size, replace=False)
    return ranks


def check_equal(n_groups: int, n_candidates: int, group_size: int, seed: int) -> None:
    """Compare ranks and the state afterwards; `SystemExit` where they differ."""
    ours, theirs = np.random.RandomState(seed), np.random.RandomState(seed)
    equal = np.array_equal(
        draw_ranks(ours, n_groups, n_candidates, group_size),
        draw_by_choice(theirs, n_groups, n_candidates, group_size),
    )
    if not equal or ours.random_sample() != theirs.random_sample():
        raise SystemExit("the draws differ from the reference; the timings mean nothing")


def run(options: argparse.Namespace) -> BenchReport:
    """Measure the draws, round by round in turn."""
    sizes = options.candidates, options.group_size
    n_reference = max(1, int(options.groups * options.fraction))
    check_equal(n_reference, *sizes, options.seed)
    rates: dict[str, list[float]] = {"ptyzarr": [], REFERENCE: []}
    for number in range(options.rounds):
        stream = np.random.RandomState(options.seed + number)
        rates["ptyzarr"].append(rate(draw_ranks, stream, options.groups, *sizes))
        stream = np.random.RandomState(options.seed + number)
        rates[REFERENCE].append(rate(draw_by_choice, stream, n_reference, *sizes))
    hows = {
        "ptyzarr": f"all {options.groups:,} groups in one compiled loop",
        REFERENCE: f"one call for each of {n_reference:,} groups, in Python",
    }
    rows = [
        Row(label=label, key=label, how=hows[label], rates=tuple(values))
        for label, values in rates.items()
    ]
    conditions = {
        "groups": options.groups,
        "reference_groups": n_reference,
        "candidates": options.candidates,
        "group_size": options.group_size,
        "seed": options.seed,
        "rounds": options.rounds,
        "checked": "equal ranks, equal state afterwards",
    }
    report = make_report("Canonical draws", "groups", REFERENCE, conditions, rows)
    print(format_table(report))
    save_reports([report], options.out / "draws.json")
    return report


def rate(draw, stream: np.random.RandomState, n_groups: int, *sizes: int) -> float:
    """Return groups per second of one call."""
    started = time.perf_counter()
    draw(stream, n_groups, *sizes)
    return n_groups / (time.perf_counter() - started)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_folders(parser)
    parser.add_argument("--groups", type=int, default=1_000_000)
    parser.add_argument("--fraction", type=float, default=0.05, help="that the reference draws")
    parser.add_argument("--candidates", type=int, default=6, help="K")
    parser.add_argument("--group-size", type=int, default=4, help="C")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(parse())
