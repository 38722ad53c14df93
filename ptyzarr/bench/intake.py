"""Ways to take a source file in: our ingest, the plain ways, and the parts of the work alone."""

from __future__ import annotations

import itertools
import shutil
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
from numcodecs import Blosc
from numpy.typing import NDArray

from ptyzarr.bench.contender import Work
from ptyzarr.bench.files import zarrs_pipeline
from ptyzarr.bench.workload import IngestWork
from ptyzarr.config import IngestConfig
from ptyzarr.ingestion import ingest
from ptyzarr.sources import open_source

_MEMBER: Final = "diff3d.npy"
_PIECE: Final = 4 * 1024**2
_ENCODED_NBYTES: Final = 128 * 1024**2
_GB: Final = 1e9


def file_frames(work: IngestWork) -> int:
    """Return the bytes of the frames in a source, as they are when read."""
    with zipfile.ZipFile(work.source) as archive:
        return archive.getinfo(_MEMBER).file_size


class _FileTrial:
    """What is common: units are 1e9 bytes of frames as they are in the source."""

    def __init__(self, work: IngestWork) -> None:
        self._work = work
        self._units = file_frames(work) / _GB

    def run(self, round_number: int) -> Work:
        """Do the work once."""
        started = time.perf_counter()
        self._do(round_number)
        return Work(units=self._units, seconds=time.perf_counter() - started)

    def close(self) -> None:
        """Do nothing."""

    def _do(self, round_number: int) -> None:
        raise NotImplementedError


class IngestTrial(_FileTrial):
    """Our ingest into a new store each time; removing it is not counted."""

    def run(self, round_number: int) -> Work:
        """Ingest."""
        target = self._work.path(f"ingest-{Path(self._work.source).stem}-{round_number}.zarr")
        target.parent.mkdir(parents=True, exist_ok=True)
        config = IngestConfig(memory=self._work.memory, n_workers=self._work.n_threads)
        started = time.perf_counter()
        ingest(self._work.source, target, config).close()
        seconds = time.perf_counter() - started
        shutil.rmtree(target)
        return Work(units=self._units, seconds=seconds)


class LoadTrial(_FileTrial):
    """NumPy's own way: the whole member in memory."""

    def _do(self, round_number: int) -> None:
        del round_number
        load_frames(self._work)


class LoadAndWriteTrial(_FileTrial):
    """The plain way to a zarr store: the whole member in memory, then written."""

    def run(self, round_number: int) -> Work:
        """Load and write."""
        zarr = import_module("zarr")
        target = self._work.path(f"plain-{Path(self._work.source).stem}-{round_number}.zarr")
        started = time.perf_counter()
        frames = load_frames(self._work)
        with zarr.config.set(zarrs_pipeline()):
            array = zarr.create_array(
                str(target),
                shape=frames.shape,
                chunks=(16, *frames.shape[1:]),
                shards=(4096, *frames.shape[1:]),
                dtype=frames.dtype,
                compressors=zarr.codecs.BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),
            )
            array[...] = frames
        seconds = time.perf_counter() - started
        del frames
        shutil.rmtree(target)
        return Work(units=self._units, seconds=seconds)


class ReadTrial(_FileTrial):
    """The bytes of the member, stored or deflated, and nothing done with them."""

    def _do(self, round_number: int) -> None:
        del round_number
        scan = open_source(self._work.source)
        size = int(np.prod(scan.frames.shape[1:])) * scan.frames.dtype.itemsize
        for _ in scan.frames.blocks(max(1, _PIECE // size)):
            pass


class EncodeTrial(_FileTrial):
    """Our codec on chunks in memory; the first frames of the scan, again and again."""

    def __init__(self, work: IngestWork) -> None:
        super().__init__(work)
        self._pool = ThreadPoolExecutor(work.n_threads)
        self._codec = Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE, blocksize=0)
        self._chunks = list(_chunks(work))

    def run(self, round_number: int) -> Work:
        """Encode; units are the bytes that the source has for these frames."""
        del round_number
        started = time.perf_counter()
        encoded = sum(self._pool.map(lambda chunk: len(self._codec.encode(chunk[0])), self._chunks))
        seconds = time.perf_counter() - started
        source_nbytes = sum(nbytes for _, nbytes in self._chunks)
        ratio = source_nbytes / encoded
        return Work(units=source_nbytes / _GB, seconds=seconds, facts={"ratio": ratio})

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def load_frames(work: IngestWork) -> NDArray[Any]:
    """Return the frames by `numpy.load`."""
    with np.load(work.source) as archive:
        frames: NDArray[Any] = archive[_MEMBER.removesuffix(".npy")]
    return frames


def _chunks(work: IngestWork) -> Iterator[tuple[NDArray[Any], int]]:
    """Yield chunks of the first frames as 16-bit counts, and the bytes the source has for each."""
    scan = open_source(work.source)
    frame_nbytes = int(np.prod(scan.frames.shape[1:])) * scan.frames.dtype.itemsize
    n_frames = max(1, 128 * 1024 // (2 * int(np.prod(scan.frames.shape[1:]))))
    n_chunks = max(1, _ENCODED_NBYTES // (n_frames * frame_nbytes))
    for block in itertools.islice(scan.frames.blocks(n_frames), n_chunks):
        yield np.rint(np.square(block)).astype(np.uint16), block.nbytes
