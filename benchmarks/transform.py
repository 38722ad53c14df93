"""A store made from a store: frames masked, turned, cut, padded; beside ingest and plain NumPy.

    python benchmarks/transform.py --scan medium --memory 512MiB

Every row in a process of its own; a round writes the whole result, rounds of all rows interleaved.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scans import add_arguments, scan_file, scan_store
from tables import Cell, Table, run_child, save_tables

import ptyzarr
from ptyzarr.memory import resident_memory

ROWS = {
    "ptyzarr ingest": None,
    "bad pixels zeroed": {"bad_pixels": "mask"},
    "turned by 90 degrees": {"quarter_turns": 1},
    "cut to half": {"frame_size": 0.5},
    "padded to twice": {"frame_size": 2.0},
    "NumPy: loaded, turned, saved": None,
}


def run(options: argparse.Namespace) -> Table:
    """Measure every row and save the table."""
    size = scan_store(options.scan, options.cache).frame_size
    found: dict[str, list[Any]] = {name: [] for name in ROWS}
    for _ in range(options.rounds):
        for name in ROWS:
            arguments = ("--scan", options.scan, "--cache", options.cache, "--row", name)
            found[name].append(run_child("transform.py", *arguments, "--memory", options.memory))
    seconds = {name: statistics.median(r["seconds"] for r in runs) for name, runs in found.items()}
    rows: list[list[Cell]] = [
        [
            name,
            runs[0]["frames"] / seconds[name],
            seconds["ptyzarr ingest"] / seconds[name],
            max(r["added"] for r in runs) / 2**20,
            runs[0]["nbytes"] / 2**20,
        ]
        for name, runs in found.items()
    ]
    table = Table(
        name="transform",
        title=f"A store made from a store of {size} x {size} pixels",
        columns=["step", "frames/s", "speed / ingest", "memory added MiB", "on disk MiB"],
        rows=rows,
        conditions={"scan": options.scan, "memory": options.memory, "rounds": options.rounds},
    )
    save_tables([table], options.out / "transform.json")
    return table


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds, memory added and result of one row; in a process of its own."""
    source = scan_file(options.scan, options.cache)
    store = scan_store(options.scan, options.cache)
    with tempfile.TemporaryDirectory(dir=options.cache) as folder:
        target = Path(folder) / "made"
        chosen = _config(options, store.frame_size, Path(folder) / "mask.npy")
        before = resident_memory()
        began = time.perf_counter()
        if options.row.startswith("NumPy"):
            _plain(source, target)
        elif isinstance(chosen, ptyzarr.TransformConfig):
            ptyzarr.transform(store, target, chosen).close()
        else:
            ptyzarr.ingest(source, target, chosen).close()
        seconds = time.perf_counter() - began
        after = resident_memory()
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        nbytes = sum(path.stat().st_size for path in files)
        shutil.rmtree(target, ignore_errors=True)
    added = after[1] - before[0] if before and after else 0
    return {"seconds": seconds, "added": added, "nbytes": nbytes, "frames": store.n_frames}


def _config(
    options: argparse.Namespace, size: int, mask: Path
) -> ptyzarr.TransformConfig | ptyzarr.IngestConfig:
    changes = ROWS[options.row]
    if changes is None:
        return ptyzarr.IngestConfig(memory=options.memory)
    changes = dict(changes)
    if "bad_pixels" in changes:
        np.save(mask, np.random.default_rng(0).random((size, size)) < 0.001)
        changes["bad_pixels"] = mask
    if "frame_size" in changes:
        changes["frame_size"] = int(changes["frame_size"] * size)
    return ptyzarr.TransformConfig(memory=options.memory, **changes)


def _plain(source: Path, target: Path) -> None:
    """Turn all frames in memory: what a script does, probe, object and positions left alone."""
    with np.load(source) as scan:
        members = {key: scan[key] for key in scan.files}
    key = "diff3d" if "diff3d" in members else "diffraction"
    turned = np.rot90(members[key], axes=(1, 2))
    if turned.shape[1] % 2 == 0:
        turned = np.roll(turned, 1, axis=1)  # the zero frequency back to the middle
    members[key] = turned
    with target.open("wb") as file:
        np.savez(file, **members)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--memory", default="512MiB", help="budget of each step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--row", choices=list(ROWS), help="measure this alone and print JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    chosen = parse()
    if chosen.row:
        print(json.dumps(measure(chosen)))
    else:
        run(chosen)
