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
from ptyzarr.bench.gathering import BatchGather
from ptyzarr.bench.workload import Workload
from ptyzarr.config import LoaderConfig, Shuffle
from ptyzarr.scan import ChunkReader
from ptyzarr.streaming import (
    GroupLoader,
    PackedFrames,
    aligned_bytes,
    choose_packing,
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
        self._values: NDArray[Any] | PackedFrames
        self._values, self._frames = _decode_all(work)
        if is_packed:
            self._values = _pack_all(work, self._values)
        self._pool = ThreadPoolExecutor(work.n_threads)
        self._batches = [BatchGather(work) for _ in range(work.n_threads)]

    def run(self, round_number: int) -> Work:
        """Gather batches of a uniform shuffle, each thread into memory of its own."""
        rng = np.random.default_rng(round_number)
        frames = self._frames[rng.permutation(len(self._frames))]
        deadline = time.perf_counter() + self._work.round_s
        places = itertools.count()

        def work(batch: BatchGather) -> int:
            done = 0
            while time.perf_counter() < deadline:
                first = next(places) * self._work.batch_size
                part = frames[first : first + self._work.batch_size]
                if not len(part):
                    break
                batch.gather(self._values, part)
                done += len(part)
            return done

        started = time.perf_counter()
        n_groups = sum(self._pool.map(work, self._batches))
        return Work(units=n_groups, seconds=time.perf_counter() - started)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


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
    """Return all stored frames as one flat array, and the row of each group member in it."""
    store = work.open()
    reader: ChunkReader = store.chunks
    memory = np.empty((reader.n_chunks, reader.chunk_nbytes), np.uint8)
    chunks = np.arange(reader.n_chunks)
    reader.read_chunks(chunks, chunks, memory)
    frames = store.rows[work.members()]
    store.close()
    return memory.reshape(-1).view(reader.dtype), frames


def _pack_all(work: Workload, values: NDArray[Any]) -> NDArray[Any] | PackedFrames:
    """Return frames packed as in the loader's pool; unchanged where that is not worth it."""
    store = work.open()
    n_pixels = store.frame_size**2
    packing = choose_packing(values.dtype, n_pixels, store.pixel_limits)
    frames = values.reshape(-1, n_pixels)[: store.n_frames]
    store.close()
    if packing is None:
        return values
    packed = PackedFrames.over(aligned_bytes(len(frames) * packing.frame_nbytes), packing)
    pack_frames(frames, np.arange(len(frames)) * packing.frame_nbytes, packed)
    return packed


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
