"""Blocking work: in a bounded number of threads, once for all who ask, within a time."""

from __future__ import annotations

import asyncio
import functools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Final, TypeVar

from anyio import CapacityLimiter

from ptyzarr.compiled import available_cores
from ptyzarr.config import ServiceConfig, parse_size
from ptyzarr.service.answers import Refusal
from ptyzarr.service.threads import Threads

T = TypeVar("T")

_FILE_THREADS: Final = 16  # they wait for the disk, not for a core


class Workers:
    """Threads for three kinds of work, none of which can hold up the others.

    Parameters
    ----------
    config
        Its threads, time and memory.

    Attributes
    ----------
    n_sending
        Files that are being sent.
    """

    def __init__(self, config: ServiceConfig) -> None:
        n_threads = config.n_threads or available_cores()
        self._timeout_s = config.timeout_s
        self._threads = Threads()
        self._files = CapacityLimiter(_FILE_THREADS)
        self._short = CapacityLimiter(n_threads)
        self._long = CapacityLimiter(max(1, n_threads // 2))
        self._kept = _Kept(parse_size(config.cache_size))
        self._running: dict[Hashable, asyncio.Task[Any]] = {}
        self.n_sending = 0

    @property
    def n_busy(self) -> int:
        """Calls that have not come to their end, also those that nobody waits for any more."""
        return self._threads.n_busy

    async def file(self, call: Callable[..., T], *arguments: Any) -> T:
        """Return what a look at the disk gives."""
        return await self._within(self._in_thread(self._files, call, *arguments))

    async def short(self, call: Callable[..., T], *arguments: Any) -> T:
        """Return what the decoding of some frames gives."""
        return await self._within(self._in_thread(self._short, call, *arguments))

    async def shared(self, key: Hashable, call: Callable[..., T], *arguments: Any) -> T:
        """Return the result of long work, which is done once for all who ask for `key`.

        It goes on when nobody waits any more, so that the next who asks finds it.
        """
        found = self._kept.get(key)
        if found is not None:
            kept: T = found
            return kept
        task = self._running.get(key)
        if task is None:
            task = asyncio.ensure_future(self._aside(call, *arguments))
            self._running[key] = task
            task.add_done_callback(functools.partial(self._finish, key))
        return await self._within(asyncio.shield(task))

    async def _in_thread(
        self, limiter: CapacityLimiter, call: Callable[..., T], *arguments: Any
    ) -> T:
        # Who gives up frees the place; a thread that hangs keeps nobody else from theirs.
        async with limiter:
            return await self._call(call, *arguments)

    async def _aside(self, call: Callable[..., T], *arguments: Any) -> T:
        """Return the result of long work."""
        async with self._long:
            return await self._call(call, *arguments)

    async def _call(self, call: Callable[..., T], *arguments: Any) -> T:
        work = functools.partial(call, *arguments)
        result: T = await asyncio.wrap_future(self._threads.submit(work))
        return result

    async def _within(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await work
        except TimeoutError as error:
            raise Refusal(
                503, "timeout",
                f"the answer takes longer than {self._timeout_s:g} s to compute; ask again later",
                {"Retry-After": "5"},
            ) from error  # fmt: skip

    def _finish(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        del self._running[key]
        if not task.cancelled() and task.exception() is None:
            self._kept.put(key, task.result())


class _Kept:
    """The results asked for last, within some memory; used in the event loop only."""

    def __init__(self, nbytes: int) -> None:
        self._limit = nbytes
        self._nbytes = 0
        self._results: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        if key not in self._results:
            return None
        self._results.move_to_end(key)
        return self._results[key][0]

    def put(self, key: Hashable, result: Any) -> None:
        size = int(result.nbytes)
        if size > self._limit or key in self._results:
            return
        self._results[key] = (result, size)
        self._nbytes += size
        while self._nbytes > self._limit:
            _, (_, dropped) = self._results.popitem(last=False)
            self._nbytes -= dropped
