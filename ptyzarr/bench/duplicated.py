"""Groups written out in full: PtychoPINN's memory map, and annbatch's blocks."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import numpy as np

from ptyzarr.bench.contender import BatchTrial, Deliveries, Delivery
from ptyzarr.bench.files import BLOCK_GROUPS, BLOCKS, DUPLICATED, shuffled_once
from ptyzarr.bench.gathering import BatchGather
from ptyzarr.bench.peers import ZARRS, open_zarr
from ptyzarr.bench.workload import Workload

#: Blocks that are read together and shuffled in memory.
_PRELOAD: Final = 16


def make_tensordict_trial(work: Workload) -> BatchTrial:
    """Return a trial of a tensordict memory map that holds every group in full."""
    tensordict, torch = import_module("tensordict"), import_module("torch")
    torch.set_num_threads(work.n_threads)
    members, size = work.members(), work.open().frame_size
    images = tensordict.MemoryMappedTensor.from_filename(
        str(work.path(DUPLICATED) / "images.memmap"),
        dtype=torch.float32,
        shape=(*members.shape, size, size),
    )
    groups = tensordict.TensorDict({"images": images}, batch_size=[len(members)])

    def batches(epoch: int) -> Deliveries:
        order = np.random.default_rng((work.seed, epoch)).permutation(len(members))
        for first in range(0, len(order), work.batch_size):
            index = order[first : first + work.batch_size]
            x = groups[torch.from_numpy(index)]["images"]
            if work.channels == "last":
                x = x.permute(0, 2, 3, 1).contiguous()
            yield Delivery(x=x, members=members[index])

    return BatchTrial(batches, work)


def make_blocks_trial(work: Workload) -> BatchTrial:
    """Return a trial of random contiguous blocks, several at once, shuffled in memory."""
    try:
        import_module("zarrs")
        pipeline = ZARRS
    except ImportError:
        pipeline = None
    array = open_zarr(work.path(BLOCKS), pipeline, work)
    members, batch = shuffled_once(work), BatchGather(work)
    channels = np.arange(work.grouping.group_size)
    n_blocks = -(-len(members) // BLOCK_GROUPS)

    def batches(epoch: int) -> Deliveries:
        rng = np.random.default_rng((work.seed, epoch))
        blocks = rng.permutation(n_blocks)
        for start in range(0, n_blocks, _PRELOAD):
            # Slices, not an index: that is what zarrs decodes by itself.
            starts = blocks[start : start + _PRELOAD] * BLOCK_GROUPS
            stops = np.minimum(starts + BLOCK_GROUPS, len(members))
            slices = zip(starts.tolist(), stops.tolist(), strict=True)
            buffer = np.concatenate([array[first:end] for first, end in slices])
            rows = np.concatenate([np.arange(*ends) for ends in zip(starts, stops, strict=True)])
            order = rng.permutation(len(rows))
            for first in range(0, len(order), work.batch_size):
                part = order[first : first + work.batch_size]
                frames = part[:, np.newaxis] * len(channels) + channels
                yield Delivery(x=batch.gather(buffer, frames), members=members[rows[part]])

    return BatchTrial(batches, work)
