"""Threads that are gone when their work ends, however it ends."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor


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
        # A pool does not know of a thread during whose start it was interrupted.
        for thread in threading.enumerate():
            if thread.name.startswith(prefix):
                with contextlib.suppress(RuntimeError):  # it never began
                    thread.join()
