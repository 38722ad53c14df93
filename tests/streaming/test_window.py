import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyzarr.streaming.window import ChunkPlanner, FrameMap


def make_map(sizes, chunk_frames, group_size, n_groups, seed):
    """Groups of random frames over scans of the given sizes."""
    rng = np.random.default_rng(seed)
    frames = [rng.integers(0, size, (n_groups, group_size)) for size in sizes]
    chunks = [-(-size // chunk_frames) for size in sizes]
    return FrameMap(
        frames=np.concatenate(frames).astype(np.int32),
        group_starts=np.arange(len(sizes) + 1) * n_groups,
        rows=np.concatenate([rng.permutation(size) for size in sizes]).astype(np.int32),
        frame_starts=np.concatenate([[0], np.cumsum(sizes)]),
        chunk_starts=np.concatenate([[0], np.cumsum(chunks)]),
        chunk_frames=np.full(len(sizes), chunk_frames),
        slot_strides=np.full(len(sizes), chunk_frames * 3),
        frame_strides=np.full(len(sizes), 3),
    )


def chunks_of(fm, group):
    scan = np.searchsorted(fm.group_starts, group, side="right") - 1
    rows = fm.rows[fm.frame_starts[scan] + fm.frames[group]]
    chunks = fm.chunk_starts[scan] + rows // fm.chunk_frames[scan]
    return chunks, rows % fm.chunk_frames[scan]


class Simulation:
    """Carries out plans as late and as early as they allow and checks every promise."""

    def __init__(self, fm, n_slots, batch_size, block_batches, job_chunks):
        self.fm, self.n_slots, self.batch_size = fm, n_slots, batch_size
        self.planner = ChunkPlanner(
            fm,
            n_slots=n_slots,
            batch_size=batch_size,
            block_batches=block_batches,
            job_chunks=job_chunks,
        )
        self.job_chunks = job_chunks
        self.resident = np.full(n_slots, -1, np.int32)

    def run(self, order, first_batch=0, max_steps=None):
        """Run an epoch, or its first steps; return (loads, steps, gathered positions)."""
        n_batches = -(-len(order) // self.batch_size)
        edges = np.minimum(np.arange(n_batches + 1) * self.batch_size, len(order))
        self.planner.start(order, edges, first_batch, self.resident)
        blocks = []
        while (block := self.planner.next_block()) is not None:
            blocks.append(block)
        steps = [(block, index) for block in blocks for index in range(block.n_steps)]
        jobs = [(block, index) for block in blocks for index in range(block.n_jobs)]
        self.check_numbers(blocks)
        gathered, done, n_loads, positions = -1, 0, 0, []
        for number, (block, index) in enumerate(steps[:max_steps]):
            # Decode as far ahead as the plan allows: what a step needs must survive that.
            while done < len(jobs) and jobs[done][0].job_after[jobs[done][1]] <= gathered:
                n_loads += self.load(*jobs[done])
                done += 1
            assert block.needs[index] <= done, "a gather waits for loads that wait for it"
            positions += self.gather(block, index, order)
            gathered = number
        return n_loads, len(steps), positions

    def check_numbers(self, blocks):
        step = job = 0
        for block in blocks:
            assert (block.first_step, block.first_job) == (step, job)
            assert (np.diff(block.job_edges) >= 1).all()
            assert (np.diff(block.job_edges) <= self.job_chunks).all()
            step, job = step + block.n_steps, job + block.n_jobs

    def load(self, block, index):
        part = slice(block.job_edges[index], block.job_edges[index + 1])
        chunks, slots = block.chunks[part], block.slots[part]
        assert (np.diff(chunks) > 0).all()
        assert len(np.unique(slots)) == len(slots)
        self.resident[slots] = chunks
        return len(chunks)

    def gather(self, block, index, order):
        positions = range(block.edges[index], block.edges[index + 1])
        for position in positions:
            chunks, within = chunks_of(self.fm, order[position])
            offsets = block.offsets[position - block.edges[0]]
            slots, rest = np.divmod(offsets, self.fm.slot_strides[0])
            assert self.resident[slots].tolist() == chunks.tolist()
            assert rest.tolist() == (within * self.fm.frame_strides[0]).tolist()
            assert position // self.batch_size == block.batches[index]
        return list(positions)


def distinct_chunks(fm, order):
    return len(np.unique(np.concatenate([chunks_of(fm, group)[0] for group in order])))


plans = given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    chunk_frames=st.integers(1, 5),
    group_size=st.sampled_from([1, 2, 4]),
    n_groups=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    block_batches=st.integers(1, 8),
    extra_slots=st.integers(0, 40),
    job_chunks=st.integers(1, 9),
    seed=st.integers(0, 5),
)


@settings(deadline=None)
@plans
def test_every_chunk_is_in_place_when_it_is_gathered(
    sizes,
    chunk_frames,
    group_size,
    n_groups,
    batch_size,
    block_batches,
    extra_slots,
    job_chunks,
    seed,
):
    fm = make_map(sizes, chunk_frames, group_size, n_groups, seed)
    n_slots = group_size + extra_slots
    simulation = Simulation(fm, n_slots, batch_size, block_batches, job_chunks)
    rng = np.random.default_rng(seed)
    for _ in range(2):
        order = rng.permutation(len(sizes) * n_groups)
        n_loads, _, positions = simulation.run(order)
        assert positions == list(range(len(order)))
        assert simulation.planner.distinct == distinct_chunks(fm, order)
        if n_slots >= fm.n_chunks:
            assert n_loads <= simulation.planner.distinct


@settings(deadline=None)
@given(seed=st.integers(0, 20), n_slots=st.integers(8, 30))
def test_an_epoch_given_up_leaves_a_pool_that_the_next_one_can_use(seed, n_slots):
    fm = make_map([80], 3, 4, 50, seed)
    simulation = Simulation(fm, n_slots, 6, 3, 4)
    rng = np.random.default_rng(seed)
    for steps in (0, 1, 3, None):
        order = rng.permutation(50)
        simulation.run(order, max_steps=steps)


def test_a_pool_that_holds_all_chunks_decodes_each_once_for_all_epochs():
    fm = make_map([100, 50], 4, 4, 80, 0)
    simulation = Simulation(fm, fm.n_chunks, 8, 2, 64)
    order = np.random.default_rng(0).permutation(160)
    assert simulation.run(order)[0] == distinct_chunks(fm, order)
    assert simulation.run(order[::-1].copy())[0] == 0


def test_part_of_the_chunks_survives_into_the_next_epoch():
    fm = make_map([100], 4, 1, 100, 0)
    simulation = Simulation(fm, 20, 5, 100, 64)
    order = np.arange(100)
    first, _, _ = simulation.run(order)
    second, _, _ = simulation.run(order)
    assert second < first


def test_a_batch_larger_than_the_pool_is_gathered_in_parts():
    fm = make_map([400], 1, 4, 64, 1)
    simulation = Simulation(fm, 8, 32, 2, 64)
    _, n_steps, positions = simulation.run(np.arange(64))
    assert n_steps > 2
    assert positions == list(range(64))


def test_the_smallest_pool_holds_one_group():
    fm = make_map([400], 1, 4, 20, 1)
    simulation = Simulation(fm, 4, 5, 2, 64)
    n_loads, n_steps, _ = simulation.run(np.arange(20))
    assert n_steps == 20
    assert n_loads <= 80


def test_the_chunk_whose_next_use_is_farthest_makes_room():
    # One frame a chunk, one chunk a batch, three slots of which the last two uses are kept.
    uses = [0, 1, 2, 3, 0, 1, 4, 0, 1]
    fm = FrameMap(
        frames=np.array(uses, np.int32)[:, np.newaxis],
        group_starts=np.array([0, len(uses)]),
        rows=np.arange(5, dtype=np.int32),
        frame_starts=np.array([0, 5]),
        chunk_starts=np.array([0, 5]),
        chunk_frames=np.array([1]),
        slot_strides=np.array([1]),
        frame_strides=np.array([1]),
    )
    simulation = Simulation(fm, 4, 1, 20, 1)
    n_loads, _, _ = simulation.run(np.arange(len(uses)))
    # 2 and 3 are never used again: they go, 0 and 1 stay.
    assert n_loads == 5


def test_loads_leave_the_chunks_of_the_last_steps_alone():
    # Twenty chunks come back all the time, and between them come some that are used once. Those
    # would make room at once, and decoding could not run ahead.
    uses = [step // 2 % 20 if step % 2 else 20 + step for step in range(400)]
    fm = FrameMap(
        frames=np.array(uses, np.int32)[:, np.newaxis],
        group_starts=np.array([0, 400]),
        rows=np.arange(420, dtype=np.int32),
        frame_starts=np.array([0, 420]),
        chunk_starts=np.array([0, 420]),
        chunk_frames=np.array([1]),
        slot_strides=np.array([1]),
        frame_strides=np.array([1]),
    )
    planner = ChunkPlanner(fm, n_slots=24, batch_size=1, block_batches=50, job_chunks=1)
    assert planner.depth == 11
    planner.start(np.arange(400), np.arange(401), 0, np.full(24, -1, np.int32))
    n_loads = 0
    while (block := planner.next_block()) is not None:
        first = 0
        for index in range(block.n_steps):
            last = block.needs[index] - block.first_job
            for after in block.job_after[first:last].tolist():
                assert after == -1 or after < block.first_step + index - planner.depth
            n_loads += last - first
            first = last
    assert n_loads > 220


def test_small_loads_of_neighbouring_steps_share_a_job():
    fm = make_map([4000], 4, 1, 1000, 3)
    planner = ChunkPlanner(fm, n_slots=1000, batch_size=4, block_batches=1000, job_chunks=64)
    planner.start(np.arange(1000), np.arange(0, 1001, 4), 0, np.full(1000, -1, np.int32))
    block = planner.next_block()
    assert len(block.chunks) > 500
    assert block.n_jobs <= len(block.chunks) // 64 + 1


@pytest.mark.parametrize("first_batch", [pytest.param(0, id="start"), pytest.param(7, id="middle")])
def test_planning_starts_where_an_epoch_is_resumed(first_batch):
    fm = make_map([100], 4, 4, 50, 0)
    simulation = Simulation(fm, 20, 5, 2, 64)
    _, _, positions = simulation.run(np.arange(50), first_batch)
    assert positions == list(range(5 * first_batch, 50))


def test_a_long_epoch_starts_before_it_is_planned_to_the_end():
    fm = make_map([2000], 4, 4, 10_000, 0)
    planner = ChunkPlanner(fm, n_slots=300, batch_size=8, block_batches=10, job_chunks=64)
    planner.start(np.arange(10_000), np.arange(0, 10_001, 8), 0, np.full(300, -1, np.int32))
    assert planner.next_block().edges[-1] == 80
