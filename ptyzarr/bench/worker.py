"""One contender in a process of its own: commands in on stdin, one JSON line out for each.

The process is started by `processes` through `ptyzarr.lifeline`. Memory is counted from the moment
when the interpreter, this package and what the contender needs are imported.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from ptyzarr.bench.catalogue import CONTENDERS, DECODERS, INGESTERS
from ptyzarr.bench.contender import BatchTrial, Delivery, Trial
from ptyzarr.bench.files import RAW
from ptyzarr.bench.machine import forget_peak
from ptyzarr.bench.quality import shuffle_quality
from ptyzarr.bench.workload import IngestWork, Workload
from ptyzarr.errors import PtyzarrError, VerificationError
from ptyzarr.memory import resident_memory
from ptyzarr.store import ScanStore

_CHECKED_GROUPS: Final = 8


class Session:
    """The contender that this process runs.

    Parameters
    ----------
    key
        Of the contender.
    workload
        Fields of `Workload`.
    """

    def __init__(self, key: str, workload: Mapping[str, Any]) -> None:
        contender = INGESTERS.get(key) or DECODERS.get(key) or CONTENDERS[key]
        for package in contender.needs:
            import_module(package)
        self._work = IngestWork(**workload) if key in INGESTERS else Workload(**workload)
        forget_peak()
        memory = resident_memory()
        self._start = memory[0] if memory else None
        began = time.perf_counter()
        self._trial: Trial = contender.make(self._work)
        self._make_s = time.perf_counter() - began

    def warm_up(self) -> dict[str, Any]:
        """Do a round that is not counted; return how long the first batch took, from nothing."""
        first = self._trial.run(0).facts.get("first_batch_s")
        return {} if first is None else {"first_batch_s": self._make_s + first}

    def judge(self) -> dict[str, Any]:
        """Deliver an epoch, or a part of it; check what is in it, and how well it is shuffled.

        Takes memory of its own, so memory is asked for before.

        Raises
        ------
        VerificationError
            If its first batch does not hold the scan's amplitudes.
        """
        if not isinstance(self._trial, BatchTrial) or not isinstance(self._work, Workload):
            return {}
        orders: list[NDArray[Any]] = []
        facts: dict[str, Any] = {}
        store = self._work.open()
        started = time.perf_counter()
        batches = self._trial.deliveries(0)
        for delivery in batches:
            if not orders:
                facts["checked_frames"] = check_delivery(delivery, self._work, store)
            orders.append(np.array(delivery.members))
            del delivery
            if time.perf_counter() - started > 2 * self._work.round_s:
                break
        batches.close()
        quality = shuffle_quality(store.positions, orders)
        return {**facts, **(dataclasses.asdict(quality) if quality else {})}

    def run(self, number: int) -> dict[str, Any]:
        """Do a round; return units, seconds, processor seconds and facts."""
        processor = time.process_time()
        work = self._trial.run(number)
        return {**dataclasses.asdict(work), "cpu_s": time.process_time() - processor}

    def memory(self) -> dict[str, Any]:
        """Return the largest resident memory, and how much of it was added after the imports."""
        memory = resident_memory()
        if memory is None or self._start is None:
            return {"peak_bytes": None, "added_bytes": None}
        return {"peak_bytes": memory[1], "added_bytes": memory[1] - self._start}

    def close(self) -> dict[str, Any]:
        """Give everything back."""
        self._trial.close()
        return {}


def check_delivery(delivery: Delivery, work: Workload, store: ScanStore) -> int:
    """Compare a few groups with the scan's amplitudes, bit for bit; return how many frames.

    Raises
    ------
    VerificationError
        If a pixel differs.
    """
    members = np.asarray(delivery.members)[:_CHECKED_GROUPS].astype(np.int64)
    expected = _expected(members, work, store)
    if delivery.scale is not None:
        expected *= np.asarray(delivery.scale)[: len(members), None, None, None]
    x = np.asarray(delivery.x[: len(members)])
    x = x.transpose(0, 3, 1, 2) if work.channels == "last" else x
    if x.dtype != np.float32 or not np.array_equal(x, expected):
        raise VerificationError(
            f"a batch {x.shape} {x.dtype} does not hold its frames' amplitudes; expected them bit "
            "for bit; the contender is wrong, or its files are of another scan: remove them"
        )
    return members.size


def _expected(members: NDArray[np.int64], work: Workload, store: ScanStore) -> NDArray[np.float32]:
    """Return (B, C, N, N) amplitudes from the raw file where it is, else from the store."""
    path = work.path(RAW)
    if path.exists():
        frames = np.load(path, mmap_mode="r")
        return np.array(frames[members])
    size = store.frame_size
    values = store.amplitude(members.reshape(-1)).astype(np.float32, copy=False)
    return values.reshape(*members.shape, size, size)


def serve(commands: IO[str], replies: IO[str]) -> None:
    """Start the contender that the first line names, then answer commands until there are no more.

    An error of ours is the last answer; any other ends the process with a traceback. No line at all
    means that nobody is there any more.
    """
    first = commands.readline()
    if not first:
        return
    try:
        spec = json.loads(first)
        session = Session(spec["key"], spec["workload"])
        _reply(replies, {})
        for line in commands:
            name, *arguments = json.loads(line)
            _reply(replies, getattr(session, name)(*arguments))
    except PtyzarrError as error:
        _reply(replies, {"error": error.code, "message": str(error)})


def _reply(replies: IO[str], answer: Mapping[str, Any]) -> None:
    replies.write(json.dumps(answer) + "\n")
    replies.flush()


def main() -> None:
    """Run one contender."""
    # Whatever a library prints must not get between the answers.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
