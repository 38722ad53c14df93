"""The plan pass: one look at every frame, before anything is written, decides how it is stored."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import math
import os
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.compiled import available_cores
from ptyzarr.config import IngestConfig
from ptyzarr.errors import BudgetError
from ptyzarr.ingestion.layout import ORDERS, Sizes, choose_sizes
from ptyzarr.ingestion.spool import Spool
from ptyzarr.ingestion.staging import Staging
from ptyzarr.ingestion.threads import worker_threads
from ptyzarr.ingestion.values import CheckedBlock, check_block
from ptyzarr.progress import Progress
from ptyzarr.scan import Member, Quantity, Scan
from ptyzarr.store import COUNT_DTYPES, SCHEMA_VERSION, FrameFormat

_BLOCK_BYTES = 8 * 1024**2
_SPARE_BLOCKS = 2  # one being read, one being stored, beside those that workers check
_FIXED_BYTES = 96 * 1024**2  # compiled kernels, codecs, thread stacks, file buffers
_BYTES_PER_FRAME = 160  # positions, order, power, hashes, their sorted copies


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """All decisions about a store, made before its first shard is written.

    Attributes
    ----------
    key
        Digest of the source's identity and of every option that changes the store.
    quantity
        What is stored.
    dtype
        Stored dtype of the frames, ``np.dtype.str``.
    amplitude_dtype
        Dtype of the amplitudes that were hashed.
    frame_size, n_frames
        Geometry.
    sizes
        Frames in a chunk, shard and tile.
    spool_dtype
        Dtype of the spooled frames, or None if shards read the source itself.
    n_masked
        Pixels that were not finite.
    order : (n,) int64
        Acquisition index of each stored row.
    power : (n,) float64, hashes : (n,) uint64
        In acquisition order.
    """

    key: str
    quantity: Quantity
    dtype: str
    amplitude_dtype: str
    frame_size: int
    n_frames: int
    sizes: Sizes
    spool_dtype: str | None
    n_masked: int
    order: NDArray[np.int64]
    power: NDArray[np.float64]
    hashes: NDArray[np.uint64]

    @property
    def format(self) -> FrameFormat:
        """How the frames lie in chunks and shards."""
        return FrameFormat(
            self.n_frames,
            self.frame_size,
            np.dtype(self.dtype),
            self.sizes.chunk_frames,
            self.sizes.shard_frames,
        )

    def is_backed(self, staging: Staging) -> bool:
        """Return whether the temporary files that the plan goes with have their sizes."""
        sizes = {"masked_index.bin": 8 * self.n_masked}
        if self.spool_dtype is not None:
            pixels = self.n_frames * self.frame_size**2
            sizes["frames.bin"] = pixels * np.dtype(self.spool_dtype).itemsize
        try:
            return all(
                (staging.spool / name).stat().st_size == size for name, size in sizes.items()
            )
        except OSError:
            return False

    def save(self, staging: Staging) -> None:
        """Write the plan; the document that makes it valid comes last."""
        for name in ("order", "power", "hashes"):
            np.save(staging.plan_arrays / f"{name}.npy", getattr(self, name))
        document = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("order", "power", "hashes", "sizes")
        }
        digests = {name: _array_file_digest(staging, name) for name in ("order", "power", "hashes")}
        staging.write_json(
            staging.plan, {**document, "sizes": dataclasses.asdict(self.sizes), "arrays": digests}
        )

    @classmethod
    def load(cls, staging: Staging, key: str) -> Plan | None:
        """Return the saved plan if it is whole and has this key."""
        try:
            document = json.loads(staging.plan.read_text())
            digests = document.pop("arrays")
            if document["key"] != key or any(
                _array_file_digest(staging, name) != digest for name, digest in digests.items()
            ):
                return None
            arrays = {
                name: np.load(staging.plan_arrays / f"{name}.npy", allow_pickle=False)
                for name in digests
            }
            document["sizes"] = Sizes(**document["sizes"])
            plan = cls(**document, **arrays)
            return plan if plan.is_backed(staging) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def plan_key(scan: Scan, config: IngestConfig) -> str:
    """Return the digest of all that decides what the store will hold."""
    return hashlib.sha256(json.dumps(_plan_inputs(scan, config)).encode()).hexdigest()


def choose_workers(scan: Scan, config: IngestConfig) -> int:
    """Return how many threads work: as many as asked for, or as cores and memory allow."""
    if config.n_workers is not None:
        return config.n_workers
    fitting = (config.memory_bytes - _held_bytes(scan)) // _bytes_in_flight(scan) - _SPARE_BLOCKS
    return max(1, min(available_cores(), fitting))


def block_frames(scan: Scan, config: IngestConfig, n_workers: int) -> int:
    """Return how many frames are handled at once within the budget.

    Raises
    ------
    BudgetError
        If not even one frame fits.
    """
    held = _held_bytes(scan)
    for_one_frame = (n_workers + _SPARE_BLOCKS) * _bytes_in_flight(scan)
    if config.memory_bytes < held + for_one_frame:
        least = -(-(held + for_one_frame) // 1024**2)
        raise BudgetError(
            f"memory {config.memory!r} is too small for {scan.name} with {n_workers} workers; "
            f"expected at least {least}MiB; raise --memory or lower --n-workers"
        )
    fitting = (config.memory_bytes - held) // for_one_frame
    return max(1, min(_BLOCK_BYTES // _frame_bytes(scan), fitting))


def _frame_bytes(scan: Scan) -> int:
    return scan.frame_size**2 * max(scan.frames.dtype.itemsize, 4)


def _bytes_in_flight(scan: Scan) -> int:
    """Return what one frame in work takes: itself, its counts, their root or squares, slack."""
    return 4 * _frame_bytes(scan)


def _held_bytes(scan: Scan) -> int:
    """Return what is in memory whatever the size of a block."""
    whole = (scan.probe_guess, scan.object_guess)
    # Fortran order is turned in a second array; a row of another member is read at once.
    arrays = 2 * sum(array.nbytes for array in whole if array is not None)
    rows = (math.prod(m.shape[1:]) * m.dtype.itemsize for m in scan.extra.values())
    return _FIXED_BYTES + _BYTES_PER_FRAME * scan.n_frames + arrays + 3 * max(rows, default=0)


def make_plan(
    scan: Scan, config: IngestConfig, staging: Staging, n_workers: int, progress: Progress
) -> Plan:
    """Check every frame of the source and decide how the scan is stored.

    A source that can only be read front to back is spooled into the staging folder on the way.

    Raises
    ------
    SourceError
        At the first value that is refused, or if the source's checksum is wrong.
    BudgetError
        If the memory budget is too small.
    """
    n_block = block_frames(scan, config, n_workers)
    order = ORDERS[config.layout](scan.positions)
    found = _Findings(scan)
    size = scan.frame_size
    spool = None if scan.frames.has_random_access else Spool.create(staging.spool, size)
    masked = _MaskWriter(staging.spool, scan.frames.dtype)
    progress.start("checking", scan.n_frames, "frames")
    blocks = _checked_blocks(scan, n_block, n_workers, mask=config.nonfinite == "mask")
    with masked, spool or contextlib.nullcontext(), contextlib.closing(blocks):
        for block in blocks:
            masked.append(block.masked_index + found.n_frames * size * size, block.masked_value)
            found.add(block)
            if spool is not None:
                spool.append(block)
            progress.advance(len(block.amplitude))
        masked.sync()
    progress.finish()
    plan = Plan(
        key=plan_key(scan, config),
        quantity="counts" if found.all_counts else "amplitude",
        dtype=found.dtype.str,
        amplitude_dtype=found.amplitude_dtype.str,
        frame_size=size,
        n_frames=scan.n_frames,
        sizes=choose_sizes(scan.n_frames, size, found.dtype.itemsize),
        spool_dtype=None if spool is None else spool.dtype.str,
        n_masked=masked.n_masked,
        order=order,
        power=found.power,
        hashes=found.hashes,
    )
    plan.save(staging)
    return plan


class _Findings:
    """What the pass has found so far: power and hash of each frame, and whether all are counts."""

    def __init__(self, scan: Scan) -> None:
        self.power = np.empty(scan.n_frames, np.float64)
        self.hashes = np.empty(scan.n_frames, np.uint64)
        self.n_frames = 0
        self.all_counts = scan.quantity == "counts" or scan.frames.dtype == np.float32
        self._max_count = 0
        self._source_dtype = scan.frames.dtype

    def add(self, block: CheckedBlock) -> None:
        """Take note of the next frames."""
        rows = slice(self.n_frames, self.n_frames + len(block.amplitude))
        self.power[rows], self.hashes[rows] = block.power, block.hashes
        self.all_counts = self.all_counts and block.counts is not None
        self._max_count = max(self._max_count, block.max_count)
        self.n_frames = rows.stop

    @property
    def dtype(self) -> np.dtype[Any]:
        """In which the frames are stored."""
        return _count_dtype(self._max_count) if self.all_counts else self._source_dtype

    @property
    def amplitude_dtype(self) -> np.dtype[Any]:
        """In which readers see them."""
        return np.dtype(np.float32) if self.all_counts else self._source_dtype


class _MaskWriter:
    """Collects masked pixels in files, since there may be more of them than memory."""

    def __init__(self, folder: Path, dtype: np.dtype[Any]) -> None:
        self._index = (folder / "masked_index.bin").open("wb")
        self._value = (folder / "masked_value.bin").open("wb")
        self._dtype = dtype
        self.n_masked = 0

    def __enter__(self) -> _MaskWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._index.close()
        self._value.close()

    def append(self, index: NDArray[np.int64], value: NDArray[Any]) -> None:
        """Add pixels by flat number in the acquisition order of the whole stack."""
        self._index.write(index.astype(np.int64).tobytes())
        self._value.write(value.astype(self._dtype).tobytes())
        self.n_masked += len(index)

    def sync(self) -> None:
        """Force the pixels to the disk: unlike frames, they have no hash that would miss them."""
        for file in (self._index, self._value):
            file.flush()
            os.fsync(file.fileno())


def frames_member(scan: Scan) -> Member:
    """Return the member that holds the frames."""
    return next(member for member in scan.members if member.node == "diffraction")


def frames_origin(scan: Scan) -> str:
    """Return file and member of the frames, for messages."""
    return f"{scan.name}: member {frames_member(scan).name!r}"


def _checked_blocks(
    scan: Scan, n_block: int, n_workers: int, *, mask: bool
) -> Generator[CheckedBlock]:
    """Yield the checked blocks in order, `n_workers` of them being checked at once."""
    want_counts = True
    what = frames_origin(scan)
    pending: deque[Future[CheckedBlock]] = deque()
    row = 0
    with worker_threads(n_workers, "plan") as pool:
        for frames in scan.frames.blocks(n_block):
            check = functools.partial(check_block, mask=mask, want_counts=want_counts)
            pending.append(pool.submit(check, frames, row, scan.quantity, what))
            row += len(frames)
            if len(pending) > n_workers:
                block = pending.popleft().result()
                want_counts = want_counts and block.counts is not None
                yield block
        while pending:
            yield pending.popleft().result()


def _plan_inputs(scan: Scan, config: IngestConfig) -> dict[str, Any]:
    return {
        "members": [[m.name, m.size, m.crc32, m.node, m.column] for m in scan.members],
        "format": scan.format,
        "axes": scan.axes,
        "quantity": scan.quantity,
        "n_frames": scan.n_frames,
        "has_random_access": scan.frames.has_random_access,
        "layout": config.layout,
        "nonfinite": config.nonfinite,
        "schema_version": SCHEMA_VERSION,
        "versions": [importlib.metadata.version(name) for name in ("ptyzarr", "numcodecs")],
    }


def _array_file_digest(staging: Staging, name: str) -> str:
    return hashlib.sha256((staging.plan_arrays / f"{name}.npy").read_bytes()).hexdigest()


def _count_dtype(max_count: int) -> np.dtype[Any]:
    """Return the smallest stored dtype of counts."""
    fitting = (np.dtype(name) for name in COUNT_DTYPES if max_count <= np.iinfo(name).max)
    return next(fitting)
