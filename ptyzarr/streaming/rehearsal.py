"""A rehearsal: the compiled code of an epoch is loaded, or made, before memory is divided.

What the compiler takes differs by 100 MiB between a first run on a machine and any later one, so
it is measured rather than assumed; what it leaves goes to the pool.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptyzarr.streaming.experiments import Experiments
from ptyzarr.streaming.recycling import aligned_bytes
from ptyzarr.streaming.sinks import Sink
from ptyzarr.streaming.window import ChunkPlanner, PlanBlock


def rehearse(experiments: Experiments, sink: Sink) -> None:
    """Plan, pack and gather a group of each scan, out of empty frames; no file is read."""
    fm = experiments.frame_map
    pool = aligned_bytes(fm.group_size * experiments.decoder.slot_nbytes).reshape(fm.group_size, -1)
    pool.fill(0)
    experiments.decoder.prepare(pool)
    planner = ChunkPlanner(
        fm, n_slots=fm.group_size, batch_size=1, block_batches=1, job_chunks=fm.group_size
    )
    for first in fm.group_starts[:-1]:
        group = np.array([first])
        planner.start(group, np.array([0, 1]), 0, np.full(fm.group_size, -1, np.int32))
        block = planner.next_block()
        if block is not None:
            _gather(experiments, sink, pool, group, block)


def _gather(
    experiments: Experiments,
    sink: Sink,
    pool: NDArray[np.uint8],
    group: NDArray[np.int64],
    block: PlanBlock,
) -> None:
    output = sink.open(1)
    try:
        views = experiments.decoder.pool_views(pool)
        for piece in experiments.pieces(group, block.offsets, 0, views):
            sink.gather(output, piece)
    finally:
        sink.discard(output)
