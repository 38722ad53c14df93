"""What takes part in a measurement: a name, one line on how it works, and a trial to run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ptyzarr.bench.workload import IngestWork, Workload


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a trial did in one round.

    Attributes
    ----------
    units
        Groups, bytes or whatever the table counts.
    seconds
        Time it took.
    facts
        Anything else worth a place in the report; JSON.
    """

    units: float
    seconds: float
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Delivery:
    """One batch as a contender delivers it.

    Attributes
    ----------
    x
        Array or tensor: (B, C, N, N) or (B, N, N, C) float32.
    members : (B, C) integers
        Acquisition indices of the frames in it.
    scale : (B,) float32, or None
        Factor by which the amplitudes were multiplied.
    """

    x: Any
    members: NDArray[np.integer[Any]]
    scale: NDArray[np.float32] | None = None


#: Epochs of different rounds have different numbers.
_EPOCHS_IN_ROUND: Final = 1000

Deliveries = Generator[Delivery, None, None]


class Trial(Protocol):
    """A contender at work, in a process of its own."""

    def run(self, round_number: int) -> Work:
        """Do one round; round 0 warms up and is not counted."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to do the work.

    Attributes
    ----------
    key
        Identifies it in commands and reports.
    label
        Its name in the table.
    how
        One line: what it does, with which settings.
    make
        Returns the trial; called in the process that runs it.
    needs
        Packages that must be installed. They are imported before memory is counted.
    files
        Files that it reads, as `files.BUILDERS` names them.
    resident
        Bytes that it must hold in memory; what does not fit is skipped by name.
    """

    key: str
    label: str
    how: str
    make: Callable[[Any], Trial]
    needs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    resident: Callable[[Any], int] = lambda _: 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row of a table: a contender and the conditions under which it runs."""

    label: str
    contender: Contender
    workload: Workload | IngestWork


class BatchTrial:
    """Runs an iterator of batches for an epoch or until the time of a round is over.

    The consumer drops a batch, or first takes its largest value in NumPy: one pass over it on the
    processor, as fast as memory gives it.

    Parameters
    ----------
    batches
        ``epoch -> generator`` of `Delivery`.
    work
        Says when a round ends, and what the consumer does.
    facts
        Asked after every epoch.
    close
        Called at the end.
    """

    def __init__(
        self,
        batches: Callable[[int], Deliveries],
        work: Workload,
        facts: Callable[[], Mapping[str, Any]] = dict,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._batches, self._round_s, self._facts = batches, work.round_s, facts
        self._reads = work.consumer == "reads"
        self.close = close
        self._first_s: float | None = None

    def run(self, round_number: int) -> Work:
        """Deliver batches; a round whose last epoch was cut short says so in the facts.

        Short epochs are repeated until a quarter of the round's time, or of a second, is over.
        """
        n_groups = n_epochs = 0
        self._first_s = None
        started = time.perf_counter()
        while True:
            delivered, is_whole, facts = self._run_epoch(
                round_number * _EPOCHS_IN_ROUND + n_epochs, started
            )
            n_groups, n_epochs = n_groups + delivered, n_epochs + is_whole
            seconds = time.perf_counter() - started
            if not is_whole or seconds >= min(self._round_s, 1) / 4:
                break
        facts = {
            **facts,
            "epochs": n_epochs,
            "whole_epoch": is_whole,
            "first_batch_s": self._first_s,
        }
        return Work(units=n_groups, seconds=seconds, facts=facts)

    def _run_epoch(self, epoch: int, started: float) -> tuple[int, bool, Mapping[str, Any]]:
        """Return the groups delivered, whether those were all, and the facts."""
        n_groups, is_whole = 0, True
        batches = self._batches(epoch)
        for delivery in batches:
            n_groups += len(delivery.members)
            if self._reads:
                np.asarray(delivery.x).max()
            del delivery
            seconds = time.perf_counter() - started
            self._first_s = seconds if self._first_s is None else self._first_s
            if seconds > self._round_s:
                is_whole = False
                break
        facts = self._facts()
        batches.close()
        return n_groups, is_whole, facts

    def deliveries(self, epoch: int) -> Deliveries:
        """Yield the batches of an epoch, to look at what is in them."""
        return self._batches(epoch)
