"""A zarr store that never turns a damaged file into zeros."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from ptyzarr.errors import DamagedStoreError, PtyzarrError, StorageError
from ptyzarr.store.bloscheader import array_of, is_sound
from ptyzarr.store.manifest import size_fault
from ptyzarr.store.rootguard import RootGuard
from ptyzarr.store.schema import ROOT_KEY
from ptyzarr.store.shardindex import cure_for

#: What zarr and its codecs raise for bytes or metadata that they did not write.
DECODING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    SystemError,
    TypeError,
    ValueError,
)
_REASON_SHOWN = 300


class ListedKeys:
    """The listing half of a zarr store, made of the manifest, whatever else is in the folder."""

    def _listed(self) -> Mapping[str, Any]:
        """Return the manifest's entries by key."""
        raise NotImplementedError

    def _has_root(self) -> bool:
        """Return whether the root document is there."""
        raise NotImplementedError

    async def exists(self, key: str) -> bool:
        """Return whether the manifest lists `key`."""
        return key in self._listed() or (key == ROOT_KEY and self._has_root())

    async def list(self) -> AsyncGenerator[str, None]:
        """Yield what the manifest lists, whatever else is in the folder."""
        for key in self._keys():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncGenerator[str, None]:
        """Yield the listed keys that begin with `prefix`."""
        for key in self._keys():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        """Yield the names right below the folder `prefix` that lead to listed keys."""
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        below = (key[len(folder) :] for key in self._keys() if key.startswith(folder))
        for name in dict.fromkeys(rest.split("/", 1)[0] for rest in below):
            yield name

    async def is_empty(self, prefix: str) -> bool:
        """Return whether no listed key begins with the folder `prefix`."""
        return not [name async for name in self.list_dir(prefix)]

    def _keys(self) -> dict[str, None]:
        # The root document lists the others, not itself.
        return dict.fromkeys([*([ROOT_KEY] if self._has_root() else []), *self._listed()])


class CheckingStore(ListedKeys, WrapperStore[LocalStore]):
    """Reads only what the manifest lists, and only if it has the listed size.

    zarr reads a missing or empty shard as fill values without an error; here it is a
    `DamagedStoreError`.

    Parameters
    ----------
    root
        Folder of the store.
    files
        The manifest's entries by key.
    guard
        Tells whether the folder still holds the store that was opened.
    decoded
        Decoded bytes of a chunk by array, where that is in its header and is to be compared.
    """

    def __init__(
        self,
        root: Path,
        files: Mapping[str, Mapping[str, Any]],
        guard: RootGuard | None = None,
        decoded: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(LocalStore(root, read_only=True))
        self._folder = root
        self._files = files
        self._guard = guard
        self._decoded = decoded or {}

    def _with_store(self, store: LocalStore) -> CheckingStore:
        # zarr derives stores from a store; each must go on checking.
        return CheckingStore(store.root, self._files, self._guard, self._decoded)

    def with_read_only(self, read_only: bool = False) -> CheckingStore:
        """Return this store; a published store is never written.

        Raises
        ------
        StorageError
            If a store that can be written is asked for.
        """
        if not read_only:
            raise StorageError(
                f"{self._folder} is a published store; expected reading only; ingest the source "
                "again to change it"
            )
        return self

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return the bytes of `key`, or None if the manifest does not list it."""
        entry = self._files.get(key)
        if entry is None and key != ROOT_KEY:
            return None
        if entry is not None:
            try:
                found: os.stat_result | None = os.stat(self._folder / key)
            except (FileNotFoundError, NotADirectoryError):
                found = None
            fault = size_fault(found, entry["size"])
            if fault is not None:
                raise self._damage(key, fault)
            if isinstance(byte_range, RangeByteRequest):
                # It may come of a forged index, and memory is allocated for all that is asked for.
                byte_range = _within(byte_range, entry["size"])
        value = await super().get(key, prototype, byte_range)
        if value is None and entry is not None:
            raise self._damage(key, "disappeared")
        if self._guard is not None and entry is not None:
            self._guard.check()
        nbytes = self._decoded.get(array_of(key))
        is_chunk = entry is not None and byte_range is None and not key.endswith(ROOT_KEY)
        if value is not None and is_chunk and not is_sound(value.to_bytes(), nbytes):
            raise self._damage(key, "has a header that is not that of its chunk")
        if value is not None and entry is not None and reaches_end(byte_range):
            tail = entry.get("tail")
            if tail is not None and not value.to_bytes().hex().endswith(tail):
                raise self._damage(key, "is that of another shard")
        return value

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return the bytes of each key and range; each is checked as in `get`."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        for key, prototype, byte_range in requests:
            yield key, await self.get(key, prototype, byte_range)

    def _listed(self) -> Mapping[str, Any]:
        return self._files

    def _has_root(self) -> bool:
        return (self._folder / ROOT_KEY).is_file()

    def _damage(self, key: str, what: str) -> DamagedStoreError:
        if self._guard is not None:
            self._guard.check()  # that the store was replaced is the better reason
        return DamagedStoreError(
            f"{self._folder}: file {key!r} {what}; expected {self._files[key]['size']} bytes; the "
            "store is damaged, 'ptyzarr repair' mends it from its source"
        )


def reaches_end(byte_range: ByteRequest | None) -> bool:
    """Return whether a request takes the last bytes of a file, as reading a shard's index does."""
    return byte_range is None or isinstance(byte_range, SuffixByteRequest)


def _within(byte_range: RangeByteRequest, size: int) -> RangeByteRequest:
    """Return the part of a range that lies in a file."""
    start = min(byte_range.start, size)
    return RangeByteRequest(start, max(start, min(byte_range.end, size)))


@contextlib.contextmanager
def read_errors(what: str) -> Iterator[None]:
    """Turn what zarr and its codecs raise while reading into our errors.

    Raises
    ------
    DamagedStoreError
        If bytes fail their checksum or cannot be decoded.
    StorageError
        If the file system refuses the read.
    """
    try:
        yield
    except PtyzarrError:
        raise
    except OSError as error:
        raise StorageError(
            f"{what} cannot be read: {error.strerror or error}; expected its bytes; check the file "
            "system"
        ) from error
    except DECODING_ERRORS as error:
        reason = " ".join(str(error).split())[:_REASON_SHOWN]
        raise DamagedStoreError(
            f"{what} cannot be decoded ({reason}); expected the bytes that ingest wrote; "
            f"{cure_for(what)}"
        ) from error
