"""Threads that are gone when their work ends, however it ends."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

_STARTING_S: Final = 2.0  # within which a thread begins, however busy the machine


@contextlib.contextmanager
def worker_threads(n_workers: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Give a pool of threads; at the end what is waiting is dropped and every thread has ended.

    Parameters
    ----------
    n_workers
        Threads at most.
    name
        Part of their names.
    """
    prefix = f"ptyzarr-{name}-{uuid.uuid4().hex[:8]}"
    pool = ThreadPoolExecutor(n_workers, thread_name_prefix=prefix)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        _join(prefix)


def _join(prefix: str) -> None:
    """Wait for threads that the pool does not know: it was interrupted while they started."""
    deadline = time.monotonic() + _STARTING_S
    while left := [t for t in threading.enumerate() if t.name.startswith(prefix)]:
        for thread in left:
            try:
                thread.join()
            except RuntimeError:  # it has not begun, and perhaps never will
                if time.monotonic() > deadline:
                    return
                time.sleep(0.001)
