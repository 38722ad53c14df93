"""One epoch in flight: threads that plan, decode and gather, and the batches that are ready.

Every thread takes the next job that can run, under one lock: gathering the lowest step whose
chunks are in place, else planning the next block, else decoding the next chunks. Nobody polls.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.streaming.experiments import Experiments
from ptyzarr.streaming.sinks import Sink
from ptyzarr.streaming.stats import Counters
from ptyzarr.streaming.window import ChunkPlanner, PlanBlock

Job = Callable[[], None]


class ChunkPool:
    """The decoded chunks in memory; lives through all epochs of a loader.

    Attributes
    ----------
    memory : (n_slots, slot_nbytes) uint8
        The slots.
    resident : (n_slots,) int32
        Chunk in each slot, numbered through all scans; -1 where there is none.
    """

    def __init__(self, memory: NDArray[np.uint8]) -> None:
        self.memory = memory
        self.resident = np.full(len(memory), -1, np.int32)


class _Prefix:
    """Counts things that complete out of order: all below `count` are done."""

    def __init__(self) -> None:
        self.count = 0
        self._ahead: set[int] = set()

    def complete(self, number: int) -> None:
        self._ahead.add(number)
        while self.count in self._ahead:
            self._ahead.remove(self.count)
            self.count += 1


class _Cursor:
    """Walks through the steps or the jobs of the planned blocks."""

    def __init__(self) -> None:
        self._blocks: deque[tuple[PlanBlock, int]] = deque()
        self._index = 0

    def extend(self, block: PlanBlock, length: int) -> None:
        self._blocks.append((block, length))

    def peek(self) -> tuple[PlanBlock, int] | None:
        while self._blocks and self._index == self._blocks[0][1]:
            self._blocks.popleft()
            self._index = 0
        return (self._blocks[0][0], self._index) if self._blocks else None

    def advance(self) -> None:
        self._index += 1

    @property
    def n_blocks(self) -> int:
        return len(self._blocks)


@dataclass(slots=True, eq=False)
class _OpenBatch:
    """A batch between its first and its last step."""

    number: int
    steps_left: int
    output: Any = None


class Pipeline:
    """Runs one epoch, or the rest of one, in its own threads.

    Parameters
    ----------
    experiments, planner, pool, sink
        Of the loader.
    order : (n,) int64
        The rank's groups in order of delivery.
    edges : (n_batches + 1,) int64
        Positions in `order` at which batches begin and end.
    first_batch
        First batch to deliver.
    n_threads
        Threads to start.
    n_waiting
        Threads beside them that do nothing but load chunks: of scans that are far away, for whose
        bytes more of them wait than there are cores.
    max_kept
        Most batches between opening and delivery.

    Attributes
    ----------
    counters
        What has been done so far.
    edges
        As given.
    """

    def __init__(
        self,
        *,
        experiments: Experiments,
        planner: ChunkPlanner,
        pool: ChunkPool,
        sink: Sink,
        order: NDArray[np.int64],
        edges: NDArray[np.int64],
        first_batch: int,
        n_threads: int,
        max_kept: int,
        n_waiting: int = 0,
    ) -> None:
        self._experiments, self._planner, self._sink = experiments, planner, sink
        self._pool, self._views = pool, experiments.decoder.pool_views(pool.memory)
        self._order, self.edges, self._max_kept = order, edges, max_kept
        self.counters = Counters()
        # Re-entrant: a finalizer may call `stop` in a thread that holds it.
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)
        self._delivery = threading.Condition(self._lock)
        self._is_stopped = self._is_planning = self._is_planned = False
        self._error: BaseException | None = None
        self._steps, self._jobs = _Cursor(), _Cursor()
        self._gathered, self._loaded = _Prefix(), _Prefix()
        self._opened = self._delivered = first_batch
        self._batch: _OpenBatch | None = None
        self._unfinished: set[_OpenBatch] = set()
        self._ready: dict[int, Any] = {}
        planner.start(order, edges, first_batch, pool.resident)
        self._threads = [
            threading.Thread(
                target=self._run, args=(number >= n_threads,), name=f"ptyzarr-{number}", daemon=True
            )
            for number in range(n_threads + n_waiting)
        ]
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # an interrupt, or no more threads
            self.stop()
            raise

    def next_batch(self) -> Any:
        """Return what the sink finished for the next batch; waits for it.

        Raises
        ------
        Exception
            What a thread failed with, in its own type.
        """
        with self._lock:
            started = time.perf_counter()
            while self._delivered not in self._ready and self._error is None:
                self._delivery.wait()
            self.counters.stall_s += time.perf_counter() - started
            if self._error is not None:
                raise self._error
            finished = self._ready.pop(self._delivered)
            self._delivered += 1
            self._work.notify_all()
        return finished

    def stop(self) -> None:
        """End the threads after the jobs they are at and give up what is not delivered.

        May be called from any thread, any number of times.
        """
        with self._lock:
            self._is_stopped = True
            self._work.notify_all()
        if threading.current_thread() in self._threads:
            return  # called by a finalizer; the loader calls again before it goes on
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        with self._lock:
            unfinished, self._unfinished = self._unfinished, set()
            self._ready.clear()
        for batch in unfinished:
            if batch.output is not None:
                self._sink.discard(batch.output)

    def _run(self, loads_only: bool) -> None:
        """Take and do jobs until the epoch is over or stopped."""
        try:
            while (job := self._wait_for_job(loads_only)) is not None:
                job()
        except BaseException as error:  # noqa: BLE001 - the receiver raises it in its own thread
            with self._lock:
                self._error = self._error or error
                self._is_stopped = True
                self._work.notify_all()
                self._delivery.notify_all()

    def _wait_for_job(self, loads_only: bool) -> Job | None:
        with self._lock:
            while not self._is_stopped:
                job = self._next_load() if loads_only else self._next_job()
                if job is not None:
                    return job
                if self._is_planned and self._steps.peek() is None:
                    return None
                self._work.wait()
            return None

    def _next_job(self) -> Job | None:
        """Return the most urgent job that can run, marked as taken."""
        step = self._steps.peek()
        if step is not None and self._loaded.count >= step[0].needs[step[1]]:
            gather = self._take_step(*step)
            if gather is not None:
                return gather
        if self._needs_plan():
            self._is_planning = True
            return self._plan
        return self._next_load()

    def _next_load(self) -> Job | None:
        """Return the next load that can run, marked as taken."""
        job = self._jobs.peek()
        if job is not None and job[0].job_after[job[1]] < self._gathered.count:
            self._jobs.advance()
            return self._take_job(*job)
        return None

    def _needs_plan(self) -> bool:
        """Whether decoding or gathering comes to the end of what is planned."""
        if self._is_planned or self._is_planning:
            return False
        # Where all chunks are in place, jobs do not bound the plans in memory: steps do.
        return self._jobs.n_blocks <= 1 and self._steps.n_blocks <= 2

    def _take_step(self, block: PlanBlock, index: int) -> Job | None:
        """Return the job that gathers a step, or None while its batch has no place."""
        number = int(block.batches[index])
        batch = self._batch
        if batch is None or batch.number != number:
            max_open = self._sink.max_open
            if number >= self._delivered + self._max_kept:
                return None
            if max_open is not None and len(self._unfinished) >= max_open:
                return None
            last = int(np.searchsorted(block.batches, number, side="right"))
            batch = self._batch = _OpenBatch(number, last - index)
            self._unfinished.add(batch)
            in_flight = number + 1 - self._delivered
            self.counters.max_in_flight = max(self.counters.max_in_flight, in_flight)
            self._steps.advance()
            return partial(self._open_and_gather, batch, block, index)
        if batch.output is None:
            return None
        self._steps.advance()
        return partial(self._gather, batch, block, index)

    def _take_job(self, block: PlanBlock, index: int) -> Job:
        start, stop = block.job_edges[index], block.job_edges[index + 1]
        chunks, slots = block.chunks[start:stop], block.slots[start:stop]
        # Half-written slots hold nothing, should this fail.
        self._pool.resident[slots] = -1
        return partial(self._load, block.first_job + index, chunks, slots)

    def _plan(self) -> None:
        block = self._planner.next_block()
        with self._lock:
            self._is_planning = False
            if block is None:
                self._is_planned = True
            else:
                self._steps.extend(block, block.n_steps)
                self._jobs.extend(block, block.n_jobs)
            self._work.notify_all()

    def _load(self, number: int, chunks: NDArray[np.int64], slots: NDArray[np.int64]) -> None:
        n_read, n_frames = self._experiments.decoder.read_chunks(chunks, slots, self._pool.memory)
        with self._lock:
            self._pool.resident[slots] = chunks
            self._loaded.complete(number)
            self.counters.bytes_read += n_read
            self.counters.chunks_decoded += len(chunks)
            self.counters.frames_decoded += n_frames
            self._work.notify_all()

    def _open_and_gather(self, batch: _OpenBatch, block: PlanBlock, index: int) -> None:
        n_groups = self.edges[batch.number + 1] - self.edges[batch.number]
        output = self._sink.open(int(n_groups))
        with self._lock:
            batch.output = output
            if batch.steps_left > 1:
                self._work.notify_all()
        self._gather(batch, block, index)

    def _gather(self, batch: _OpenBatch, block: PlanBlock, index: int) -> None:
        start, stop = int(block.edges[index]), int(block.edges[index + 1])
        base, first = int(block.edges[0]), int(self.edges[batch.number])
        pieces = self._experiments.pieces(
            self._order[start:stop],
            block.offsets[start - base : stop - base],
            start - first,
            self._views,
        )
        for piece in pieces:
            self._sink.gather(batch.output, piece)
        with self._lock:
            self._gathered.complete(block.first_step + index)
            batch.steps_left -= 1
            is_complete = batch.steps_left == 0
            self._work.notify_all()
        if is_complete:
            self._finish(batch)

    def _finish(self, batch: _OpenBatch) -> None:
        groups = self._order[self.edges[batch.number] : self.edges[batch.number + 1]]
        fields = self._experiments.describe(groups)
        if self._sink.wants_patches:
            for piece in self._experiments.patch_pieces(groups, fields):
                self._sink.draw_patches(batch.output, piece)
        finished = self._sink.finish(batch.output, fields)
        with self._lock:
            self._unfinished.discard(batch)
            self._ready[batch.number] = finished
            if self._sink.max_open is not None:
                self._work.notify_all()
            self._delivery.notify()
