"""The process of one contender, as the one that measures sees it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO, Any, Final, cast

from ptyzarr.bench.contender import Entry
from ptyzarr.errors import DeviceError, PtyzarrError

_GRACE_S: Final = 0.5
# Of processes that a contender started, and that ended with it.
_QUIET: Final = "ignore:resource_tracker:UserWarning"


class Worker:
    """The process of one contender; `wait` before the first call."""

    def __init__(self, entry: Entry) -> None:
        self._label = entry.label
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ptyzarr.lifeline", "ptyzarr.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": _warnings()},
            # Ctrl-C in a terminal is for the parent alone, which ends its workers.
            process_group=0,
        )
        self._commands = cast("IO[str]", self._process.stdin)
        self._answers = cast("IO[str]", self._process.stdout)
        spec = {"key": entry.contender.key, "workload": entry.workload.to_json()}
        self._send(spec)

    def wait(self) -> None:
        """Wait until the contender is ready.

        Raises
        ------
        DeviceError
            If its process has died.
        PtyzarrError
            What it failed with, in its own type.
        """
        self._receive()

    def call(self, name: str, *arguments: Any) -> dict[str, Any]:
        """Return the answer to a command.

        Raises
        ------
        DeviceError
            If the process has died; what it wrote to stderr says why.
        PtyzarrError
            What it failed with, in its own type.
        """
        self._send([name, *arguments])
        return self._receive()

    def release(self) -> None:
        """Tell the process to end: it does when its standard input is closed, whatever it does."""
        with contextlib.suppress(OSError):
            self._commands.close()

    def end(self, deadline: float) -> None:
        """Wait until the process has ended; after a deadline (`time.monotonic`) it is killed."""
        try:
            self._process.wait(timeout=max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._answers.close()

    def _send(self, message: Any) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._commands.write(json.dumps(message) + "\n")
            self._commands.flush()

    def _receive(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise DeviceError(f"the process that runs {self._label!r} ended; see its messages")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise _error_class(answer["error"])(f"{self._label}: {answer['message']}")
        return answer


def stop_all(workers: Sequence[Worker]) -> None:
    """End the processes of contenders, also of those that are starting or measuring."""
    for worker in workers:
        worker.release()
    deadline = time.monotonic() + _GRACE_S
    for worker in workers:
        worker.end(deadline)


def _warnings() -> str:
    given = os.environ.get("PYTHONWARNINGS")
    return f"{given},{_QUIET}" if given else _QUIET


def _error_class(code: str) -> type[PtyzarrError]:
    """Return the class of errors with a code."""
    known = [PtyzarrError]
    for kind in known:
        known += kind.__subclasses__()
    return next((kind for kind in known if kind.code == code), PtyzarrError)
