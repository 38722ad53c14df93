import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ptyzarr.errors import BudgetError
from ptyzarr.streaming.budget import Demand, plan_memory

MIB = 1024**2
DEMAND = Demand(
    tables_nbytes=MIB,
    order_nbytes=MIB,
    n_chunks=5000,
    slot_nbytes=128 * 1024,
    batch_nbytes=16 * MIB,
    batch_frames=256,
    n_batches=313,
    group_size=4,
    n_threads=2,
    thread_nbytes=MIB,
)


@example(budget=172, n_chunks=1, batch_mib=15, n_threads=1)  # batches left little for planning
@given(
    budget=st.integers(1, 4000),
    n_chunks=st.integers(1, 10**6),
    batch_mib=st.integers(1, 64),
    n_threads=st.integers(1, 16),
)
def test_a_plan_keeps_to_its_budget(budget, n_chunks, batch_mib, n_threads):
    demand = dataclasses.replace(
        DEMAND, n_chunks=n_chunks, batch_nbytes=batch_mib * MIB, n_threads=n_threads
    )
    try:
        plan = plan_memory(budget * MIB, demand)
    except BudgetError:
        return
    assert plan.nbytes <= budget * MIB
    assert min(demand.group_size, n_chunks) <= plan.n_slots <= n_chunks
    assert 1 <= plan.max_kept <= n_threads + 2
    assert 1 <= plan.block_batches <= demand.n_batches


def test_the_stated_minimum_is_enough_and_no_less():
    with pytest.raises(BudgetError, match="raise memory or lower batch_size") as caught:
        plan_memory(MIB, DEMAND)
    assert caught.value.code == "budget"
    minimum = int(str(caught.value).split("at least")[1].split("(")[1].split(" bytes")[0])
    assert plan_memory(minimum, DEMAND).n_slots == DEMAND.group_size
    with pytest.raises(BudgetError):
        plan_memory(minimum - 1, DEMAND)


@given(
    buffer=st.integers(1, 400 * MIB),
    slot_nbytes=st.integers(1, 4 * MIB),
    batch_nbytes=st.integers(1, 64 * MIB),
    n_chunks=st.integers(1, 10**4),
    n_threads=st.integers(1, 16),
)
def test_pool_and_batches_keep_to_the_buffer(
    buffer, slot_nbytes, batch_nbytes, n_chunks, n_threads
):
    demand = dataclasses.replace(
        DEMAND,
        buffer_nbytes=buffer,
        slot_nbytes=slot_nbytes,
        batch_nbytes=batch_nbytes,
        n_chunks=n_chunks,
        n_threads=n_threads,
    )
    least = batch_nbytes + min(DEMAND.group_size, n_chunks) * slot_nbytes
    if buffer < least:
        with pytest.raises(BudgetError, match=f"buffer .* at least .*{least} bytes"):
            plan_memory(10**12, demand)
        return
    plan = plan_memory(10**12, demand)
    assert plan.n_slots * slot_nbytes + plan.max_kept * batch_nbytes <= buffer
    assert min(DEMAND.group_size, n_chunks) <= plan.n_slots <= n_chunks


def test_a_buffer_is_used_up():
    demand = dataclasses.replace(DEMAND, buffer_nbytes=200 * MIB)
    plan = plan_memory(4000 * MIB, demand)
    unused = 200 * MIB - plan.n_slots * DEMAND.slot_nbytes - plan.max_kept * DEMAND.batch_nbytes
    assert plan.max_kept == 4
    assert 0 <= unused < DEMAND.slot_nbytes


def test_a_buffer_that_is_larger_than_what_is_left_changes_nothing():
    demand = dataclasses.replace(DEMAND, buffer_nbytes=4000 * MIB)
    assert plan_memory(500 * MIB, demand) == plan_memory(500 * MIB, DEMAND)


def test_a_large_budget_holds_every_chunk_and_takes_no_more():
    plan = plan_memory(4000 * MIB, DEMAND)
    assert plan.n_slots == DEMAND.n_chunks
    assert plan.block_batches == DEMAND.n_batches
    assert plan.nbytes < 1000 * MIB


def test_more_memory_never_means_fewer_slots():
    slots = [plan_memory(mib * MIB, DEMAND).n_slots for mib in range(400, 1400, 50)]
    assert slots == sorted(slots)


def test_batches_make_room_for_the_last_chunks():
    ample = plan_memory(4000 * MIB, DEMAND)
    tight = ample.nbytes - DEMAND.batch_nbytes
    plan = plan_memory(tight, DEMAND)
    assert (ample.max_kept, plan.max_kept) == (4, 3)
    assert plan.n_slots == DEMAND.n_chunks
    # Where even two batches leave too little, as many as ever are kept.
    plan = plan_memory(ample.nbytes - 3 * DEMAND.batch_nbytes, DEMAND)
    assert plan.max_kept == 4
    assert plan.n_slots < DEMAND.n_chunks


def test_what_has_been_taken_counts_instead_of_what_is_assumed():
    known = dataclasses.replace(DEMAND, started_nbytes=20 * MIB)
    budget = 300 * MIB
    assert plan_memory(budget, known).n_slots > plan_memory(budget, DEMAND).n_slots
    assert plan_memory(budget, known).nbytes <= budget
