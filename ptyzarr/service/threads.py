"""Threads for which the end of the process does not wait, whatever they hang in."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

_IDLE_S: Final = 10.0  # after which a thread without work ends

Job = tuple[Future[Any], Callable[[], Any]]


class Threads:
    """As many threads as calls are under way; who bounds the calls bounds them.

    A call that hangs, as an open on a file server that is gone does, takes its thread along and no
    other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[queue.SimpleQueue[Job]] = []
        self._n_busy = 0

    @property
    def n_busy(self) -> int:
        """Calls that have not come to their end."""
        with self._lock:
            return self._n_busy

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Return what a call in a thread will give."""
        future: Future[Any] = Future()
        with self._lock:
            self._n_busy += 1
            jobs = self._idle.pop() if self._idle else None
        if jobs is None:
            jobs = queue.SimpleQueue()
            threading.Thread(
                target=self._work, args=(jobs,), name="ptyzarr-work", daemon=True
            ).start()
        jobs.put((future, call))
        return future

    def _work(self, jobs: queue.SimpleQueue[Job]) -> None:
        while True:
            try:
                future, call = jobs.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if jobs in self._idle:
                        self._idle.remove(jobs)
                        return
                continue  # a job is on its way
            finish = _run(future, call)
            # The next call, which may be made as soon as the result is there, finds it idle.
            with self._lock:
                self._n_busy -= 1
                self._idle.append(jobs)
            finish()
            # Results are large; none is held while waiting.
            del future, call, finish


def _run(future: Future[Any], call: Callable[[], Any]) -> Callable[[], None]:
    """Make a call unless nobody wants it any more; return what tells its end."""
    if not future.set_running_or_notify_cancel():
        return lambda: None
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - it is raised where the result is waited for
        failure = error
        return lambda: future.set_exception(failure)
    return lambda: future.set_result(result)
