"""A whole local store becomes one in a bucket: root last, and only if nobody else's is there.

Object storage has no rename. So the files go to their places one by one, and the root document,
without which there is no store, is created last and on the condition that there is none. A bucket
that does not honour that condition is refused before anything is written.

While files are on their way, `CLAIM_KEY` says of which store they are. The same upload goes on
where it was interrupted; another one is refused. Readers never look at it.

Whoever publishes creates the root first and removes the claim afterwards. So who has made a claim
looks for a root once more before the first file is sent: one that was published since this call
began is there by then, and the files of that store are never touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ptyzarr.errors import (
    DamagedStoreError,
    PtyzarrError,
    ScanExistsError,
    ScanNotFoundError,
    StorageError,
)
from ptyzarr.ingestion.landing import Landing
from ptyzarr.ingestion.threads import worker_threads
from ptyzarr.progress import Progress
from ptyzarr.store import ROOT_KEY, NoConditionsError, RemoteFolder, file_digest, parse_root

CLAIM_KEY = ".ptyzarr-upload"
_PROBE = ".ptyzarr-probe-"
_PROBES = 3
_FILES_AT_ONCE = 4
_LOOKS_AT_ONCE = 16


def check_conditions(folder: RemoteFolder) -> None:
    """Refuse a bucket that overwrites what should only be created.

    What calls that were killed have left of this is removed.

    Raises
    ------
    StorageError
        If it does, or cannot be written.
    """
    try:
        # Another call that begins at this moment may take our probe for one that was left.
        if any(_is_honoured(folder) for _ in range(_PROBES)):
            return
        refusal: NoConditionsError | None = None
    except NoConditionsError as error:
        refusal = error
    raise StorageError(
        f"{folder.url}: the server does not honour 'create only if absent'; expected the second of "
        "two creations to fail, or a store could be published over another; use a server that does "
        "(docs/remote.md)"
    ) from refusal


def _is_honoured(folder: RemoteFolder) -> bool:
    """Return whether the second of two creations failed; all probes are removed."""
    probe = f"{_PROBE}{uuid.uuid4().hex}"
    try:
        folder.create(probe, b"first")
        is_overwritten = folder.create(probe, b"second")
        found = folder.read(probe)
    finally:
        with contextlib.suppress(ScanNotFoundError):  # without a bucket there is nothing to remove
            folder.delete([probe])
    folder.delete([name for name in folder.names() if name.startswith(_PROBE)])
    return not is_overwritten and found is not None and bytes(found.body) == b"first"


def upload(
    root: Path,
    folder: RemoteFolder,
    *,
    overwrite: bool,
    name: str,
    progress: Progress,
    is_published: Callable[[], bool] = lambda: False,
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
    is_published
        Called when the upload is claimed and before a file is sent: whether the store is there by
        now. Raises `ScanExistsError` if another one is.
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
    try:
        is_there = is_published()
    except ScanExistsError:
        release_claim(folder, raw)
        raise
    if not is_there:
        if overwrite:
            _remove_store(folder, raw, files)
        _send_files(root, folder, files, progress)
        _publish(folder, raw, files, claim, landing)
    elif landing is not None:
        landing.approach(lambda: True)
    release_claim(folder, raw)


def release_claim(folder: RemoteFolder, raw: bytes | None = None) -> None:
    """Remove the claim of the store with root document `raw`; another one's stays.

    `raw` is what is published by now if it is None.
    """
    found = folder.read(CLAIM_KEY)
    if found is None:
        return
    if raw is None:
        root = folder.read(ROOT_KEY)
        raw = b"" if root is None else bytes(root.body)
    if _claimed(bytes(found.body)).get("root") == hashlib.sha256(raw).hexdigest():
        folder.delete([CLAIM_KEY])


def _publish(
    folder: RemoteFolder,
    raw: bytes,
    files: Mapping[str, Mapping[str, Any]],
    claim: bytes,
    landing: Landing | None,
) -> None:
    """Create the root document, unless an upload of the same store has done so meanwhile."""
    is_landed = partial(_holds, folder, raw)
    found = folder.read(CLAIM_KEY)
    if found is None or bytes(found.body) != claim:
        # Of two uploads of one store, the one that published has removed the claim of both.
        if not is_landed():
            raise _taken(folder)
        if landing is not None:
            landing.approach(is_landed)
        return
    _check_sizes(folder, files)
    if landing is not None:
        landing.approach(is_landed)
    if not folder.create(ROOT_KEY, raw) and not is_landed():
        raise _taken(folder)


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
        source = _claimed(bytes(found.body) if found else b"").get("source", "another scan")
        raise ScanExistsError(
            f"{folder.url} has an unfinished upload of {source}; expected none; run its command "
            "again to finish it, or replace it with --overwrite"
        )
    folder.put(CLAIM_KEY, claim)


def _claimed(body: bytes) -> Mapping[str, Any]:
    """Return what a claim says; nothing if it cannot be read."""
    try:
        claim = json.loads(body)
    except ValueError:
        return {}
    return claim if isinstance(claim, dict) else {}


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
