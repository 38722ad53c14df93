"""The manifest: every file of a store with its size and digest, inside the root ``zarr.json``.

The root holds attributes, consolidated metadata and the manifest in one file and is written last.
It also holds the digest of its own bytes, computed with that digest's digits as zeros.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ptyzarr.errors import DamagedStoreError, SchemaError
from ptyzarr.plainfiles import open_plain
from ptyzarr.store.schema import ATTRIBUTE, ROOT_KEY

_ZEROS = "0" * 64
_TAIL_BYTES = 4
_READ_BYTES = 1024**2


def file_digest(path: Path) -> tuple[int, str]:
    """Return (size, sha256) of a file, read in bounded memory."""
    state, size = hashlib.sha256(), 0
    with open_plain(path) as file:
        while block := file.read(_READ_BYTES):
            state.update(block)
            size += len(block)
    return size, state.hexdigest()


def file_tail(path: Path) -> str:
    """Return the last bytes of a file in hexadecimal: of a shard, the checksum of its index."""
    with path.open("rb") as file:
        file.seek(-min(_TAIL_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
        return file.read().hex()


def list_keys(root: Path) -> Iterator[str]:
    """Yield the key of every file under `root` except the root document, sorted.

    Raises
    ------
    OSError
        If a folder cannot be listed: a manifest without its files would pass for a whole one.
    """
    folders = os.walk(root, onerror=_raise)
    paths = (Path(folder) / name for folder, _, names in folders for name in names)
    keys = (path.relative_to(root).as_posix() for path in paths)
    yield from sorted(key for key in keys if key != ROOT_KEY)


def _raise(error: OSError) -> NoReturn:
    raise error


def compose_root(
    attributes: Mapping[str, Any],
    metadata: Mapping[str, Any],
    files: Mapping[str, tuple[int, str]],
    tails: Mapping[str, str] | None = None,
) -> bytes:
    """Return the bytes of the root ``zarr.json``.

    Parameters
    ----------
    attributes
        The root attribute ``ptyzarr`` without its manifest.
    metadata
        The ``zarr.json`` of every node by path, for the consolidated metadata.
    files
        Size and sha256 of every other file by key.
    tails
        The last bytes of each shard of the frames by key, by which a reader tells one shard from
        another of the same size.
    """
    entries: dict[str, dict[str, Any]] = {
        key: {"size": size, "sha256": digest} for key, (size, digest) in files.items()
    }
    for key, tail in (tails or {}).items():
        entries[key]["tail"] = tail
    manifest = {"files": entries, "root_sha256": _ZEROS}
    document = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {ATTRIBUTE: {**attributes, "manifest": manifest}},
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            "metadata": dict(metadata),
        },
    }
    blank = json.dumps(document, indent=1).encode()
    digest = hashlib.sha256(blank).hexdigest()
    return blank.replace(_marker(_ZEROS), _marker(digest), 1)


def read_root(path: Path) -> dict[str, Any]:
    """Return the parsed root document after checking it against its own digest.

    Raises
    ------
    SchemaError
        If it is not a root that ptyzarr wrote.
    DamagedStoreError
        If its bytes are not those that were written.
    """
    return parse_root(path.read_bytes(), path)


def parse_root(raw: bytes, path: object) -> dict[str, Any]:
    """Return what `read_root` does, from the bytes of a root document; `path` is for messages."""
    repeated: list[str] = []
    try:
        document: dict[str, Any] = _load(raw, repeated)
        attributes = document["attributes"][ATTRIBUTE]
        digest = str(attributes["manifest"]["root_sha256"])
        marker = _marker(digest)
        # Nesting of many thousands is a RecursionError.
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if _has_traces(raw):
            raise _damaged_root(path) from error
        raise SchemaError(
            f"{path} is not a ptyzarr store (no attribute {ATTRIBUTE!r} with a manifest); expected "
            "a store that 'ptyzarr ingest' wrote"
        ) from error
    blank = raw.replace(marker, _marker(_ZEROS), 1)
    if hashlib.sha256(blank).hexdigest() != digest:
        raise _damaged_root(path, _outside_key(attributes["manifest"]))
    if repeated or raw.startswith(codecs.BOM_UTF8):
        found = f"the key {repeated[0][:100]!r} twice" if repeated else "a byte order mark"
        raise SchemaError(
            f"{path} has {found}; expected JSON as ingest writes it, each key once; ingest the "
            "source again with --overwrite"
        )
    _check_entries(path, attributes["manifest"])
    return document


def _load(raw: bytes, repeated: list[str]) -> Any:
    """Return parsed JSON; append to `repeated` what a mapping names twice.

    Readers differ in which of two they take, so neither is told from a damaged byte before the
    digest is.
    """

    def as_mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) != len(pairs):
            keys = [key for key, _ in pairs]
            repeated.append(next(key for key in keys if keys.count(key) > 1))
        return mapping

    # "utf-8-sig": a mark would end here, though the digest may still be right.
    return json.loads(raw.decode("utf-8-sig"), object_pairs_hook=as_mapping)


def was_written_here(root: Path) -> bool:
    """Return whether a folder holds a store of ours, in whatever state it is by now."""
    try:
        raw = (root / ROOT_KEY).read_bytes() if (root / ROOT_KEY).is_file() else b""
    except OSError:
        raw = b""
    return _has_traces(raw) or (root / "frame_hash" / ROOT_KEY).is_file()


def check_digests(
    root: Path, files: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[int, str | None]]:
    """Yield for each listed file the bytes read and what is wrong with it, None if nothing is."""
    for key, entry in files.items():
        wrong = _link_problem(root, key)
        if wrong is not None:
            yield 0, wrong
            continue
        try:
            size, digest = file_digest(root / key)
        except OSError as error:
            yield 0, f"{key} cannot be read ({error.strerror})"
            continue
        if size != entry["size"]:
            yield size, f"{key} has {size} bytes, expected {entry['size']}"
        elif digest != entry["sha256"]:
            yield size, f"{key} has other content than its digest"
        else:
            yield size, None


def _link_problem(root: Path, key: str) -> str | None:
    """Return what is wrong if a file is reached over a link: what is elsewhere may change or go."""
    linked = linked_folder(root, key)
    if linked is not None:
        return f"{key} lies in {linked}, a link; expected a folder of the store"
    return f"{key} is a link; expected a file of the store" if (root / key).is_symlink() else None


def linked_folder(root: Path, key: str) -> str | None:
    """Return the first folder on the way from a store to one of its files that is a link."""
    parts = key.split("/")[:-1]
    folders = ("/".join(parts[: n + 1]) for n in range(len(parts)))
    return next((folder for folder in folders if (root / folder).is_symlink()), None)


def check_sizes(root: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `DamagedStoreError` if a listed file is missing, no file or of another size."""
    for key, entry in files.items():
        try:
            found: os.stat_result | None = os.stat(root / key)
        except (FileNotFoundError, NotADirectoryError):
            found = None
        fault = size_fault(found, entry["size"])
        if fault is not None:
            raise DamagedStoreError(
                f"{root}: file {key!r} {fault}; expected {entry['size']} bytes; the store is "
                "damaged, 'ptyzarr repair' mends it from its source"
            )


def size_fault(found: os.stat_result | None, size: int) -> str | None:
    """Return what is wrong with a file that should have `size` bytes, None if nothing is.

    A folder, a pipe or a device has a size, too, which says nothing.
    """
    if found is None:
        return "is missing"
    if not stat.S_ISREG(found.st_mode):
        return "is no file"
    return None if found.st_size == size else f"has {found.st_size} bytes"


def _check_entries(path: object, manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest that no ingest wrote, before its keys are used as paths."""
    files = manifest.get("files")
    outside = _outside_key(manifest)
    if outside is not None:
        raise SchemaError(
            f"{path} has a manifest that is not understood, it lists {outside!r}; expected names "
            "of files inside the store; ingest the source again"
        )
    if not isinstance(files, dict) or not all(
        isinstance(entry, dict)
        and isinstance(entry.get("size"), int)
        and 0 <= entry["size"] < 2**62
        and isinstance(entry.get("sha256"), str)
        and isinstance(entry.get("tail", ""), str)
        for entry in files.values()
    ):
        raise SchemaError(
            f"{path} has a manifest that is not understood; expected files with size and "
            "sha256; ingest the source again"
        )


def _outside_key(manifest: object) -> str | None:
    """Return the first listed key that is no name of a file inside the store, None if all are."""
    files = manifest.get("files") if isinstance(manifest, dict) else None
    for key in files if isinstance(files, dict) else ():
        if {"", ".", ".."} & set(key.split("/")) or set("\0\\:") & set(key):
            return str(key)[:100]
    return None


def _has_traces(raw: bytes) -> bool:
    """Return whether a root document was ours before a flip, which spares one of two places."""
    return _marker_start() in raw or f'"{ATTRIBUTE}": '.encode() in raw


def _marker_start() -> bytes:
    return b'"root_sha256": "'


def _marker(digest: str) -> bytes:
    return _marker_start() + digest.encode() + b'"'


def _damaged_root(path: object, outside: str | None = None) -> DamagedStoreError:
    also = "" if outside is None else f" and lists {outside!r}, which is outside the store"
    return DamagedStoreError(
        f"{path} does not match its own digest{also}; expected it to; the store is damaged, "
        "'ptyzarr repair' mends it from its source"
    )
