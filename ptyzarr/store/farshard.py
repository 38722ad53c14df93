"""One shard at a URL: its index, and its chunks in a local file from which they are decoded.

What was fetched goes into its place in the local cache, or into a file without a name in memory.
So the code that checks and decodes chunks of local shards does it for these, too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import DamagedStoreError, PtyzarrError, StorageError
from ptyzarr.store.rangecache import CachedShard, ShardCache, write_at
from ptyzarr.store.remotefiles import RemoteFiles
from ptyzarr.store.shardindex import index_nbytes, parse_index

logger = logging.getLogger(__name__)

#: Unwanted bytes that cost less than another request; see docs/decisions/0011-remote.md.
MAX_GAP: Final = 32 * 1024
#: With a cache, what lies in the same part of a shard is fetched along: it is wanted soon.
BLOCK_NBYTES: Final = 128 * 1024
_ROUNDS: Final = 3  # of waiting for others whose request failed
_MAX_RUN: Final = 4 * 1024**2  # longer ones are fetched in parts, at once

Fetch = Callable[[str, NDArray[np.int64]], list[memoryview]]
"""``(key, runs) -> bytes of each run``; `runs` is (m, 2) int64, where each begins and ends."""


class FarShard:
    """One shard at a URL, of which parts are fetched when they are wanted.

    Parameters
    ----------
    key, n_chunks
        Of the shard.
    files
        The store that it is of.
    fetch
        Fetches parts of it.
    cache
        Where they are kept; None for nowhere.
    on_removal
        Called when shards were removed from the cache to make room.
    """

    def __init__(
        self,
        key: str,
        n_chunks: int,
        files: RemoteFiles,
        fetch: Fetch,
        cache: ShardCache | None,
        on_removal: Callable[[], None],
    ) -> None:
        entry = files.entry(key)
        self.key = key
        self.path = f"{files.url}/{key}"
        self._size, self._sha256 = int(entry["size"]), str(entry["sha256"])
        self._tail = entry.get("tail")
        self._n_chunks = n_chunks
        self._files, self._fetch = files, fetch
        self._cache, self._on_removal = cache, on_removal
        self._cached: CachedShard | None = None
        self._index: NDArray[np.int64] | None = None
        self._loading = threading.Lock()
        self._claiming = threading.Lock()
        self._claimed: dict[int, threading.Event] = {}
        self._holders = 1
        self._holding = threading.Lock()

    @property
    def is_gone(self) -> bool:
        """Whether its file was removed from the cache."""
        cached = self._cached
        return cached is not None and cached.is_gone

    @property
    def has_index(self) -> bool:
        """Whether `index` needs no request."""
        return self._index is not None

    def acquire(self) -> None:
        """Keep its file open until `release`."""
        with self._holding:
            self._holders += 1

    def release(self) -> None:
        """Let go of it; the last who does closes its file."""
        with self._holding:
            self._holders -= 1
            if self._holders == 0 and self._cached is not None:
                self._cached.close()
                self._cached = None

    def index(self) -> NDArray[np.int64]:
        """Return (n_chunks, 2) int64 offsets and lengths, fetched once.

        Raises
        ------
        DamagedStoreError
            If the shard is missing, has another size, or its index fails its checksum.
        StorageError
            If the server cannot be reached or refuses.
        """
        with self._loading:
            if self._index is None:
                self._open_cached()
                self._index = self._load_index()
            return self._index

    @contextlib.contextmanager
    def chunks(
        self, inner: NDArray[np.int64], offsets: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Give an open file that holds chunks, and where in it each begins.

        Parameters
        ----------
        inner, offsets, lengths : (m,) int64
            Number in the shard, offset and length of each chunk; offsets ascend.
        """
        cached = self._cached
        if cached is not None and self._complete(cached, inner):
            yield cached.fd, offsets
            return
        runs, run_of = merge_runs(offsets, lengths)
        sizes = runs[:, 1] - runs[:, 0]
        begins = np.cumsum(sizes) - sizes
        with _unnamed_file(self.path, self._fetch(self.key, runs), begins) as fd:
            yield fd, begins[run_of] + offsets - runs[run_of, 0]

    def forget(self, inner: NDArray[np.int64]) -> None:
        """Take chunks that turned out damaged out of the cache."""
        if self._cached is not None:
            logger.info("%s: chunks in the cache are damaged; fetched again", self.path)
            with contextlib.suppress(OSError):
                self._cached.mark(inner, there=False)

    def _open_cached(self) -> None:
        if self._cache is None or self._cached is not None:
            return
        try:
            self._cached = self._cache.open(self._sha256, self._size, self._n_chunks)
        except OSError as error:
            self._do_without(error)

    def _do_without(self, error: OSError) -> None:
        # Others may be reading from the file: it stays open until the last of them lets go.
        logger.info("%s is not cached: %s", self.path, error)
        self._cache = None

    def _load_index(self) -> NDArray[np.int64]:
        index = self._cached_index()
        if index is not None:
            return index
        start = max(self._size - index_nbytes(self._n_chunks), 0)
        run = np.array([[start, self._size]])
        body, index = self._fetch_index(run)
        if self._cached is not None:
            with contextlib.suppress(OSError):
                self._cached.write(start, body)
                self._cached.mark(np.array([self._n_chunks]))
        return index

    def _fetch_index(self, run: NDArray[np.int64]) -> tuple[memoryview, NDArray[np.int64]]:
        """Return the index as it came and what it says, fetched again where it is not whole."""
        parts = (self.path, self._size, self._n_chunks, self._tail, self._files.cure)
        for _ in range(self._files.attempts - 1):
            (body,) = self._fetch(self.key, run)
            with contextlib.suppress(DamagedStoreError):  # it may have been the way
                return body, parse_index(body, *parts)
        (body,) = self._fetch(self.key, run)
        return body, parse_index(body, *parts)

    def _cached_index(self) -> NDArray[np.int64] | None:
        """Return the index if the cache has it whole."""
        cached = self._cached
        with contextlib.suppress(OSError, DamagedStoreError):
            if cached is not None and cached.has(np.array([self._n_chunks])).all():
                start = max(self._size - index_nbytes(self._n_chunks), 0)
                raw = cached.read(start, self._size)
                return parse_index(raw, self.path, self._size, self._n_chunks, self._tail)
        return None

    def _complete(self, cached: CachedShard, inner: NDArray[np.int64]) -> bool:
        """Fetch the chunks that the cache lacks into it; return whether it took them."""
        index = self.index()
        try:
            for _ in range(_ROUNDS):
                missing = inner[~cached.has(inner)]
                if not missing.size:
                    cached.touch()
                    return True
                if self._cache is None:
                    return False
                blocks = np.unique(index[missing, 0] // BLOCK_NBYTES).tolist()
                with self._claim(blocks) as (ours, others):
                    self._fill_blocks(cached, index, ours)
                for other in others:
                    other.wait()
        except PtyzarrError:  # some of them are an OSError too
            raise
        except OSError as error:
            self._do_without(error)
        return False

    @contextlib.contextmanager
    def _claim(self, blocks: list[int]) -> Iterator[tuple[list[int], list[threading.Event]]]:
        """Give the blocks that nobody else is fetching, and events of when the others are there."""
        with self._claiming:
            others = [self._claimed[block] for block in blocks if block in self._claimed]
            ours = [block for block in blocks if block not in self._claimed]
            is_done = threading.Event()
            self._claimed.update(dict.fromkeys(ours, is_done))
        try:
            yield ours, others
        finally:
            with self._claiming:
                for block in ours:
                    del self._claimed[block]
            is_done.set()

    def _fill_blocks(
        self, cached: CachedShard, index: NDArray[np.int64], blocks: list[int]
    ) -> None:
        """Fetch what the cache lacks of some blocks, a few MiB at a time."""
        is_wanted = np.isin(index[:, 0] // BLOCK_NBYTES, blocks) & (index[:, 0] >= 0)
        chunks = np.flatnonzero(is_wanted)
        chunks = chunks[~cached.has(chunks)]
        chunks = chunks[np.argsort(index[chunks, 0], kind="stable")]
        runs, _ = merge_runs(index[chunks, 0], index[chunks, 1])
        ends = np.cumsum(runs[:, 1] - runs[:, 0])
        for part in np.split(runs, np.flatnonzero(np.diff(ends // _MAX_RUN)) + 1):
            if part.size:
                bodies = self._fetch(self.key, part)
                self._make_room(int((part[:, 1] - part[:, 0]).sum()))
                for (start, _), body in zip(part.tolist(), bodies, strict=True):
                    cached.write(start, body)
                cached.mark(chunks_within(index, part))

    def _make_room(self, nbytes: int) -> None:
        if self._cache is not None and self._cache.make_room(nbytes):
            self._on_removal()


class WholeShard(FarShard):
    """One shard at a server that gives only whole files: fetched whole into the cache.

    Its sha256 is compared on the way. Parameters and errors are those of `FarShard`; without a
    cache it cannot be read, and a disk that refuses is an error here.
    """

    def _open_cached(self) -> None:
        if self._cached is not None or self._cache is None:
            return
        with self._disk_errors():
            self._cached = self._cache.open(self._sha256, self._size, self._n_chunks)

    def _load_index(self) -> NDArray[np.int64]:
        self._fill()
        index = self._cached_index()
        if index is None:
            raise DamagedStoreError(
                f"{self.path}: the shard's index fails its checksum; expected the one that "
                f"ingest wrote; {self._files.cure}"
            )
        return index

    @contextlib.contextmanager
    def chunks(
        self, inner: NDArray[np.int64], offsets: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Give the file that holds the shard, and the offsets."""
        with self._loading:
            self._fill()
        if self._cached is not None:
            yield self._cached.fd, offsets

    def _fill(self) -> None:
        """Fetch the shard unless it is there."""
        cached = self._cached
        if cached is None:
            raise StorageError(
                f"{self.path} gives only whole files and there is no cache; expected one; give "
                "cache=..."
            )
        with self._disk_errors():
            cached.touch()
            if cached.has(np.arange(self._n_chunks + 1)).all():
                return
            for _ in range(self._files.attempts):
                self._make_room(self._size)
                if cached.fill(self._files.stream(self.key)) == (self._size, self._sha256):
                    cached.mark_all()
                    return
        raise DamagedStoreError(
            f"{self.path} is missing, cut or of other content; expected the {self._size} bytes "
            f"that the manifest lists; {self._files.cure}"
        )

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except PtyzarrError:
            raise
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be kept on the local disk: {error.strerror or error}; the "
                "server gives only whole files; choose another folder with cache=... or "
                "PTYZARR_CACHE"
            ) from error


def merge_runs(
    offsets: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Put chunks together that are worth one request.

    Parameters
    ----------
    offsets, lengths : (m,) int64
        Of the chunks; offsets ascend.

    Returns
    -------
    runs : (n, 2) int64
        Where each request begins and ends.
    run_of : (m,) int64
        The run that each chunk lies in.
    """
    runs: list[list[int]] = []
    run_of = np.empty(len(offsets), np.int64)
    for i, (start, length) in enumerate(zip(offsets.tolist(), lengths.tolist(), strict=True)):
        stop = start + length
        if not runs or start - runs[-1][1] > MAX_GAP or stop - runs[-1][0] > _MAX_RUN:
            runs.append([start, stop])
        else:
            runs[-1][1] = max(runs[-1][1], stop)
        run_of[i] = len(runs) - 1
    return np.array(runs, np.int64).reshape(-1, 2), run_of


def chunks_within(index: NDArray[np.int64], runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the chunks that lie in one of the runs, those fetched along with others included.

    Parameters
    ----------
    index : (n_chunks, 2) int64
        Offset and length of each chunk; -1 where there is none.
    runs : (m, 2) int64, ascending
        Where each run begins and ends.
    """
    nearest = np.maximum(np.searchsorted(runs[:, 0], index[:, 0], side="right") - 1, 0)
    starts, stops = runs[nearest, 0], runs[nearest, 1]
    is_within = (index[:, 0] >= starts) & (index[:, 1] >= 0) & (index.sum(axis=1) <= stops)
    return np.flatnonzero(is_within)


@contextlib.contextmanager
def _unnamed_file(what: str, bodies: list[memoryview], begins: NDArray[np.int64]) -> Iterator[int]:
    """Give a file that nobody else sees, in memory where the system has such.

    Parameters
    ----------
    what
        What is in it, for messages.
    bodies
        What goes into it; emptied, so that no byte is held twice.
    begins : (m,) int64
        Where each body goes.
    """
    with contextlib.ExitStack() as stack:
        try:
            if hasattr(os, "memfd_create"):
                fd = os.memfd_create("ptyzarr")
                stack.callback(os.close, fd)
            else:
                fd = stack.enter_context(tempfile.TemporaryFile()).fileno()
            while bodies:
                write_at(fd, bodies[-1], int(begins[len(bodies) - 1]))
                bodies.pop()
        except OSError as error:
            raise StorageError(
                f"{what} was fetched but cannot be held: {error.strerror or error}; free memory, "
                "or the disk of temporary files"
            ) from error
        yield fd
