"""A zarr store at a URL that never turns a missing or damaged file into zeros."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from ptyzarr.errors import StorageError
from ptyzarr.store.checking import ListedKeys
from ptyzarr.store.remotefiles import RemoteFiles
from ptyzarr.store.schema import ROOT_KEY


class RemoteStore(ListedKeys, Store):
    """Reads only what the manifest lists; whole files are compared with their sha256.

    Parameters
    ----------
    files
        The opened store.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, files: RemoteFiles) -> None:
        super().__init__(read_only=True)
        self._remote = files

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteStore) and self._remote is other._remote

    __hash__ = None  # type: ignore[assignment]

    def with_read_only(self, read_only: bool = False) -> RemoteStore:
        """Return this store; a published store is never written.

        Raises
        ------
        StorageError
            If a store that can be written is asked for.
        """
        if not read_only:
            raise self._refusal()
        return self

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return the bytes of `key`, or None if the manifest does not list it."""
        if key != ROOT_KEY and key not in self._remote.files:
            return None
        body = await asyncio.to_thread(self._read, key, byte_range)
        return prototype.buffer.from_bytes(bytes(body))

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return the bytes of each key and range, all asked for at once."""
        gets = [self.get(key, prototype, byte_range) for key, byte_range in key_ranges]
        return await asyncio.gather(*gets)

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse."""
        raise self._refusal()

    async def delete(self, key: str) -> None:
        """Refuse."""
        raise self._refusal()

    def _listed(self) -> Mapping[str, Any]:
        return self._remote.files

    def _has_root(self) -> bool:
        return True

    def _read(self, key: str, byte_range: ByteRequest | None) -> bytes | memoryview:
        if key == ROOT_KEY:
            start, stop = _span(byte_range, len(self._remote.root))
            return self._remote.root[start:stop]
        if byte_range is None:
            return self._remote.read(key)
        start, stop = _span(byte_range, self._remote.files[key]["size"])
        return self._remote.read_range(key, start, stop) if start < stop else b""

    def _refusal(self) -> StorageError:
        return StorageError(
            f"{self._remote.url} is a published store; expected reading only; ingest the source "
            "again to change it"
        )


def _span(byte_range: ByteRequest | None, size: int) -> tuple[int, int]:
    """Return where a range begins and ends in a file of this size."""
    if isinstance(byte_range, RangeByteRequest):
        return byte_range.start, min(byte_range.end, size)
    if isinstance(byte_range, OffsetByteRequest):
        return byte_range.offset, size
    if isinstance(byte_range, SuffixByteRequest):
        return max(size - byte_range.suffix, 0), size
    return 0, size
