"""The claim: no kill, torn file, failing call or flipped bit makes a store wrong unnoticed.

    python benchmarks/reliability.py                  every part in its long form, some minutes
    python benchmarks/reliability.py --only kills --kills 1000

Runs what `tests/reliability` runs a sample of. Exit status 1 if anything got through.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from scans import add_folders
from tables import Table, save_tables

TESTS = Path(__file__).parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "reliability")]

import faults  # noqa: E402  found in the folder of the tests, as are the next two
import flips  # noqa: E402
from killloop import VARIANTS, KillLoop, format_report  # noqa: E402

from ptyzarr.ingestion import plan  # noqa: E402
from ptyzarr.ingestion.layout import Sizes  # noqa: E402

Row = list[object]


def measure_kills(folder: Path, options: argparse.Namespace) -> Row:
    """Kill and tear until there were enough of both."""
    report = KillLoop(folder, options.seed).run(options.kills, options.tears)
    print(format_report(report))
    done = f"{report.n_kills} kills, {report.tears} tears, {report.doubles} double writers"
    through = report.wrong + report.stuck
    return ["kills and tears", done, f"{report.stores} stores equal to their source", through]


def measure_control(folder: Path, options: argparse.Namespace) -> Row:
    """Do the same with the digests of staged shards off: something must get through."""
    loop = KillLoop(folder, options.seed, blind=True)
    report = loop.run(options.kills, options.tears)
    print(format_report(report))
    done = f"{report.n_kills} kills, {report.tears} tears, no digests"
    return ["control", done, f"{report.wrong} wrong store", 0 if report.wrong else 1]


def measure_flips(folder: Path, options: argparse.Namespace) -> Row:
    """Flip every bit of a tiny store, or some."""
    store = flips.make_tiny_store(folder)
    bits = list(flips.all_bits(store))
    if options.flips is not None:
        bits = random.Random(options.seed).sample(bits, min(options.flips, len(bits)))
    report = flips.flip_bits(store, bits)
    print("\n".join(map(str, report.missed[:20])))
    done = f"{report.flips} bits flipped, {report.read} of them read"
    found = f"{report.found} found by verify, {report.refused} by reading"
    return ["flips", done, found, len(report.missed)]


def measure_faults(folder: Path, options: argparse.Namespace) -> Row:
    """Let every call of every operation fail with every error."""
    chosen = plan.choose_sizes
    plan.choose_sizes = lambda *_: Sizes(2, 8, 16)
    chance, problems, n_faults = random.Random(options.seed), [], 0
    try:
        for operation in faults.OPERATIONS:
            work = faults.Work(folder / operation, operation)
            for call in faults.CALLS:
                numbers = range(faults.count_calls(work, call))
                wanted = [faults.Fault(call, error, n) for error in faults.ERRORS for n in numbers]
                if call in ("os.replace", "os.rename"):
                    wanted += [faults.Fault(call, faults.AFTER, n) for n in numbers]
                if options.faults is not None:
                    wanted = chance.sample(wanted, min(options.faults, len(wanted)))
                found = [f"{operation}: {faults.check_fault(work, fault)}" for fault in wanted]
                n_faults += len(wanted)
                problems += [problem for problem in found if not problem.endswith(": ")]
    finally:
        plan.choose_sizes = chosen
    print("\n".join(problems[:40]))
    done = f"{n_faults} failing calls in {len(faults.OPERATIONS)} operations"
    return ["faults", done, "error of ours, or success; then whole", len(problems)]


PARTS: dict[str, Callable[[Path, argparse.Namespace], Row]] = {
    "kills": measure_kills,
    "control": measure_control,
    "flips": measure_flips,
    "faults": measure_faults,
}


def run(options: argparse.Namespace) -> Table:
    """Run the parts; print and save the table."""
    rows = []
    for name in options.only:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            row = PARTS[name](Path(folder), options)
        rows.append([*row, round(time.perf_counter() - began)])
    table = Table(
        name="reliability",
        title=f"Reliability ({len(VARIANTS)} kinds of scans)",
        columns=("part", "done", "found", "got through", "seconds"),
        rows=rows,
    )
    save_tables([table], options.out / "reliability.json")
    return table


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_folders(parser)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--tears", type=int, default=100)
    parser.add_argument("--flips", type=int, help="bits (default: all)")
    parser.add_argument("--faults", type=int, help="of each call (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(1 if any(row[3] for row in run(parse()).rows) else 0)
