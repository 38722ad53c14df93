"""Ten million positions: search tree, neighbours and canonical draws, beside the plain ways.

    python benchmarks/neighbors.py --positions 10000000

Each way runs in a process of its own, which counts what it adds to its resident memory; positions
are there before. Ours keeps the drawn members, the plain way what its calls return.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scans import add_folders, scan_positions, sized_spec
from scipy.spatial import cKDTree
from tables import Cell, Table, run_child, save_tables

from ptyzarr.bench import forget_peak
from ptyzarr.compiled import available_cores
from ptyzarr.grouping import select_groups
from ptyzarr.grouping.draws import draw_ranks
from ptyzarr.grouping.neighbors import PositionTree
from ptyzarr.memory import resident_memory

N_NEIGHBORS = 6
GROUP_SIZE = 4
COLUMNS = ("step", "seconds", "CPU-s", "million/s", "ratio", "peak MiB added")
PLAIN = {
    "tree": "cKDTree of all positions",
    "query": "cKDTree.query in one call, one thread",
    "draws": "RandomState.choice for each group",
}
OURS = {
    "tree": "ptyzarr: the same tree",
    "query": "ptyzarr: queries in blocks, all threads",
    "draws": "ptyzarr: compiled draws",
    "select": "ptyzarr: select_groups, all together",
}


def run(options: argparse.Namespace) -> Table:
    """Measure both ways; `SystemExit` where they find different neighbours."""
    ours = run_child("neighbors.py", "--child", "ours", "--positions", options.positions)
    whole = run_child("neighbors.py", "--child", "select", "--positions", options.positions)
    plain = run_child(
        "neighbors.py", "--child", "plain", "--positions", options.positions,
        "--sample", options.sample,
    )  # fmt: skip
    if ours["check"] != plain["check"]:
        raise SystemExit("the neighbours differ from the plain query; the timings mean nothing")
    rows: list[list[Cell]] = []
    for step in ("tree", "query", "draws"):
        rows.append(cells(PLAIN[step], plain[step], plain[step], options))
        rows.append(cells(OURS[step], ours[step], plain[step], options))
    together = {"seconds": sum(plain[step]["seconds"] for step in ("tree", "query", "draws"))}
    rows.append(cells(OURS["select"], whole["select"], together, options))
    table = Table(
        name="neighbors",
        title=f"Groups of {options.positions:,} positions",
        columns=COLUMNS,
        rows=rows,
        conditions={
            "threads": available_cores(),
            "neighbours": N_NEIGHBORS,
            "group_size": GROUP_SIZE,
            "positions": "raster with jitter, acquisition order",
            "choice": f"run for {options.sample:,} groups, seconds scaled to all",
            "checked": "equal neighbours of 10,000 positions",
        },
    )
    save_tables([table], options.out / "neighbors.json")
    return table


def cells(
    label: str, step: dict[str, float], plain: dict[str, float], options: argparse.Namespace
) -> list[Cell]:
    """Return the cells of a step; the ratio is of rates."""
    return [
        label,
        step["seconds"],
        step["cpu_s"],
        options.positions / step["seconds"] / 1e6,
        plain["seconds"] / step["seconds"],
        int(step["added"] / 2**20),
    ]


class Steps:
    """Seconds, processor seconds and memory of steps of this process."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        forget_peak()
        self._start = resident_memory()

    def measure(self, name: str, work: Callable[[], Any], scale: float = 1.0) -> Any:
        """Do the work, take note, return its result."""
        forget_peak()
        seconds, cpu_s = time.perf_counter(), time.process_time()
        result = work()
        memory = resident_memory()
        added = memory[1] - self._start[0] if memory and self._start else 0
        self.found[name] = {
            "seconds": (time.perf_counter() - seconds) * scale,
            "cpu_s": (time.process_time() - cpu_s) * scale,
            "added": added,
        }
        return result


def measure_ours(n_positions: int) -> dict[str, Any]:
    """Build the tree, query it into the drawn ranks as `select_groups` does."""
    positions = scan_positions(sized_spec(n_positions))
    draw_ranks(np.random.RandomState(0), 1, N_NEIGHBORS, GROUP_SIZE)
    steps = Steps()
    tree = PositionTree(positions)
    steps.measure("tree", lambda: tree.query(slice(0, 1), 1))
    stream = np.random.RandomState(0)
    members = steps.measure(
        "draws", lambda: draw_ranks(stream, n_positions, N_NEIGHBORS, GROUP_SIZE)
    )

    def replace_ranks(part: slice, rows: NDArray[np.int64]) -> None:
        members[part] = np.take_along_axis(rows[:, 1:], members[part].astype(np.int64), axis=1)

    points = np.arange(n_positions)
    steps.measure("query", lambda: tree.visit(points, N_NEIGHBORS + 1, replace_ranks))
    return {**steps.found, "check": checksum(tree.query(slice(0, 10_000), N_NEIGHBORS + 1))}


def measure_select(n_positions: int) -> dict[str, Any]:
    """Draw the groups with the one public call."""
    positions = scan_positions(sized_spec(n_positions))
    select_groups(positions[:100], 100, 2, N_NEIGHBORS, seed=0)
    steps = Steps()
    steps.measure("select", lambda: select_groups(positions, n_positions, 2, N_NEIGHBORS, seed=0))
    return steps.found


def measure_plain(n_positions: int, n_sample: int) -> dict[str, Any]:
    """Build the tree, query it in one call, draw a sample of the groups one by one."""
    positions = scan_positions(sized_spec(n_positions))
    steps = Steps()
    tree = steps.measure("tree", lambda: cKDTree(positions))
    rows = steps.measure("query", lambda: tree.query(positions, k=N_NEIGHBORS + 1)[1])
    stream = np.random.RandomState(0)
    n_sample = min(n_sample, n_positions)

    def draw() -> None:
        for group in range(n_sample):
            rows[group, 1 + stream.choice(N_NEIGHBORS, GROUP_SIZE, replace=False)]

    steps.measure("draws", draw, n_positions / n_sample)
    return {**steps.found, "check": checksum(rows[:10_000])}


def checksum(rows: NDArray[np.int64]) -> int:
    """Return a number that depends on every index and its place."""
    weights = np.arange(1, rows.size + 1, dtype=np.int64)
    return int((rows.reshape(-1) * weights % 1_000_003).sum())


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_folders(parser)
    parser.add_argument("--positions", type=int, default=10_000_000)
    parser.add_argument("--sample", type=int, default=50_000, help="groups drawn by choice")
    parser.add_argument("--child", choices=("ours", "select", "plain"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    options = parse()
    if options.child == "plain":
        print(json.dumps(measure_plain(options.positions, options.sample)))
    elif options.child:
        measure = measure_ours if options.child == "ours" else measure_select
        print(json.dumps(measure(options.positions)))
    else:
        run(options)
