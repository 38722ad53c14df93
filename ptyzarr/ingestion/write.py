"""One task writes one shard: read its frames in stored order, check, compress, move into place."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import InterruptedIngestError, SourceChangedError
from ptyzarr.ingestion.plan import Plan
from ptyzarr.ingestion.staging import Staging, storage_errors
from ptyzarr.ingestion.values import amplitude_of, hash_frames, hidden_counts
from ptyzarr.scan import Quantity
from ptyzarr.store import encode_frames, write_shard


class RowSource(Protocol):
    """Anything that returns frames by acquisition index: a source's reader or a spool."""

    def read(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return frames (m, N, N) in the order asked."""
        ...


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
        Where frames come from.
    spooled
        Whether `frames` are already checked, masked and possibly counts.
    source_quantity
        What the values of the source are.
    source_name
        For messages.
    n_block
        Frames handled at once.
    """

    staging: Staging
    plan: Plan
    frames: RowSource
    spooled: bool
    source_quantity: Quantity
    source_name: str
    n_block: int
    stop: threading.Event = field(default_factory=threading.Event, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        rest = (self.frames, self.spooled, self.source_quantity, self.source_name, self.n_block)
        return _load_job, (self.staging, self.plan.key, *rest)


def _load_job(staging: Staging, key: str, *rest: Any) -> ShardJob:
    return ShardJob(staging, _load_plan(staging, key), *rest)


def write_one_shard(job: ShardJob, shard: int) -> dict[str, int]:
    """Write one shard unless it is there already; return a small record of it.

    May run twice, even at once: the shard is written aside and replaced in one step.

    Raises
    ------
    SourceChangedError
        If a frame is not the one that was checked.
    InterruptedIngestError
        If the ingest is being stopped.
    """
    rows = job.plan.format.shard_rows(shard)
    if job.staging.finished(shard):
        return {"shard": shard, "frames": len(rows), "nbytes": 0}
    scratch = job.staging.scratch()
    try:
        with storage_errors(f"writing shard {shard}"):
            with scratch.open("wb") as file:
                chunk = job.plan.sizes.chunk_frames
                encoded = (encode_frames(block, chunk) for block in _stored_blocks(job, rows))
                write_shard(file, job.plan.format, encoded)
            nbytes = job.staging.commit_shard(scratch, shard)
    finally:
        scratch.unlink(missing_ok=True)
    return {"shard": shard, "frames": len(rows), "nbytes": nbytes}


def _stored_blocks(job: ShardJob, rows: range) -> Iterator[NDArray[Any]]:
    """Yield the frames of `rows` as they are stored, a few chunks at a time."""
    plan = job.plan
    chunk = plan.sizes.chunk_frames
    step = max(chunk, job.n_block // chunk * chunk)
    dtype = np.dtype(plan.dtype)
    for start in range(rows.start, rows.stop, step):
        if job.stop.is_set():
            raise InterruptedIngestError("ingest was stopped; run the same command to resume")
        indices = plan.order[start : min(start + step, rows.stop)]
        stored, amplitude = _convert(job, job.frames.read(indices))
        wrong = hash_frames(amplitude) != plan.hashes[indices]
        if wrong.any():
            raise SourceChangedError(
                f"{job.source_name}: frame {int(indices[np.argmax(wrong)])} is not the one that "
                "was checked; the source changed during ingest; run the same command again"
            )
        yield stored.astype(dtype, copy=False)


def _convert(job: ShardJob, frames: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the frames as stored (any width) and the amplitudes that they stand for."""
    plan = job.plan
    if job.spooled:
        return frames, amplitude_of(frames) if plan.quantity == "counts" else frames
    if plan.n_masked and frames.dtype.kind == "f":
        np.copyto(frames, 0, where=~np.isfinite(frames))
    if plan.quantity == "amplitude":
        return frames, frames
    if job.source_quantity == "counts":
        with np.errstate(invalid="ignore"):
            counts = frames.astype(np.uint32)
        return counts, amplitude_of(counts)
    # The plan pass found counts behind all amplitudes; if they are gone, the hash differs too.
    hidden, _ = hidden_counts(frames, np.dtype(plan.dtype))
    return frames if hidden is None else hidden, frames


@functools.lru_cache(maxsize=1)
def _load_plan(staging: Staging, key: str) -> Plan:
    """Return the plan of a job, loaded once per process."""
    plan = Plan.load(staging, key)
    if plan is None:
        raise SourceChangedError(
            f"{staging.root} no longer holds the plan of this ingest; run it again"
        )
    return plan
