"""The staging folder beside the destination: lock, journal, atomic writes, publication.

scan.zarr.staging/
  lock            who writes here
  plan.json       written when the plan pass is complete; `plan/*.npy` beside it
  spool/          frames of a source that can only be read front to back
  journal/7.json  shard 7 is in place, with its size and digest
  scratch/        files that are being written
  store/          the store that will be published
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptyzarr.errors import ScanExistsError, StorageError
from ptyzarr.store import ROOT_KEY, file_digest, shard_key, sync_file

_HEARTBEAT_S = 30.0
_STALE_S = 300.0  # a lock of another machine without a heartbeat for so long is abandoned


@dataclass(frozen=True, slots=True)
class Staging:
    """Paths of one staging folder; plain and picklable."""

    root: Path

    @classmethod
    def beside(cls, destination: Path) -> Staging:
        """Return the staging folder of a destination, on the same file system."""
        return cls(destination.with_name(destination.name + ".staging"))

    @property
    def store(self) -> Path:
        """The store that will be published."""
        return self.root / "store"

    @property
    def spool(self) -> Path:
        """Temporary arrays of the plan pass."""
        return self.root / "spool"

    @property
    def plan(self) -> Path:
        """The completed plan."""
        return self.root / "plan.json"

    @property
    def plan_arrays(self) -> Path:
        """Arrays of the plan."""
        return self.root / "plan"

    def journal(self, shard: int) -> Path:
        """Return the record of a finished shard."""
        return self.root / "journal" / f"{shard}.json"

    def prepare(self) -> None:
        """Make the folders."""
        for folder in (self.store, self.spool, self.plan_arrays):
            folder.mkdir(parents=True, exist_ok=True)
        for name in ("journal", "scratch"):
            (self.root / name).mkdir(exist_ok=True)

    def clear(self) -> None:
        """Remove everything but the lock."""
        for entry in list(self.root.iterdir()) if self.root.is_dir() else []:
            if entry.name == "lock":
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def restore(self, destination: Path) -> None:
        """Put back a store that an overwrite had moved away before it was killed."""
        for replaced in self.root.glob("replaced-*"):
            if not destination.exists():
                os.rename(replaced, destination)

    def remove(self) -> None:
        """Remove the folder; a leftover that cannot be removed harms nothing."""
        shutil.rmtree(self.root, ignore_errors=True)

    def scratch(self) -> Path:
        """Return the path of a new private scratch file."""
        return self.root / "scratch" / uuid.uuid4().hex

    def write_json(self, path: Path, document: Any) -> None:
        """Write a small document atomically and durably."""
        scratch = self.scratch()
        scratch.write_text(json.dumps(document))
        sync_file(scratch)
        os.replace(scratch, path)
        sync_folder(path.parent)

    def journalled(self, shard: int) -> tuple[int, str] | None:
        """Return (size, sha256) of a shard that was written, or None."""
        try:
            entry = json.loads(self.journal(shard).read_text())
            return int(entry["size"]), str(entry["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def finished(self, shard: int) -> bool:
        """Return whether a shard is journalled and its file is the one that was journalled."""
        recorded = self.journalled(shard)
        path = self.store / shard_key(shard)
        return recorded is not None and path.is_file() and file_digest(path) == recorded

    def commit_shard(self, scratch: Path, shard: int) -> int:
        """Move a written shard into place and journal it; return its size."""
        sync_file(scratch)
        size, digest = file_digest(scratch)
        target = self.store / shard_key(shard)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(scratch, target)
        sync_folder(target.parent)
        self.write_json(self.journal(shard), {"shard": shard, "size": size, "sha256": digest})
        return size

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
        for folder, _, _ in os.walk(self.store):
            sync_folder(Path(folder))
        if overwrite and destination.exists():
            # Two renames: after a kill between them, `restore` puts the old store back.
            os.rename(destination, self.root / f"replaced-{uuid.uuid4().hex}")
        try:
            os.rename(self.store, destination)
        except OSError as error:
            raise ScanExistsError(
                f"{destination} cannot be published: {error.strerror}; expected nothing there; "
                "remove it or choose another destination"
            ) from error
        sync_folder(destination.parent)


@contextlib.contextmanager
def lock(staging: Staging) -> Iterator[None]:
    """Hold the staging folder for this process.

    The lock is a file created exclusively with a token, since ``flock`` is missing on some
    cluster file systems. It is taken over when its owner is gone: a dead process of this machine,
    or no heartbeat from another one.

    Raises
    ------
    ScanExistsError
        If another process holds it.
    """
    staging.root.mkdir(parents=True, exist_ok=True)
    path = staging.root / "lock"
    token = uuid.uuid4().hex
    owner = {"token": token, "host": socket.gethostname(), "pid": os.getpid()}
    _take(path, owner)
    stop = threading.Event()
    beat = threading.Thread(target=_heartbeat, args=(path, stop), name="ptyzarr-lock", daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        if _owner(path).get("token") == token:
            path.unlink(missing_ok=True)


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
def storage_errors(what: str) -> Iterator[None]:
    """Turn an `OSError` of the file system into a `StorageError` that says what was being done."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if type(error).__module__.startswith("ptyzarr"):
            raise
        name = f" ({error.filename})" if error.filename else ""
        raise StorageError(
            f"{what} failed: {error.strerror or error}{name}; nothing was published; free the "
            "cause and run the same command to resume"
        ) from error


def _take(path: Path, owner: dict[str, Any]) -> None:
    for _ in range(2):
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            held = _owner(path)
            if not _is_gone(path, held):
                raise ScanExistsError(
                    f"{path.parent} is being written by process {held.get('pid')} on "
                    f"{held.get('host')}; wait for it, or remove {path} if that process is gone"
                ) from None
            path.unlink(missing_ok=True)
            continue
        with os.fdopen(fd, "w") as file:
            json.dump(owner, file)
        return
    raise ScanExistsError(f"{path} was taken by another process at the same moment; try again")


def _owner(path: Path) -> dict[str, Any]:
    try:
        owner = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_gone(path: Path, owner: dict[str, Any]) -> bool:
    if owner.get("host") == socket.gethostname() and isinstance(owner.get("pid"), int):
        return not _is_alive(owner["pid"])
    try:
        return time.time() - path.stat().st_mtime > _STALE_S
    except OSError:
        return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _heartbeat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(_HEARTBEAT_S):
        with contextlib.suppress(OSError):
            os.utime(path)
