"""The claim: a 2 GiB NPZ, stored or deflated, is taken in and streamed within 512 MiB.

    python benchmarks/memory.py --size 2GiB --memory 512MiB

Counted is the largest resident memory of a process of its own above that of the interpreter and
the imports: VmHWM less VmRSS when everything is imported. `--compile` also counts the compiler,
which runs once on a machine. Exit status 1 if a row fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

from scans import ScanSpec, default_cache, write_scan

from ptyzarr.bench import Promise, describe_machine, measure_promises, package_versions
from ptyzarr.config import format_size, parse_size


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
    size = parse_size(options.size)
    promises = []
    for kind in options.kinds:
        folder = options.cache / f"memory-{size}-{kind}"
        source = write_scan(folder / "scan.npz", make_spec(size, options.frame_size, kind))
        promises += measure_promises(source, folder, kind, memory=options.memory)
    print(format_promises(promises))
    document = {
        "size_bytes": size,
        "frame_size": options.frame_size,
        "compiles": options.compile,
        "memory_bytes": parse_size(options.memory),
        "machine": describe_machine(),
        "packages": package_versions(),
        "rows": [{**dataclasses.asdict(p), "is_kept": p.is_kept} for p in promises],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "memory.json").write_text(json.dumps(document, indent=1) + "\n")
    return promises


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
    parser.add_argument("--frame-size", type=int, default=128)
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument(
        "--kinds", nargs="+", choices=("stored", "deflated"), default=["stored", "deflated"]
    )
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
