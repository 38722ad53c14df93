"""A zarr store that never turns a damaged file into zeros."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from ptyzarr.errors import DamagedStoreError
from ptyzarr.store.schema import ROOT_KEY


class CheckingStore(WrapperStore[LocalStore]):
    """Reads only what the manifest lists, and only if it has the listed size.

    zarr reads a missing or empty shard as fill values without an error; here it is a
    `DamagedStoreError`.

    Parameters
    ----------
    root
        Folder of the store.
    files
        The manifest's entries by key.
    """

    def __init__(self, root: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(LocalStore(root, read_only=True))
        self._folder = root
        self._files = files

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
                found = os.stat(self._folder / key).st_size
            except OSError:
                found = None
            if found != entry["size"]:
                what = "is missing" if found is None else f"has {found} bytes"
                raise DamagedStoreError(
                    f"{self._folder}: file {key!r} {what}; expected {entry['size']} bytes"
                )
        return await super().get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Return whether the manifest lists `key`."""
        return key == ROOT_KEY or key in self._files
