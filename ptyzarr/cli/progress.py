"""Progress on stderr: a bar with rate and time left on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from typing import IO

from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as RichProgress,
)
from rich.text import Text

from ptyzarr.config import format_size
from ptyzarr.progress import Progress

_LINE_EVERY_S = 30.0


def terminal_progress(stream: IO[str] | None = None) -> Progress:
    """Return the progress reporter that fits a stream (stderr by default)."""
    stream = stream or sys.stderr
    return Bar(stream) if stream.isatty() else Lines(stream)


def format_amount(amount: float, unit: str) -> str:
    """Return an amount for people: bytes with a unit, anything else as a number."""
    return format_size(amount) if unit == "bytes" else f"{amount:,.0f} {unit}"


class Bar:
    """A live bar; see `ptyzarr.progress.Progress`."""

    def __init__(self, stream: IO[str]) -> None:
        self._progress = RichProgress(
            TextColumn("{task.description:>10}", markup=False),  # it may hold a file name
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            _Rate(),
            TimeRemainingColumn(),
            console=Console(file=stream),
            transient=True,
        )
        self._task: TaskID | None = None

    def start(self, stage: str, total: int, unit: str) -> None:
        """Begin a stage."""
        self._progress.start()
        self._task = self._progress.add_task(stage, total=total, unit=unit)

    def advance(self, amount: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.advance(self._task, amount)

    def finish(self) -> None:
        """Remove the bar."""
        self._progress.stop()
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None


class Lines:
    """A plain line every half minute and at the end of a stage that took longer than one."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._stage, self._unit, self._total, self._done = "", "", 0, 0
        self._began = self._last = time.monotonic()

    def start(self, stage: str, total: int, unit: str) -> None:
        """Begin a stage."""
        self._stage, self._unit, self._total, self._done = stage, unit, total, 0
        self._began = self._last = time.monotonic()

    def advance(self, amount: int) -> None:
        """Write a line if the last one is old."""
        self._done += amount
        if time.monotonic() - self._last >= _LINE_EVERY_S:
            self._last = time.monotonic()
            self._write()

    def finish(self) -> None:
        """Write the last line of a stage that has written before."""
        if self._last > self._began:
            self._write()

    def _write(self) -> None:
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = self._done / seconds
        left = (self._total - self._done) / rate if rate else 0.0
        share = 100 * self._done / max(self._total, 1)
        self._stream.write(
            f"{self._stage}: {share:.0f}% of {format_amount(self._total, self._unit)}, "
            f"{format_amount(rate, self._unit)}/s, {left:.0f} s left\n"
        )
        self._stream.flush()


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        if not task.speed:
            return Text("")
        return Text(f"{format_amount(task.speed, task.fields['unit'])}/s")
