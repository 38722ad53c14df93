"""A folder that appears under its name when it is whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from ptyzarr.errors import ConfigError, ScanExistsError
from ptyzarr.ingestion.staging import storage_errors, sync_folder
from ptyzarr.store import is_url, sync_file


@contextlib.contextmanager
def new_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Give an empty folder beside `target` to fill; at the end it becomes `target`.

    After an error nothing is left of it.

    Parameters
    ----------
    target
        Where nothing may be.

    Raises
    ------
    ConfigError
        If it is a URL.
    ScanExistsError
        If something is there.
    StorageError
        If the file system fails.
    """
    if is_url(target):
        raise ConfigError(f"{os.fspath(target)} is a URL; expected a folder; choose one")
    path = Path(os.path.abspath(target))
    if os.path.lexists(path):
        raise _occupied(path)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    outcome = "nothing is left of it; remove the cause and run the same command again"
    with storage_errors(f"writing {os.fspath(target)}", outcome):
        scratch.mkdir()
        try:
            yield scratch
            _sync_tree(scratch)
            _move(scratch, path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        sync_folder(path.parent)


def _sync_tree(root: Path) -> None:
    for folder, _, names in os.walk(root):
        for name in names:
            sync_file(Path(folder) / name)
        sync_folder(Path(folder))


def _move(scratch: Path, path: Path) -> None:
    if os.path.lexists(path):  # a rename would replace an empty folder
        raise _occupied(path)
    number = scratch.stat().st_ino
    try:
        os.rename(scratch, path)
    except OSError as error:
        # Some network file systems report a failure after success.
        if not path.is_dir():
            raise
        if path.stat().st_ino != number:
            raise _occupied(path) from error


def _occupied(path: Path) -> ScanExistsError:
    return ScanExistsError(
        f"{path} exists; expected nothing there; remove it or choose another name"
    )
