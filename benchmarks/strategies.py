"""A million positions grouped by every strategy, beside a loop over the positions.

    python benchmarks/strategies.py --positions 1000000

Each row runs in a process of its own; positions are there before. The loop does what the rule says
for one position after the other, as the reference's torch loader does, for a sample of them.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scans import add_folders, scan_positions, sized_spec
from scipy.spatial import cKDTree
from tables import Cell, Table, run_child, save_tables

from ptyzarr import GroupingConfig
from ptyzarr.bench import forget_peak
from ptyzarr.compiled import available_cores
from ptyzarr.grouping import STRATEGIES
from ptyzarr.memory import resident_memory

#: Distances in pixels; the raster has a step of 4.
CONFIGS = {
    "canonical": GroupingConfig(gridsize=2, n_neighbors=6),
    "nearest": GroupingConfig(strategy="nearest", gridsize=2, n_neighbors=6),
    "band": GroupingConfig(
        strategy="band", gridsize=2, n_neighbors=6,
        min_neighbor_distance=3.0, max_neighbor_distance=8.0,
    ),
    "quadrant": GroupingConfig(
        strategy="quadrant", gridsize=2, n_neighbors=30, max_neighbor_distance=10.0
    ),
}  # fmt: skip
COLUMNS = ("strategy", "groups", "seconds", "CPU-s", "million groups/CPU-s", "ratio to a loop",
           "MiB added", "of it the table")  # fmt: skip


def run(options: argparse.Namespace) -> Table:
    """Measure every strategy."""
    rows: list[list[Cell]] = []
    for name in CONFIGS:
        ours, loop = (
            run_child(
                "strategies.py", "--child", way, name, "--positions", options.positions,
                "--sample", options.sample,
            )
            for way in ("ours", "loop")
        )  # fmt: skip
        rate = ours["groups"] / ours["cpu_s"]
        rows.append(
            [name, ours["groups"], ours["seconds"], ours["cpu_s"], rate / 1e6,
             None if loop is None else rate / loop, ours["added"] >> 20, ours["table"] >> 20]
        )  # fmt: skip
    table = Table(
        name="strategies",
        title=f"Groups of {options.positions:,} positions by strategy",
        columns=COLUMNS,
        rows=rows,
        conditions={
            "threads": available_cores(),
            "group_size": 4,
            "n_subsample": 1,
            "neighbours": "6, quadrant 30",
            "positions": "raster with jitter, acquisition order",
            "ratio": "of processor time, which others on the machine change least",
            "loop": f"over {options.sample:,} positions, after its tree was built",
        },
    )
    save_tables([table], options.out / "strategies.json")
    return table


def measure(name: str, n_positions: int) -> dict[str, Any]:
    """Return groups, seconds, processor seconds and bytes of a strategy."""
    positions, config = scan_positions(sized_spec(n_positions)), CONFIGS[name]
    STRATEGIES[config.strategy](positions[:2000], config)
    forget_peak()
    before = resident_memory()
    seconds, cpu_s = time.perf_counter(), time.process_time()
    table = STRATEGIES[config.strategy](positions, config)
    seconds, cpu_s = time.perf_counter() - seconds, time.process_time() - cpu_s
    after = resident_memory()
    return {
        "groups": table.n_groups,
        "seconds": seconds,
        "cpu_s": cpu_s,
        "added": after[1] - before[0] if before and after else 0,
        "table": table.nn_indices.nbytes + table.seeds.nbytes,
    }


def measure_loop(name: str, n_positions: int, n_sample: int) -> float | None:
    """Return groups a CPU-s of the loop; None for canonical, which `draws.py` compares."""
    if name == "canonical":
        return None
    positions, config = scan_positions(sized_spec(n_positions)), CONFIGS[name]
    tree, rng = cKDTree(positions), np.random.RandomState(0)
    draw = {"nearest": draw_nearest, "band": draw_band, "quadrant": draw_quadrant}[name]
    centers = np.linspace(0, n_positions - 1, min(n_sample, n_positions)).astype(int)
    started = time.process_time()
    n_groups = sum(draw(tree, positions, center, config, rng) is not None for center in centers)
    return n_groups / (time.process_time() - started)


def draw_nearest(
    tree: Any, positions: NDArray, center: int, config: GroupingConfig, rng: np.random.RandomState
) -> NDArray | None:
    """Return one group among a position and its neighbours."""
    candidates = tree.query(positions[center], k=config.n_neighbors + 1)[1]
    return rng.choice(candidates, size=4, replace=False)


def draw_band(
    tree: Any, positions: NDArray, center: int, config: GroupingConfig, rng: np.random.RandomState
) -> NDArray | None:
    """Return one group among the neighbours in the band, if there are enough."""
    near = np.array(tree.query_ball_point(positions[center], config.max_neighbor_distance))
    distance = np.hypot(*(positions[near] - positions[center]).T)
    is_far = distance >= config.min_neighbor_distance
    candidates = near[is_far][np.argsort(distance[is_far])][: config.n_neighbors]
    return None if len(candidates) < 4 else rng.choice(candidates, size=4, replace=False)


def draw_quadrant(
    tree: Any, positions: NDArray, center: int, config: GroupingConfig, rng: np.random.RandomState
) -> list[int] | None:
    """Return one neighbour of each quadrant, if at most one has none."""
    distance, near = tree.query(positions[center], k=config.n_neighbors + 1)
    near = near[distance < config.max_neighbor_distance]
    x, y = (positions[near] - positions[center]).T
    candidates = [
        np.append(near[(x * right > 0) & (y * up > 0)], center)
        for up in (1, -1)
        for right in (-1, 1)
    ]
    if sum(len(found) == 1 for found in candidates) >= 2:
        return None
    while True:
        group = [int(rng.choice(found)) for found in candidates]
        if group.count(center) <= 1:
            return group


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_folders(parser)
    parser.add_argument("--positions", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=10_000, help="positions of the loop")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    options = parse()
    if options.child is None:
        run(options)
    elif options.child[0] == "ours":
        print(json.dumps(measure(options.child[1], options.positions)))
    else:
        print(json.dumps(measure_loop(options.child[1], options.positions, options.sample)))
