"""Contenders side by side: each in its own process, round by round in turn, medians."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from ptyzarr.bench.contender import Entry
from ptyzarr.bench.files import ensure_file, expected_nbytes, read_once
from ptyzarr.bench.machine import available_memory, folder_nbytes
from ptyzarr.bench.processes import Worker, stop_all
from ptyzarr.bench.workload import IngestWork, Workload
from ptyzarr.config import format_size
from ptyzarr.progress import Progress, Silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one contender did.

    Attributes
    ----------
    label, key, how
        What it is.
    skipped
        Why it did not run; None if it ran.
    rates
        Units per second of each round.
    cpu_rates
        Units per second of processor time; none where work is done in further processes.
    peak_bytes, added_bytes
        Largest resident memory of its process, in all and above interpreter and imports.
    disk_bytes
        What it reads from disk, as stored.
    facts
        Of the last round, and what was seen in the first epoch.
    """

    label: str
    key: str
    how: str
    skipped: str | None = None
    rates: tuple[float, ...] = ()
    cpu_rates: tuple[float, ...] = ()
    peak_bytes: int | None = None
    added_bytes: int | None = None
    disk_bytes: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median rate; NaN if it did not run."""
        return statistics.median(self.rates) if self.rates else float("nan")

    @property
    def cpu_median(self) -> float:
        """Median rate for each second of processor time; NaN if it was not measured."""
        return statistics.median(self.cpu_rates) if self.cpu_rates else float("nan")


def skip_reason(entry: Entry, max_disk: int) -> str | None:
    """Return why a contender cannot run here, or None."""
    contender, work = entry.contender, entry.workload
    missing = [name for name in contender.needs if find_spec(name.partition(".")[0]) is None]
    if missing:
        return f"{missing[0]} is not installed"
    resident, free = contender.resident(work), available_memory()
    if free and resident > free // 2:
        return f"needs {format_size(resident)} in memory, {format_size(free)} are free"
    if isinstance(work, IngestWork):
        return None
    for name in contender.files:
        nbytes = 0 if work.path(name).exists() else expected_nbytes(work, name)
        if nbytes > max_disk:
            return f"needs a file of up to {format_size(nbytes)}, more than {format_size(max_disk)}"
    return None


def run_rounds(
    entries: Sequence[Entry],
    n_rounds: int,
    max_disk: int,
    progress: Progress | None = None,
    *,
    judged: bool = True,
) -> list[Row]:
    """Return a row for each entry; the rounds of all are interleaved.

    Parameters
    ----------
    entries
        Contenders, in the order of the table.
    n_rounds
        Rounds that count.
    max_disk
        Most bytes of one file that is made for a contender.
    progress
        Receives the stages.
    judged
        Whether what is delivered is compared with the scan, and the shuffle judged, at the end.

    Raises
    ------
    DeviceError
        If the process of a contender dies.
    PtyzarrError
        What a contender failed with: `VerificationError` if it delivered something else.
    """
    if not entries:
        return []
    progress = progress or Silent()
    reasons = [skip_reason(entry, max_disk) for entry in entries]
    running = [entry for entry, reason in zip(entries, reasons, strict=True) if reason is None]
    names = {(name, entry.workload) for entry in running for name in entry.contender.files}
    progress.start("preparing", len(names) + len(running), "steps")
    for name, work in names:
        if isinstance(work, Workload):
            read_once(ensure_file(work, name))
        progress.advance(1)
    with _workers(running, progress) as workers:
        seen = [worker.call("warm_up") for worker in workers]
        progress.finish()
        progress.start("measuring", n_rounds * len(workers), "rounds")
        results: list[list[dict[str, Any]]] = [[] for _ in workers]
        for number in range(1, n_rounds + 1):
            # Every round begins with another contender, so that none always follows the same.
            for place in range(len(workers)):
                index = (place + number) % len(workers)
                results[index].append(workers[index].call("run", number))
                progress.advance(1)
        progress.finish()
        memory = [worker.call("memory") for worker in workers]
        if judged:
            progress.start("checking what was delivered", len(workers), "contenders")
            for facts, worker in zip(seen, workers, strict=True):
                facts |= worker.call("judge")
                progress.advance(1)
            progress.finish()
        for worker in workers:
            worker.call("close")
    done = map(_row, running, results, seen, memory)
    return [
        next(done) if reason is None else _skipped(entry, reason)
        for entry, reason in zip(entries, reasons, strict=True)
    ]


@contextlib.contextmanager
def _workers(entries: Sequence[Entry], progress: Progress) -> Iterator[list[Worker]]:
    workers: list[Worker] = []
    try:
        # All start at once: imports take longer than anything else.
        workers.extend(map(Worker, entries))
        for worker in workers:
            worker.wait()
            progress.advance(1)
        yield workers
    finally:
        stop_all(workers)


def _row(
    entry: Entry,
    results: Sequence[Mapping[str, Any]],
    seen: Mapping[str, Any],
    memory: Mapping[str, Any],
) -> Row:
    contender, facts = entry.contender, {**results[-1]["facts"], **seen}
    return Row(
        label=entry.label,
        key=contender.key,
        how=contender.how,
        rates=tuple(result["units"] / result["seconds"] for result in results),
        cpu_rates=() if facts.get("worker_processes") else _cpu_rates(results),
        disk_bytes=_disk_nbytes(entry),
        facts=facts,
        **memory,
    )


def _cpu_rates(results: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    return tuple(result["units"] / result["cpu_s"] for result in results if result["cpu_s"] > 0)


def _skipped(entry: Entry, reason: str) -> Row:
    contender = entry.contender
    return Row(label=entry.label, key=contender.key, how=contender.how, skipped=reason)


def _disk_nbytes(entry: Entry) -> int:
    work, files = entry.workload, entry.contender.files
    return sum(folder_nbytes(work.path(name)) for name in files) or folder_nbytes(work.input_path)
