"""The claim: a 2 GiB NPZ, stored or deflated, is taken in and streamed within 512 MiB.

    python benchmarks/memory.py --size 2GiB --memory 512MiB
    python benchmarks/memory.py --sizes 1GiB 4GiB 16GiB --memory 512MiB --enforce --remove

Counted is the largest resident memory of a process of its own above that of the interpreter and
the imports: VmHWM less VmRSS when everything is imported. `--compile` also counts the compiler,
which runs once on a machine. `--sizes` does all steps with scans of several sizes and one budget;
then no step may have a peak (VmHWM) in a larger scan more than 5 % above that in the next smaller;
choose a budget that the smallest one does not fit into, since what fits is kept in memory.
`--enforce` runs each step once more with the budget as a limit of the kernel; see `enforced.py`.
Exit status 1 if a row fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from scans import ScanSpec, default_cache, write_scan

from ptyzarr.bench import Promise, describe_machine, measure_promises, package_versions
from ptyzarr.config import Shuffle, format_size, parse_size

ENFORCED = Path(__file__).with_name("enforced.py")
MOST_GROWTH = 1.05
SHUFFLES: dict[str, Shuffle] = {"window": "window", "full": "full", "canonical": False}


def run(options: argparse.Namespace) -> list[Promise]:
    """Measure every step; print the table and write the JSON."""
    if options.compile:
        with tempfile.TemporaryDirectory() as empty:
            # The processes that are measured inherit it.
            os.environ["NUMBA_CACHE_DIR"] = empty
            return measure(options)
    return measure(options)


def measure(options: argparse.Namespace) -> list[Promise]:
    """Measure every step with the cache of compiled code as it is."""
    sizes = [parse_size(size) for size in options.sizes or [options.size]]
    by_size = {size: measure_size(size, options) for size in sizes}
    promises = [promise for rows in by_size.values() for promise in rows]
    growth = find_growth(by_size)
    promises += growth
    print(format_promises(promises))
    document = {
        "size_bytes": sizes[-1],
        "frame_size": options.frame_size,
        "compiles": options.compile,
        "memory_bytes": parse_size(options.memory),
        "machine": describe_machine(),
        "packages": package_versions(),
        "rows": [
            {**dataclasses.asdict(promise), "is_kept": promise.is_kept, "size_bytes": size}
            for size, rows in by_size.items()
            for promise in rows
        ],
        "growth": [{**dataclasses.asdict(row), "is_kept": row.is_kept} for row in growth],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "memory.json").write_text(json.dumps(document, indent=1) + "\n")
    return promises


def measure_size(size: int, options: argparse.Namespace) -> list[Promise]:
    """Measure every step with scans of one size."""
    promises = []
    for kind in options.kinds:
        folder = options.cache / f"memory-{size}-{kind}"
        source = write_scan(folder / "scan.npz", make_spec(size, options.frame_size, kind))
        of_size = f"{format_size(size)} {kind}"
        promises += measure_promises(
            source,
            folder,
            of_size,
            memory=options.memory,
            shuffles=[SHUFFLES[name] for name in options.shuffles],
        )
        if options.enforce:
            promises += enforce(source, folder / "enforced.zarr", of_size, options.memory)
        if options.remove:
            shutil.rmtree(folder)
    return promises


def enforce(source: Path, store: Path, kind: str, memory: str) -> list[Promise]:
    """Run ingest and epoch within a limit of the kernel; a step that fails added too much."""
    shutil.rmtree(store, ignore_errors=True)
    limit = parse_size(memory)
    promises = []
    for step in ("ingest", "epoch"):
        command = [sys.executable, str(ENFORCED), step, str(source), str(store), "--memory", memory]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        print(done.stderr, end="")
        name = f"{kind} NPZ: {step}, limit enforced"
        added = limit + 1 if done.returncode else int(done.stdout)
        promises.append(Promise(step=name, limit_bytes=limit, added_bytes=added))
    return promises


def find_growth(by_size: dict[int, list[Promise]]) -> list[Promise]:
    """Return for each step and larger scan its peak, and what that of the next smaller allows."""
    growth = []
    for smaller, larger in itertools.pairwise(sorted(by_size)):
        for one, other in zip(by_size[smaller], by_size[larger], strict=True):
            if one.peak_bytes is not None:
                growth.append(
                    Promise(
                        step=f"{other.step}, whole peak",
                        limit_bytes=round(one.peak_bytes * MOST_GROWTH),
                        added_bytes=other.peak_bytes,
                    )
                )
    return growth


def make_spec(size: int, frame_size: int, kind: str) -> ScanSpec:
    """Return a scan whose float32 frames have about `size` bytes."""
    n_frames = max(16, size // (4 * frame_size**2))
    columns = max(4, round(n_frames**0.5))
    return ScanSpec(
        n_frames=n_frames,
        frame_size=frame_size,
        columns=columns,
        n_distinct=512,
        compressed=kind == "deflated",
    )


def format_promises(promises: list[Promise]) -> str:
    """Return one line for each step."""
    width = max(len(promise.step) for promise in promises)
    lines = []
    for promise in promises:
        added = "unknown" if promise.added_bytes is None else format_size(promise.added_bytes)
        verdict = "PASS" if promise.is_kept else "FAIL"
        limit = format_size(promise.limit_bytes)
        lines.append(f"{verdict}  {promise.step:<{width}}  {added:>9} of {limit}")
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="2GiB", help="of the frames as float32")
    parser.add_argument("--sizes", nargs="+", help="of several scans, instead of --size")
    parser.add_argument("--enforce", action="store_true", help="let the kernel limit memory, too")
    parser.add_argument("--remove", action="store_true", help="remove each scan after its turn")
    parser.add_argument("--frame-size", type=int, default=128)
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument(
        "--kinds", nargs="+", choices=("stored", "deflated"), default=["stored", "deflated"]
    )
    parser.add_argument("--shuffles", nargs="+", choices=SHUFFLES, default=list(SHUFFLES))
    parser.add_argument(
        "--compile",
        action="store_true",
        help="begin with an empty cache of compiled code, as the first run on a machine does",
    )
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder for scans")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="for JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(0 if all(promise.is_kept for promise in run(parse())) else 1)
