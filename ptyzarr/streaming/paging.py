"""Kernels that plan the paging of `window`: arrays in, arrays out, no state of their own.

The state of the pool is one (n_slots + 1, 6) int64 array, a row for each slot, columns below.
A slot is in one of two places. The *ring* holds those used in the last steps, oldest first, as
links in both directions; the extra row is its knot. The *heap* holds those that may be
overwritten, the one whose next use is farthest on top, among equals the one unused for longest;
entry k of the heap is in row k, the heap's size in the knot's `_PLACE`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptyzarr.compiled import kernel

_LAST: Final = 0  # last step that used the slot
_NEXT: Final = 1  # next step that will, counted from the block's first
_OLDER: Final = 2
_YOUNGER: Final = 3
_HEAP: Final = 4  # slot in this place of the heap
_PLACE: Final = 5  # place of this slot in the heap, -1 in the ring
N_COLUMNS: Final = 6

_NEVER: Final = 2**31 - 2  # no use within the look-ahead
_EMPTY: Final = 2**31 - 1  # a slot without a chunk goes first


@kernel
def reset_slots(state: NDArray[np.int64]) -> None:  # pragma: no cover - compiled
    """Put every slot into the heap, unused so far."""
    knot = state.shape[0] - 1
    for slot in range(knot):
        state[slot, _LAST] = -1
        state[slot, _HEAP] = slot
        state[slot, _PLACE] = slot
    state[knot, _OLDER] = knot
    state[knot, _YOUNGER] = knot
    state[knot, _PLACE] = knot


@kernel
def _scan_of(group: int, group_starts: NDArray[np.int64]) -> int:  # pragma: no cover - compiled
    """Return the scan that a group belongs to."""
    low, high = 0, group_starts.size - 1
    while high - low > 1:
        middle = (low + high) // 2
        if group_starts[middle] <= group:
            low = middle
        else:
            high = middle
    return low


@kernel
def collect_steps(  # pragma: no cover - compiled
    order: NDArray[np.int64],
    batch_edges: NDArray[np.int64],
    first_batch: int,
    groups: tuple[NDArray[Any], NDArray[np.int64], NDArray[Any], NDArray[np.int64]],
    chunking: tuple[NDArray[np.int64], NDArray[np.int64]],
    limit: int,
    where: NDArray[np.int32],
) -> tuple[
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int32],
    NDArray[np.int32],
    NDArray[np.int32],
]:
    """Cut batches into steps of at most `limit` distinct chunks and list each step's chunks.

    `where` holds, for each chunk, its place in `uses`; whether that is of this step is checked
    there, so it needs no clearing.
    """
    frames, group_starts, rows, frame_starts = groups
    chunk_frames, chunk_starts = chunking
    group_size = frames.shape[1]
    first, last = batch_edges[0], batch_edges[-1]
    n_groups = last - first
    batches = np.empty(n_groups, np.int64)
    edges = np.empty(n_groups + 1, np.int64)
    use_edges = np.empty(n_groups + 1, np.int64)
    uses = np.empty(n_groups * group_size, np.int32)
    frame_uses = np.empty(n_groups * group_size, np.int32)
    within = np.empty(n_groups * group_size, np.int32)
    n_steps = 0
    n_uses = 0
    for batch in range(batch_edges.size - 1):
        step_start = n_uses
        batches[n_steps], edges[n_steps], use_edges[n_steps] = (
            first_batch + batch,
            batch_edges[batch],
            n_uses,
        )
        n_steps += 1
        position = batch_edges[batch]
        while position < batch_edges[batch + 1]:
            group = order[position]
            scan = _scan_of(group, group_starts)
            group_start = n_uses
            for member in range(group_size):
                row = rows[frame_starts[scan] + frames[group, member]]
                chunk = chunk_starts[scan] + row // chunk_frames[scan]
                use = where[chunk]
                if use < step_start or use >= n_uses or uses[use] != chunk:
                    use = n_uses
                    where[chunk] = use
                    uses[use] = chunk
                    n_uses += 1
                place = (position - first) * group_size + member
                frame_uses[place] = use
                within[place] = row % chunk_frames[scan]
            if n_uses - step_start > limit and edges[n_steps - 1] < position:
                # The group goes to a step of its own, collected again from an empty list.
                n_uses = group_start
                step_start = group_start
                batches[n_steps], edges[n_steps], use_edges[n_steps] = (
                    first_batch + batch,
                    position,
                    n_uses,
                )
                n_steps += 1
                continue
            position += 1
    edges[n_steps] = last
    use_edges[n_steps] = n_uses
    return (
        batches[:n_steps].copy(),
        edges[: n_steps + 1].copy(),
        use_edges[: n_steps + 1].copy(),
        uses[:n_uses].copy(),
        frame_uses,
        within,
    )


@kernel
def link_uses(  # pragma: no cover - compiled
    uses: NDArray[np.int32],
    use_edges: NDArray[np.int64],
    later_uses: NDArray[np.int32],
    later_edges: NDArray[np.int64],
    n_chunks: int,
    chunk_of_slot: NDArray[np.int32],
    state: NDArray[np.int64],
) -> NDArray[np.int32]:
    """Return the step, counted from the block's first, at which each use is followed by another.

    Also notes the first use, in the block or after, of every chunk that a slot holds.
    """
    seen = np.full(n_chunks, _NEVER, np.int32)
    n_steps = use_edges.size - 1
    for step in range(later_edges.size - 2, -1, -1):
        for use in range(later_edges[step], later_edges[step + 1]):
            seen[later_uses[use]] = n_steps + step
    following = np.empty(uses.size, np.int32)
    for step in range(n_steps - 1, -1, -1):
        for use in range(use_edges[step], use_edges[step + 1]):
            following[use] = seen[uses[use]]
            seen[uses[use]] = step
    for slot in range(chunk_of_slot.size):
        chunk = chunk_of_slot[slot]
        state[slot, _NEXT] = seen[chunk] if chunk >= 0 else _EMPTY
    return following


@kernel
def plan_steps(  # pragma: no cover - compiled
    first_step: int,
    first_job: int,
    depth: int,
    job_chunks: int,
    use_lists: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]],
    places: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]],
    state: NDArray[np.int64],
) -> tuple[
    NDArray[np.int32],
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int64],
    int,
]:
    """Give every use of the block a slot and collect the loads in jobs."""
    use_edges, uses, next_uses = use_lists
    chunk_of_slot, slot_of_chunk, is_used = places
    knot = state.shape[0] - 1
    n_steps = use_edges.size - 1
    slots_of_uses = np.empty(uses.size, np.int32)
    needs = np.empty(n_steps, np.int64)
    job_edges = np.empty(uses.size + 1, np.int64)
    job_after = np.empty(uses.size, np.int64)
    chunks = np.empty(uses.size, np.int64)
    slots = np.empty(uses.size, np.int64)
    n_jobs, n_loads, allowed, distinct = 0, 0, -1, 0
    _build_heap(state)
    for index in range(n_steps):
        step = first_step + index
        _release_aged(step - depth, state)
        # Chunks that are here already come first: a load must not push one of them out.
        for use in range(use_edges[index], use_edges[index + 1]):
            slot = slot_of_chunk[uses[use]]
            slots_of_uses[use] = slot
            if not is_used[uses[use]]:
                is_used[uses[use]] = True
                distinct += 1
            if slot >= 0:
                _take_slot(slot, state)
                _touch(slot, step, next_uses[use], state)
        for use in range(use_edges[index], use_edges[index + 1]):
            if slots_of_uses[use] >= 0:
                continue
            slot = state[0, _HEAP] if state[knot, _PLACE] > 0 else state[knot, _YOUNGER]
            after = state[slot, _LAST]
            _take_slot(slot, state)
            if chunk_of_slot[slot] >= 0:
                slot_of_chunk[chunk_of_slot[slot]] = -1
            chunk_of_slot[slot] = uses[use]
            slot_of_chunk[uses[use]] = slot
            _touch(slot, step, next_uses[use], state)
            slots_of_uses[use] = slot
            # A load joins the open job unless the job would have to wait for later gathers.
            is_full = n_jobs > 0 and n_loads - job_edges[n_jobs - 1] >= job_chunks
            if n_jobs == 0 or is_full or after > allowed:
                job_edges[n_jobs] = n_loads
                job_after[n_jobs] = after
                allowed = max(after, step - 1 - depth)
                n_jobs += 1
            job_after[n_jobs - 1] = max(job_after[n_jobs - 1], after)
            chunks[n_loads], slots[n_loads] = uses[use], slot
            n_loads += 1
        needs[index] = first_job + n_jobs
    job_edges[n_jobs] = n_loads
    for job in range(n_jobs):
        _sort_pairs(chunks, slots, job_edges[job], job_edges[job + 1])
    return (
        slots_of_uses,
        needs,
        job_edges[: n_jobs + 1].copy(),
        job_after[:n_jobs].copy(),
        chunks[:n_loads].copy(),
        slots[:n_loads].copy(),
        distinct,
    )


@kernel
def frame_offsets(  # pragma: no cover - compiled
    groups: NDArray[np.int64],
    slots_of_uses: NDArray[np.int32],
    frame_uses: NDArray[np.int32],
    within: NDArray[np.int32],
    group_starts: NDArray[np.int64],
    slot_strides: NDArray[np.int64],
    frame_strides: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return where in the pool each frame begins, in the unit of its scan's strides."""
    offsets = np.empty(frame_uses.shape, np.int64)
    for index in range(groups.size):
        scan = _scan_of(groups[index], group_starts)
        for member in range(frame_uses.shape[1]):
            slot = slots_of_uses[frame_uses[index, member]]
            frame = within[index, member] * frame_strides[scan]
            offsets[index, member] = slot * slot_strides[scan] + frame
    return offsets


@kernel
def _sort_pairs(  # pragma: no cover - compiled
    chunks: NDArray[np.int64], slots: NDArray[np.int64], start: int, stop: int
) -> None:
    """Sort a job's few loads by chunk, in place."""
    for i in range(start + 1, stop):
        chunk, slot = chunks[i], slots[i]
        j = i
        while j > start and chunks[j - 1] > chunk:
            chunks[j], slots[j] = chunks[j - 1], slots[j - 1]
            j -= 1
        chunks[j], slots[j] = chunk, slot


@kernel
def _touch(  # pragma: no cover - compiled
    slot: int, step: int, following: int, state: NDArray[np.int64]
) -> None:
    """Note a use of a slot that is in neither the ring nor the heap: it becomes the youngest."""
    knot = state.shape[0] - 1
    youngest = state[knot, _OLDER]
    state[slot, _LAST] = step
    state[slot, _NEXT] = following
    state[slot, _OLDER] = youngest
    state[slot, _YOUNGER] = knot
    state[youngest, _YOUNGER] = slot
    state[knot, _OLDER] = slot


@kernel
def _take_slot(slot: int, state: NDArray[np.int64]) -> None:  # pragma: no cover - compiled
    """Take a slot out of the heap or the ring, wherever it is."""
    place = state[slot, _PLACE]
    if place < 0:
        older, younger = state[slot, _OLDER], state[slot, _YOUNGER]
        state[older, _YOUNGER] = younger
        state[younger, _OLDER] = older
        return
    knot = state.shape[0] - 1
    state[knot, _PLACE] -= 1
    state[slot, _PLACE] = -1
    size = state[knot, _PLACE]
    if place < size:
        moved = state[size, _HEAP]
        state[place, _HEAP] = moved
        state[moved, _PLACE] = place
        _sift_down(place, state)
        _sift_up(state[moved, _PLACE], state)


@kernel
def _release_aged(
    oldest_kept: int, state: NDArray[np.int64]
) -> None:  # pragma: no cover - compiled
    """Move slots last used before a step from the ring to the heap: they may be overwritten."""
    knot = state.shape[0] - 1
    slot = state[knot, _YOUNGER]
    while slot != knot and state[slot, _LAST] < oldest_kept:
        _take_slot(slot, state)
        place = state[knot, _PLACE]
        state[place, _HEAP] = slot
        state[slot, _PLACE] = place
        state[knot, _PLACE] += 1
        _sift_up(place, state)
        slot = state[knot, _YOUNGER]


@kernel
def _build_heap(state: NDArray[np.int64]) -> None:  # pragma: no cover - compiled
    """Order the heap again after all next uses changed."""
    for place in range(state[state.shape[0] - 1, _PLACE] // 2 - 1, -1, -1):
        _sift_down(place, state)


@kernel
def _goes_before(a: int, b: int, state: NDArray[np.int64]) -> bool:  # pragma: no cover - compiled
    """Whether slot `a` makes room before slot `b`."""
    if state[a, _NEXT] != state[b, _NEXT]:
        return bool(state[a, _NEXT] > state[b, _NEXT])
    return bool(state[a, _LAST] < state[b, _LAST])


@kernel
def _sift_up(place: int, state: NDArray[np.int64]) -> None:  # pragma: no cover - compiled
    slot = state[place, _HEAP]
    while place > 0:
        parent = (place - 1) // 2
        if not _goes_before(slot, state[parent, _HEAP], state):
            break
        state[place, _HEAP] = state[parent, _HEAP]
        state[state[place, _HEAP], _PLACE] = place
        place = parent
    state[place, _HEAP] = slot
    state[slot, _PLACE] = place


@kernel
def _sift_down(place: int, state: NDArray[np.int64]) -> None:  # pragma: no cover - compiled
    slot = state[place, _HEAP]
    size = state[state.shape[0] - 1, _PLACE]
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and _goes_before(state[child + 1, _HEAP], state[child, _HEAP], state):
            child += 1
        if not _goes_before(state[child, _HEAP], slot, state):
            break
        state[place, _HEAP] = state[child, _HEAP]
        state[state[place, _HEAP], _PLACE] = place
        place = child
    state[place, _HEAP] = slot
    state[slot, _PLACE] = place
