"""Decoding alone: from shards on disk, from the same bytes in memory, and what an epoch decodes."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptyzarr.bench.contender import Work
from ptyzarr.bench.workload import Workload
from ptyzarr.compiled import kernel
from ptyzarr.config import LoaderConfig
from ptyzarr.errors import VerificationError
from ptyzarr.scan import ChunkReader
from ptyzarr.store import ScanStore, shard_key
from ptyzarr.streaming import GroupLoader

#: Chunks that are read by one call: those of a loader's job.
_JOB_NBYTES: Final = 2 * 1024**2
_MAX_JOB_CHUNKS: Final = 64
#: Chunks that the codec has in memory, and that are read at random.
_MAX_SAMPLE: Final = 32_768
_CHECKSUM_NBYTES: Final = 4

_DECOMPRESS: Final = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
)
_CRC32C: Final = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t)


class ChunksTrial:
    """Calls of a chunk reader, by as many threads as there are; each into memory of its own.

    Parameters
    ----------
    work
        Which scan, how many threads.
    units
        What a decoded chunk counts.
    """

    def __init__(self, work: Workload, units: float) -> None:
        self._store, self._work, self._units = work.open(), work, units
        self._pool = ThreadPoolExecutor(work.n_threads)

    def _read(self, jobs: Iterable[NDArray[np.int64]], deadline: float = math.inf) -> Work:
        """Read the chunks of all jobs, or of those that are begun before the deadline."""
        places = iter(list(jobs))
        reader: ChunkReader = self._store.chunks

        def read() -> tuple[int, int]:
            memory = np.empty((1, reader.chunk_nbytes), np.uint8)
            n_chunks = n_read = 0
            # One iterator for all threads: taking from it is atomic.
            for chunks in places:
                if len(memory) < len(chunks):
                    memory = np.empty((len(chunks), reader.chunk_nbytes), np.uint8)
                n_read += reader.read_chunks(chunks, np.arange(len(chunks)), memory)
                n_chunks += len(chunks)
                if time.perf_counter() > deadline:
                    break
            return n_chunks, n_read

        started = time.perf_counter()
        done = [self._pool.submit(read) for _ in range(self._work.n_threads)]
        n_chunks, n_read = np.sum([future.result() for future in done], axis=0).tolist()
        seconds = time.perf_counter() - started
        return Work(
            units=n_chunks * self._units,
            seconds=seconds,
            facts={"bytes_read": n_read, "chunks_decoded": n_chunks},
        )

    def close(self) -> None:
        """End the threads and close the files."""
        self._pool.shutdown()
        self._store.close()


class DecodeTrial(ChunksTrial):
    """Every chunk of the scan decoded once; counts the groups of an epoch that does no more."""

    def __init__(self, work: Workload) -> None:
        store = work.open()
        super().__init__(work, len(work.members()) / store.chunks.n_chunks)

    def run(self, round_number: int) -> Work:
        """Decode all chunks in stored order."""
        del round_number
        return self._read(jobs(self._store, np.arange(self._store.chunks.n_chunks)))


class RandomChunksTrial(ChunksTrial):
    """Random whole chunks out of shards, checked and decoded; counts 1e9 decoded bytes."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work, work.open().chunks.chunk_nbytes / 1e9)

    def run(self, round_number: int) -> Work:
        """Decode as many chunks of the sample as a round has time for."""
        rng = np.random.default_rng(round_number)
        order = rng.permutation(sample_chunks(self._store))
        return self._read(jobs(self._store, order), time.perf_counter() + self._work.round_s)


class SameChunksTrial(ChunksTrial):
    """The chunks that an epoch of full shuffle decodes, alone: in its order, in its calls."""

    def __init__(self, work: Workload) -> None:
        self._jobs = record_jobs(work)
        n_chunks = sum(map(len, self._jobs))
        super().__init__(work, len(work.members()) / max(1, n_chunks))

    def run(self, round_number: int) -> Work:
        """Decode them; counts the groups of the epoch."""
        del round_number
        return self._read(self._jobs)


class CodecTrial:
    """The codec alone, on the sample's bytes in memory: one compiled loop of one thread.

    Parameters
    ----------
    work
        Which scan.
    checked
        Whether each chunk's CRC-32C is computed too.
    """

    def __init__(self, work: Workload, *, checked: bool = False) -> None:
        store = work.open()
        self._chunk_nbytes, self._round_s = store.chunks.chunk_nbytes, work.round_s
        self._job = job_chunks(store)
        self._encoded, self._places = encoded_chunks(store, sample_chunks(store))
        self._out = np.empty((self._job, self._chunk_nbytes), np.uint8)
        self._codec, self._checked = native_codec(), checked
        store.close()

    def run(self, round_number: int) -> Work:
        """Decode as many chunks as a round has time for, in random order."""
        places = np.random.default_rng(round_number).permutation(self._places)
        started = time.perf_counter()
        n_chunks, seconds = 0, 0.0
        for first in range(0, len(places), self._job):
            part = places[first : first + self._job]
            done = _decode_chunks(*self._codec, self._encoded, part, self._out, self._checked)
            if done != len(part):
                raise VerificationError(
                    "a chunk of the store cannot be decoded by the codec alone; expected all to "
                    "be; run 'ptyzarr verify'"
                )
            n_chunks += done
            seconds = time.perf_counter() - started
            if seconds > self._round_s:
                break
        return Work(units=n_chunks * self._chunk_nbytes / 1e9, seconds=seconds)

    def close(self) -> None:
        """Have nothing to give back."""


def make_checked_codec_trial(work: Workload) -> CodecTrial:
    """Return a trial of the codec with the checksums."""
    return CodecTrial(work, checked=True)


def job_chunks(store: ScanStore) -> int:
    """Return how many chunks are read by one call."""
    return min(max(_JOB_NBYTES // store.chunks.chunk_nbytes, 1), _MAX_JOB_CHUNKS)


def jobs(store: ScanStore, order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield consecutive parts of an order of chunks, each ascending."""
    step = job_chunks(store)
    for first in range(0, len(order), step):
        yield np.sort(order[first : first + step])


def sample_chunks(store: ScanStore) -> NDArray[np.int64]:
    """Return the chunks that are read at random, and that the codec has in memory: (m,)."""
    n_chunks = store.chunks.n_chunks
    rng = np.random.default_rng(0)
    return np.sort(rng.permutation(n_chunks)[:_MAX_SAMPLE]).astype(np.int64)


def encoded_chunks(
    store: ScanStore, chunks: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the encoded bytes of chunks one after another, and (offset, length) of each.

    Reads the shards as docs/store-format.md describes them: the index at their end has the offset
    and the length of each chunk; a chunk ends with its checksum.
    """
    layout = store.format
    parts, places, end = [], np.empty((len(chunks), 2), np.int64), 0
    shards = chunks // layout.shard_chunks
    for shard in np.unique(shards).tolist():
        raw = np.fromfile(Path(store.path) / shard_key(shard), np.uint8)
        nbytes = 16 * layout.shard_chunks
        index = raw[-nbytes - _CHECKSUM_NBYTES : -_CHECKSUM_NBYTES].copy().view("<u8")
        index = index.reshape(-1, 2).astype(np.int64)
        members = np.flatnonzero(shards == shard)
        for member in members.tolist():
            offset, length = index[chunks[member] - shard * layout.shard_chunks]
            parts.append(raw[offset : offset + length].copy())
            places[member] = end, length
            end += length
    return np.concatenate(parts), places


class _Recorder:
    """Something of ours that notes which chunks are read; all else is as it was."""

    def __init__(self, inner: Any, calls: list[NDArray[np.int64]]) -> None:
        self._inner, self._calls = inner, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _RecordingReader(_Recorder):
    def read_chunks(
        self, chunks: NDArray[np.int64], slots: NDArray[np.int64], out: NDArray[np.uint8]
    ) -> int:
        self._calls.append(np.array(chunks))
        return int(self._inner.read_chunks(chunks, slots, out))

    def read_planes(
        self, chunks: NDArray[np.int64], slots: NDArray[np.int64], out: NDArray[np.uint8]
    ) -> int:
        self._calls.append(np.array(chunks))
        return int(self._inner.read_planes(chunks, slots, out))


class _RecordingScan(_Recorder):
    @property
    def chunks(self) -> Any:
        return _RecordingReader(self._inner.chunks, self._calls)


def record_jobs(work: Workload) -> list[NDArray[np.int64]]:
    """Return the chunks of each call of the reader in the second epoch of full shuffle.

    Those of the first where the second finds everything in memory.
    """
    calls: list[NDArray[np.int64]] = []
    store = work.open()
    config = LoaderConfig(
        batch_size=work.batch_size,
        shuffle="full",
        seed=work.seed,
        device="numpy",
        channels=work.channels,
        memory=work.memory,
        n_threads=work.n_threads,
    )
    scan: Any = _RecordingScan(store, calls)
    with GroupLoader(scan, work.grouping, config) as loader:
        for _ in loader:
            pass
        first, calls[:] = list(calls), []
        for _ in loader:
            pass
    store.close()
    return calls or first


def native_codec() -> tuple[Any, Any]:
    """Return ``blosc_decompress_ctx`` and ``crc32c_value`` of the installed packages."""
    blosc = ctypes.CDLL(import_module("numcodecs.blosc").__file__)
    crc32c = ctypes.CDLL(import_module("google_crc32c._crc32c").__file__)
    return _DECOMPRESS(("blosc_decompress_ctx", blosc)), _CRC32C(("crc32c_value", crc32c))


@kernel
def _decode_chunks(  # pragma: no cover - compiled
    decompress: Any,
    crc32c: Any,
    encoded: NDArray[np.uint8],
    places: NDArray[np.int64],
    out: NDArray[np.uint8],
    checked: bool,
) -> int:
    """Decode chunks one after the other into `out`; return how many were whole."""
    n_whole = 0
    for i in range(places.shape[0]):
        size = places[i, 1] - 4
        chunk = encoded[places[i, 0] : places[i, 0] + places[i, 1]]
        if checked:
            stored = 0
            for byte in range(4):
                stored |= int(chunk[size + byte]) << (8 * byte)
            if int(crc32c(chunk.ctypes.data, size)) != stored:
                continue
        nbytes = out.shape[1]
        n_whole += decompress(chunk.ctypes.data, out[i].ctypes.data, nbytes, 1) == nbytes
    return n_whole
