"""The plain ways: all amplitudes in memory, or one raw file mapped into it."""

from __future__ import annotations

import itertools
import mmap
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.bench.contender import BatchTrial, Deliveries, Delivery
from ptyzarr.bench.files import RAW
from ptyzarr.bench.workload import Workload, shuffled


class TorchGather:
    """``torch.index_select`` of batches into memory that is used again.

    Channels last adds a strided copy for each channel, the fastest way found in torch and NumPy.
    """

    def __init__(self, work: Workload, n_threads: int, n_buffers: int) -> None:
        torch = import_module("torch")
        torch.set_num_threads(n_threads)
        self._torch, self._work = torch, work
        self._frames, self.groups = torch.from_numpy(np.load(work.path(RAW))), work.members()
        size, self._group_size = self._frames.shape[1], work.grouping.group_size
        first = (work.batch_size * self._group_size, size, size)
        last = (work.batch_size, size, size, self._group_size)
        self._buffers = deque(
            (torch.empty(first), torch.empty(last if work.channels == "last" else 0))
            for _ in range(n_buffers)
        )

    def gather(self, members: NDArray[np.int64]) -> Delivery:
        """Return a batch; its memory is used again after as many as there are buffers."""
        flat, last = self._buffers.popleft()
        part, size = flat[: members.size], flat.shape[-1]
        index = self._torch.from_numpy(members.reshape(-1))
        self._torch.index_select(self._frames, 0, index, out=part)
        x = part.view(-1, self._group_size, size, size)
        if self._work.channels == "last":
            interleaved = last[: len(members)]
            for channel in range(self._group_size):
                interleaved[..., channel] = x[:, channel]
            x = interleaved
        self._buffers.append((flat, last))
        return Delivery(x=x, members=members)


def make_torch_trial(work: Workload) -> BatchTrial:
    """Return a trial of one batch after the other, torch's own threads in each."""
    source = TorchGather(work, work.n_threads, 1)

    def batches(epoch: int) -> Deliveries:
        for members in cut(shuffled(source.groups, work.seed, epoch), work.batch_size):
            yield source.gather(members)

    return BatchTrial(batches, work)


def make_torch_ahead_trial(work: Workload) -> BatchTrial:
    """Return a trial of batches gathered ahead by as many threads, one batch each."""
    source = TorchGather(work, 1, 2 * work.n_threads + 1)
    pool = ThreadPoolExecutor(work.n_threads)

    def batches(epoch: int) -> Deliveries:
        parts = iter(cut(shuffled(source.groups, work.seed, epoch), work.batch_size))
        ahead = deque(
            pool.submit(source.gather, part) for part in itertools.islice(parts, work.n_threads)
        )
        while ahead:
            delivery = ahead.popleft().result()
            ahead.extend(pool.submit(source.gather, part) for part in itertools.islice(parts, 1))
            yield delivery

    return BatchTrial(batches, work, close=pool.shutdown)


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

    return BatchTrial(batches, work)


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
