"""The plan: how a scan is stored, decided before its first shard is written."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.config import IngestConfig
from ptyzarr.ingestion.budget import block_frames
from ptyzarr.ingestion.kinds import Kind, guess_kind
from ptyzarr.ingestion.layout import ORDERS, Sizes, choose_sizes
from ptyzarr.ingestion.spool import Spooled, spool_frames
from ptyzarr.ingestion.staging import Staging
from ptyzarr.memory import return_freed
from ptyzarr.progress import Progress
from ptyzarr.scan import Scan
from ptyzarr.store import SCHEMA_VERSION, FrameFormat, file_checksum

_ARRAYS = ("order", "pieces")


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """All decisions about a store, made before its first shard is written.

    Attributes
    ----------
    key
        Digest of the source's identity and of every option that changes the store.
    kind
        What is stored. Of a source that is read at random it is a guess until every frame has
        been stored.
    source_dtype
        Dtype of the frames in the source, ``np.dtype.str``.
    frame_size, n_frames
        Geometry.
    sizes
        Frames in a chunk, shard and tile.
    order : (n,) int64
        Acquisition index of each stored row.
    pieces : (n,) PIECE or None
        Where the spooled frames are, in acquisition order; None if shards are written from the
        source itself.
    """

    key: str
    kind: Kind
    source_dtype: str
    frame_size: int
    n_frames: int
    sizes: Sizes
    order: NDArray[np.int64]
    pieces: NDArray[Any] | None

    @property
    def format(self) -> FrameFormat:
        """How the frames lie in chunks and shards."""
        return FrameFormat(
            self.n_frames,
            self.frame_size,
            np.dtype(self.kind.dtype),
            self.sizes.chunk_frames,
            self.sizes.shard_frames,
        )

    @property
    def amplitude_dtype(self) -> np.dtype[Any]:
        """In which readers see the frames."""
        is_counts = self.kind.quantity == "counts"
        return np.dtype(np.float32) if is_counts else np.dtype(self.kind.dtype)

    @property
    def stamp(self) -> str:
        """What a shard must have been written for to be one of this plan's."""
        return f"{self.key}-{self.kind.quantity}-{self.kind.dtype}"

    def with_kind(self, kind: Kind) -> Plan:
        """Return the plan of the same scan for other frames."""
        itemsize = np.dtype(kind.dtype).itemsize
        sizes = choose_sizes(self.n_frames, self.frame_size, itemsize)
        return dataclasses.replace(self, kind=kind, sizes=sizes)

    def is_backed(self, staging: Staging) -> bool:
        """Return whether the spooled frames that the plan goes with have their size."""
        if self.pieces is None:
            return True
        size = int(self.pieces["length"].sum(dtype=np.int64))
        try:
            return (staging.spool / "frames.bin").stat().st_size == size
        except OSError:
            return False

    def is_current(self, staging: Staging) -> bool:
        """Return whether the staging folder still holds this plan."""
        try:
            if not staging.plan.is_file():
                return False
            document = json.loads(staging.plan.read_text())
            return (document["key"], Kind(*document["kind"])) == (self.key, self.kind)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def save(self, staging: Staging) -> None:
        """Write the plan; the document that makes it valid comes last."""
        present = [name for name in _ARRAYS if getattr(self, name) is not None]
        for name in present:
            np.save(staging.plan_arrays / f"{name}.npy", getattr(self, name))
        document = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in (*_ARRAYS, "sizes")
        }
        digests = {name: _array_file_digest(staging, name) for name in present}
        document |= {"sizes": dataclasses.asdict(self.sizes), "arrays": digests}
        # Unlike encoded frames, what lies beside them has no checksums of its own.
        document["beside"] = None if self.pieces is None else _checksums_beside(staging)
        staging.write_json(staging.plan, document)

    @classmethod
    def load(cls, staging: Staging, key: str) -> Plan | None:
        """Return the saved plan if it is whole and has this key."""
        try:
            if not staging.plan.is_file():
                return None
            document = json.loads(staging.plan.read_text())
            digests = document.pop("arrays")
            if not _is_beside(staging, document.pop("beside")):
                return None
            if document["key"] != key or any(
                _array_file_digest(staging, name) != digest for name, digest in digests.items()
            ):
                return None
            arrays = dict.fromkeys(_ARRAYS) | {
                name: np.load(staging.plan_arrays / f"{name}.npy", allow_pickle=False)
                for name in digests
            }
            document["sizes"] = Sizes(**document["sizes"])
            document["kind"] = Kind(*document["kind"])
            plan = cls(**document, **arrays)
            return plan if plan.is_backed(staging) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None


def is_spool_whole(staging: Staging) -> bool:
    """Return whether masked pixels and records are those that were spooled; True if none were."""
    try:
        return _is_beside(staging, json.loads(staging.plan.read_text())["beside"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_beside(staging: Staging, recorded: list[list[Any]] | None) -> bool:
    return recorded is None or [list(each) for each in _checksums_beside(staging)] == recorded


def _checksums_beside(staging: Staging) -> list[tuple[int, str]]:
    return [file_checksum(path) for path in (staging.masked, staging.spooled_records)]


def plan_key(scan: Scan, config: IngestConfig) -> str:
    """Return the digest of all that decides what the store will hold."""
    return hashlib.sha256(json.dumps(_plan_inputs(scan, config)).encode()).hexdigest()


def make_plan(
    scan: Scan, config: IngestConfig, staging: Staging, n_workers: int, progress: Progress
) -> Plan:
    """Decide how the scan is stored and save the plan.

    Where frames can be read at random a sample of them decides, and the shard tasks compare every
    frame with that. A source that can only be read front to back is checked and spooled here.

    Raises
    ------
    SourceError
        At a value that is refused, or if the checksum of a source that was read is wrong.
    BudgetError
        If the memory budget is too small.
    """
    n_block = block_frames(scan, config, n_workers)
    order = ORDERS[config.layout](scan.positions)
    return_freed()
    mask = config.nonfinite == "mask"
    spooled: Spooled | None = None
    if not scan.frames.has_random_access:
        spooled = spool_frames(
            scan, staging.spool, n_block, n_workers, mask=mask, progress=progress
        )
    kind = guess_kind(scan, mask=mask) if spooled is None else spooled.kind
    plan = Plan(
        key=plan_key(scan, config),
        kind=kind,
        source_dtype=scan.frames.dtype.str,
        frame_size=scan.frame_size,
        n_frames=scan.n_frames,
        sizes=choose_sizes(scan.n_frames, scan.frame_size, np.dtype(kind.dtype).itemsize),
        order=order,
        pieces=None if spooled is None else spooled.pieces,
    )
    plan.save(staging)
    return_freed()
    return plan


def _plan_inputs(scan: Scan, config: IngestConfig) -> dict[str, Any]:
    made = {} if scan.origin is None else {"transforms": scan.origin.transforms}
    return made | {
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
    with (staging.plan_arrays / f"{name}.npy").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
