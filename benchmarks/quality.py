"""How well each kind of shuffle mixes a whole epoch, as numbers.

python benchmarks/quality.py --frames 1000000
"""

from __future__ import annotations

import argparse
import itertools

from layouts import BATCH_SIZE, epoch_order, named_layouts
from scans import add_folders
from tables import Cell, Table, save_tables

from ptyzarr.bench import shuffle_quality
from ptyzarr.config import Shuffle

MODES: dict[str, Shuffle] = {"window": "window", "full": "full", "none (canonical order)": False}


def run(options: argparse.Namespace) -> Table:
    """Judge an epoch of each kind over each scan."""
    rows: list[list[Cell]] = []
    for layout in named_layouts(options.frames):
        for label, shuffle in MODES.items():
            order, share = epoch_order(layout, shuffle, 1)
            edges = share.edges()
            groups = layout.table.nn_indices
            batches = [groups[order[first:last]] for first, last in itertools.pairwise(edges)]
            quality = shuffle_quality(layout.positions, batches)
            numbers = (None, None) if quality is None else (quality.distance, quality.lag1)
            rows.append([f"{layout.label}, {label}", len(batches), *numbers])
    table = Table(
        name="quality",
        title="Shuffle of a whole epoch",
        columns=("scan and shuffle", "batches", "distance", "lag 1"),
        rows=rows,
        conditions={
            "batch_size": BATCH_SIZE,
            "distance": "mean inside a batch over that of a uniform shuffle: 1 is perfect",
            "lag 1": "correlation of the centres of successive batches: 0 is perfect",
        },
    )
    save_tables([table], options.out / "quality.json")
    return table


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_folders(parser)
    parser.add_argument("--frames", type=int, default=1_000_000)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(parse())
