"""The lock of a staging folder: a chain of files, each created exclusively.

``flock`` is missing on some cluster file systems, exclusive creation is not. A lock whose owner is
gone is never removed by those who want it, since two of them could each remove the other's new
one. Instead its successor ``lock-<token of the dead owner>`` is created, which one of them alone
can do. The last file of the chain that starts at ``lock`` is the lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptyzarr.errors import ScanExistsError
from ptyzarr.owners import describe_self, is_dead, parse_owner

HEARTBEAT_S = 30.0
_STALE_S = 300.0  # a lock of another machine that looks so old is watched, and then abandoned
TORN_S = 2.0  # a lock without an owner is watched so long, and then taken over
_ATTEMPTS = 8


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the folder is made, and removed if it is empty at the end.

    A lock is taken over when its owner is gone: a dead process of this machine, one that a damaged
    lock no longer names (after two seconds), or one of another machine that seems to have given no
    sign of life for five minutes and gives none during the minute in which this call then watches
    it.

    Parameters
    ----------
    folder
        The staging folder.

    Raises
    ------
    ScanExistsError
        If another process holds it.
    """
    owner = describe_self()
    path = _take(folder, owner)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, stop), name="ptyzarr-lock", daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        for _ in range(_ATTEMPTS):  # a lock that stays keeps this process out as long as it lives
            with contextlib.suppress(OSError):
                _release(folder, owner)
                break
        with contextlib.suppress(OSError):
            folder.rmdir()


def _take(folder: Path, owner: dict[str, Any]) -> Path:
    for _ in range(_ATTEMPTS):
        chain = _chain(folder)
        if not chain and (folder / "lock").is_symlink():
            raise ScanExistsError(
                f"{folder / 'lock'} is a link to nowhere; expected a lock file or none; remove it"
            )
        if chain and not _is_gone(*chain[-1]):
            held_by = chain[-1][1]
            raise ScanExistsError(
                f"{folder} is being written by process {held_by.get('pid', 'unknown')} on "
                f"{held_by.get('host', 'an unknown host')}; expected no other ingest to this "
                f"destination; wait for it, or remove {chain[-1][0]} if that process is gone"
            )
        path = _successor(folder, *chain[-1]) if chain else folder / "lock"
        if not _create(path, owner):
            continue
        try:
            # A chain that was released meanwhile no longer leads to the new file.
            chain = _chain(folder)
            if chain and chain[-1][1].get("token") == owner["token"]:
                return path
        except OSError:
            path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)
    raise ScanExistsError(
        f"{folder} is wanted by several processes at once; expected one; try again"
    )


def _create(path: Path, owner: dict[str, Any]) -> bool:
    """Create a lock file; return False if it is there already or its folder just went away.

    It is written under another name first, so that nobody ever sees it half.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    private = path.with_name(f".{path.name}.{owner['token']}")
    try:
        _write(private, owner)
        try:
            os.link(private, path)
        except FileExistsError:
            # A server that repeats a request whose answer was lost finds what it made itself.
            return private.stat().st_nlink > 1
        except FileNotFoundError:
            return False
        except OSError:  # a file system without links
            _write(path, owner)
    except (FileExistsError, FileNotFoundError):
        return False
    finally:
        with contextlib.suppress(OSError):
            private.unlink()
    return True


def _write(path: Path, owner: dict[str, Any]) -> None:
    """Create a file with an owner's description, forced to the disk."""
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        with os.fdopen(fd, "w") as file:
            json.dump(owner, file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)  # a lock without an owner would keep everybody out
        raise


def _release(folder: Path, owner: dict[str, Any]) -> None:
    chain = _chain(folder)
    if chain and not chain[-1][1]:
        raise OSError(f"{chain[-1][0]} cannot be read")  # it may be ours
    if not chain or chain[-1][1].get("token") != owner["token"]:
        return  # taken over, or removed by hand
    # From the front: a file whose predecessor is gone belongs to no chain, so nobody can follow
    # it, while a predecessor without its successor could be followed anew.
    for path, _ in chain:
        path.unlink(missing_ok=True)


def _chain(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the lock files and their owners, the one that counts last."""
    chain: list[tuple[Path, dict[str, Any]]] = []
    path = folder / "lock"
    while path.exists() and path not in (known for known, _ in chain):
        chain.append((path, _owner(path)))
        path = _successor(folder, *chain[-1])
    return chain


def _successor(folder: Path, path: Path, owner: dict[str, Any]) -> Path:
    token = owner.get("token")
    if not isinstance(token, str) or not token.isalnum():
        # Its owner died between creating and filling it.
        try:
            status = path.stat()
            token = f"{status.st_ino}x{status.st_mtime_ns}"
        except OSError:
            token = "none"
    return folder / f"lock-{token}"


def _owner(path: Path) -> dict[str, Any]:
    try:
        # Reading a pipe would wait for ever.
        return parse_owner(path.read_bytes()) if path.is_file() else {}
    except OSError:
        return {}


def _is_gone(path: Path, owner: dict[str, Any]) -> bool:
    gone = is_dead(owner)
    if gone is not None:
        return gone
    try:
        return _is_silent(path) if owner else _is_torn(path)
    except OSError:
        return True


def _is_torn(path: Path) -> bool:
    """Return whether a lock without a readable owner stays as it is.

    A lock has its owner from the moment it can be seen, or the moment after where files cannot be
    linked. Without one it was damaged since; its process may live, but cannot be known.
    """
    before = path.stat()
    time.sleep(TORN_S)
    after = path.stat()
    is_same = (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    return is_same and not _owner(path)


def _is_silent(path: Path) -> bool:
    """Return whether a lock is old and stays so while its owner would have touched it twice.

    Its age alone does not tell: a clock that jumps makes the lock of a living owner old.
    """
    seen = path.stat().st_mtime_ns
    if time.time() - seen / 1e9 <= _STALE_S:
        return False
    deadline = time.monotonic() + 2 * HEARTBEAT_S
    while time.monotonic() < deadline:
        time.sleep(HEARTBEAT_S / 20)
        if path.stat().st_mtime_ns != seen:
            return False
    return True


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with contextlib.suppress(OSError):
            os.utime(path)
