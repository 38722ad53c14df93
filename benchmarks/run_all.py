"""All benchmarks in one command, at a chosen scale.

python benchmarks/run_all.py --scale quick      some minutes: does everything run
python benchmarks/run_all.py --scale full       about half an hour: the numbers in the docs
python benchmarks/run_all.py --scale full --publish      and write them into README and docs
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import claims
import publish
from scans import add_folders

HERE = Path(__file__).parent
#: Arguments of each benchmark by scale; they come on top of `--cache` and `--out`.
SCALES: dict[str, list[tuple[str, list[str]]]] = {
    "quick": [
        ("draws", ["--groups", "100000", "--rounds", "3"]),
        ("neighbors", ["--positions", "200000", "--sample", "10000"]),
        ("strategies", ["--positions", "100000", "--sample", "1000"]),
        ("amplification", ["--frames", "50000"]),
        ("quality", ["--frames", "50000"]),
        ("packing", ["--frames", "100", "--rounds", "3"]),
        ("codecs", ["--pixels", "1048576"]),
        ("ingest", ["--scan", "small", "--rounds", "2"]),
        ("transform", ["--scan", "small", "--rounds", "1"]),
        ("decode", ["--scan", "small", "--rounds", "2", "--round-s", "0.3"]),
        ("epoch", ["--scan", "small", "--rounds", "2", "--round-s", "0.3"]),
        ("disk", ["--scan", "small"]),
        ("remote", ["--scan", "small", "--latency", "0", "0.02"]),
        ("timeline", ["--scan", "small", "--memory", "256MiB"]),
        ("growth", ["--frames", "2000", "10000", "50000", "--memory", "256MiB", "--rounds", "2"]),
        ("several", ["--frames", "20000", "--memory", "256MiB", "--rounds", "2"]),
        ("start", ["--frames", "50000", "--memory", "256MiB", "--rounds", "2"]),
        ("migration", ["--frames", "2000", "--rounds", "1"]),
        ("device", ["--scan", "small"]),
        ("memory", ["--size", "64MiB", "--memory", "256MiB"]),
        ("reliability", ["--kills", "20", "--tears", "10", "--flips", "500", "--faults", "2"]),
        ("service", ["--mb", "20", "--rounds", "2", "--load-s", "5"]),
    ],
    "full": [
        ("draws", []),
        ("neighbors", []),
        ("strategies", []),
        ("amplification", []),
        ("quality", []),
        ("packing", []),
        ("codecs", []),
        ("ingest", ["--scan", "medium"]),
        ("transform", ["--scan", "medium"]),
        ("decode", ["--scan", "medium"]),
        ("epoch", ["--scan", "medium"]),
        ("epoch", ["--scan", "real", "--rounds", "3", "--round-s", "0.5", "--channels", "last"]),
        ("disk", ["--scan", "medium"]),
        ("remote", ["--scan", "medium"]),
        ("timeline", ["--scan", "medium"]),
        ("growth", []),
        ("growth", ["--memory", "1792MiB", "--name", "growth-kept", "--rounds", "2"]),
        ("several", []),
        ("start", []),
        ("migration", []),
        ("device", ["--scan", "medium"]),
        ("memory", ["--size", "2GiB"]),
        ("reliability", ["--faults", "40"]),
        ("service", []),
    ],
}
SUBJECTS = tuple(dict.fromkeys(name for name, _ in SCALES["full"]))


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks, each in a process of its own; return 1 if one fails."""
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    options.cache.mkdir(parents=True, exist_ok=True)
    failed = [
        name
        for name, extra in SCALES[options.scale]
        if name in options.only and not run_script(name, extra, options)
    ]
    scan = "medium" if options.scale == "full" else "small"
    claims.save(options.out, scan)
    if options.publish:
        for place, names in publish.publish(options.out).items():
            print(f"{place}: " + (f"no results for {', '.join(names)}" if names else "rewritten"))
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def run_script(name: str, extra: list[str], options: argparse.Namespace) -> bool:
    """Run a benchmark; return whether it succeeded, and kept its promise if it has one."""
    print(f"== {name}", flush=True)
    folders = ["--cache", str(options.cache), "--out", str(options.out)]
    command = [sys.executable, str(HERE / f"{name}.py"), *folders, *extra]
    return subprocess.run(command, check=False).returncode == 0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_folders(parser)
    parser.add_argument("--scale", choices=SCALES, default="quick")
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=SUBJECTS)
    parser.add_argument("--publish", action="store_true", help="rewrite the blocks in README, docs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
