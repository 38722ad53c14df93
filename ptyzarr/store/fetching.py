"""Chunks of shards that are far away: several requests at once, decoded by compiled code."""

from __future__ import annotations

import functools
import logging
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import StorageError
from ptyzarr.store.farshard import FarShard, WholeShard
from ptyzarr.store.native import OK, NativeFunctions
from ptyzarr.store.rangecache import ShardCache
from ptyzarr.store.remote import NoRangesError
from ptyzarr.store.remotefiles import RemoteFiles
from ptyzarr.store.shardindex import chunk_damage, chunk_ranges
from ptyzarr.store.shards import CompiledReader, FrameFormat, shard_key

logger = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_REQUESTS: Final = 64  # in flight for one store; each waits, few compute
_JOBS: Final = 8  # that a loader should have under way at once
_MAX_OPEN: Final = 128  # shards whose index is kept


def _weakly(method: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return a function that calls a method and does not keep its object alive.

    With a cycle from a reader to its shards and back, a reader that is dropped without being closed
    would keep files open until the garbage collector finds it.
    """
    reference = weakref.WeakMethod(method)

    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        alive = reference()
        if alive is None:
            raise ReferenceError("the reader of this shard is gone")
        result: Result = alive(*args, **kwargs)
        return result

    return call


class RemoteShardReader(CompiledReader):
    """Reads chunks of shards at a URL; a `ptyzarr.scan.DistantReader`.

    A server that ignores ranges is asked for whole shards; they lie in the cache, or in a
    temporary folder of the same size, until the reader is gone.

    Parameters
    ----------
    files
        The opened store; its access says where the cache is, if any.
    layout
        How frames lie in shards.
    native
        C functions that check and decompress.
    """

    def __init__(self, files: RemoteFiles, layout: FrameFormat, native: NativeFunctions) -> None:
        super().__init__(layout, native)
        self._files = files
        self._lock = threading.Lock()
        self._open: OrderedDict[int, FarShard] = OrderedDict()
        self._pool: ThreadPoolExecutor | None = None
        access = files.access
        self._cache = (
            None if access.cache is None else ShardCache(Path(access.cache), access.cache_size)
        )
        self._kind: type[FarShard] = FarShard

    @property
    def jobs_at_once(self) -> int:
        """Calls of `read_chunks` that are worth having under way: most of their time is waiting."""
        return _JOBS

    def close(self) -> None:
        """Close cached shards that are not being read, and end the threads that fetch."""
        with self._lock:
            shards = list(self._open.values())
            self._open.clear()
            pool, self._pool = self._pool, None
        for shard in shards:
            shard.release()
        if pool is not None:
            pool.shutdown(wait=False)

    def _read(
        self,
        chunks: NDArray[np.int64],
        slots: NDArray[np.int64],
        out: NDArray[np.uint8],
        *,
        wants_planes: bool,
    ) -> int:
        self._load_indexes(np.unique(chunks // self._layout.shard_chunks))
        return super()._read(chunks, slots, out, wants_planes=wants_planes)

    def _load_indexes(self, numbers: NDArray[np.int64]) -> None:
        """Fetch the indexes of several shards at once rather than one after another."""
        if len(numbers) < 2 or self._kind is WholeShard:
            return
        shards = [self._acquire(number) for number in numbers[:_MAX_OPEN].tolist()]
        try:
            missing = [shard for shard in shards if not shard.has_index]
            loads = [self._requests().submit(shard.index) for shard in missing]
            wait(loads)  # the shards are theirs until then
            for load in loads:
                load.result()
        except NoRangesError:
            self._ask_for_whole_files()
        finally:
            for shard in shards:
                shard.release()

    def _read_shard(
        self,
        number: int,
        inner: NDArray[np.int64],
        slots: NDArray[np.int64],
        out: NDArray[np.uint8],
        *,
        wants_planes: bool,
    ) -> int:
        arguments = (number, inner, slots, out)
        try:
            return self._decode_shard(*arguments, wants_planes=wants_planes)
        except NoRangesError:
            self._ask_for_whole_files()
            return self._decode_shard(*arguments, wants_planes=wants_planes)

    def _decode_shard(
        self,
        number: int,
        inner: NDArray[np.int64],
        slots: NDArray[np.int64],
        out: NDArray[np.uint8],
        *,
        wants_planes: bool,
    ) -> int:
        """Do what `_read_shard` does; raises `NoRangesError` where parts are not to be had."""
        shard = self._acquire(number)
        try:
            index = shard.index()
            order = np.argsort(index[inner, 0], kind="stable")
            inner, slots = inner[order], slots[order]
            offsets, lengths = chunk_ranges(index, inner, shard.path)
            # What was damaged in the cache, or on its way, is fetched again.
            for _ in range(self._files.attempts + (self._cache is not None)):
                with shard.chunks(inner, offsets, lengths) as (fd, places):
                    status, which, n_read = self._read_ranges(
                        fd, places, lengths, slots, out, wants_planes=wants_planes
                    )
                if status == OK:
                    return int(n_read)
                shard.forget(inner)
            raise chunk_damage(shard.path, status, int(inner[which]), self._files.cure)
        finally:
            shard.release()

    def _acquire(self, number: int) -> FarShard:
        gone = None
        with self._lock:
            shard = self._open.get(number)
            if shard is not None and (shard.is_gone or type(shard) is not self._kind):
                gone, shard = self._open.pop(number), None
            if shard is None:
                shard = self._kind(
                    shard_key(number),
                    self._layout.shard_chunks,
                    self._files,
                    _weakly(self._fetch),
                    self._cache,
                    _weakly(self._drop_gone),
                )
                self._open[number] = shard
                if len(self._open) > _MAX_OPEN:
                    _, gone = self._open.popitem(last=False)
            self._open.move_to_end(number)
            shard.acquire()
        if gone is not None:
            gone.release()
        return shard

    def _drop_gone(self) -> None:
        """Let go of shards that were removed from the cache: open, they still take its disk."""
        with self._lock:
            numbers = [number for number, shard in self._open.items() if shard.is_gone]
            gone = [self._open.pop(number) for number in numbers]
        for shard in gone:
            shard.release()

    def _fetch(self, key: str, runs: NDArray[np.int64]) -> list[memoryview]:
        read = functools.partial(self._files.read_range, key)
        if len(runs) == 1:
            return [read(*runs[0].tolist())]
        fetched = [self._requests().submit(read, *run) for run in runs.tolist()]
        return [one.result() for one in fetched]

    def _requests(self) -> ThreadPoolExecutor:
        """Return the threads in which requests wait."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_REQUESTS, "ptyzarr-fetch")
            return self._pool

    def _ask_for_whole_files(self) -> None:
        """Fetch whole shards from now on, into a folder of our own where there is no cache."""
        with self._lock:
            if self._kind is WholeShard:
                return
            if self._cache is None:
                try:
                    folder = tempfile.mkdtemp(prefix="ptyzarr-shards-")
                except OSError as error:
                    raise StorageError(
                        f"{self._files.url}: the server gives only whole files, and no temporary "
                        f"folder can be made for them ({error.strerror}); give cache=..."
                    ) from error
                weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
                self._cache = ShardCache(Path(folder), self._files.access.cache_size)
            logger.warning(
                "%s: the server ignores ranges; whole shards are fetched into %s",
                self._files.url,
                self._cache.folder,
            )
            self._kind = WholeShard
