"""Ways to take a source file in: our ingest, the plain ways, and the parts of the work alone."""

from __future__ import annotations

import itertools
import os
import shutil
import time
import zipfile
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
from ptyzarr.ingestion import choose_sizes, ingest
from ptyzarr.sources import open_source
from ptyzarr.store import encode_frames

_MEMBER: Final = "diff3d.npy"
_PIECE: Final = 4 * 1024**2
_BLOCK: Final = 2 * 1024**2
_SHARD_NBYTES: Final = 16 * 1024**2
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
    """Our codec on chunks in memory, by our compiled loop; the first frames, again and again."""

    def __init__(self, work: IngestWork) -> None:
        super().__init__(work)
        self._pool = ThreadPoolExecutor(work.n_threads)
        self._blocks, self._chunk_frames, self._nbytes = _stored_blocks(work)

    def run(self, round_number: int) -> Work:
        """Encode; units are the bytes that the source has for these frames."""
        del round_number
        started = time.perf_counter()
        encoded = sum(self._pool.map(self._encode, self._blocks))
        seconds = time.perf_counter() - started
        facts = {"ratio": self._nbytes / encoded}
        return Work(units=self._nbytes / _GB, seconds=seconds, facts=facts)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _encode(self, block: NDArray[Any]) -> int:
        return len(encode_frames(block, self._chunk_frames).data)


class NumcodecsTrial(EncodeTrial):
    """The same chunks, each by a call of numcodecs."""

    def _encode(self, block: NDArray[Any]) -> int:
        codec = Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE, blocksize=0)
        step = self._chunk_frames
        return sum(len(codec.encode(block[i : i + step])) for i in range(0, len(block), step))


class DiskTrial(_FileTrial):
    """As many bytes as the shards of the whole scan, written to files and forced to the disk."""

    def __init__(self, work: IngestWork) -> None:
        super().__init__(work)
        blocks, chunk_frames, nbytes = _stored_blocks(work)
        self._data = b"".join(encode_frames(block, chunk_frames).data.tobytes() for block in blocks)
        self._left = int(self._units * _GB * len(self._data) / nbytes)

    def run(self, round_number: int) -> Work:
        """Write; removing the files is not counted."""
        folder = self._work.path(f"disk-{Path(self._work.source).stem}-{round_number}")
        folder.mkdir(parents=True)
        started = time.perf_counter()
        for number, start in enumerate(range(0, self._left, _SHARD_NBYTES)):
            self._write(folder / str(number), min(_SHARD_NBYTES, self._left - start))
        seconds = time.perf_counter() - started
        shutil.rmtree(folder)
        return Work(units=self._units, seconds=seconds)

    def _write(self, path: Path, nbytes: int) -> None:
        with path.open("wb") as file:
            while nbytes:
                nbytes -= file.write(self._data[:nbytes])
            file.flush()
            os.fsync(file.fileno())


def load_frames(work: IngestWork) -> NDArray[Any]:
    """Return the frames by `numpy.load`."""
    with np.load(work.source) as archive:
        frames: NDArray[Any] = archive[_MEMBER.removesuffix(".npy")]
    return frames


def _stored_blocks(work: IngestWork) -> tuple[list[NDArray[Any]], int, int]:
    """Return the first frames as 16-bit counts, frames in a chunk, and bytes in the source.

    Blocks and chunks have the sizes that our ingest gives them.
    """
    scan = open_source(work.source)
    frame_nbytes = int(np.prod(scan.frames.shape[1:])) * scan.frames.dtype.itemsize
    chunk_frames = choose_sizes(scan.n_frames, scan.frame_size, 2).chunk_frames
    step = max(1, _BLOCK // (frame_nbytes * chunk_frames)) * chunk_frames
    n_blocks = max(1, _ENCODED_NBYTES // (step * frame_nbytes))
    blocks = list(itertools.islice(scan.frames.blocks(step), n_blocks))
    counts = [np.rint(np.square(block)).astype(np.uint16) for block in blocks]
    return counts, chunk_frames, sum(block.nbytes for block in blocks)
