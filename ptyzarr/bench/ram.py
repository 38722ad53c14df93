"""The plain ways: all amplitudes in memory, or one raw file mapped into it."""

from __future__ import annotations

import mmap
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.bench.contender import BatchTrial, Deliveries, Delivery
from ptyzarr.bench.files import RAW
from ptyzarr.bench.workload import Workload, shuffled


def make_torch_trial(work: Workload) -> BatchTrial:
    """Return a trial of ``torch.index_select`` into memory that is used again.

    Channels last adds one copy into the other layout, which is the fastest way that torch has.
    """
    torch = import_module("torch")
    torch.set_num_threads(work.n_threads)
    frames, groups = torch.from_numpy(np.load(work.path(RAW))), work.members()
    size, group_size = frames.shape[1], work.grouping.group_size
    flat = torch.empty((work.batch_size * group_size, size, size), dtype=torch.float32)
    last = torch.empty((work.batch_size, size, size, group_size), dtype=torch.float32)

    def batches(epoch: int) -> Deliveries:
        for members in cut(shuffled(groups, work.seed, epoch), work.batch_size):
            index = torch.from_numpy(members.reshape(-1))
            part = flat[: members.size]
            torch.index_select(frames, 0, index, out=part)
            x = part.view(-1, group_size, size, size)
            if work.channels == "last":
                x = last[: len(members)].copy_(x.permute(0, 2, 3, 1))
            yield Delivery(x=x, members=members)

    return BatchTrial(batches, work.round_s)


def make_memmap_trial(work: Workload) -> BatchTrial:
    """Return a trial of NumPy's gather from a memory-mapped file into memory used again."""
    frames = np.load(work.path(RAW), mmap_mode="r")
    _advise_random(frames)
    groups = work.members()
    size, group_size = frames.shape[1], work.grouping.group_size
    flat = np.empty((work.batch_size * group_size, size, size), np.float32)
    last = np.empty((work.batch_size, size, size, group_size), np.float32)

    def batches(epoch: int) -> Deliveries:
        for members in cut(shuffled(groups, work.seed, epoch), work.batch_size):
            part = flat[: members.size]
            # mode="clip" lets NumPy write to `out` without a second buffer.
            np.take(frames, members.reshape(-1), axis=0, out=part, mode="clip")
            yield Delivery(x=lay_out(part, members, last, work), members=members)

    return BatchTrial(batches, work.round_s)


def lay_out(
    frames: NDArray[np.float32],
    members: NDArray[np.int64],
    last: NDArray[np.float32],
    work: Workload,
) -> NDArray[np.float32]:
    """Return the frames of a batch (B * C, N, N) in the layout asked for."""
    size = frames.shape[-1]
    x = frames.reshape(len(members), -1, size, size)
    if work.channels == "first":
        return x
    out = last[: len(members)]
    np.copyto(out, x.transpose(0, 2, 3, 1))
    return out


def cut(order: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Return consecutive parts of an order."""
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]


def resident_amplitudes(work: Workload) -> int:
    """Return the bytes of all amplitudes as float32."""
    store = work.open()
    return 4 * store.n_frames * store.frame_size**2


def _advise_random(frames: Any) -> None:
    """Keep the system from reading ahead around every frame."""
    mapped = getattr(frames, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)
