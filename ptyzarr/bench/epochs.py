"""The epoch table: which contenders, under which conditions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from ptyzarr.bench.catalogue import CONTENDERS
from ptyzarr.bench.contender import Entry
from ptyzarr.bench.files import DUPLICATED
from ptyzarr.bench.report import BenchReport, make_report
from ptyzarr.bench.rounds import run_rounds
from ptyzarr.bench.workload import Workload
from ptyzarr.config import format_size
from ptyzarr.progress import Progress

#: Row to which the others are compared: the scan as float32 in memory. Not the row with all
#: threads, which collapses where others use a core: torch's threads wait for each other.
REFERENCE: Final = "RAM float32 index_select, 1 thread"
#: What `ptyzarr bench` runs on a user's scan: ours, the plain ways, readers of our own store.
SHORT: Final = (
    "window",
    "full",
    "canonical",
    "ram",
    "ram-ahead",
    "memmap",
    "zarr-store",
    "tensorstore-store",
    "gather",
    "gather-packed",
    "decode",
)
EVERY: Final = tuple(CONTENDERS)

#: What is compared where the consumer reads each batch: ours writes it past the caches.
READ: Final = ("window", "ram", "ram-ahead")

DROPS: Final = "drops the batch"

_BUDGETED: Final = {
    "window",
    "full",
    "canonical",
    "map",
    "map-items",
    "tensorstore-store",
    "tensorstore-single",
}
_MORE_BUDGETS: Final = {"window", "tensorstore-store"}


def epoch_entries(
    work: Workload,
    keys: Sequence[str],
    budgets: Sequence[str | int] = (),
) -> list[Entry]:
    """Return the rows of the table.

    Parameters
    ----------
    work
        Conditions.
    keys
        Contenders, in the order of the table.
    budgets
        Other budgets, for one more row each of the window shuffle and of TensorStore.
    """
    return [entry for key in keys for entry in _entries(work, key, budgets)]


def _entries(work: Workload, key: str, budgets: Sequence[str | int]) -> list[Entry]:
    """Return the rows of one contender."""
    contender = CONTENDERS[key]
    label = contender.label
    if key in _BUDGETED:
        label = f"{label}, {format_size(work.memory_bytes)}"
    entries = []
    if key == "ram":
        alone = dataclasses.replace(work, n_threads=1)
        entries.append(Entry(label=f"{label}, 1 thread", contender=contender, workload=alone))
        label = f"{label}, all threads"
    entries.append(Entry(label=label, contender=contender, workload=work))
    for budget in budgets if key in _MORE_BUDGETS else ():
        other = dataclasses.replace(work, memory=budget)
        label = f"{contender.label}, {format_size(other.memory_bytes)}"
        entries.append(Entry(label=label, contender=contender, workload=other))
    return entries


def measure_epochs(
    work: Workload,
    keys: Sequence[str] = EVERY,
    *,
    n_rounds: int = 5,
    budgets: Sequence[str | int] = (),
    max_disk: int = 32 * 1024**3,
    progress: Progress | None = None,
) -> BenchReport:
    """Return the table of shuffled epochs of one scan in one layout."""
    entries = epoch_entries(work, keys, budgets)
    # One whose files are many times the scan runs when the memory of the others is free again:
    # the page cache is to hold them.
    large = [entry for entry in entries if DUPLICATED in entry.contender.files]
    others = [entry for entry in entries if entry not in large]
    done = dict(zip(others, run_rounds(others, n_rounds, max_disk, progress), strict=True))
    done |= zip(large, run_rounds(large, n_rounds, max_disk, progress), strict=True)
    rows = [done[entry] for entry in entries]
    return make_report(_title(work), "groups", REFERENCE, _conditions(work, n_rounds), rows)


def _title(work: Workload) -> str:
    layout = "(B, C, N, N)" if work.channels == "first" else "(B, N, N, C)"
    read = ", each batch read by one thread" if work.consumer == "reads" else ""
    return f"Epoch of groups, {layout}{read}"


def _conditions(work: Workload, n_rounds: int) -> dict[str, Any]:
    store = work.open()
    chunk = store.format
    return {
        "frames": store.n_frames,
        "frame_size": store.frame_size,
        "stored_as": f"{store.quantity} {chunk.dtype}",
        "chunk_frames": chunk.chunk_frames,
        "groups": len(work.members()),
        "group_size": work.grouping.group_size,
        "n_neighbors": work.n_neighbors,
        "batch_size": work.batch_size,
        "channels": work.channels,
        "threads": work.n_threads,
        "seed": work.seed,
        "rounds": n_rounds,
        "round_s": work.round_s,
        "files": "in the page cache",
        "consumer": DROPS if work.consumer == "drops" else "takes the largest value of the batch",
    }
