"""The stores in the served folder, as they come and go."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ptyzarr.errors import ScanNotFoundError, StorageError
from ptyzarr.service.answers import Refusal
from ptyzarr.store import (
    ROOT_KEY,
    ScanStore,
    Stamp,
    check_sizes,
    natural_key,
    open_store,
    read_root,
    stamp_of,
    was_written_here,
)

logger = logging.getLogger(__name__)

_SUFFIX: Final = ".zarr"
_MAX_OPEN: Final = 16  # stores that keep their positions and open files
_MAX_ROOTS: Final = 64  # parsed manifests
_MAX_LOOKS: Final = 10_000  # stores of which it is known when they were seen whole
_TRIES: Final = 5


@dataclasses.dataclass(frozen=True)
class Published:
    """A finished store as it lies on disk.

    Attributes
    ----------
    id
        Its name in URLs.
    folder
        Where it is.
    root
        The bytes of the root document.
    root_sha256
        Digest that the root document states of itself.
    files
        Size and sha256 of every other file, by key.
    stamp
        Tells whether another store has taken its place.
    """

    id: str
    folder: Path
    root: bytes
    root_sha256: str
    files: Mapping[str, Mapping[str, Any]]
    stamp: Stamp

    def is_current(self) -> bool:
        """Return whether the folder still holds this very store."""
        return _stamp(self.folder) == self.stamp


class Catalogue:
    """Finds stores by id; what is known of one is kept as long as its root document stays.

    Parameters
    ----------
    root
        Folder whose folders are served, or one store.

    Raises
    ------
    ScanNotFoundError
        If there is no such folder.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(os.path.abspath(root))
        if not self.root.is_dir():
            raise ScanNotFoundError(f"{self.root} is no folder; expected one that holds stores")
        self._lock = threading.Lock()
        self._roots: OrderedDict[str, Published] = OrderedDict()
        self._open: OrderedDict[str, tuple[Stamp, ScanStore]] = OrderedDict()
        self._next_looks: dict[str, tuple[Stamp, float]] = {}
        self._told: set[str] = set()  # ids of which it was said that two stores have them

    def ids(self) -> list[str]:
        """Return the ids of all stores, damaged ones too, in order; each id once.

        Raises
        ------
        StorageError
            If the folder cannot be read.
        """
        try:
            names = {_id(folder.name) for folder in self._folders() if _holds_store(folder)}
        except OSError as error:
            raise StorageError(
                f"the served folder cannot be read: {error.strerror}; check the file system"
            ) from error
        return sorted(names, key=place_of)

    def published(self, scan_id: str) -> Published:
        """Return the store of that id; its files are not looked at.

        Raises
        ------
        ScanNotFoundError
            If there is none.
        Refusal
            If two stores have that id.
        SchemaError, DamagedStoreError
            If its root document is not one of ours, or damaged.
        """
        folder = self._folder(scan_id)
        stamp = _stamp(folder)
        with self._lock:
            known = self._roots.get(scan_id)
            if known is not None and known.stamp == stamp and known.folder == folder:
                self._roots.move_to_end(scan_id)
                return known
        found = _read_published(scan_id, folder)
        with self._lock:
            self._roots[scan_id] = found
            if len(self._roots) > _MAX_ROOTS:
                self._roots.popitem(last=False)
        return found

    def store(self, scan_id: str) -> ScanStore:
        """Return the store of that id, opened: every listed file is there.

        Raises
        ------
        Refusal
            If two stores have that id.
        ScanNotFoundError, SchemaError, DamagedStoreError, StorageError
            As `open_store`.
        """
        for _ in range(_TRIES):
            published = self.published(scan_id)
            with self._lock:
                stamp, store = self._open.get(scan_id, (None, None))
                if store is not None and stamp == published.stamp:
                    self._open.move_to_end(scan_id)
                    return store
            store = open_store(published.folder)
            if published.is_current():
                self._keep(scan_id, published.stamp, store)
                return store
        raise StorageError(f"{scan_id} changes all the time; expected a store at rest; ask again")

    def whole_store(self, scan_id: str) -> ScanStore:
        """Return what `store` does, after a look for every file of it just now.

        Stores of many shards on a slow file system are not looked at every time: looking takes a
        tenth of the time at most.

        Raises
        ------
        DamagedStoreError
            If a file has gone or changed its size.
        Refusal, ScanNotFoundError, SchemaError, StorageError
            As `store`.
        """
        published = self.published(scan_id)
        self.check(published)
        return self.store(scan_id)

    def check(self, published: Published) -> None:
        """Look for every file of a store as `whole_store` does, and raise as it does."""
        began = time.monotonic()
        stamp, next_look = self._next_looks.get(published.id, (None, 0.0))
        if stamp == published.stamp and began < next_look:
            return
        try:
            check_sizes(published.folder, published.files)
        except OSError as error:
            raise StorageError(
                f"scan {published.id!r} cannot be read: {error.strerror}; check the file system"
            ) from error
        now = time.monotonic()
        if len(self._next_looks) >= _MAX_LOOKS:
            self._next_looks.clear()
        self._next_looks[published.id] = (published.stamp, began + 10 * (now - began))

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            stores = [store for _, store in self._open.values()]
            self._open.clear()
        for store in stores:
            store.close()

    def _keep(self, scan_id: str, stamp: Stamp, store: ScanStore) -> None:
        with self._lock:
            old = [self._open.pop(scan_id)] if scan_id in self._open else []
            self._open[scan_id] = (stamp, store)
            if len(self._open) > _MAX_OPEN:
                old.append(self._open.popitem(last=False)[1])
        # Whoever reads from one of these goes on: its files stay open until then.
        for _, closed in old:
            closed.close()

    def _folders(self) -> Iterator[Path]:
        if (self.root / ROOT_KEY).is_file():
            yield self.root
            return
        with os.scandir(self.root) as entries:
            for entry in entries:
                if _is_name(entry.name) and entry.is_dir():
                    yield Path(entry.path)

    def _folder(self, scan_id: str) -> Path:
        """Return the folder of an id; `ScanNotFoundError` if there is none, `Refusal` if two."""
        found: list[Path] = []
        if _is_name(scan_id):
            if (self.root / ROOT_KEY).is_file():
                candidates = [self.root] if _id(self.root.name) == scan_id else []
            else:
                candidates = [self.root / f"{scan_id}{_SUFFIX}", self.root / scan_id]
            found = [
                folder
                for folder in candidates
                if _id(folder.name) == scan_id and _holds_store(folder)
            ]
        if not found:
            raise ScanNotFoundError(
                f"there is no scan {scan_id[:100]!r}; expected one of the catalogue"
            )
        if len(found) > 1 and not os.path.samefile(*found):
            raise self._ambiguous(scan_id)
        self._told.discard(scan_id)
        return found[0]

    def _ambiguous(self, scan_id: str) -> Refusal:
        """Return that two stores have one id, and write it to the log once."""
        message = (
            f"the folders {scan_id!r} and {scan_id + _SUFFIX!r} both hold a store and have the "
            "same id; expected one store of each id; rename one of them"
        )
        with self._lock:
            is_new = scan_id not in self._told
            self._told.add(scan_id)
        if is_new:
            logger.warning("%s", message)
        return Refusal(409, "ambiguous", message)


def place_of(scan_id: str) -> tuple[list[Any], str]:
    """Return what ids are sorted by: natural order, in which ``run_1`` and ``run_01`` tie."""
    return natural_key(scan_id), scan_id


def _id(name: str) -> str:
    return name.removesuffix(_SUFFIX)


def _is_name(name: str) -> bool:
    """Return whether a text is the name of one folder that may be served."""
    return (
        name.isprintable()
        and not name.startswith(".")
        and not set(name) & {"/", "\\"}
        and 0 < len(os.fsencode(name)) <= 250
        and name != _SUFFIX
    )


def _holds_store(folder: Path) -> bool:
    return (folder / ROOT_KEY).is_file() or (
        folder.suffix == _SUFFIX and folder.is_dir() and was_written_here(folder)
    )


def _stamp(folder: Path) -> Stamp | None:
    try:
        return stamp_of(os.stat(folder / ROOT_KEY))
    except OSError:
        return None


def _read_published(scan_id: str, folder: Path) -> Published:
    for _ in range(_TRIES):
        stamp = _stamp(folder)
        if stamp is None:
            raise ScanNotFoundError(
                f"scan {scan_id!r} holds no finished store (no {ROOT_KEY}); expected one; run "
                "'ptyzarr ingest' to finish or 'ptyzarr repair' to mend it"
            )
        try:
            raw = (folder / ROOT_KEY).read_bytes()
            document = read_root(folder / ROOT_KEY)
        except OSError as error:
            if _stamp(folder) is None:
                continue
            raise StorageError(
                f"scan {scan_id!r} cannot be read: {error.strerror}; check the file system"
            ) from error
        if _stamp(folder) == stamp:
            manifest = document["attributes"]["ptyzarr"]["manifest"]
            return Published(
                scan_id, folder, raw, str(manifest["root_sha256"]), manifest["files"], stamp
            )
    raise StorageError(f"{scan_id} changes all the time; expected a store at rest; ask again")
