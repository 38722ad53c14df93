"""Tells whether a folder still holds the store that was opened."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from ptyzarr.errors import DamagedStoreError
from ptyzarr.store.schema import ROOT_KEY

#: What tells one root document from another without reading it.
Stamp = tuple[int, int, int, int]


def stamp_of(found: os.stat_result) -> Stamp | None:
    """Return the stamp of a file; None if it is none: opening a pipe would wait for ever."""
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class RootGuard:
    """Compares the root document with the one that was read at opening.

    Two stores may have files of equal names and sizes. Whoever replaces a store replaces its root
    along with them, so a file that was opened while the root was the old one is of the old store.

    Parameters
    ----------
    root
        Folder of the store.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / ROOT_KEY
        self._root = root
        self._stamp = self._look()
        self._sha256: str | None = None

    def pin(self, raw: bytes) -> None:
        """Take the bytes of the root document that was opened; looks came before them."""
        self._sha256 = hashlib.sha256(raw).hexdigest()

    def check(self) -> None:
        """Return if the root document is still the same.

        Raises
        ------
        DamagedStoreError
            If it is another one, or gone.
        """
        stamp = self._look()
        if stamp is not None and stamp == self._stamp:
            return
        # A repair writes the same bytes again.
        if stamp is not None and self._digest() == self._sha256:
            self._stamp = stamp
            return
        raise DamagedStoreError(
            f"{self._root}: somebody replaced or removed the store since it was opened; expected "
            "the same one; open it again"
        )

    def _look(self) -> Stamp | None:
        try:
            return stamp_of(os.stat(self._path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _digest(self) -> str | None:
        try:
            return hashlib.sha256(self._path.read_bytes()).hexdigest()
        except (FileNotFoundError, NotADirectoryError):
            return None
