"""`GroupLoader`: batches of groups, epoch after epoch, in bounded memory."""

from __future__ import annotations

import dataclasses
import json
import operator
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, NoReturn

import xxhash
from numpy.typing import NDArray

from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.errors import ConfigError
from ptyzarr.grouping import as_scans, check_options
from ptyzarr.memory import resident_memory, return_freed
from ptyzarr.streaming.budget import Demand, count_waiting, plan_memory
from ptyzarr.streaming.experiments import Experiments, StreamableScan
from ptyzarr.streaming.pipeline import ChunkPool, Pipeline
from ptyzarr.streaming.places import STATE_VERSION, read_place
from ptyzarr.streaming.ranks import check_rank, check_seed, count_threads, fill_rank
from ptyzarr.streaming.recycling import aligned_bytes
from ptyzarr.streaming.rehearsal import rehearse
from ptyzarr.streaming.sampling import SAMPLERS, SampledScan, Share, share_epoch
from ptyzarr.streaming.selection import Groups
from ptyzarr.streaming.sinks import BatchShape, Sink, load_device, make_sink
from ptyzarr.streaming.stats import LoaderStats, measure_epoch
from ptyzarr.streaming.window import ChunkPlanner

_DEFAULT: Final = LoaderConfig()
# A load job decodes about this much: enough to make a call worth while, little enough to share.
_JOB_NBYTES: Final = 2 * 1024**2
_MAX_JOB_CHUNKS: Final = 64


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Batch:
    """B groups of C frames; the arrays are those of the device (NumPy arrays or tensors).

    Attributes
    ----------
    X : (B, N, N, C) or (B, C, N, N) float32, float16 or bfloat16
        Normalised amplitudes.
    Y : like X, complex64, or None
        Object patches, if asked for and the scan has an object.
    coords_offsets : (B, 1, 2, 1), pixels
        Mean position x, y of each group.
    coords_relative : (B, 1, 2, C), pixels
        Members relative to the mean, in the sign convention of the reference.
    coords_nn : (B, 1, 2, C), pixels
        Positions of the members.
    nn_indices : (B, C) int32 or int64
        Acquisition indices of the members.
    scale : (B,) float32
        Factor by which X was normalised.
    experiment_id : (B,) int32
        Which of the loader's stores each group is from.
    probe : (n_stores, [mode,] N, N) complex64
        Probes, to be indexed by `experiment_id`; the same object in every batch.
    seed_indices : (B,) int64, or None
        Acquisition index of the position that each group was drawn for, with ``details=True``; it
        need not be a member.
    coords_start_offsets, coords_start_relative, coords_start_nn
        Like `coords_offsets`, `coords_relative` and `coords_nn`, of the start positions, with
        ``details=True``; of the positions for a scan without start positions.
    bad_pixels : (n_stores, N, N) bool, or None
        Pixels of X that mean nothing, to be indexed by `experiment_id`; None if no store has a
        mask. The same object in every batch.
    """

    X: Any
    Y: Any
    coords_offsets: Any
    coords_relative: Any
    coords_nn: Any
    nn_indices: Any
    scale: Any
    experiment_id: Any
    probe: Any
    seed_indices: Any = None
    coords_start_offsets: Any = None
    coords_start_relative: Any = None
    coords_start_nn: Any = None
    bad_pixels: Any = None


class GroupLoader:
    """Delivers the groups of one or more stores in batches.

    Iterating delivers one epoch; iterating again goes on to the next. Reading ahead, decoding
    and gathering happen in threads that live only while an iterator does. There is one iterator
    at a time: a second one closes the first, which raises `ConfigError` if it is used again.

    With an initialised `torch.distributed` each rank delivers its part, unless `config` says
    which; make the loader after ``init_process_group``. Memory and threads are those of one rank.

    Parameters
    ----------
    stores
        One store or several; their place in the list is their `experiment_id`.
    grouping
        Which groups are drawn, from each store alone.
    config
        How they are delivered.
    scale
        Factors by which X is multiplied instead of the canonical normalisation over each store's
        whole selection: one, or one for each store.
    groups
        Which canonical groups are delivered: for one store their numbers or a boolean mask, for
        several one of these, or None, for each store. None is all. X keeps the factor of the
        whole selection, so that parts of a scan fit together.

    Raises
    ------
    ConfigError
        If the stores do not fit together, there are too few groups, or groups without a seed are
        wanted on several ranks.
    BudgetError
        If ``config.memory`` or ``config.buffer`` is below the minimum, which the message states.
    DeviceError
        If the device or the package that drives it is not available.
    GroupingError
        As `generate_grouped_data` raises it.
    """

    def __init__(
        self,
        stores: StreamableScan | Sequence[StreamableScan],
        grouping: GroupingConfig,
        config: LoaderConfig = _DEFAULT,
        *,
        scale: float | Sequence[float] | None = None,
        groups: Groups = None,
    ) -> None:
        scans = as_scans(stores)
        check_options(grouping, GroupingConfig, "grouping")
        check_options(config, LoaderConfig, "config")
        self._is_rank_given = config.rank is not None
        config = fill_rank(config)
        check_seed(grouping, config.world_size or 1)
        load_device(config)
        before = resident_memory()
        self._config, self._grouping = config, grouping
        self._n_threads = config.n_threads or count_threads()
        self._experiments = Experiments(scans, grouping, scale, groups, details=config.details)
        self._share = _share(config, self._experiments.n_groups)
        sampled = self._experiments.sampled()
        frames = self._experiments.frame_map.frames
        self._identity = _order_identity(sampled, frames, grouping, config)
        self._identity["selection"] = self._experiments.selection
        self._sampler = SAMPLERS[config.shuffle](sampled, config.seed)
        max_kept = self._n_threads + 2
        self._sink: Sink = make_sink(config, self._batch_shape(max_kept))
        self._n_waiting = 0
        plan_memory(config.memory_bytes, self._demand())  # refuses what is too small
        wanted = self._experiments.decoder.jobs_at_once
        self._n_waiting = count_waiting(config.memory_bytes, self._demand(), wanted)
        rehearse(self._experiments, self._sink)
        # Of one group; the orders of whole epochs are made when they begin.
        self._sampler.order(0, dataclasses.replace(self._share, stop=self._share.start + 1))
        return_freed()
        self._memory = plan_memory(config.memory_bytes, self._demand(before, resident_memory()))
        self._probe = self._sink.convert(self._experiments.probe)
        masks = self._experiments.bad_pixels
        self._bad_pixels = None if masks is None else self._sink.convert(masks)
        self._pool: ChunkPool | None = None
        self._planner: ChunkPlanner | None = None
        self._pipeline: Pipeline | None = None
        self._iterator: weakref.ref[EpochIterator] | None = None
        self._epoch = self._next_batch = 0
        self._is_started = self._is_closed = False
        self._stats = LoaderStats()

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._share.n_batches

    def __iter__(self) -> Iterator[Batch]:
        if self._is_closed:
            raise ConfigError("the loader is closed; make a new one")
        if not self._is_rank_given:
            check_rank(self._share)
        self._end_epoch()
        if self._is_started:
            self._epoch, self._next_batch = self._epoch + 1, 0
        self._is_started = True
        iterator = EpochIterator(self, self._epoch, self._next_batch)
        self._iterator = weakref.ref(iterator)
        return iterator

    def __enter__(self) -> GroupLoader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise ConfigError(
            "a GroupLoader has threads and memory of this process and cannot be pickled; pickle "
            "its stores and options, or a GroupDataset, which makes a loader where it is used"
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration delivers, from its beginning.

        Only after `load_state_dict`, setting the restored epoch keeps the restored batch, so that
        a training loop that sets every epoch resumes where it was.
        """
        if not hasattr(epoch, "__index__") or epoch < 0:
            raise ConfigError(f"epoch is {epoch!r}; expected an integer of 0 or more")
        if self._is_started or epoch != self._epoch:
            self._epoch, self._next_batch, self._is_started = int(epoch), 0, False

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader is, as plain JSON: all but the batches delivered follows.

        The state of one rank fits all ranks.
        """
        epoch, batch = self._epoch, self._next_batch
        if batch == len(self):
            epoch, batch = epoch + 1, 0
        return {
            "version": STATE_VERSION,
            "epoch": epoch,
            "next_batch": batch,
            "order": self._identity,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a loader with the same order was.

        At the beginning of an epoch the number of ranks may be another one.

        Raises
        ------
        ConfigError
            If the state is of another version, of a loader whose order differs, or in the middle
            of an epoch of another number of ranks.
        """
        epoch, batch = read_place(state, self._identity, len(self))
        self._end_epoch()
        self._epoch, self._next_batch, self._is_started = epoch, batch, False

    @property
    def config(self) -> LoaderConfig:
        """The options."""
        return self._config

    @property
    def grouping(self) -> GroupingConfig:
        """The options of the groups."""
        return self._grouping

    @property
    def n_groups(self) -> int:
        """Groups that are delivered of all stores, before ranks take their parts."""
        return self._experiments.n_groups

    @property
    def stats(self) -> LoaderStats:
        """What the running or last epoch has done so far."""
        return self._stats

    @property
    def projected_memory(self) -> int:
        """Bytes that the loader adds to the process at most; see `budget.plan_memory`."""
        return self._memory.nbytes

    def close(self) -> None:
        """End the running epoch and give the memory back; the loader cannot be used again."""
        if not self._is_closed:
            self._end_epoch()
            self._is_closed = True
            self._pool = self._planner = None
            self._sink.close()

    def _end_epoch(self) -> None:
        """Close the iterator that is there, if any."""
        iterator = None if self._iterator is None else self._iterator()
        if iterator is not None:
            iterator.close()
        if self._pipeline is not None:
            # A finalizer that ran inside a thread could not wait for it.
            self._pipeline.stop()
            self._pipeline = None

    def _start(self, epoch: int, first_batch: int) -> Pipeline:
        """Start the threads of an epoch."""
        plan = self._memory
        if self._pool is None or self._planner is None:
            slot_nbytes = self._experiments.decoder.slot_nbytes
            memory = aligned_bytes(plan.n_slots * slot_nbytes)
            self._pool = ChunkPool(memory.reshape(plan.n_slots, slot_nbytes))
            self._planner = ChunkPlanner(
                self._experiments.frame_map,
                n_slots=plan.n_slots,
                batch_size=self._config.batch_size,
                block_batches=plan.block_batches,
                job_chunks=min(max(_JOB_NBYTES // slot_nbytes, 1), _MAX_JOB_CHUNKS),
            )
        # The last epoch's order goes before the next one is made.
        self._planner.release()
        self._pipeline = Pipeline(
            experiments=self._experiments,
            planner=self._planner,
            pool=self._pool,
            sink=self._sink,
            order=self._sampler.order(epoch, self._share),
            edges=self._share.edges(),
            first_batch=first_batch,
            n_threads=self._n_threads,
            n_waiting=self._n_waiting,
            max_kept=plan.max_kept,
        )
        return self._pipeline

    def _deliver(self, finished: Any) -> Batch:
        fields = self._sink.deliver(finished)
        return Batch(**fields, probe=self._probe, bad_pixels=self._bad_pixels)

    def _note(self, epoch: int, first_batch: int, batch: int, started: float) -> None:
        """Take note of a delivered batch."""
        self._next_batch = batch + 1
        if self._pipeline is None or self._pool is None or self._planner is None:
            return
        edges, counters = self._pipeline.edges, self._pipeline.counters
        in_flight = counters.max_in_flight * self._sink.batch_nbytes
        self._stats = measure_epoch(
            counters,
            epoch=epoch,
            batches=batch + 1 - first_batch,
            groups=int(edges[batch + 1] - edges[first_batch]),
            frames_in_group=self._experiments.group_size,
            frame_size=self._experiments.frame_size,
            elapsed_s=time.perf_counter() - started,
            distinct_chunks=self._planner.distinct,
            peak_buffer_bytes=self._pool.memory.nbytes + in_flight,
        )

    def _batch_shape(self, max_kept: int) -> BatchShape:
        experiments = self._experiments
        return BatchShape(
            batch_size=min(self._config.batch_size, self._share.stop - self._share.start),
            frame_size=experiments.frame_size,
            group_size=experiments.group_size,
            stored_dtypes=experiments.decoder.stored_dtypes,
            has_patches=self._config.patches and experiments.has_patches(),
            has_details=self._config.details,
            max_kept=max_kept,
        )

    def _demand(
        self, before: tuple[int, int] | None = None, after: tuple[int, int] | None = None
    ) -> Demand:
        """Return what is asked of the memory, given that of the process before and after."""
        share, experiments = self._share, self._experiments
        n_groups, part = experiments.n_groups, share.stop - share.start
        # Groups by tile are made once, the permutation that a part is cut from for each epoch.
        by_tile = 8 * n_groups if self._config.shuffle == "window" else 0
        permuted = 8 * n_groups if self._config.shuffle == "full" else 0
        return Demand(
            tables_nbytes=experiments.nbytes + by_tile,
            order_nbytes=8 * (part + len(self) + 1) + permuted,
            n_chunks=experiments.frame_map.n_chunks,
            slot_nbytes=experiments.decoder.slot_nbytes,
            batch_nbytes=self._sink.batch_nbytes,
            batch_frames=min(share.batch_size, part) * experiments.group_size,
            n_batches=len(self),
            group_size=experiments.group_size,
            n_threads=self._n_threads,
            n_waiting=self._n_waiting,
            thread_nbytes=experiments.decoder.thread_nbytes(experiments.group_size),
            started_nbytes=after[0] - before[0] if before and after else None,
            buffer_nbytes=self._config.buffer_bytes,
        )


class EpochIterator:
    """Delivers the batches of one epoch; ends its threads when it is done, closed or dropped."""

    def __init__(self, loader: GroupLoader, epoch: int, first_batch: int) -> None:
        self._loader = loader
        self._epoch, self._first, self._batch = epoch, first_batch, first_batch
        self._pipeline: Pipeline | None = None
        self._finalizer: weakref.finalize[..., EpochIterator] | None = None
        self._started = 0.0
        self._is_over = self._is_superseded = False

    def __iter__(self) -> EpochIterator:
        return self

    def __next__(self) -> Batch:
        if self._is_superseded:
            raise ConfigError(
                "this iterator was closed, because the loader was closed, moved or iterated "
                "again; use one iterator at a time"
            )
        if self._is_over or self._batch == len(self._loader):
            self._finish()
            raise StopIteration
        try:
            return self._next()
        except BaseException:
            self._finish()
            raise

    def close(self) -> None:
        """End the threads; a later `next` is an error unless the epoch was over."""
        self._is_superseded = not self._is_over
        self._finish()

    def _next(self) -> Batch:
        if self._pipeline is None:
            self._started = time.perf_counter()
            self._pipeline = self._loader._start(self._epoch, self._batch)
            # Runs when this iterator is dropped and, the threads being daemons, at exit.
            self._finalizer = weakref.finalize(self, self._pipeline.stop)
        batch = self._loader._deliver(self._pipeline.next_batch())
        self._loader._note(self._epoch, self._first, self._batch, self._started)
        self._batch += 1
        return batch

    def _finish(self) -> None:
        self._is_over = True
        if self._finalizer is not None:
            self._finalizer()


def _share(config: LoaderConfig, n_groups: int) -> Share:
    return share_epoch(
        n_groups,
        config.batch_size,
        rank=config.rank or 0,
        world_size=config.world_size or 1,
        drop_last=config.drop_last,
    )


def _order_identity(
    sampled: Sequence[SampledScan],
    frames: NDArray[Any],
    grouping: GroupingConfig,
    config: LoaderConfig,
) -> dict[str, Any]:
    """Return, as JSON, everything but the rank that decides which batch holds which groups."""
    identity = {
        "stores": [[scan.digest, scan.layout, scan.tile_frames] for scan in sampled],
        "grouping": grouping.deciding_options(),
        # With seed=None the options do not tell which groups were drawn.
        "groups": xxhash.xxh3_64_hexdigest(frames.data),
        "shuffle": config.shuffle,
        "seed": config.seed,
        "batch_size": config.batch_size,
        "drop_last": config.drop_last,
        "world_size": config.world_size or 1,
    }
    # Options may be NumPy integers, which are no JSON.
    plain: dict[str, Any] = json.loads(json.dumps(identity, default=operator.index))
    return plain
