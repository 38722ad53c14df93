from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from ptyzarr.config import ServiceConfig
from ptyzarr.errors import DamagedStoreError
from ptyzarr.service.answers import Refusal
from ptyzarr.service.work import Workers

Make = Callable[[int], NDArray[np.uint8]]


@pytest.fixture
def calls() -> list[int]:
    return []


@pytest.fixture
def make(calls: list[int]) -> Make:
    """`make(n)` returns n KiB and is counted."""

    def made(size: int) -> NDArray[np.uint8]:
        calls.append(size)
        return np.full(size * 1024, size, np.uint8)

    return made


def test_a_result_is_kept(make: Make, calls: list[int]) -> None:
    async def ask() -> None:
        workers = Workers(ServiceConfig())
        first = await workers.shared("a", make, 3)
        assert await workers.shared("a", make, 3) is first
        await workers.shared("b", make, 3)

    asyncio.run(ask())
    assert calls == [3, 3]


def test_what_was_asked_for_longest_ago_is_forgotten_first(make: Make, calls: list[int]) -> None:
    async def ask() -> None:
        workers = Workers(ServiceConfig(cache_size="10KiB"))
        for size in (4, 5, 4, 3):  # 4 is asked for again, so 5 has to go
            await workers.shared(size, make, size)
        assert calls == [4, 5, 3]
        await workers.shared(4, make, 4)
        assert calls == [4, 5, 3]
        await workers.shared(5, make, 5)
        assert calls == [4, 5, 3, 5]
        await workers.shared(11, make, 11)  # never fits, and costs nobody its place
        await workers.shared(5, make, 5)
        assert calls == [4, 5, 3, 5, 11]

    asyncio.run(ask())


def test_an_error_is_everyones_and_not_kept(calls: list[int]) -> None:
    may_fail = threading.Event()

    def fail() -> NDArray[np.uint8]:
        calls.append(0)
        assert may_fail.wait(20)
        raise DamagedStoreError("damaged")

    async def ask() -> None:
        workers = Workers(ServiceConfig())
        asking = [asyncio.ensure_future(workers.shared("a", fail)) for _ in range(3)]
        while not calls:
            await asyncio.sleep(0)
        may_fail.set()
        results = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(result) for result in results] == [DamagedStoreError] * 3
        with pytest.raises(DamagedStoreError):
            await workers.shared("a", fail)

    asyncio.run(ask())
    assert len(calls) == 2


def test_the_end_of_the_process_does_not_wait_for_long_work() -> None:
    threads: list[threading.Thread] = []
    may_end, has_ended = threading.Event(), threading.Event()

    def work() -> NDArray[np.uint8]:
        threads.append(threading.current_thread())
        assert may_end.wait(20)
        has_ended.set()
        return np.zeros(1, np.uint8)

    async def ask() -> None:
        workers = Workers(ServiceConfig(timeout_s=0.05))
        with pytest.raises(Refusal):
            await workers.shared("a", work)

    asyncio.run(ask())  # returns although the work goes on
    (thread,) = threads
    assert thread.daemon
    assert not has_ended.is_set()
    may_end.set()
    thread.join(20)  # and to end after the loop has ended is no error
    assert has_ended.is_set()


@pytest.mark.parametrize("kind", ["file", "short"])
def test_work_that_takes_too_long_is_refused(kind: str) -> None:
    may_end = threading.Event()

    async def ask() -> None:
        workers = Workers(ServiceConfig(timeout_s=0.05))
        with pytest.raises(Refusal) as caught:
            await getattr(workers, kind)(may_end.wait, 20)
        assert (caught.value.status, caught.value.code) == (503, "timeout")
        may_end.set()

    asyncio.run(ask())


def test_no_more_threads_decode_than_allowed() -> None:
    running, most, lock = 0, 0, threading.Lock()
    both = threading.Barrier(2)

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait(20)
        with lock:
            running -= 1

    async def ask() -> None:
        workers = Workers(ServiceConfig(n_threads=2))
        await asyncio.gather(*(workers.short(work) for _ in range(8)))

    asyncio.run(ask())
    assert most == 2


def test_a_call_that_hangs_keeps_no_other_and_is_counted() -> None:
    released = threading.Event()

    async def ask() -> None:
        workers = Workers(ServiceConfig(n_threads=1, timeout_s=0.1))
        for _ in range(3):
            with pytest.raises(Refusal, match="takes longer"):
                await workers.short(released.wait)
        assert workers.n_busy == 3
        assert await workers.short(int, "7") == 7
        released.set()
        while workers.n_busy:
            await asyncio.sleep(0)

    asyncio.run(ask())


def test_a_thread_holds_no_result_while_it_waits_for_work() -> None:
    class Result:
        nbytes = 1

    async def ask() -> weakref.ref[Result]:
        workers = Workers(ServiceConfig())
        result = await workers.file(Result)
        return weakref.ref(result)

    held = asyncio.run(ask())
    deadline = time.monotonic() + 5
    while held() is not None and time.monotonic() < deadline:
        gc.collect()
    assert held() is None
