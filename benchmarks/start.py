"""From nothing to the first batch, part by part, each time in a fresh process after its imports.

    python benchmarks/start.py --frames 1000000 --memory 512MiB

Parts are timed where they happen; what runs in other threads at the same time is in the rest.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from scans import add_folders, sized_store
from tables import Cell, Table, run_child, save_tables

from ptyzarr import GroupingConfig, GroupLoader, LoaderConfig, open_store

GROUPING = GroupingConfig(gridsize=2, n_neighbors=6, seed=0)
#: What is timed while a loader is made and started: the part's name, its module and its place.
PARTS = (
    ("neighbours", "ptyzarr.grouping.neighbors", "PositionTree.visit"),
    ("draws", "ptyzarr.grouping.select", "draw_ranks"),
    ("groups", "ptyzarr.streaming.experiments", "cached_group_table"),
    ("order", "ptyzarr.streaming.sampling", "WindowSampler.order"),
    ("plan", "ptyzarr.streaming.window", "ChunkPlanner.next_block"),
    ("plan", "ptyzarr.streaming.window", "ChunkPlanner.start"),
)
COLUMNS = (
    "start",
    "first batch s",
    "lo..hi",
    "open",
    "groups",
    "of it neighbours",
    "of it draws",
    "rest of the loader",
    "order",
    "plan",
    "first decode and gather",
)


def run(options: argparse.Namespace) -> Table:
    """Measure every kind of start."""
    store = sized_store(options.frames, options.cache)
    path = store.path
    store.close()
    # Groups are cached and kernels compiled once, whatever was there before.
    run_child("start.py", "--child", path, "--memory", options.memory)
    kinds: list[tuple[str, tuple[str, ...]]] = [
        ("groups cached", ()),
        ("groups cached, store not in the page cache", ("--evict",)),
        ("groups not cached", ("--uncached",)),
        ("first on this machine: compiles, groups not cached", ("--uncached", "--compile")),
    ]
    if options.no_first_run:
        kinds.pop()
    rows = [measure(label, path, flags, options) for label, flags in kinds]
    table = Table(
        name="start",
        title=f"From nothing to the first batch, {options.frames:,} frames; seconds",
        columns=COLUMNS,
        rows=rows,
        conditions={
            "process": "fresh, imports done",
            "memory": options.memory,
            "repeats": options.rounds,
            "groups": "4 of 6",
        },
    )
    save_tables([table], options.out / "start.json")
    return table


def measure(
    label: str, path: str, flags: tuple[str, ...], options: argparse.Namespace
) -> list[Cell]:
    """Return the cells of one kind of start: medians."""
    n_rounds = 1 if "--compile" in flags else options.rounds
    found = []
    for _ in range(n_rounds):
        with tempfile.TemporaryDirectory() as empty:
            environment = dict(os.environ)
            if "--compile" in flags:
                environment["NUMBA_CACHE_DIR"] = empty
            rest = [flag for flag in flags if flag != "--compile"]
            found.append(
                run_child(
                    "start.py", "--child", path, "--memory", options.memory, *rest,
                    environment=environment,
                )
            )  # fmt: skip
    totals = [times["total"] for times in found]
    parts = {name: statistics.median(times[name] for times in found) for name in found[0]}
    is_drawn = "--uncached" in flags
    return [
        label, parts["total"], f"{min(totals):.2f}..{max(totals):.2f}", parts["open"],
        parts["groups"], parts["neighbours"] if is_drawn else None,
        parts["draws"] if is_drawn else None, parts["loader"], parts["order"], parts["plan"],
        parts["first"],
    ]  # fmt: skip


def start(path: str, memory: str, *, uncached: bool, evict: bool) -> dict[str, float]:
    """Open a store, make a loader and take its first batch; return the seconds of each part."""
    if evict:
        evict_files(Path(path))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(path)
        if uncached:
            # The groups' cache lies beside the store: a link elsewhere has none.
            source = Path(folder) / source.name
            source.symlink_to(path)
            os.environ["XDG_CACHE_HOME"] = folder
        times = dict.fromkeys((name for name, *_ in PARTS), 0.0)
        for name, module, place in PARTS:
            time_calls(module, place, times, name)
        began = time.perf_counter()
        store = open_store(source)
        opened = time.perf_counter()
        config = LoaderConfig(batch_size=64, device="numpy", memory=memory, shuffle="window")
        loader = GroupLoader(store, GROUPING, config)
        made = time.perf_counter()
        next(iter(loader))
        done = time.perf_counter()
        loader.close()
        store.close()
    times["open"], times["loader"] = opened - began, made - opened - times["groups"]
    times["first"] = done - made - times["order"] - times["plan"]
    times["total"] = done - began
    return times


def time_calls(module: str, place: str, times: dict[str, float], name: str) -> None:
    """Replace a function of a module, or a method of its class, by one that adds up its time."""
    *owners, attribute = place.split(".")
    owner: Any = functools.reduce(getattr, owners, import_module(module))
    inner: Callable[..., Any] = getattr(owner, attribute)

    @functools.wraps(inner)
    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return inner(*arguments, **options)
        finally:
            times[name] += time.perf_counter() - started

    setattr(owner, attribute, timed)


def evict_files(folder: Path) -> None:
    """Ask the system to forget the files' pages; clean ones go."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_folders(parser)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-first-run", action="store_true", help="leave out the compiler")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--uncached", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--evict", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    options = parse()
    if options.child:
        times = start(options.child, options.memory, uncached=options.uncached, evict=options.evict)
        print(json.dumps(times))
    else:
        run(options)
