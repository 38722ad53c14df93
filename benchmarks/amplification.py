"""How often a chunk is decoded in an epoch, by the share of the scan that the buffer holds.

    python benchmarks/amplification.py --frames 1000000

From the planner alone: positions, groups and integers, no frames. 1 is each chunk once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from layouts import count_loads, named_layouts
from scans import add_folders
from tables import Cell, Table, new_figure, save_tables

from ptyzarr.config import Shuffle

SHARES = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)
MODES: tuple[Shuffle, ...] = ("window", "full")


def run(options: argparse.Namespace) -> Table:
    """Plan an epoch for each share, kind of shuffle and scan."""
    layouts = named_layouts(options.frames)
    columns = ["buffer, % of the scan"]
    lines: dict[str, list[float]] = {}
    for layout in layouts:
        for shuffle in MODES:
            label = f"{layout.label}, {shuffle}"
            columns.append(label)
            lines[label] = []
            for share in SHARES:
                n_slots = max(4, layout.n_chunks * share // 100)
                decoded, distinct = count_loads(layout, shuffle, n_slots)
                lines[label].append(decoded / distinct)
    rows: list[list[Cell]] = [
        [f"{share} %", *(line[place] for line in lines.values())]
        for place, share in enumerate(SHARES)
    ]
    table = Table(
        name="amplification",
        title="Chunks decoded for each distinct one, first epoch",
        columns=columns,
        rows=rows,
        conditions={
            "tiles": ", ".join(f"{layout.tile_frames} frames" for layout in layouts),
            "chunks": ", ".join(f"{layout.chunk_frames} frames" for layout in layouts),
            "from": "the planner alone",
        },
    )
    save_tables([table], options.out / "amplification.json")
    draw(lines, options.out / "amplification.png")
    return table


def draw(lines: dict[str, list[float]], path: Path) -> None:
    """Draw a line for each scan and kind of shuffle."""
    figure = new_figure(7.5, 4.6)
    if figure is None:
        return
    axes = figure.subplots()
    for number, (label, values) in enumerate(lines.items()):
        style = "-o" if number % len(MODES) == 0 else "--s"
        axes.plot(
            SHARES, values, style, color=f"C{number // len(MODES)}", markersize=4, label=label
        )
    axes.axhline(1, color="0.6", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(SHARES, [f"{share} %" for share in SHARES])
    axes.set_yscale("log", base=2)
    axes.set_yticks([1, 1.5, 2, 3, 4, 6], ["1", "1.5", "2", "3", "4", "6"])
    axes.minorticks_off()
    axes.set_xlabel("buffer, share of the decoded scan")
    axes.set_ylabel("chunks decoded for each distinct one")
    axes.set_title("Read amplification of an epoch: groups of 4, batches of 64")
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    axes.grid(color="0.9")
    figure.savefig(path)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_folders(parser)
    parser.add_argument("--frames", type=int, default=1_000_000)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(parse())
