"""Paging: which chunk is decoded into which slot of the pool, and when. Integers only.

An epoch is cut into *steps*: a batch, or a part of one where the pool cannot hold a whole batch.
Blocks of steps are planned one after the other, each with at least one block of look-ahead, so
that planning takes bounded memory and an epoch of any length starts at once. The chunk whose next
use is farthest makes room (Belady's rule), among equals the one unused for longest.

A plan cannot deadlock: loading waits only for gathers of earlier steps, gathering only for loads
of its own and earlier steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptyzarr.streaming.paging import (
    N_COLUMNS,
    collect_steps,
    frame_offsets,
    link_uses,
    plan_steps,
    reset_slots,
)

_MAX_DEPTH: Final = 16
_UNBOUNDED: Final = 2**31

# Bytes per frame of two collected blocks and the plans made of them, for budgets.
PLANNING_NBYTES_PER_FRAME: Final = 96


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FrameMap:
    """Where the frames of every group lie; the scans' groups, frames and chunks follow each other.

    Attributes
    ----------
    frames : (G, C) integers
        Acquisition index, within its scan, of each group member.
    group_starts : (n_scans + 1,) int64
        First group of each scan, then the number of groups.
    rows : (n,) integers
        Stored row, within its scan, by acquisition index.
    frame_starts, chunk_starts : (n_scans + 1,) int64
        First frame and first chunk of each scan, then their number.
    chunk_frames : (n_scans,) int64
        Frames in a chunk.
    slot_strides, frame_strides : (n_scans,) int64
        From one slot of the pool, and from one frame inside a slot, to the next: elements of the
        scan's dtype, or bytes where its frames are packed.
    """

    frames: NDArray[np.integer[Any]]
    group_starts: NDArray[np.int64]
    rows: NDArray[np.integer[Any]]
    frame_starts: NDArray[np.int64]
    chunk_starts: NDArray[np.int64]
    chunk_frames: NDArray[np.int64]
    slot_strides: NDArray[np.int64]
    frame_strides: NDArray[np.int64]

    @property
    def n_chunks(self) -> int:
        """Chunks of all scans."""
        return int(self.chunk_starts[-1])

    @property
    def group_size(self) -> int:
        """C, frames in a group."""
        return int(self.frames.shape[1])


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PlanBlock:
    """The plan of consecutive steps; steps and jobs are numbered through the epoch.

    Attributes
    ----------
    first_step, first_job
        Numbers of the first step and the first load job.
    batches : (n_steps,) int64
        Batch that each step belongs to.
    edges : (n_steps + 1,) int64
        Positions in the order at which steps begin and end.
    needs : (n_steps,) int64
        Number of load jobs, counted from the epoch's first, that must be done before the step.
    offsets : (n_groups, C) int64
        Element of the pool, seen in the scan's dtype, or byte of it where the scan's frames are
        packed, at which each frame of the block begins.
    job_edges : (n_jobs + 1,) int64
        Where each job begins in `chunks` and `slots`.
    job_after : (n_jobs,) int64
        Every step up to this one must be gathered before the job; -1 for none.
    chunks, slots : (n_loads,) int64
        What is decoded where; chunks ascend inside a job.
    """

    first_step: int
    first_job: int
    batches: NDArray[np.int64]
    edges: NDArray[np.int64]
    needs: NDArray[np.int64]
    offsets: NDArray[np.int64]
    job_edges: NDArray[np.int64]
    job_after: NDArray[np.int64]
    chunks: NDArray[np.int64]
    slots: NDArray[np.int64]

    @property
    def n_steps(self) -> int:
        """Number of steps."""
        return len(self.batches)

    @property
    def n_jobs(self) -> int:
        """Number of load jobs."""
        return len(self.job_after)


@dataclass(frozen=True, slots=True, eq=False)
class _Steps:
    """Steps of a block with the distinct chunks of each, not yet planned."""

    batches: NDArray[np.int64]
    edges: NDArray[np.int64]
    use_edges: NDArray[np.int64]
    uses: NDArray[np.int32]
    frame_uses: NDArray[np.int32]
    within: NDArray[np.int32]


class ChunkPlanner:
    """Plans the loads of an epoch, block by block.

    Parameters
    ----------
    frame_map
        Where the frames of every group lie.
    n_slots
        Slots of the pool; at least the group size C.
    batch_size
        Groups in a full batch.
    block_batches
        Batches that are planned at once; as many more are looked ahead.
    job_chunks
        Most chunks in one load job.

    Attributes
    ----------
    depth
        Loads overwrite no chunk used in the last `depth` steps while others are left, so
        decoding can run that far ahead of gathering.
    distinct
        Distinct chunks that the planned steps of the epoch use.
    """

    def __init__(
        self,
        frame_map: FrameMap,
        *,
        n_slots: int,
        batch_size: int,
        block_batches: int,
        job_chunks: int,
    ) -> None:
        self._map = frame_map
        self._block_batches = block_batches
        self._job_chunks = job_chunks
        # Half of the pool is left for loading the next step; the rule gives way in tiny pools.
        self._limit = max(frame_map.group_size, n_slots // 2)
        step_chunks = min(batch_size * frame_map.group_size, frame_map.n_chunks, self._limit)
        self.depth = min(max(n_slots // (2 * step_chunks) - 1, 1), _MAX_DEPTH)
        if n_slots >= frame_map.n_chunks:
            self.depth = _UNBOUNDED  # nothing is ever overwritten
        self.distinct = 0
        self._where = np.zeros(frame_map.n_chunks, np.int32)
        self._slot_of_chunk = np.empty(frame_map.n_chunks, np.int32)
        self._is_used = np.empty(frame_map.n_chunks, np.bool_)
        self._chunk_of_slot = np.empty(n_slots, np.int32)
        self._state = np.zeros((n_slots + 1, N_COLUMNS), np.int64)

    def start(
        self,
        order: NDArray[np.int64],
        edges: NDArray[np.int64],
        first_batch: int,
        resident: NDArray[np.int32],
    ) -> None:
        """Begin an epoch, or the rest of one.

        Parameters
        ----------
        order : (n,) int64
            Groups in order of delivery.
        edges : (n_batches + 1,) int64
            Positions in `order` at which batches begin and end.
        first_batch
            First batch to plan.
        resident : (n_slots,) int32
            Chunk that each slot holds now; -1 for none.
        """
        self._order, self._edges, self._next_batch = order, edges, first_batch
        self._first_step = self._first_job = self.distinct = 0
        self._slot_of_chunk.fill(-1)
        self._is_used.fill(False)
        self._chunk_of_slot[:] = resident
        held = np.flatnonzero(resident >= 0)
        self._slot_of_chunk[resident[held]] = held
        reset_slots(self._state)
        self._ahead = self._collect()

    def follow(self, order: NDArray[np.int64], edges: NDArray[np.int64]) -> None:
        """Go on with other groups after those planned: slots keep what they hold and their age.

        Steps and jobs are numbered on, batches anew.

        Parameters
        ----------
        order, edges
            As for `start`.
        """
        self._order, self._edges, self._next_batch = order, edges, 0
        self._ahead = self._collect()

    def release(self) -> None:
        """Let go of the order of the last epoch."""
        self._order = self._edges = np.empty(0, np.int64)
        self._ahead = None

    def next_block(self) -> PlanBlock | None:
        """Return the plan of the next block, or None at the end of the epoch."""
        steps = self._ahead
        if steps is None:
            return None
        self._ahead = self._collect()
        following = steps if self._ahead is None else self._ahead
        next_uses = link_uses(
            steps.uses,
            steps.use_edges,
            following.uses[: 0 if self._ahead is None else None],
            following.use_edges[: 1 if self._ahead is None else None],
            self._map.n_chunks,
            self._chunk_of_slot,
            self._state,
        )
        return self._plan(steps, next_uses)

    def _collect(self) -> _Steps | None:
        """Return the steps of the next block of batches."""
        first = self._next_batch
        last = min(first + self._block_batches, len(self._edges) - 1)
        if first >= last:
            return None
        self._next_batch = last
        fm = self._map
        collected = collect_steps(
            self._order,
            self._edges[first : last + 1],
            first,
            (fm.frames, fm.group_starts, fm.rows, fm.frame_starts),
            (fm.chunk_frames, fm.chunk_starts),
            self._limit,
            self._where,
        )
        return _Steps(*collected)

    def _plan(self, steps: _Steps, next_uses: NDArray[np.int32]) -> PlanBlock:
        slots_of_uses, needs, job_edges, job_after, chunks, slots, distinct = plan_steps(
            self._first_step,
            self._first_job,
            self.depth,
            self._job_chunks,
            (steps.use_edges, steps.uses, next_uses),
            (self._chunk_of_slot, self._slot_of_chunk, self._is_used),
            self._state,
        )
        self.distinct += distinct
        fm = self._map
        offsets = frame_offsets(
            self._order[steps.edges[0] : steps.edges[-1]],
            slots_of_uses,
            steps.frame_uses.reshape(-1, fm.group_size),
            steps.within.reshape(-1, fm.group_size),
            fm.group_starts,
            fm.slot_strides,
            fm.frame_strides,
        )
        block = PlanBlock(
            first_step=self._first_step,
            first_job=self._first_job,
            batches=steps.batches,
            edges=steps.edges,
            needs=needs,
            offsets=offsets,
            job_edges=job_edges,
            job_after=job_after,
            chunks=chunks,
            slots=slots,
        )
        self._first_step += block.n_steps
        self._first_job += block.n_jobs
        return block
