"""A whole local store becomes one in a bucket: root last, and only if nobody else's is there.

Object storage has no rename. So the files go to their places one by one, and the root document,
without which there is no store, is created last and on the condition that there is none. A bucket
that does not honour that condition is refused before anything is written.

While files are on their way, `CLAIM_KEY` says of which store they are. The same upload goes on
where it was interrupted; another one is refused. Readers never look at it.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ptyzarr.errors import DamagedStoreError, PtyzarrError, ScanExistsError, StorageError
from ptyzarr.ingestion.landing import Landing
from ptyzarr.ingestion.threads import worker_threads
from ptyzarr.progress import Progress
from ptyzarr.store import ROOT_KEY, RemoteFolder, file_digest, parse_root

CLAIM_KEY = ".ptyzarr-upload"
_FILES_AT_ONCE = 4
_LOOKS_AT_ONCE = 16


def check_conditions(folder: RemoteFolder) -> None:
    """Refuse a bucket that overwrites what should only be created.

    Raises
    ------
    StorageError
        If it does, or cannot be written.
    """
    probe = f".ptyzarr-probe-{uuid.uuid4().hex}"
    try:
        folder.create(probe, b"first")
        is_overwritten = folder.create(probe, b"second")
        found = folder.read(probe)
    finally:
        folder.delete([probe])
    if is_overwritten or found is None or bytes(found.body) != b"first":
        raise StorageError(
            f"{folder.url}: the server does not honour 'create only if absent'; expected the "
            "second of two creations to fail, or a store could be published over another; use a "
            "server that does (docs/remote.md)"
        )


def upload(
    root: Path,
    folder: RemoteFolder,
    *,
    overwrite: bool,
    name: str,
    progress: Progress,
    landing: Landing | None = None,
) -> None:
    """Publish a whole local store.

    Parameters
    ----------
    root
        Folder of the store.
    folder
        Where it goes; `check_conditions` has passed.
    overwrite
        Whether a store that is there is replaced, and an unfinished upload of another abandoned.
    name
        Of the source, for those who find the upload unfinished.
    progress
        Receives the bytes.
    landing
        Is told how to see that the store is published.

    Raises
    ------
    ScanExistsError
        If another store, or an unfinished upload of one, is there.
    DamagedStoreError
        If a local file is not what the manifest lists.
    StorageError
        If the server cannot be reached or refuses; the same call goes on.
    """
    raw = (root / ROOT_KEY).read_bytes()
    files = _manifest(raw, root)
    claim = json.dumps({"root": hashlib.sha256(raw).hexdigest(), "source": name}).encode()
    _claim(folder, claim, overwrite=overwrite)
    if overwrite:
        _remove_store(folder, raw, files)
    _send_files(root, folder, files, progress)
    found = folder.read(CLAIM_KEY)
    if found is None or bytes(found.body) != claim:
        raise _taken(folder)
    _check_sizes(folder, files)
    if landing is not None:
        landing.approach(partial(_holds, folder, raw))
    if not folder.create(ROOT_KEY, raw) and not _holds(folder, raw):
        raise _taken(folder)
    folder.delete([CLAIM_KEY])


def _holds(folder: RemoteFolder, raw: bytes) -> bool:
    found = folder.read(ROOT_KEY)
    return found is not None and bytes(found.body) == raw


def _claim(folder: RemoteFolder, claim: bytes, *, overwrite: bool) -> None:
    if folder.create(CLAIM_KEY, claim):
        return
    found = folder.read(CLAIM_KEY)
    if found is not None and bytes(found.body) == claim:
        return
    if not overwrite:
        try:
            source = json.loads(bytes(found.body) if found else b"{}").get("source", "another scan")
        except (ValueError, AttributeError):
            source = "another scan"
        raise ScanExistsError(
            f"{folder.url} has an unfinished upload of {source}; expected none; run its command "
            "again to finish it, or replace it with --overwrite"
        )
    folder.put(CLAIM_KEY, claim)


def _remove_store(folder: RemoteFolder, raw: bytes, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Remove a store that is replaced, root first; its files that the new one has too stay."""
    found = folder.read(ROOT_KEY)
    if found is None or bytes(found.body) == raw:
        return
    folder.delete([ROOT_KEY])
    try:
        old = _manifest(bytes(found.body), folder.url)
    except PtyzarrError:  # what cannot be read lists nothing
        return
    folder.delete([key for key in old if key not in files])


def _send_files(
    root: Path, folder: RemoteFolder, files: Mapping[str, Mapping[str, Any]], progress: Progress
) -> None:
    """Upload what is not there yet, by size and by the sha256 that went with it."""
    sizes = folder.list()
    candidates = [key for key, entry in files.items() if sizes.get(key) == entry["size"]]
    with worker_threads(_LOOKS_AT_ONCE, "look") as pool:
        found = dict(zip(candidates, pool.map(folder.look, candidates), strict=True))
    present = {
        key
        for key, version in found.items()
        if version is not None and version.digest == files[key]["sha256"]
    }
    missing = [key for key in files if key not in present]
    progress.start("uploading", sum(int(files[key]["size"]) for key in missing), "bytes")
    with worker_threads(_FILES_AT_ONCE, "upload") as pool:
        for nbytes in pool.map(partial(_send, root, folder, files), missing):
            progress.advance(nbytes)
    progress.finish()


def _send(
    root: Path, folder: RemoteFolder, files: Mapping[str, Mapping[str, Any]], key: str
) -> int:
    size, digest = file_digest(root / key)
    if (size, digest) != (files[key]["size"], files[key]["sha256"]):
        raise DamagedStoreError(
            f"{root / key} is not what the manifest lists; expected the file that ingest wrote; "
            "check the disk, then run the same command with --overwrite"
        )
    folder.put(key, root / key, digest)
    return size


def _check_sizes(folder: RemoteFolder, files: Mapping[str, Mapping[str, Any]]) -> None:
    sizes = folder.list()
    wrong = [key for key, entry in files.items() if sizes.get(key) != entry["size"]]
    if wrong:
        raise StorageError(
            f"{folder.url}: {wrong[0]!r} has {sizes.get(wrong[0])} bytes after the upload; "
            f"expected {files[wrong[0]]['size']}; nothing was published, run the same command again"
        )


def _manifest(raw: bytes, where: str | os.PathLike[str]) -> Mapping[str, Mapping[str, Any]]:
    files: Mapping[str, Mapping[str, Any]] = parse_root(raw, where)["attributes"]["ptyzarr"][
        "manifest"
    ]["files"]
    return files


def _taken(folder: RemoteFolder) -> ScanExistsError:
    return ScanExistsError(
        f"{folder.url} was taken by another upload meanwhile; expected to be alone; look at what "
        "is there before trying again"
    )
