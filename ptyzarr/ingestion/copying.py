"""`stage`: a store is copied to a local disk, every file compared with the manifest's sha256."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ptyzarr.config import IngestConfig, format_size
from ptyzarr.errors import (
    DamagedStoreError,
    InterruptedIngestError,
    ScanExistsError,
    StorageError,
)
from ptyzarr.ingestion.landing import Landing
from ptyzarr.ingestion.lock import lock
from ptyzarr.ingestion.runner import tidy
from ptyzarr.ingestion.staging import Staging, replace_file, storage_errors
from ptyzarr.ingestion.targets import check_target
from ptyzarr.ingestion.threads import worker_threads
from ptyzarr.paths import check_path
from ptyzarr.progress import Progress, Silent
from ptyzarr.store import (
    ROOT_KEY,
    RemoteFiles,
    file_digest,
    is_url,
    list_keys,
    open_store,
    parse_root,
    remote_access,
    scan_name,
    sync_file,
)

_FILES_AT_ONCE = 8
_READ_BYTES = 1024**2
_OUTCOME = "nothing was published; remove the cause and run the same command to go on"


@dataclass(frozen=True, slots=True)
class StageReport:
    """What `stage` did.

    Attributes
    ----------
    path
        Folder of the copy.
    n_files, n_bytes
        Files of the store and their size.
    n_bytes_copied
        Bytes that were copied by this call; the rest was there.
    seconds
        How long it took.
    digest
        Digest of the whole scan.
    """

    path: str
    n_files: int
    n_bytes: int
    n_bytes_copied: int
    seconds: float
    digest: str


class Files(Protocol):
    """A published store that is copied: a URL's `RemoteFiles`, or a folder."""

    root: bytes
    files: Mapping[str, Mapping[str, Any]]

    @property
    def attempts(self) -> int:
        """How often a file is read that is not what the manifest lists."""
        ...

    @property
    def cure(self) -> str:
        """What is to be done then."""
        ...

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield a file in pieces."""
        ...


def stage(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    key: str | None = None,
    *,
    progress: Progress | None = None,
) -> StageReport:
    """Copy a store to a local disk, e.g. of a node that will train on it for hours.

    Every file is compared with the sha256 in the manifest. The copy appears at the destination
    when it is whole; after an interrupt the same call goes on, and what is there by then is
    digested again. A destination that holds the store already is left alone.

    Parameters
    ----------
    source
        URL or folder of a store.
    destination
        Folder of the copy; with a slash at its end, the folder that the copy goes into.
    key
        Key of the server; ``PTYZARR_KEY`` if None.
    progress
        Receives the bytes; silent if None.

    Raises
    ------
    ScanNotFoundError, SchemaError
        If there is no store at the source.
    DamagedStoreError
        If a file at the source is missing, cut, or has other content than its digest.
    ScanExistsError
        If the destination holds something else, or somebody is writing it.
    StorageError
        If the server or the disk fails; the same call goes on.
    InterruptedIngestError
        After Ctrl-C; the same call goes on.
    """
    began = time.perf_counter()
    check_path(destination, "the copy")
    name = check_path(source, "a store")
    files = RemoteFiles(name, remote_access(key)) if is_url(name) else _FolderFiles(Path(name))
    target = _target(name, destination)
    staging = Staging.beside(target)
    copier = _Copier(files, name, staging, progress or Silent())
    landing = Landing()
    interrupted = "staging was interrupted; expected it to end; run the same command to go on"
    with storage_errors(f"staging of {name}", _OUTCOME), landing.interruptible(interrupted):
        if not _is_there(target, files):
            check_target(target, IngestConfig())
            target.parent.mkdir(parents=True, exist_ok=True)
            with lock(staging.root):
                copier.copy(target, landing)
    if landing.was_interrupted:
        landing.finish(functools.partial(tidy, staging))
    sizes = [int(entry["size"]) for entry in files.files.values()]
    digest = parse_root(files.root, name)["attributes"]["ptyzarr"]["digest"]
    return StageReport(
        str(target),
        len(sizes) + 1,
        sum(sizes) + len(files.root),
        copier.n_bytes_copied,
        time.perf_counter() - began,
        str(digest),
    )


class _FolderFiles:
    """A store in a folder, as it is copied."""

    attempts = 2  # a parallel file system has a way, too
    cure = "the store is damaged, 'ptyzarr repair' mends it from its source"

    def __init__(self, root: Path) -> None:
        open_store(root).close()  # refuses what is no whole store
        self.root = (root / ROOT_KEY).read_bytes()
        self._root = root
        document = parse_root(self.root, root)
        self.files: Mapping[str, Mapping[str, Any]] = document["attributes"]["ptyzarr"]["manifest"][
            "files"
        ]

    def stream(self, key: str) -> Iterator[bytes]:
        with (self._root / key).open("rb") as file:
            while block := file.read(_READ_BYTES):
                yield block


class _Copier:
    """Copies the files of one store into a locked staging folder and publishes them."""

    def __init__(self, files: Files, name: str, staging: Staging, progress: Progress) -> None:
        self._files, self._name = files, name
        self._staging, self._progress = staging, progress
        self._reporting = threading.Lock()
        self._is_over = False
        self.n_bytes_copied = 0

    def copy(self, target: Path, landing: Landing) -> None:
        """Copy what is missing and publish.

        Raises
        ------
        ScanExistsError
            If the staging folder is that of an unfinished ingest.
        """
        staging = self._staging
        staging.check_ours()
        if staging.plan.exists():
            raise ScanExistsError(
                f"{staging.root} holds an unfinished ingest; expected nothing or an unfinished "
                "copy; finish it, or choose another destination"
            )
        for folder in (staging.store, staging.root / "scratch"):
            folder.mkdir(exist_ok=True)
        for key in list_keys(staging.store):
            if key not in self._files.files:
                (staging.store / key).unlink()
        self._copy_files()
        landing.approach(functools.partial(staging.has_published, target, self._files.root))
        staging.publish(target, self._files.root, overwrite=False)
        staging.discard()

    def _copy_files(self) -> None:
        files = self._files.files
        self._progress.start(
            "staging", sum(int(entry["size"]) for entry in files.values()), "bytes"
        )
        with worker_threads(_FILES_AT_ONCE, "stage") as pool:
            try:
                for there in pool.map(self._is_copied, files):
                    self._report(there)
                missing = [key for key in files if not self._has_size(key)]
                self._check_room(sum(int(files[key]["size"]) for key in missing))
                for _ in pool.map(self._copy_file, missing):
                    pass
            finally:
                self._is_over = True  # files of gigabytes end early, too
        self._progress.finish()

    def _has_size(self, key: str) -> bool:
        path = self._staging.store / key
        return path.is_file() and path.stat().st_size == self._files.files[key]["size"]

    def _is_copied(self, key: str) -> int:
        """Return the size of a file that an earlier call copied; remove it if it is not whole."""
        path, entry = self._staging.store / key, self._files.files[key]
        if self._is_over or not path.exists():
            return 0
        if file_digest(path) == (entry["size"], entry["sha256"]):
            return int(entry["size"])
        path.unlink()
        return 0

    def _check_room(self, nbytes: int) -> None:
        free = shutil.disk_usage(self._staging.root).free
        if free < nbytes:
            raise StorageError(
                f"{self._staging.root} has {format_size(free)} free; expected "
                f"{format_size(nbytes)} for what is left of {self._name}; choose another disk"
            )

    def _copy_file(self, key: str) -> None:
        path, entry = self._staging.store / key, self._files.files[key]
        found = (0, "")
        for _ in range(self._files.attempts):  # it may have been the way
            scratch = self._staging.scratch()
            found = self._write(scratch, self._files.stream(key))
            if found == (entry["size"], entry["sha256"]):
                sync_file(scratch)
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_file(scratch, path)
                return
            scratch.unlink()
        is_whole = found[0] == entry["size"]
        what = "other content than its digest" if is_whole else f"{found[0]} bytes"
        raise DamagedStoreError(
            f"{self._name}: file {key!r} came with {what}; expected the {entry['size']} bytes that "
            f"the manifest lists; {self._files.cure}"
        )

    def _write(self, scratch: Path, blocks: Iterable[bytes]) -> tuple[int, str]:
        """Write a file; return its size and sha256."""
        state, size = hashlib.sha256(), 0
        with scratch.open("wb") as file:
            for block in blocks:
                if self._is_over:
                    raise InterruptedIngestError("staging ended before this file was whole")
                file.write(block)
                state.update(block)
                size += len(block)
                self._report(len(block), is_copied=True)
        return size, state.hexdigest()

    def _report(self, nbytes: int, *, is_copied: bool = False) -> None:
        with self._reporting:
            self._progress.advance(nbytes)
            self.n_bytes_copied += nbytes if is_copied else 0


def _target(source: str, destination: str | os.PathLike[str]) -> Path:
    name = os.fspath(destination)
    if name.endswith(("/", os.sep)):
        name = os.path.join(name, f"{scan_name(source)}.zarr")
    return Path(os.path.abspath(name))


def _is_there(target: Path, files: Files) -> bool:
    """Return whether the destination holds the store already.

    Raises
    ------
    ScanExistsError
        If it holds something else.
    """
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        is_same = (target / ROOT_KEY).read_bytes() == files.root
    except OSError:
        is_same = False
    if not is_same:
        raise ScanExistsError(
            f"{target} exists and is not this store; expected nothing there; remove it, or choose "
            "another destination"
        )
    open_store(target).close()  # every file is there with its size
    return True
