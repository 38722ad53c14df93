"""Whether several stores and ranks keep the speed of one store in one process.

    python benchmarks/several.py --frames 200000 --stores 8 --memory 512MiB

The same number of frames lies in one store or in several; the cores belong to one process or are
divided among ranks, each a process with a loader and a budget of its own that delivers its part
of the epoch at the same time as the others. All processes live through all rounds; only those of
one row work at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from scans import add_folders, sized_store
from tables import Table, save_tables

from ptyzarr import GroupingConfig, GroupLoader, LoaderConfig, open_store
from ptyzarr.compiled import available_cores
from ptyzarr.memory import resident_memory

COLUMNS = ("stores, ranks", "groups/s", "lo..hi", "ratio", "CPU ratio", "MiB added, all ranks",
           "decoded / distinct")  # fmt: skip
GROUPING = GroupingConfig(gridsize=2, n_neighbors=6, seed=0)


class Rank:
    """A process with a loader, which delivers an epoch when it is told to."""

    def __init__(self, stores: Sequence[str], rank: int, world: int, memory: str) -> None:
        threads = max(1, available_cores() // world)
        options = json.dumps(
            {"stores": list(stores), "rank": rank, "world": world, "memory": memory,
             "threads": threads}
        )  # fmt: skip
        command = [sys.executable, __file__, "--child", options]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, epoch: int) -> None:
        """Start an epoch."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{epoch}\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Return what the process says next: that it is ready, or what it delivered."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a rank ended with status {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def run(options: argparse.Namespace) -> Table:
    """Measure every row in interleaved rounds; the ratio is to one store in one process."""
    one = [sized_store(options.frames, options.cache).path]
    many = copy_stores(options)
    world = options.ranks
    kinds = {
        "1 store, 1 process": (one, 1),
        f"{len(many)} stores, 1 process": (many, 1),
        f"1 store, {world} ranks": (one, world),
        f"{len(many)} stores, {world} ranks": (many, world),
    }
    with contextlib.ExitStack() as stack:
        rows: dict[str, list[Rank]] = {}
        for label, (stores, n_ranks) in kinds.items():
            ranks = [Rank(stores, i, n_ranks, options.memory) for i in range(n_ranks)]
            for rank in ranks:
                stack.callback(rank.close)
                rank.hear()
            rows[label] = ranks
        # The first epoch of each loader decodes everything and is not counted.
        found = {label: [deliver(ranks, 0)][1:] for label, ranks in rows.items()}
        for epoch in range(1, options.rounds + 1):
            for label, ranks in rows.items():
                found[label].append(deliver(ranks, epoch))
    return tabulate(found, options)


def deliver(ranks: Sequence[Rank], epoch: int) -> dict[str, float]:
    """Let all ranks deliver an epoch together; return their sums and the time they took."""
    started = time.perf_counter()
    for rank in ranks:
        rank.tell(epoch)
    heard = [rank.hear() for rank in ranks]
    sums = {name: sum(facts[name] for facts in heard) for name in heard[0]}
    return {**sums, "seconds": time.perf_counter() - started}


def tabulate(found: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> Table:
    """Print and write the table."""
    rates = {label: [f["groups"] / f["seconds"] for f in facts] for label, facts in found.items()}
    cpu = {label: [f["groups"] / f["cpu_s"] for f in facts] for label, facts in found.items()}
    first = next(iter(found))
    rows = [
        [
            label,
            statistics.median(rates[label]),
            f"{min(rates[label]):,.0f}..{max(rates[label]):,.0f}",
            statistics.median(a / b for a, b in zip(rates[label], rates[first], strict=True)),
            statistics.median(a / b for a, b in zip(cpu[label], cpu[first], strict=True)),
            round(facts[-1]["added_bytes"] / 2**20),
            facts[-1]["decoded"] / facts[-1]["distinct"],
        ]
        for label, facts in found.items()
    ]
    table = Table(
        name="several",
        title="Several stores and ranks: a window epoch over as many frames",
        columns=COLUMNS,
        rows=rows,
        conditions={
            "frames": f"{options.frames:,} of 64 x 64 counts",
            "memory of a rank": options.memory,
            "threads of all ranks": available_cores(),
            "rounds": options.rounds,
            "decoded / distinct": "chunks, summed over ranks",
        },
    )
    save_tables([table], options.out / "several.json")
    return table


def copy_stores(options: argparse.Namespace) -> list[str]:
    """Return stores that together have the frames, made where they are not there."""
    n_frames = options.frames // options.stores
    source = sized_store(n_frames, options.cache).path
    paths = [
        options.cache / f"several-{n_frames}-{number}.zarr" for number in range(options.stores)
    ]
    for path in paths:
        if not path.exists():
            scratch = path.with_suffix(".partial")
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.copytree(source, scratch)
            scratch.rename(path)
    return [str(path) for path in paths]


def work(stores: list[str], rank: int, world: int, memory: str, threads: int) -> None:
    """Be a rank: deliver an epoch for each number on stdin."""
    before = resident_memory()
    opened = [open_store(path) for path in stores]
    config = LoaderConfig(
        batch_size=64, device="numpy", memory=memory, n_threads=threads, rank=rank,
        world_size=world,
    )  # fmt: skip
    loader = GroupLoader(opened, GROUPING, config)
    print(json.dumps({"is_ready": True}), flush=True)
    for line in sys.stdin:
        cpu = time.process_time()
        loader.set_epoch(int(line))
        n_groups = sum(len(batch.nn_indices) for batch in loader)
        stats, after = loader.stats, resident_memory()
        facts = {
            "groups": n_groups,
            "cpu_s": time.process_time() - cpu,
            "decoded": stats.chunks_decoded,
            "distinct": stats.distinct_chunks,
            "added_bytes": after[1] - before[0] if before and after else 0,
        }
        print(json.dumps(facts), flush=True)
    loader.close()


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_folders(parser)
    parser.add_argument("--frames", type=int, default=200_000, help="of all stores together")
    parser.add_argument("--stores", type=int, default=8)
    parser.add_argument("--ranks", type=int, default=max(2, available_cores()))
    parser.add_argument("--memory", default="512MiB", help="of each rank")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    options = parse()
    if options.child:
        work(**options.child)
    else:
        run(options)
