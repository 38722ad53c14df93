"""A pool whose threads are all gone at its end."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from ptyzarr.ingestion.threads import worker_threads


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "ptyzarr-test" in thread.name]


def test_work_is_done_and_threads_end():
    with worker_threads(3, "test") as pool:
        assert list(pool.map(abs, [-1, 2])) == [1, 2]
        assert ours()
    assert ours() == []


def test_waiting_work_is_dropped_after_an_error():
    started, go_on = threading.Event(), threading.Event()
    waiting: list[Future[bool]] = []

    def work() -> bool:
        started.set()
        return go_on.wait(10)

    def fail() -> None:
        with worker_threads(1, "test") as pool:
            pool.submit(work)
            started.wait(10)
            waiting.append(pool.submit(work))
            go_on.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert ours() == []
    assert waiting[0].cancelled() or waiting[0].done()


def test_thread_whose_start_was_interrupted_is_waited_for(monkeypatch):
    """The interrupt comes when the thread runs and the pool does not know it yet."""
    start = threading.Thread.start

    def start_and_interrupt(self: threading.Thread) -> None:
        start(self)
        if "ptyzarr-test" in self.name:
            raise KeyboardInterrupt

    def work() -> None:
        with worker_threads(1, "test") as pool:
            pool.submit(abs, -1)

    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert ours() == []
