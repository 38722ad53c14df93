"""Shard tasks carried out: in threads of this process, or by a dask.distributed cluster."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dask.base import compute
from dask.delayed import delayed

from ptyzarr.config import IngestConfig
from ptyzarr.errors import ConfigError, DeviceError, StorageError
from ptyzarr.ingestion.kinds import Kind
from ptyzarr.ingestion.threads import worker_threads
from ptyzarr.ingestion.write import SPARE_BLOCKS, ShardJob, ShardReport, write_one_shard
from ptyzarr.progress import Progress

KNOCK_S = 10.0  # how long a scheduler may take to answer


def write_shards(
    job: ShardJob, shards: range, config: IngestConfig, n_workers: int, progress: Progress
) -> Kind | None:
    """Write shards; return what has to be stored instead if the plan's guess was too small."""
    progress.start("writing", sum(len(job.plan.format.shard_rows(k)) for k in shards), "frames")
    try:
        if config.scheduler is not None:
            tasks = _tasks(write_one_shard, job, shards)
            for report in _on_cluster(tasks, config.scheduler):
                _accept(report, progress)
        elif shards:
            _in_threads(job, shards, n_workers, progress)
    except _GuessError as error:
        return error.kind
    progress.finish()
    return None


class _GuessError(Exception):
    """Shards of another kind have to be written."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.kind = kind


def _accept(report: ShardReport, progress: Progress) -> None:
    if report.needs is not None:
        raise _GuessError(report.needs)
    progress.advance(report.n_frames)


def _tasks(write: Any, job: Any, shards: range) -> list[Any]:
    """Return a task for each shard; the job is in the graph once and each task names it."""
    run = uuid.uuid4().hex
    shared = delayed(job, name=f"shard-job-{run}", pure=False, traverse=False)
    task = delayed(write, pure=False, traverse=False)
    return [task(shared, shard, dask_key_name=f"write-shard-{run}-{shard}") for shard in shards]


def _in_threads(job: ShardJob, shards: range, n_workers: int, progress: Progress) -> None:
    """Write shards in threads of their own, which share others that work on blocks of frames.

    So the last shard has all cores too, and while one is forced to the disk the next is encoded.
    """
    n_shards = min(n_workers + 1, len(shards))
    n_pending = -(-n_workers // n_shards) + SPARE_BLOCKS
    alone = threading.Lock()

    # Not by a dask callback: computations in two threads of a process lose each other's.
    def write(job: ShardJob, shard: int) -> None:
        report = write_one_shard(job, shard)
        with alone:
            _accept(report, progress)

    with worker_threads(n_workers, "block") as blocks, worker_threads(n_shards, "shard") as pool:
        job = dataclasses.replace(job, blocks=(blocks, n_pending))
        try:
            tasks = _tasks(write, job, shards)
            compute(*tasks, scheduler="threads", pool=pool, num_workers=n_shards)
        except BaseException:
            job.stop.set()
            raise


def _on_cluster(tasks: list[Any], address: str) -> Iterator[ShardReport]:
    """Yield the report of each shard as a dask.distributed cluster finishes it."""
    try:
        from distributed import Client, Security, as_completed
        from distributed.comm.core import connect
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise DeviceError(
            "--scheduler needs dask.distributed; expected it to be installed; install "
            "'ptyzarr[cluster]'"
        ) from error

    async def knock() -> None:
        secrets = Security().get_connection_args("client")
        comm = await connect(address, timeout=KNOCK_S, **secrets)
        await comm.close()

    try:
        # First without a client: one that fails to start is garbage whose collection waits for a
        # loop, and if that is the loop of the next client, neither ever runs.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, knock()).result()
        client = Client(address, timeout=KNOCK_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(f"no scheduler answers at {address!r}: {error}") from error
    with client:
        futures = client.compute(tasks, retries=3)
        try:
            for _, report in as_completed(futures, loop=client.loop, with_results=True):
                yield report
        except KilledWorker as error:
            raise StorageError(
                f"workers at {address!r} died again and again while writing ({error}); expected "
                "them to finish a shard; give them more memory and run the same command to resume"
            ) from error
