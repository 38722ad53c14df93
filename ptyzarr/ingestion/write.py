"""One task writes one shard: read its frames in stored order, check, compress, move into place.

A source that is read at random is looked at here and nowhere else: each block of frames is read,
summed, checked, hashed and encoded while it is in a core's cache.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import InterruptedIngestError, SourceChangedError
from ptyzarr.ingestion.kinds import Kind
from ptyzarr.ingestion.plan import Plan
from ptyzarr.ingestion.records import FRAME_RECORD, SideFile, frame_records, masked_pixels
from ptyzarr.ingestion.spool import SpoolReader
from ptyzarr.ingestion.staging import Staging, storage_errors
from ptyzarr.ingestion.values import check_block
from ptyzarr.scan import FrameReader, Quantity
from ptyzarr.store import EncodedChunks, encode_frames, write_shard

#: Blocks of a shard that are worked on or wait to be written, beside its share of the threads.
SPARE_BLOCKS = 2


@dataclass(frozen=True, slots=True)
class ShardJob:
    """What every shard task of one ingest shares; small enough to travel with each task.

    Attributes
    ----------
    staging
        The staging folder.
    plan
        The plan; another process loads it once from the staging folder.
    frames
        Where frames come from: the source itself, or a spool of checked ones.
    source_quantity
        What the values of the source are.
    source_name
        For messages.
    n_block
        Frames handled at once.
    mask
        Whether pixels that are not finite are masked.
    blocks
        Threads that work on blocks of any shard, and how many blocks of one shard they get at
        once; without them, as on a cluster, a task works alone.
    """

    staging: Staging
    plan: Plan
    frames: FrameReader | SpoolReader
    source_quantity: Quantity
    source_name: str
    n_block: int
    mask: bool
    blocks: tuple[Executor, int] | None = field(default=None, compare=False)
    stop: threading.Event = field(default_factory=threading.Event, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        rest = (self.frames, self.source_quantity, self.source_name, self.n_block, self.mask)
        return _load_job, (self.staging, self.plan.key, self.plan.stamp, *rest)


def _load_job(staging: Staging, key: str, stamp: str, *rest: Any) -> ShardJob:
    return ShardJob(staging, _load_plan(staging, key, stamp), *rest)


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What became of one shard.

    Attributes
    ----------
    shard, n_frames
        Its number, and its frames.
    needs
        What has to be stored instead of what the plan guessed; then the shard was not written.
    """

    shard: int
    n_frames: int
    needs: Kind | None


def write_one_shard(job: ShardJob, shard: int) -> ShardReport:
    """Write one shard unless it is there already.

    May run twice, even at once: the shard is written aside and replaced in one step.

    Raises
    ------
    SourceError
        At a value that is refused.
    SourceChangedError
        If a spooled frame is not the one that was checked.
    InterruptedIngestError
        If the ingest is being stopped, or the staging folder has another plan by now.
    """
    n_frames = len(job.plan.format.shard_rows(shard))
    if job.staging.finished(shard, job.plan.stamp):
        return ShardReport(shard, n_frames, None)
    frames, records = job.staging.scratch(), job.staging.scratch()
    try:
        with storage_errors(f"writing shard {shard}"):
            with frames.open("wb") as file, records.open("wb") as side_file:
                # After the scratch files: a plan that is replaced from now on removes them.
                if not job.plan.is_current(job.staging):
                    raise _stopped(f"{job.staging.root} no longer holds the plan of this ingest")
                side = SideFile(side_file)
                written = write_shard(file, job.plan.format, _chunks(job, shard, side))
                recorded = side.finish()
            job.staging.commit_shard(shard, job.plan.stamp, (frames, written), (records, recorded))
    except _OtherKindError as error:
        return ShardReport(shard, n_frames, error.kind)
    finally:
        frames.unlink(missing_ok=True)
        records.unlink(missing_ok=True)
    return ShardReport(shard, n_frames, None)


class _OtherKindError(Exception):
    """A block holds what the plan's guess does not."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class _Block:
    chunks: EncodedChunks
    records: NDArray[Any]
    masked: NDArray[Any]


def _chunks(job: ShardJob, shard: int, side: SideFile) -> Iterator[EncodedChunks]:
    """Yield the encoded chunks of a shard in order and note what is known about their frames."""
    for block in _blocks(job, shard):
        side.add(block.records, block.masked)
        yield block.chunks


def _blocks(job: ShardJob, shard: int) -> Iterator[_Block]:
    rows, chunk = job.plan.format.shard_rows(shard), job.plan.sizes.chunk_frames
    step = max(chunk, job.n_block // chunk * chunk)
    parts = (
        job.plan.order[start : min(start + step, rows.stop)]
        for start in range(rows.start, rows.stop, step)
    )
    work = functools.partial(_make_block, job)
    if job.blocks is None:
        yield from map(work, parts)
        return
    pool, n_pending = job.blocks
    pending: deque[Future[_Block]] = deque()
    try:
        for part in parts:
            if len(pending) == n_pending:
                yield pending.popleft().result()
            pending.append(pool.submit(work, part))
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _make_block(job: ShardJob, indices: NDArray[np.int64]) -> _Block:
    """Return what becomes of some frames that follow one another in stored order."""
    if job.stop.is_set():
        raise _stopped("ingest was stopped")
    plan = job.plan
    chunk = plan.sizes.chunk_frames
    if isinstance(job.frames, SpoolReader):
        assert plan.pieces is not None
        chunks = job.frames.read_chunks(plan.pieces[indices], plan.kind, chunk)
        return _Block(chunks, np.empty(0, FRAME_RECORD), np.empty(0, np.uint8))
    frames, sums = job.frames.read_summed(indices)
    block = check_block(
        frames,
        indices,
        job.source_quantity,
        job.source_name,
        mask=job.mask,
        counts=plan.kind.counts,
    )
    needed = plan.kind.with_block(block)
    if needed != plan.kind:
        raise _OtherKindError(needed)
    return _Block(
        encode_frames(plan.kind.stored(block), chunk),
        frame_records(block, sums),
        masked_pixels(block, indices),
    )


def _stopped(reason: str) -> InterruptedIngestError:
    return InterruptedIngestError(f"{reason}; run the same command to resume")


@functools.lru_cache(maxsize=1)
def _load_plan(staging: Staging, key: str, stamp: str) -> Plan:
    """Return the plan of a job, loaded once per process."""
    plan = Plan.load(staging, key)
    if plan is None or plan.stamp != stamp:
        raise SourceChangedError(
            f"{staging.root} no longer holds the plan of this ingest; run it again"
        )
    return plan
