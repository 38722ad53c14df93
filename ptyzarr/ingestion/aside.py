"""What appears under its name when it is whole, and what dead processes left beside it.

Until then it has a hidden name that says which process fills it. So there is never a moment in
which somebody else could not tell whose it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

from ptyzarr.errors import ConfigError, ScanExistsError
from ptyzarr.ingestion.staging import storage_errors, sync_folder
from ptyzarr.owners import describe_self, is_dead
from ptyzarr.store import is_url, sync_file

_OWNER = re.compile(r"[0-9a-f]{8}\.(?P<host>[0-9a-f]{8})-(?P<pid>\d{1,10})-(?P<started>\d{0,20})")


@contextlib.contextmanager
def new_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Give an empty folder beside `target` to fill; at the end it becomes `target`.

    After an error nothing is left of it. What a killed process of this machine left of an earlier
    attempt is removed first.

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
    remove_abandoned(path)
    if os.path.lexists(path):
        raise _occupied(path)
    scratch = name_aside(path)
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


def name_aside(path: Path) -> Path:
    """Return a new hidden name beside `path` for what this process is to make of it."""
    owner = describe_self()
    mark = f"{_host_mark()}-{owner['pid']}-{owner['started'] or ''}"
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{mark}.partial")


def remove_abandoned(path: Path) -> None:
    """Remove what dead processes of this machine left beside `path` under such names.

    What cannot be listed or removed stays: it harms nobody but the disk.
    """
    with contextlib.suppress(OSError):
        for entry in list(path.parent.iterdir()):
            if entry.name.startswith(f".{path.name}.") and _is_abandoned(path, entry):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)


def _is_abandoned(path: Path, entry: Path) -> bool:
    """Whether the name of `entry` is one of `path` whose process is gone."""
    rest = entry.name.removeprefix(f".{path.name}.")
    found = _OWNER.fullmatch(rest.removesuffix(".partial"))
    if not rest.endswith(".partial") or found is None or found["host"] != _host_mark():
        return False
    owner = {
        "host": socket.gethostname(),
        "pid": int(found["pid"]),
        "started": found["started"] or None,
    }
    return is_dead(owner) is True


def _host_mark() -> str:
    """Return this machine's name in digits that any file name may hold."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


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
