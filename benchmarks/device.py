"""On a GPU: bytes over the bus beside a pinned copy, and how long a model waits for batches.

    python benchmarks/device.py --scan medium --memory 1GiB

Where there is no CUDA device, the table says "unmeasured" and so do the documents.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from scans import add_arguments, scan_store
from tables import Cell, Table, save_tables

import ptyzarr
from ptyzarr.store import ScanStore

UNMEASURED = "unmeasured"
STEPS_MS = (5, 20, 50)
GROUPING = ptyzarr.GroupingConfig(gridsize=2, n_neighbors=6, seed=0)
_COPY_NBYTES = 64 * 1024**2


def run(options: argparse.Namespace) -> Table:
    """Measure, or say that nothing was measured."""
    torch = import_module("torch") if find_spec("torch") else None
    has_cuda = torch is not None and torch.cuda.is_available()
    conditions: dict[str, Any] = {
        "scan": options.scan,
        "memory": options.memory,
        "batch_size": options.batch_size,
        "device": torch.cuda.get_device_name() if torch and has_cuda else "none",
    }
    rows = measure(torch, options) if torch and has_cuda else unmeasured()
    table = Table(
        name="device",
        title="Batches on a GPU",
        columns=("", "GB/s over the bus", "of a pinned copy", "groups/s", "stall share"),
        rows=rows,
        conditions=conditions,
    )
    save_tables([table], options.out / "device.json")
    return table


def unmeasured() -> list[list[Cell]]:
    """Return the rows of a machine without a GPU."""
    labels = ["pinned copy, host to device", "ptyzarr, batches dropped"]
    labels += [f"ptyzarr, a model step of {step} ms a batch" for step in STEPS_MS]
    return [[label, *[UNMEASURED] * 4] for label in labels]


def measure(torch: Any, options: argparse.Namespace) -> list[list[Cell]]:
    """Return the rows of a machine with one."""
    store = scan_store(options.scan, options.cache)
    config = ptyzarr.LoaderConfig(
        batch_size=options.batch_size, device="cuda", memory=options.memory
    )
    copy = copy_rate(torch)
    rows: list[list[Cell]] = [["pinned copy, host to device", copy, 1.0, None, None]]
    with ptyzarr.GroupLoader(store, GROUPING, config) as loader:
        # The first epoch compiles and fills the buffer.
        stream(torch, loader, lambda: None)
        n_groups, seconds, _ = stream(torch, loader, lambda: None)
        rate = n_groups * group_nbytes(store) / seconds / 1e9
        rows.append(["ptyzarr, batches dropped", rate, rate / copy, n_groups / seconds, None])
        for step_ms in STEPS_MS:
            step = make_step(torch, step_ms)
            n_groups, seconds, waited = stream(torch, loader, step)
            rate = n_groups * group_nbytes(store) / seconds / 1e9
            label = f"ptyzarr, a model step of {step_ms} ms a batch"
            rows.append([label, rate, rate / copy, n_groups / seconds, waited / seconds])
    store.close()
    return rows


def group_nbytes(store: ScanStore) -> int:
    """Return the bytes of a group that cross the bus: frames as they are stored."""
    itemsize = store.format.dtype.itemsize
    return int(GROUPING.group_size * store.frame_size**2 * itemsize)


def copy_rate(torch: Any) -> float:
    """Return GB/s of copies from pinned memory, the best of a few."""
    source = torch.empty(_COPY_NBYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(_COPY_NBYTES, dtype=torch.uint8, device="cuda")
    best = 0.0
    for _ in range(10):
        torch.cuda.synchronize()
        started = time.perf_counter()
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        best = max(best, _COPY_NBYTES / (time.perf_counter() - started) / 1e9)
    return best


def make_step(torch: Any, step_ms: float) -> Callable[[], None]:
    """Return a function that keeps the device busy for about `step_ms` with matrix products."""
    matrix = torch.randn(2048, 2048, device="cuda")
    n_warm = 20
    for _ in range(2):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(n_warm):
            matrix @ matrix
        torch.cuda.synchronize()
        one_ms = 1e3 * (time.perf_counter() - started) / n_warm
    count = max(1, round(step_ms / one_ms))

    def step() -> None:
        for _ in range(count):
            matrix @ matrix

    return step


def stream(torch: Any, loader: Any, step: Callable[[], None]) -> tuple[int, float, float]:
    """Run an epoch; return its groups, its seconds, and those in which the device had no work.

    The device works on one step while the next batch is asked for. It has no work from the end of
    its step to the start of the next one, if that comes later: both are events on its stream.
    """
    ends: list[Any] = []
    starts: list[Any] = []
    n_groups = 0
    torch.cuda.synchronize()
    began = time.perf_counter()
    for batch in loader:
        n_groups += len(batch.nn_indices)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        starts.append(start)
        ends.append(end)
        if len(ends) > 1:
            # No more than one step ahead, as a training loop that looks at its loss.
            ends[-2].synchronize()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    gaps = zip(ends[:-1], starts[1:], strict=True)
    idle_ms = sum(end.elapsed_time(start) for end, start in gaps)
    return n_groups, seconds, max(0.0, idle_ms / 1e3)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--batch-size", type=int, default=64)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(parse())
