"""Where a store lies, a folder or a URL: what opening and reading need of either."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from zarr.abc.store import Store

from ptyzarr.errors import ScanNotFoundError, SchemaError
from ptyzarr.scan import ChunkReader
from ptyzarr.store.access import RemoteAccess, is_url
from ptyzarr.store.bloscheader import decoded_sizes
from ptyzarr.store.checking import CheckingStore
from ptyzarr.store.fetching import RemoteShardReader
from ptyzarr.store.manifest import check_sizes, parse_root
from ptyzarr.store.native import NativeFunctions
from ptyzarr.store.remotefiles import RemoteFiles
from ptyzarr.store.remotestore import RemoteStore
from ptyzarr.store.rootguard import RootGuard
from ptyzarr.store.schema import ATTRIBUTE, ROOT_KEY
from ptyzarr.store.shards import FrameFormat, ShardReader

T = TypeVar("T")
Files = Mapping[str, Mapping[str, Any]]


class LocalPlace:
    """A folder.

    Parameters
    ----------
    path
        Of the store.

    Attributes
    ----------
    address
        What opens the store again, in another process, too.
    access
        None; a folder needs none.
    document
        The root document, checked against its digest.
    zarr_store
        Reads what the manifest lists.

    Raises
    ------
    ScanNotFoundError, SchemaError, DamagedStoreError
        If there is no store, or one of its files is missing or has another size.
    """

    def __init__(self, path: str) -> None:
        # Files are opened later; a change of the working directory must not matter then.
        self._root = Path(os.path.abspath(path))
        self.address = str(self._root)
        self.access: RemoteAccess | None = None
        self._guard = RootGuard(self._root)
        self.document = _load_root(self._root, self._guard)
        self._files: Files = self.document["attributes"][ATTRIBUTE]["manifest"]["files"]
        check_sizes(self._root, self._files)

    @property
    def zarr_store(self) -> Store:
        """A zarr store of what the manifest lists."""
        nodes = self.document["consolidated_metadata"]["metadata"]
        return CheckingStore(self._root, self._files, self._guard, decoded_sizes(nodes))

    @property
    def root_nbytes(self) -> int:
        """Size of the root document."""
        return (self._root / ROOT_KEY).stat().st_size

    def read_rows(self, read: Callable[[], T], what: str) -> T:
        """Return what zarr reads; `what` is for messages."""
        return read()

    def read(self, key: str) -> bytes:
        """Return the bytes of a small file."""
        return (self._root / key).read_bytes()

    def shard_reader(self, layout: FrameFormat, native: NativeFunctions) -> ChunkReader:
        """Return the reader of the frames' shards."""
        return ShardReader(self._root, layout, self._files, native, self._guard)


class RemotePlace:
    """A URL: as `LocalPlace`, but the sizes of files are checked when they are read.

    Parameters
    ----------
    url, access
        Where and how.
    """

    def __init__(self, url: str, access: RemoteAccess) -> None:
        self._files = RemoteFiles(url, access)
        self.address = self._files.url
        self.access: RemoteAccess | None = access
        self.document = self._files.document

    @property
    def zarr_store(self) -> Store:
        """A zarr store of what the manifest lists."""
        return RemoteStore(self._files)

    @property
    def root_nbytes(self) -> int:
        """Size of the root document."""
        return len(self._files.root)

    def read_rows(self, read: Callable[[], T], what: str) -> T:
        """Return what zarr reads, fetched anew where it cannot be decoded."""
        return self._files.decode_again(read, what)

    def read(self, key: str) -> bytes:
        """Return the bytes of a small file."""
        return bytes(self._files.read(key))

    def shard_reader(self, layout: FrameFormat, native: NativeFunctions) -> ChunkReader:
        """Return the reader of the frames' shards."""
        return RemoteShardReader(self._files, layout, native)


def find_place(path: str, access: RemoteAccess | None) -> LocalPlace | RemotePlace:
    """Return the place of a path or URL."""
    return RemotePlace(path, access or RemoteAccess()) if is_url(path) else LocalPlace(path)


def _load_root(root: Path, guard: RootGuard) -> dict[str, Any]:
    """Return the checked root document of a folder, which becomes the one that is guarded."""
    if not root.exists():
        raise ScanNotFoundError(f"{root} does not exist; expected a store that ingest wrote")
    if not root.is_dir():
        raise SchemaError(f"{root} is a file; expected a store; 'ptyzarr ingest' makes one of it")
    if not (root / ROOT_KEY).is_file():
        raise ScanNotFoundError(
            f"{root} holds no finished store (no {ROOT_KEY}); expected one; run 'ptyzarr "
            "ingest' to "
            "finish or make it"
        )
    raw = (root / ROOT_KEY).read_bytes()
    guard.pin(raw)
    return parse_root(raw, root / ROOT_KEY)
