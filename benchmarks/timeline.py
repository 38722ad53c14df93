"""Resident memory over time through an ingest and two epochs, ours and the scan in RAM.

    python benchmarks/timeline.py --scan medium --memory 512MiB

Each way runs in a process of its own, which says when a stage begins; this process reads its
resident memory from the system every few milliseconds. Imports come before the first stage.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from scans import add_arguments, scan_file, scan_store
from tables import Cell, Table, new_figure, save_tables

import ptyzarr
from ptyzarr.grouping import cached_group_table
from ptyzarr.memory import resident_memory

GROUPING = ptyzarr.GroupingConfig(gridsize=2, n_neighbors=6, seed=0)
BATCH_SIZE = 64
LABELS = {"ours": "ptyzarr", "ram": "the scan in RAM"}


def run(options: argparse.Namespace) -> Table:
    """Watch both ways; print what each stage took and held."""
    source = scan_file(options.scan, options.cache)
    # The groups are drawn before, so that both ways begin with their frames.
    store = scan_store(options.scan, options.cache)
    cached_group_table(store, GROUPING)
    watched = {way: watch(way, source, store.path, options) for way in LABELS}
    rows: list[list[Cell]] = []
    for way, (samples, stages) in watched.items():
        for stage, start, stop in stages:
            inside = [nbytes for when, nbytes in samples if start <= when <= stop]
            highest = max(inside, default=0) - samples[0][1]
            rows.append([f"{LABELS[way]}: {stage}", stop - start, highest // 2**20])
    table = Table(
        name="timeline",
        title="Memory over time",
        columns=("stage", "seconds", "MiB added at most"),
        rows=rows,
        conditions={
            "scan": options.scan,
            "memory": options.memory,
            "sampled every": f"{1e3 * options.interval_s:.0f} ms",
            "consumer": "drops the batch",
        },
    )
    save_tables([table], options.out / "timeline.json")
    draw(watched, options)
    return table


Watched = tuple[list[tuple[float, int]], list[tuple[str, float, float]]]


def watch(way: str, source: Path, store: str, options: argparse.Namespace) -> Watched:
    """Return (time, bytes) samples of the process and its stages with their times in seconds."""
    command = [sys.executable, __file__, "--child", way, str(source), store]
    with tempfile.TemporaryDirectory(dir=options.cache) as folder:
        process = subprocess.Popen(
            [*command, folder, options.memory], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        # Both clocks are the system's monotonic one.
        began = time.monotonic()
        samples = []
        while process.poll() is None:
            memory = resident_memory(process.pid)
            if memory:
                samples.append((time.monotonic() - began, memory[0]))
            time.sleep(options.interval_s)
        lines = process.stdout.read().splitlines()
    if process.returncode != 0:
        raise SystemExit(f"the process of {way!r} failed with status {process.returncode}")
    marks = [(name, when - began) for name, when in map(json.loads, lines)]
    stages = [(name, when, after[1]) for (name, when), after in itertools.pairwise(marks)]
    return samples, stages


def stages_of_ours(source: str, folder: str, memory: str) -> Iterator[str]:
    """Ingest and stream two epochs; yield the name of each stage before it begins."""
    yield "ingest"
    store = ptyzarr.ingest(source, Path(folder) / "scan.zarr", ptyzarr.IngestConfig(memory=memory))
    config = ptyzarr.LoaderConfig(batch_size=BATCH_SIZE, device="numpy", memory=memory)
    with ptyzarr.GroupLoader(store, GROUPING, config) as loader:
        for epoch in (1, 2):
            yield f"epoch {epoch}"
            for batch in loader:
                del batch
    store.close()


def stages_of_ram(source: str, members: Any) -> Iterator[str]:
    """Load the frames and gather two epochs in torch, (B, N, N, C) as ours."""
    torch = import_module("torch")
    yield "numpy.load"
    with np.load(source) as archive:
        frames = torch.from_numpy(archive["diff3d"].astype(np.float32, copy=False))
    size, group_size = frames.shape[1], members.shape[1]
    flat = torch.empty((BATCH_SIZE * group_size, size, size))
    out = torch.empty((BATCH_SIZE, size, size, group_size))
    for epoch in (1, 2):
        yield f"epoch {epoch}"
        order = np.random.default_rng(epoch).permutation(len(members))
        for first in range(0, len(order), BATCH_SIZE):
            part = members[order[first : first + BATCH_SIZE]]
            x = flat[: part.size]
            torch.index_select(frames, 0, torch.from_numpy(part.reshape(-1)), out=x)
            x = x.view(len(part), group_size, size, size)
            for channel in range(group_size):
                out[: len(part), ..., channel] = x[:, channel]


def child(way: str, source: str, store: str, folder: str, memory: str) -> None:
    """Run one way; a line before the first stage, then one for the beginning of each."""
    with contextlib.closing(ptyzarr.open_store(store)) as opened:
        members = cached_group_table(opened, GROUPING).nn_indices.astype(np.int64)
    if way == "ram":
        import_module("torch")
    print("ready", flush=True)
    # Long enough for a few samples of what is there before.
    time.sleep(0.2)
    stages = (
        stages_of_ours(source, folder, memory) if way == "ours" else stages_of_ram(source, members)
    )
    for name in stages:
        print(json.dumps([name, time.monotonic()]), flush=True)
    print(json.dumps(["end", time.monotonic()]), flush=True)


def draw(watched: dict[str, Watched], options: argparse.Namespace) -> None:
    """Draw a panel for each way, on one scale of memory and time."""
    figure = new_figure(8, 4.6)
    if figure is None:
        return
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    highest = max(
        nbytes - samples[0][1] for samples, _ in watched.values() for _, nbytes in samples
    )
    for axes, (way, (samples, stages)) in zip(panels, watched.items(), strict=True):
        base = samples[0][1]
        end = stages[-1][2]
        times = [when for when, _ in samples if when <= end]
        added = [(nbytes - base) / 2**20 for when, nbytes in samples if when <= end]
        axes.fill_between(times, added, color="C0" if way == "ours" else "0.7")
        axes.set_title(f"{LABELS[way]}" + (f", {options.memory}" if way == "ours" else ""),
                       loc="left", fontsize=10)  # fmt: skip
        axes.set_ylim(0, 1.3 * highest / 2**20)
        for number, (stage, start, stop) in enumerate(stages):
            axes.axvline(start, color="0.4", linewidth=0.7)
            # Short stages stand side by side: their names take turns in height.
            axes.annotate(
                stage, (start, (0.97, 0.84, 0.71)[number % 3]),
                xycoords=("data", "axes fraction"), xytext=(3, 0), textcoords="offset points",
                fontsize=8, va="top",
            )  # fmt: skip
            if number == len(stages) - 1:
                axes.axvline(stop, color="0.4", linewidth=0.7)
        axes.set_ylabel("MiB added")
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
    panels[-1].set_xlabel("seconds after the imports")
    panels[-1].set_xlim(0)
    figure.savefig(options.out / "timeline.png")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--interval-s", type=float, default=0.005)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        run(parse())
