"""Our own loader as a contender, and the two ceilings that it works under."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.bench.contender import BatchTrial, Deliveries, Delivery, Work
from ptyzarr.bench.workload import Workload
from ptyzarr.config import LoaderConfig, Shuffle
from ptyzarr.scan import ChunkReader
from ptyzarr.store import ScanStore
from ptyzarr.streaming import (
    GroupLoader,
    PackedFrames,
    aligned_bytes,
    choose_packing,
    gather_frames,
    pack_frames,
)


def make_loader_trial(work: Workload, shuffle: Shuffle) -> BatchTrial:
    """Return a trial of `GroupLoader` with a kind of shuffle."""
    store = work.open()
    config = LoaderConfig(
        batch_size=work.batch_size,
        shuffle=shuffle,
        seed=work.seed,
        device="numpy",
        channels=work.channels,
        memory=work.memory,
        n_threads=work.n_threads,
    )
    loader = GroupLoader(store, work.grouping, config)

    def batches(epoch: int) -> Deliveries:
        loader.set_epoch(epoch)
        for batch in loader:
            yield Delivery(x=batch.X, members=batch.nn_indices, scale=batch.scale)

    def close() -> None:
        loader.close()
        store.close()

    def facts() -> Mapping[str, Any]:
        stats = loader.stats
        return {
            "bytes_read": stats.bytes_read,
            "decoded_per_delivered": stats.decoded_per_delivered,
            "chunks_decoded": stats.chunks_decoded,
            "distinct_chunks": stats.distinct_chunks,
            "stall_s": stats.stall_s,
            "buffer_bytes": stats.peak_buffer_bytes,
            "projected_memory_bytes": loader.projected_memory,
        }

    return BatchTrial(batches, work, facts, close)


class GatherTrial:
    """The fused kernel alone: batches gathered from integers that are all in memory.

    Parameters
    ----------
    work
        What is gathered.
    is_packed
        Whether the frames lie packed, as in the loader's pool, where they are worth it.
    """

    def __init__(self, work: Workload, *, is_packed: bool = False) -> None:
        self._work = work
        store = work.open()
        self._is_counts = store.quantity == "counts"
        self._frames: NDArray[Any] | PackedFrames
        self._frames, self._offsets = _decode_all(work)
        if is_packed:
            self._frames, self._offsets = _pack_all(store, self._frames, self._offsets)
        self._shape = (work.batch_size, store.frame_size**2 * work.grouping.group_size)
        store.close()
        self._pool = ThreadPoolExecutor(work.n_threads)
        nbytes = 4 * self._shape[0] * self._shape[1]
        self._outputs = [
            aligned_bytes(nbytes).view(np.float32).reshape(self._shape)
            for _ in range(work.n_threads)
        ]

    def run(self, round_number: int) -> Work:
        """Gather batches of a uniform shuffle, each thread into memory of its own."""
        rng = np.random.default_rng(round_number)
        offsets = self._offsets[rng.permutation(len(self._offsets))]
        deadline = time.perf_counter() + self._work.round_s
        places = itertools.count()

        def work(number: int) -> int:
            done = 0
            while time.perf_counter() < deadline:
                first = next(places) * self._work.batch_size
                part = offsets[first : first + self._work.batch_size]
                if not len(part):
                    break
                self._gather(part, self._outputs[number])
                done += len(part)
            return done

        started = time.perf_counter()
        n_groups = sum(self._pool.map(work, range(self._work.n_threads)))
        return Work(units=n_groups, seconds=time.perf_counter() - started)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _gather(self, offsets: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        # The loader's own two layouts: one row a group, or one row a frame.
        if self._work.channels == "first":
            offsets = offsets.reshape(-1, 1)
        n_rows = self._shape[0] * self._work.grouping.group_size // offsets.shape[1]
        gather_frames(
            self._frames,
            offsets,
            np.arange(len(offsets)),
            np.float32(1),
            out.reshape(n_rows, -1),
            is_counts=self._is_counts,
        )


class FirstEpochTrial:
    """First epochs of new loaders: every chunk is decoded, nothing is there from an epoch before.

    Making a loader is not counted.
    """

    def __init__(self, work: Workload) -> None:
        self._work = work

    def run(self, round_number: int) -> Work:
        """Deliver first epochs until a quarter of the round's time, or of a second, is over."""
        n_groups, seconds = 0, 0.0
        while seconds < min(self._work.round_s, 1) / 4:
            work = dataclasses.replace(self._work, seed=self._work.seed + round_number)
            trial = make_loader_trial(work, "window")
            started = time.perf_counter()
            for delivery in trial.deliveries(round_number):
                n_groups += len(delivery.members)
            seconds += time.perf_counter() - started
            trial.close()
        return Work(units=n_groups, seconds=seconds)

    def close(self) -> None:
        """Have nothing to give back."""


def _decode_all(work: Workload) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return all stored frames as one flat array, and where the frames of each group begin."""
    store = work.open()
    reader: ChunkReader = store.chunks
    memory = np.empty((reader.n_chunks, reader.chunk_nbytes), np.uint8)
    chunks = np.arange(reader.n_chunks)
    reader.read_chunks(chunks, chunks, memory)
    offsets = store.rows[work.members()] * store.frame_size**2
    store.close()
    return memory.reshape(-1).view(reader.dtype), offsets


def _pack_all(
    store: ScanStore, frames: NDArray[Any], offsets: NDArray[np.int64]
) -> tuple[NDArray[Any] | PackedFrames, NDArray[np.int64]]:
    """Return frames packed, and where they begin then; unchanged where packing is not worth it."""
    n_pixels = store.frame_size**2
    packing = choose_packing(frames.dtype, n_pixels, store.pixel_limits)
    if packing is None:
        return frames, offsets
    rows = frames.reshape(-1, n_pixels)[: store.n_frames]
    packed = PackedFrames.over(aligned_bytes(len(rows) * packing.frame_nbytes), packing)
    pack_frames(rows, np.arange(len(rows)) * packing.frame_nbytes, packed)
    return packed, offsets // n_pixels * packing.frame_nbytes


def make_packed_gather_trial(work: Workload) -> GatherTrial:
    """Return a trial of the kernel that expands packed frames."""
    return GatherTrial(work, is_packed=True)


def resident_integers(work: Workload) -> int:
    """Return the bytes of all frames as they are stored."""
    store = work.open()
    return store.n_frames * store.frame_size**2 * store.format.dtype.itemsize


LoaderMaker = Callable[[Workload], BatchTrial]


def loader_maker(shuffle: Shuffle) -> LoaderMaker:
    """Return a function that makes the trial of one kind of shuffle."""
    return lambda work: make_loader_trial(work, shuffle)
