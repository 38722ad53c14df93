"""The staging folder beside the destination: journal, atomic writes, publication.

scan.zarr.staging/
  lock            who writes here; see `ptyzarr.ingestion.lock`
  request.json    source and options of a plan whose parts are written one by one
  plan.json       how the scan is stored; `plan/*.npy` beside it
  spool/          frames of a source that can only be read front to back; masked pixels
  records/7.bin   what is known about each frame of shard 7
  journal/7.json  shard 7 and its records are in place, with their sizes and checksums
  parts/          which parts were begun; `needs/`: what they found that the plan cannot hold
  scratch/        files that are being written
  store/          the store that will be published
  replaced-*      a store that is being overwritten
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptyzarr.errors import ConfigError, PtyzarrError, ScanExistsError, StorageError
from ptyzarr.store import ROOT_KEY, file_checksum, shard_key, sync_file

FileChecksum = tuple[int, str]
"""Size in bytes and XXH3 as `ptyzarr.store.file_checksum` gives them."""

_REPLACED = "replaced-"
_SYNC_THREADS = 8  # folders forced to the disk at once, which costs little more than one
_RESUMABLE = "nothing was published; remove the cause and run the same command to resume"
_OURS = (
    "request.json", "plan.json", "plan", "spool", "records", "journal", "parts", "needs",
    "scratch", "store",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Staging:
    """Paths of one staging folder; plain and picklable."""

    root: Path

    @classmethod
    def beside(cls, destination: Path) -> Staging:
        """Return the staging folder of an absolute destination, on the same file system.

        Raises
        ------
        ConfigError
            If the destination has no name of its own.
        """
        if not destination.name:
            raise ConfigError(f"{destination} cannot hold a store; expected a path like scan.zarr")
        return cls(destination.with_name(destination.name + ".staging"))

    @property
    def store(self) -> Path:
        """The store that will be published."""
        return self.root / "store"

    @property
    def spool(self) -> Path:
        """Frames that were read front to back, and masked pixels."""
        return self.root / "spool"

    @property
    def plan(self) -> Path:
        """The document of the plan; written last, it makes the plan valid."""
        return self.root / "plan.json"

    @property
    def request(self) -> Path:
        """Source and options of a plan whose parts are written one by one."""
        return self.root / "request.json"

    @property
    def parts(self) -> Path:
        """Which parts were begun."""
        return self.root / "parts"

    @property
    def needs(self) -> Path:
        """What parts found that the plan cannot hold."""
        return self.root / "needs"

    @property
    def plan_arrays(self) -> Path:
        """Arrays of the plan."""
        return self.root / "plan"

    @property
    def masked(self) -> Path:
        """The masked pixels in acquisition order."""
        return self.spool / "masked.bin"

    @property
    def spooled_records(self) -> Path:
        """What is known about each spooled frame, in acquisition order."""
        return self.spool / "records.bin"

    def records(self, shard: int) -> Path:
        """Return what is known about each frame of a shard."""
        return self.root / "records" / f"{shard}.bin"

    def journal(self, shard: int) -> Path:
        """Return the record of a finished shard."""
        return self.root / "journal" / f"{shard}.json"

    def check_ours(self) -> None:
        """Refuse a folder that somebody else filled, since all of it would be removed.

        Raises
        ------
        ScanExistsError
            If there is anything that no ingest wrote; hidden files are left alone.
        """
        for entry in self.root.iterdir():
            if not (entry.name in _OURS or entry.name.startswith((_REPLACED, "lock", "."))):
                raise ScanExistsError(
                    f"{self.root} holds {entry.name!r}, which no ingest wrote; expected a folder "
                    "for temporary files; move it away or choose another destination"
                )

    def prepare(self) -> None:
        """Make the folders, empty."""
        for entry in self._entries():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        for folder in (self.store, self.spool, self.plan_arrays):
            folder.mkdir(parents=True, exist_ok=True)
        for name in ("records", "journal", "parts", "needs", "scratch"):
            (self.root / name).mkdir(exist_ok=True)

    def discard(self) -> None:
        """Remove everything but the lock; a leftover that cannot be removed harms nothing."""
        with contextlib.suppress(OSError):
            for entry in self._entries():
                shutil.rmtree(entry, ignore_errors=True)
                with contextlib.suppress(OSError):
                    entry.unlink(missing_ok=True)

    def restore(self, destination: Path) -> None:
        """Put back a store that an overwrite had moved away before it was killed."""
        for replaced in self.root.glob(f"{_REPLACED}*"):
            if not os.path.lexists(destination):
                os.rename(replaced, destination)

    def _entries(self) -> list[Path]:
        return [
            entry
            for entry in self.root.iterdir()
            if entry.name in _OURS or entry.name.startswith(_REPLACED)
        ]

    def scratch(self) -> Path:
        """Return the path of a new private scratch file."""
        return self.root / "scratch" / uuid.uuid4().hex

    def write_json(self, path: Path, document: Any) -> None:
        """Write a small document atomically and durably."""
        scratch = self.scratch()
        scratch.write_text(json.dumps(document))
        sync_file(scratch)
        replace_file(scratch, path)
        sync_folder(path.parent)

    def journalled(self, shard: int, stamp: str) -> tuple[FileChecksum, FileChecksum] | None:
        """Return size and checksum of a shard that was written and of its records, or None.

        Parameters
        ----------
        shard
            Number of the shard.
        stamp
            Of the plan; a shard of another one does not count.
        """
        try:
            entry = json.loads(self.journal(shard).read_text())
            if entry["stamp"] != stamp:
                return None
            frames, records = entry["frames"], entry["records"]
            return (int(frames[0]), str(frames[1])), (int(records[0]), str(records[1]))
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return None

    def finished(self, shard: int, stamp: str) -> bool:
        """Return whether a shard is journalled and its files are those that were journalled."""
        entry = self.journalled(shard, stamp)
        return entry is not None and entry == (
            _checksum_or_none(self.store / shard_key(shard)),
            _checksum_or_none(self.records(shard)),
        )

    def has_records(self, shard: int, stamp: str) -> bool:
        """Return whether the records of a journalled shard are those that were journalled."""
        entry = self.journalled(shard, stamp)
        return entry is not None and entry[1] == _checksum_or_none(self.records(shard))

    def commit_shard(
        self,
        shard: int,
        stamp: str,
        frames: tuple[Path, FileChecksum],
        records: tuple[Path, FileChecksum],
    ) -> None:
        """Move a written shard and its records into place and journal them.

        Parameters
        ----------
        shard
            Number of the shard.
        stamp
            Of the plan.
        frames, records
            Scratch files, and size and checksum of what was written to them. A resumed ingest and
            publishing compare the files with that.
        """
        sync_file(frames[0])
        for scratch, target in (
            (frames[0], self.store / shard_key(shard)),
            (records[0], self.records(shard)),
        ):
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_file(scratch, target)
        sync_folder((self.store / shard_key(shard)).parent)
        entry = {"shard": shard, "stamp": stamp, "frames": frames[1], "records": records[1]}
        self.write_json(self.journal(shard), entry)

    def publish(self, destination: Path, root_document: bytes, *, overwrite: bool) -> None:
        """Write the root document last and rename the store to its destination.

        Raises
        ------
        ScanExistsError
            If something is at the destination and `overwrite` is false.
        """
        root = self.store / ROOT_KEY
        root.write_bytes(root_document)
        sync_file(root)
        with ThreadPoolExecutor(_SYNC_THREADS) as pool:
            list(pool.map(sync_folder, [Path(folder) for folder, _, _ in os.walk(self.store)]))
        try:
            if overwrite and os.path.lexists(destination):
                # Two renames: after a kill between them, `restore` puts the old store back.
                os.rename(destination, self.root / f"{_REPLACED}{uuid.uuid4().hex}")
            os.rename(self.store, destination)
        except KeyboardInterrupt:
            self.restore(destination)
            raise
        except OSError as error:
            self.restore(destination)
            if not _holds(destination, root_document):  # some file systems fail after success
                if not overwrite:
                    _refuse_occupied(destination, error)
                raise
        sync_folder(destination.parent)

    def has_published(self, destination: Path, root_document: bytes) -> bool:
        """Return whether `publish` has moved the store; true from the moment of the rename on."""
        return not os.path.lexists(self.store) and _holds(destination, root_document)


def _checksum_or_none(path: Path) -> FileChecksum | None:
    try:
        return file_checksum(path)
    except OSError:  # missing, or its blocks cannot be read: written again elsewhere
        return None


def _holds(destination: Path, root_document: bytes) -> bool:
    try:
        return (destination / ROOT_KEY).read_bytes() == root_document
    except OSError:
        return False


def _refuse_occupied(destination: Path, error: OSError) -> None:
    if os.path.lexists(destination):
        raise ScanExistsError(
            f"{destination} cannot be published: {error.strerror}; expected nothing there; remove "
            "it or choose another destination"
        ) from error


def replace_file(scratch: Path, target: Path) -> None:
    """Move a file into place in one step.

    A network file system that repeats a request whose answer was lost reports that the scratch
    file is missing, after it has become the target.
    """
    number = scratch.stat().st_ino
    try:
        os.replace(scratch, target)
    except FileNotFoundError:
        if not target.is_file() or target.stat().st_ino != number:
            raise


def sync_folder(path: Path) -> None:
    """Force a folder's entries to the disk, where the platform can."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(fd)
    except OSError:
        pass
    finally:
        os.close(fd)


@contextlib.contextmanager
def storage_errors(what: str, outcome: str = _RESUMABLE) -> Iterator[None]:
    """Turn an `OSError` into a `StorageError` that says what was being done and how it ended.

    Parameters
    ----------
    what
        What is being done.
    outcome
        What is there after a failure, and what to do.
    """
    try:
        yield
    except PtyzarrError:  # some of them are an OSError too
        raise
    except OSError as error:
        name = f" ({error.filename})" if error.filename else ""
        raise StorageError(f"{what} failed: {error.strerror or error}{name}; {outcome}") from error
