"""`GroupLookup`: any groups, asked for by number, through the loader's decoder, pool and sinks."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.errors import ConfigError, GroupIndexError
from ptyzarr.grouping import as_scans, check_options
from ptyzarr.memory import resident_memory
from ptyzarr.streaming.budget import Demand, plan_memory
from ptyzarr.streaming.experiments import Experiments, StreamableScan
from ptyzarr.streaming.loader import Batch
from ptyzarr.streaming.pipeline import ChunkPool
from ptyzarr.streaming.ranks import check_seed, fill_rank
from ptyzarr.streaming.recycling import aligned_bytes
from ptyzarr.streaming.rehearsal import rehearse
from ptyzarr.streaming.sinks import BatchShape, Sink, make_sink
from ptyzarr.streaming.window import ChunkPlanner, PlanBlock

# Batches whose memory is kept for later ones; more are only there as long as they are referred to.
_KEPT: Final = 2
# One call decodes it all: there is nobody to share jobs with.
_JOB_CHUNKS: Final = 64


class GroupLookup:
    """Delivers batches of the groups that are asked for, in the order asked for.

    Nothing is read ahead, since nobody knows what comes next: a call decodes the chunks that it
    needs and that are not in memory, in the calling thread. Decoded chunks stay until others need
    their place, those unused for longest first. Calls from several threads take turns.

    Parameters
    ----------
    stores, grouping, scale
        As for `GroupLoader`.
    config
        As for `GroupLoader`; `batch_size` is the most groups in one call. Whoever asks decides
        the order, so `shuffle`, `seed` and `drop_last` do not matter, and `n_threads` is 1.

    Raises
    ------
    ConfigError
        If the stores do not fit together, a rank is given, or groups without a seed are wanted
        on several ranks.
    BudgetError, DeviceError, GroupingError
        As `GroupLoader` raises them.
    """

    def __init__(
        self,
        stores: StreamableScan | Sequence[StreamableScan],
        grouping: GroupingConfig,
        config: LoaderConfig,
        *,
        scale: float | Sequence[float] | None = None,
    ) -> None:
        scans = as_scans(stores)
        check_options(grouping, GroupingConfig, "grouping")
        check_options(config, LoaderConfig, "config")
        if config.world_size is not None and config.world_size > 1:
            raise ConfigError(
                f"rank {config.rank} of {config.world_size} is given, where groups are asked for "
                "by number; expected None; let a sampler share them out: DistributedSampler"
            )
        check_seed(grouping, fill_rank(config).world_size or 1)
        before = resident_memory()
        self._config = config
        self._experiments = Experiments(scans, grouping, scale, details=config.details)
        self._experiments.sampled()  # lets go of the seeds of the groups
        self._sink: Sink = make_sink(config, self._batch_shape())
        plan_memory(config.memory_bytes, self._demand(None))  # refuses what is too small
        rehearse(self._experiments, self._sink)
        after = resident_memory()
        started_nbytes = after[0] - before[0] if before and after else None
        self._memory = plan_memory(config.memory_bytes, self._demand(started_nbytes))
        self.probe = self._sink.convert(self._experiments.probe)
        masks = self._experiments.bad_pixels
        self.bad_pixels = None if masks is None else self._sink.convert(masks)
        self._lock = threading.Lock()
        self._pool: ChunkPool | None = None
        self._views: Any = None
        self._planner: ChunkPlanner | None = None
        # Whether all that the planner has planned is in the pool.
        self._is_steady = False
        self._n_jobs = 0

    def __len__(self) -> int:
        """Return the number of groups of all stores."""
        return self._experiments.n_groups

    @property
    def config(self) -> LoaderConfig:
        """The options."""
        return self._config

    @property
    def projected_memory(self) -> int:
        """Bytes that the lookup adds to the process at most; see `budget.plan_memory`."""
        return self._memory.nbytes

    @functools.cached_property
    def identity(self) -> str:
        """What the numbers of the groups stand for: a hash of the scans and their groups."""
        digests = json.dumps([scan.digest for scan in self._experiments.scans])
        content = xxhash.xxh3_128(digests.encode())
        content.update(self._experiments.frame_map.frames.data)
        return content.hexdigest()

    def fetch(self, numbers: NDArray[np.integer[Any]]) -> Batch:
        """Return the batch of some groups.

        Parameters
        ----------
        numbers : (B,) integers
            Canonical numbers, scan after scan; negative ones count from the end, repeats are
            allowed. At least one, at most ``config.batch_size``.

        Raises
        ------
        ConfigError
            If there are none or too many.
        GroupIndexError
            If there is no such group.
        DamagedStoreError
            If a chunk cannot be read.
        """
        groups = self._check_numbers(numbers)
        with self._lock:
            finished = self._gather(groups)
        fields = self._sink.deliver(finished)
        return Batch(**fields, probe=self.probe, bad_pixels=self.bad_pixels)

    def close(self) -> None:
        """Give the memory back; a later call takes it anew."""
        with self._lock:
            self._pool = self._planner = self._views = None
            self._is_steady = False
            self._sink.close()

    def _check_numbers(self, numbers: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        most, n_groups = self._config.batch_size, len(self)
        if not 1 <= len(numbers) <= most:
            raise ConfigError(
                f"{len(numbers)} groups are asked for at once; expected 1 to {most}, the "
                "batch_size of LoaderConfig; give it the batch size of the sampler"
            )
        wrong = (numbers < -n_groups) | (numbers >= n_groups)
        if wrong.any():
            raise GroupIndexError(
                f"there is no group {numbers[wrong][0]}; expected 0 to {n_groups - 1}; check that "
                "the sampler was made for this dataset"
            )
        groups = numbers.astype(np.int64)
        return np.where(groups < 0, groups + n_groups, groups)

    def _gather(self, groups: NDArray[np.int64]) -> Any:
        """Return what the sink finished for some groups."""
        output = self._sink.open(len(groups))
        try:
            pool, planner = self._begin(groups)
            while (block := planner.next_block()) is not None:
                for step in range(block.n_steps):
                    self._load(pool, block, int(block.needs[step]))
                    self._gather_step(output, groups, block, step)
            fields = self._experiments.describe(groups)
            if self._sink.wants_patches:
                for piece in self._experiments.patch_pieces(groups, fields):
                    self._sink.draw_patches(output, piece)
            return self._sink.finish(output, fields)
        except BaseException:
            self._is_steady = False
            self._sink.discard(output)
            raise

    def _begin(self, groups: NDArray[np.int64]) -> tuple[ChunkPool, ChunkPlanner]:
        """Let the planner begin with some groups; what the pool holds is used."""
        if self._pool is None or self._planner is None:
            slot_nbytes = self._experiments.decoder.slot_nbytes
            memory = aligned_bytes(self._memory.n_slots * slot_nbytes)
            self._pool = ChunkPool(memory.reshape(self._memory.n_slots, slot_nbytes))
            self._views = self._experiments.decoder.pool_views(self._pool.memory)
            self._planner = ChunkPlanner(
                self._experiments.frame_map,
                n_slots=self._memory.n_slots,
                batch_size=self._config.batch_size,
                block_batches=1,
                job_chunks=_JOB_CHUNKS,
            )
        edges = np.array([0, len(groups)])
        if self._is_steady:
            self._planner.follow(groups, edges)
        else:
            self._planner.start(groups, edges, 0, self._pool.resident)
            self._is_steady, self._n_jobs = True, 0
        return self._pool, self._planner

    def _load(self, pool: ChunkPool, block: PlanBlock, n_jobs: int) -> None:
        """Decode until so many jobs are done."""
        while self._n_jobs < n_jobs:
            job = self._n_jobs - block.first_job
            part = slice(block.job_edges[job], block.job_edges[job + 1])
            chunks, slots = block.chunks[part], block.slots[part]
            # Half-written slots hold nothing, should this fail.
            pool.resident[slots] = -1
            self._experiments.decoder.read_chunks(chunks, slots, pool.memory)
            pool.resident[slots] = chunks
            self._n_jobs += 1

    def _gather_step(
        self, output: Any, groups: NDArray[np.int64], block: PlanBlock, step: int
    ) -> None:
        """Gather the groups of one step."""
        start, stop = int(block.edges[step]), int(block.edges[step + 1])
        offsets = block.offsets[start - block.edges[0] : stop - block.edges[0]]
        for piece in self._experiments.pieces(groups[start:stop], offsets, start, self._views):
            self._sink.gather(output, piece)

    def _batch_shape(self) -> BatchShape:
        experiments = self._experiments
        return BatchShape(
            batch_size=self._config.batch_size,
            frame_size=experiments.frame_size,
            group_size=experiments.group_size,
            stored_dtypes=experiments.decoder.stored_dtypes,
            has_patches=self._config.patches and experiments.has_patches(),
            has_details=self._config.details,
            max_kept=_KEPT,
        )

    def _demand(self, started_nbytes: int | None) -> Demand:
        experiments, batch_size = self._experiments, self._config.batch_size
        return Demand(
            tables_nbytes=experiments.nbytes,
            order_nbytes=8 * batch_size,
            n_chunks=experiments.frame_map.n_chunks,
            slot_nbytes=experiments.decoder.slot_nbytes,
            batch_nbytes=self._sink.batch_nbytes,
            batch_frames=batch_size * experiments.group_size,
            n_batches=1,
            group_size=experiments.group_size,
            n_threads=1,
            thread_nbytes=experiments.decoder.thread_nbytes(experiments.group_size),
            started_nbytes=started_nbytes,
            buffer_nbytes=self._config.buffer_bytes,
        )
