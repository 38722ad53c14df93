"""`ingest`: a store in a folder, or in a bucket by way of one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ptyzarr.config import IngestConfig
from ptyzarr.errors import (
    ConfigError,
    PtyzarrError,
    ScanExistsError,
    ScanNotFoundError,
    StorageError,
)
from ptyzarr.ingestion.landing import Landing
from ptyzarr.ingestion.lock import lock
from ptyzarr.ingestion.runner import ingest_to_folder, open_scan, store_difference
from ptyzarr.ingestion.staging import storage_errors
from ptyzarr.ingestion.targets import check_target
from ptyzarr.ingestion.upload import check_conditions, release_claim, upload
from ptyzarr.paths import check_path
from ptyzarr.progress import Progress, Silent
from ptyzarr.scan import Scan
from ptyzarr.store import ROOT_KEY, RemoteAccess, RemoteFolder, ScanStore, is_url, remote_access

_CALLS_AT_ONCE = 16  # to one URL from one machine


def ingest(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    config: IngestConfig | None = None,
    *,
    progress: Progress | None = None,
) -> ScanStore:
    """Make a store of a source file.

    Every frame is checked before anything is published. The store is built in a folder beside the
    destination and renamed when it is whole; a killed or interrupted call leaves nothing at the
    destination and the same call resumes it. A destination that holds this source already is
    opened and returned.

    For ``s3://bucket/...`` the store is built in a local folder, ``config.staging``, and uploaded,
    the root document last; that takes the size of the store on the local disk.

    Parameters
    ----------
    source
        File of a format in `ptyzarr.sources.READERS`.
    destination
        Folder of the store, e.g. ``"scan.zarr"``, or its URL in a bucket.
    config
        Options; the defaults work.
    progress
        Receives the stages; silent if None.

    Returns
    -------
    ScanStore
        The published store.

    Raises
    ------
    ScanNotFoundError, SourceError
        If the source is missing, broken, or holds refused values.
    ScanExistsError
        If the destination holds something else, or is being written.
    ConfigError
        If the destination is a URL that cannot be written.
    BudgetError
        If the memory budget is too small.
    StorageError
        If the file system or the server fails; the same call resumes.
    InterruptedIngestError
        After Ctrl-C; the same call resumes.
    """
    return ingest_and_land(source, destination, config or IngestConfig(), progress, Landing())


def ingest_and_land(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    config: IngestConfig,
    progress: Progress | None,
    landing: Landing,
) -> ScanStore:
    """Do what `ingest` does; the landing tells whether an interrupt came after publication."""
    check_path(source, "the source")
    if is_url(destination):
        with storage_errors(f"ingest of {os.fspath(source)}"):
            url = check_path(destination, "the store")
            return _ingest_to_bucket(source, url, config, progress or Silent(), landing)
    if config.staging is not None:
        raise ConfigError(
            f"staging is {config.staging!r}, but {os.fspath(destination)} is a folder; expected "
            "it for URLs only: a folder's store is staged beside it"
        )
    with storage_errors(f"ingest of {os.fspath(source)}"):
        check_target(destination, config)
    return ingest_to_folder(source, destination, config, progress=progress, landing=landing)


def _ingest_to_bucket(
    source: str | os.PathLike[str],
    url: str,
    config: IngestConfig,
    progress: Progress,
    landing: Landing,
) -> ScanStore:
    existing = None
    with contextlib.ExitStack() as held:
        with landing.interruptible():
            access = remote_access()
            folder = RemoteFolder(url, access)
            if not folder.is_s3:
                raise ConfigError(f"{url} cannot be written; expected a folder or s3://BUCKET/...")
            check_conditions(folder)
            local = held.enter_context(staging_folder(folder.url, config))
            scan = open_scan(source, local, config)
            seen = _root(folder)
            existing = _existing_store(scan, folder, config, access)
            if existing is None:
                upload(
                    _build_locally(source, local, config, progress),
                    folder,
                    overwrite=config.overwrite,
                    name=os.path.basename(source),
                    progress=progress,
                    is_published=lambda: _was_published(scan, folder, config, access, seen),
                    landing=landing,
                )
            else:
                landing.approach(lambda: True)
        landing.finish(functools.partial(shutil.rmtree, local, ignore_errors=True))
    return existing or landing.finish(functools.partial(ScanStore, folder.url, access))


def _build_locally(
    source: str | os.PathLike[str], local: Path, config: IngestConfig, progress: Progress
) -> Path:
    """Return the folder of the store that will be uploaded."""
    # What an earlier call left here is ours alone, of whatever source.
    staged = dataclasses.replace(config, overwrite=True, staging=None)
    root, landing = local / "scan.zarr", Landing()
    ingest_to_folder(source, root, staged, progress=progress, landing=landing).close()
    if landing.was_interrupted:
        raise KeyboardInterrupt  # the store is not where it belongs yet
    return root


@contextlib.contextmanager
def staging_folder(url: str, config: IngestConfig) -> Iterator[Path]:
    """Give a local folder in which a store for a URL is built, to nobody else meanwhile.

    It is the same for every call, so that an interrupted one is gone on with. A call that is made
    while others run gets one of its own, which does not outlast it.

    Raises
    ------
    StorageError
        If somebody else made it: others could put files into what is published.
    ScanExistsError
        If too many calls are under way.
    """
    parent = Path(os.path.abspath(config.staging or tempfile.gettempdir()))
    parent.mkdir(parents=True, exist_ok=True)
    name = f"ptyzarr-{_user()}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    names = [name, *(f"{name}-{number}" for number in range(2, _CALLS_AT_ONCE + 1))]
    with contextlib.ExitStack() as held:
        for name in names:
            try:
                # Beside it, for the folder is removed while it is held.
                held.enter_context(lock(_own_folder(parent / f"{name}.lock")))
            except ScanExistsError:
                if name == names[-1]:
                    raise
                continue
            break
        folder = _own_folder(parent / name)
        if name != names[0]:  # nobody would go on with it
            held.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def _own_folder(folder: Path) -> Path:
    """Return a folder that is made unless it is there, and is ours."""
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or (hasattr(os, "getuid") and status.st_uid != _user()):
        raise StorageError(f"{folder} is not ours; expected our own folder; give --staging DIR")
    return folder


def _existing_store(
    scan: Scan, folder: RemoteFolder, config: IngestConfig, access: RemoteAccess
) -> ScanStore | None:
    """Return the store at a URL if it is this source's; None if it may be written.

    Raises
    ------
    ScanExistsError
        If another store is there and is not to be replaced.
    """
    try:
        store = ScanStore(folder.url, access)
    except ScanNotFoundError:
        return None
    except StorageError:
        raise  # what is there cannot be judged
    except PtyzarrError as error:
        if config.overwrite:
            return None
        raise ScanExistsError(
            f"{folder.url} holds what is no readable store ({error}); expected nothing there; "
            "remove it, or replace it with --overwrite"
        ) from error
    difference = store_difference(scan, store, config)
    if difference is None:
        sizes = folder.list()
        if all(sizes.get(key) == entry["size"] for key, entry in store.files.items()):
            release_claim(folder)  # left by a call that was killed right after publishing
            return store
        difference = "with files that are missing or cut"
    if config.overwrite:
        return None
    raise ScanExistsError(
        f"{folder.url} holds a store {difference}; expected nothing there, or this source's; "
        "choose another destination, or replace it with --overwrite"
    )


def _root(folder: RemoteFolder) -> bytes | None:
    found = folder.read(ROOT_KEY)
    return None if found is None else bytes(found.body)


def _was_published(
    scan: Scan,
    folder: RemoteFolder,
    config: IngestConfig,
    access: RemoteAccess,
    seen: bytes | None,
) -> bool:
    """Return whether this source's store was published since `seen` was the root document.

    Raises
    ------
    ScanExistsError
        If another store was: ``overwrite`` is leave to replace what was there when the call
        began, not what nobody had seen then.
    """
    if _root(folder) in (None, seen):
        return False
    try:
        store = _existing_store(scan, folder, dataclasses.replace(config, overwrite=False), access)
    except ScanExistsError as error:
        if not config.overwrite:
            raise
        raise ScanExistsError(
            f"{folder.url} was published by another upload while this one was prepared; expected "
            "what was there when the call began; look at it, and run the same command again to "
            "replace it"
        ) from error
    if store is None:
        return False
    store.close()
    return True
