"""What a loader's memory goes to, as a stated function of its configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ptyzarr.config import format_size
from ptyzarr.errors import BudgetError
from ptyzarr.streaming.window import PLANNING_NBYTES_PER_FRAME

# The compiler (45 MiB, even where it only loads cached kernels) and some of the memory it leaves
# behind when it makes kernels on a first run (80 to 180 MiB, by the number of dtypes): what the
# minimum takes for granted on every run, and what is assumed where the system does not tell.
COMPILED_NBYTES: Final = 125 * 1024**2
# Code that is loaded on the way, and the allocator's slack.
SLACK_NBYTES: Final = 24 * 1024**2
# Each thread's stack and the least of what it reads and decodes at once.
THREAD_NBYTES: Final = 6 * 1024**2
# Planner's and loader's arrays over the slots of the pool and over all chunks.
SLOT_NBYTES: Final = 56
CHUNK_NBYTES: Final = 14
# Batches with the receiver: the one it works on, and the last, which it still refers to.
RECEIVED_BATCHES: Final = 2
# Where budget and buffer allow, half of each goes to batches at most; a sixteenth of the budget to
# planning.
_BATCH_SHARE: Final = 2
_PLANNING_SHARE: Final = 16
_WAITING_SHARE: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is asked of the memory.

    Attributes
    ----------
    tables_nbytes
        Group tables and positions: what grows with frames and groups and is there from the
        beginning.
    order_nbytes
        The order of an epoch, and what it is cut from.
    n_chunks
        Chunks of all scans.
    slot_nbytes
        A slot of the pool.
    batch_nbytes
        Host memory of one batch.
    batch_frames
        Frames of one batch.
    n_batches
        Batches of an epoch.
    group_size
        C, frames in a group.
    n_threads
        Threads that decode and gather.
    thread_nbytes
        What each of them needs beside, for chunks and frames of this size.
    n_waiting
        Threads beside them that fetch and decode chunks from far away.
    started_nbytes
        What making the loader has added to the process so far, tables and compiled code
        included; None where it is not known.
    buffer_nbytes
        The most that the pool and the batches in flight may be; None is what the budget leaves.
    """

    tables_nbytes: int
    order_nbytes: int
    n_chunks: int
    slot_nbytes: int
    batch_nbytes: int
    batch_frames: int
    n_batches: int
    group_size: int
    n_threads: int
    thread_nbytes: int
    n_waiting: int = 0
    started_nbytes: int | None = None
    buffer_nbytes: int | None = None

    @property
    def fixed_nbytes(self) -> int:
        """What is needed whatever the budget."""
        started = COMPILED_NBYTES + self.tables_nbytes
        if self.started_nbytes is not None:
            started = max(self.started_nbytes, self.tables_nbytes)
        threads = (self.n_threads + self.n_waiting) * (THREAD_NBYTES + self.thread_nbytes)
        maps = self.n_chunks * CHUNK_NBYTES
        return started + SLACK_NBYTES + threads + maps + self.order_nbytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """How a budget is divided.

    Attributes
    ----------
    n_slots
        Slots of the pool.
    max_kept
        Batches between opening and delivery.
    block_batches
        Batches that are planned at once.
    nbytes
        What all of it adds to the process at most.
    """

    n_slots: int
    max_kept: int
    block_batches: int
    nbytes: int


def plan_memory(budget: int, demand: Demand) -> MemoryPlan:
    """Divide the budget between batches, planning and the pool.

    ``nbytes = fixed + (max_kept + 2) * batch + block * frames * 96 + n_slots * slot``, with
    ``fixed`` for compiled code, threads, tables and chunk maps. The pool gets what is left, at
    most a slot for every chunk and at least one for every frame of a group. Where the demand limits
    the buffer, ``max_kept * batch + n_slots * slot`` is within that limit too.

    Raises
    ------
    BudgetError
        If the budget or the buffer is below the minimum, which the message states; or if a first
        run, which compiles, has taken so much of the budget that the rest does not do.
    """
    _check_buffer(demand)
    smallest = _smallest(demand)
    if budget < smallest:
        raise BudgetError(
            f"memory is {format_size(budget)} ({budget} bytes); expected at least "
            f"{format_size(smallest)} ({smallest} bytes) for {demand.batch_frames} frames a batch "
            "and these scans; raise memory or lower batch_size"
        )
    needed = _total(demand, n_slots=demand.group_size, max_kept=1, block_batches=1)
    if budget < needed and demand.started_nbytes is not None:
        raise BudgetError(
            f"memory is {format_size(budget)}, of which starting took "
            f"{format_size(demand.started_nbytes)}; expected at least {format_size(needed)}; a "
            "first run on a machine compiles code and keeps it: try again, or raise memory"
        )
    free = budget - demand.fixed_nbytes
    most = _most_kept(demand, free)
    # Fewer batches are kept ahead where the pool then holds everything: nothing is decoded twice.
    fewest = min(most, demand.n_threads)
    plans = [_divide(budget, demand, kept) for kept in range(most, fewest - 1, -1)]
    return next((plan for plan in plans if plan.n_slots == demand.n_chunks), plans[0])


def count_waiting(budget: int, demand: Demand, wanted: int) -> int:
    """Return how many of the threads that are wanted for waiting the budget leaves room for.

    They get a quarter of what is above the minimum at most: what they read ahead needs its place.
    """
    spare = max(budget - _smallest(demand), 0)
    return min(wanted, spare // (_WAITING_SHARE * (THREAD_NBYTES + demand.thread_nbytes)))


def _most_kept(demand: Demand, free: int) -> int:
    """Return how many batches are kept ahead where there is memory for a pool beside them."""
    most = free // _BATCH_SHARE // demand.batch_nbytes - RECEIVED_BATCHES
    if demand.buffer_nbytes is not None:
        group_nbytes = min(demand.group_size, demand.n_chunks) * demand.slot_nbytes
        left = min(demand.buffer_nbytes // _BATCH_SHARE, demand.buffer_nbytes - group_nbytes)
        most = min(most, left // demand.batch_nbytes)
    return max(1, min(most, demand.n_threads + 2))


def _divide(budget: int, demand: Demand, max_kept: int) -> MemoryPlan:
    """Return the division with a number of batches kept ahead."""
    free = budget - demand.fixed_nbytes
    block_nbytes = demand.batch_frames * PLANNING_NBYTES_PER_FRAME
    spare = budget - _total(demand, n_slots=demand.group_size, max_kept=max_kept, block_batches=0)
    share = min(free // _PLANNING_SHARE, spare)
    block_batches = min(max(1, share // block_nbytes), demand.n_batches)
    left = budget - _total(demand, n_slots=0, max_kept=max_kept, block_batches=block_batches)
    n_slots = min(left // (demand.slot_nbytes + SLOT_NBYTES), demand.n_chunks)
    if demand.buffer_nbytes is not None:
        pool_nbytes = demand.buffer_nbytes - max_kept * demand.batch_nbytes
        n_slots = min(n_slots, pool_nbytes // demand.slot_nbytes)
    n_slots = max(n_slots, min(demand.group_size, demand.n_chunks))
    nbytes = _total(demand, n_slots=n_slots, max_kept=max_kept, block_batches=block_batches)
    return MemoryPlan(
        n_slots=n_slots, max_kept=max_kept, block_batches=block_batches, nbytes=nbytes
    )


def _check_buffer(demand: Demand) -> None:
    """Refuse a buffer that cannot hold one batch and the frames of one group."""
    if demand.buffer_nbytes is None:
        return
    least = demand.batch_nbytes + min(demand.group_size, demand.n_chunks) * demand.slot_nbytes
    if demand.buffer_nbytes < least:
        raise BudgetError(
            f"buffer is {format_size(demand.buffer_nbytes)} ({demand.buffer_nbytes} bytes); "
            f"expected at least {format_size(least)} ({least} bytes) for one batch and one group; "
            "raise buffer or lower batch_size"
        )


def _smallest(demand: Demand) -> int:
    """Return the least budget that is accepted."""
    first_run = replace(demand, started_nbytes=None)
    return _total(first_run, n_slots=demand.group_size, max_kept=1, block_batches=1)


def _total(demand: Demand, *, n_slots: int, max_kept: int, block_batches: int) -> int:
    """Return the bytes of a division of the budget."""
    return (
        demand.fixed_nbytes
        + (max_kept + RECEIVED_BATCHES) * demand.batch_nbytes
        + block_batches * demand.batch_frames * PLANNING_NBYTES_PER_FRAME
        + n_slots * (demand.slot_nbytes + SLOT_NBYTES)
    )
