"""The lock of a staging folder: a chain of files, each created exclusively.

``flock`` is missing on some cluster file systems, exclusive creation is not. A lock whose owner is
gone is never removed by those who want it, since two of them could each remove the other's new
one. Instead its successor ``lock-<token of the dead owner>`` is created, which one of them alone
can do. The last file of the chain that starts at ``lock`` is the lock.

A lock gets its name when it is whole, where the file system has hard links: a link is made by one
alone even where exclusive creation is not atomic (NFS of old). So a lock that does not say whose it
is was damaged, and is nobody's if it is not touched while a living owner would have. Its successor
is named by its name and what it holds, which all machines see alike (inode numbers some do not):
of two who take it over at once one alone can create the successor. Whoever creates a lock looks
whether the chain leads to it, and gives it up if not: what was judged may be gone meanwhile.

Not told: an owner that stalls for longer than a damaged or old lock is watched, and then goes on
(a suspended machine). The files of both are digested again before a store is published.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptyzarr.errors import ScanExistsError
from ptyzarr.owners import describe_self, is_dead, parse_owner, seal_owner
from ptyzarr.plainfiles import open_plain

#: A parallel file system may see one touch from each of hundreds of jobs in that time.
HEARTBEAT_S = 5.0
_WATCH_BEATS = 12  # how long an old lock of another machine is watched
_TORN_BEATS = 3  # how long a lock that names nobody is watched
_STALE_S = 300.0  # a lock of another machine that looks so old is watched, and then abandoned
_ATTEMPTS = 8
_MAX_BYTES = 65536  # of a lock file that are looked at


@dataclass(frozen=True, slots=True)
class _Link:
    """A lock file as it was seen; `content` is None if it could not be read."""

    path: Path
    content: bytes | None
    touched_ns: int

    @property
    def owner(self) -> dict[str, Any]:
        """Whose it is; empty if it does not say."""
        owner = parse_owner(self.content or b"")
        token = owner.get("token")
        return owner if isinstance(token, str) and token.isalnum() else {}

    @property
    def is_torn(self) -> bool:
        """Whether it was read, and names nobody."""
        return self.content is not None and not self.owner

    @property
    def successor(self) -> Path:
        """The lock that follows when this one's owner is gone."""
        token = self.owner.get("token") or _torn_token(self.path, self.content or b"")
        return self.path.with_name(f"lock-{token}")


def _torn_token(path: Path, content: bytes) -> str:
    # With the name of the file, for the successor of an empty lock may be empty itself.
    return f"torn{hashlib.sha256(os.fsencode(path.name) + b'/' + content).hexdigest()[:16]}"


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the folder is made, and removed if it is empty at the end.

    A lock is taken over when its owner is gone: a dead process of this machine, or one of another
    machine that seems to have given no sign of life for five minutes and gives none during the
    minute in which this call then watches it. A lock that names nobody is taken over when it is
    left alone for fifteen seconds.

    Parameters
    ----------
    folder
        The staging folder.

    Raises
    ------
    ScanExistsError
        If another process holds it, or something that is no file has the name of a lock.
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
                _release(folder, path, owner)
                break
        with contextlib.suppress(OSError):
            folder.rmdir()


def _take(folder: Path, owner: dict[str, Any]) -> Path:
    for _ in range(_ATTEMPTS):
        chain = _chain(folder)
        if chain and chain[-1].owner.get("token") == owner["token"]:
            return chain[-1].path  # created after all, by a call that said it failed
        if chain and not _is_gone(chain[-1]):
            raise _held(folder, chain[-1].path)
        path = chain[-1].successor if chain else folder / "lock"
        if not _create(path, owner):
            continue
        try:
            # A chain that was released meanwhile no longer leads to the new file.
            chain = _chain(folder)
            if chain and chain[-1].owner.get("token") == owner["token"]:
                return path
        except OSError:
            path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)
    raise ScanExistsError(
        f"{folder} is wanted by several processes at once; expected one; try again"
    )


def _held(folder: Path, path: Path) -> ScanExistsError:
    link = _look(path)
    held_by = {} if link is None else link.owner
    return ScanExistsError(
        f"{folder} is being written by process {held_by.get('pid', 'unknown')} on "
        f"{held_by.get('host', 'an unknown host')}; expected no other ingest to this "
        f"destination; wait for it, or remove {path} if that process is gone"
    )


def _create(path: Path, owner: dict[str, Any]) -> bool:
    """Create a lock file; return False if it is there already or its folder just went away."""
    private = path.with_name(f"lock.{owner['token']}")
    if not _make_folder(path.parent):
        return False
    try:
        _write_new(private, owner)
        try:
            os.link(private, path)
        except FileExistsError:
            # A network file system that repeats a request finds the link that it has just made.
            return private.stat().st_nlink == 2
        except FileNotFoundError:
            return False
        except OSError:  # most likely a file system without links; they say so in many ways
            return _create_unlinked(path, owner)
    except (FileExistsError, FileNotFoundError):
        return False
    else:
        return True
    finally:
        with contextlib.suppress(OSError):
            private.unlink(missing_ok=True)


def _make_folder(folder: Path) -> bool:
    """Make a folder unless it is there; return False if it just went away."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        # Of a folder that goes away in between, pathlib says that it exists and is none.
        if os.path.lexists(folder) and not folder.is_dir():
            raise
        return False
    return True


def _create_unlinked(path: Path, owner: dict[str, Any]) -> bool:
    """Create a lock file where there are no hard links: it is empty for a moment."""
    _write_new(path, owner)
    if not os.path.lexists(path.with_name(f"lock-{_torn_token(path, b'')}")):
        return True
    # The moment was so long that somebody else took the empty file for a dead one's: let it be
    # that again, so that the chain leads to him.
    os.truncate(path, 0)
    return False


def _write_new(path: Path, owner: dict[str, Any]) -> None:
    """Write a lock file that must not be there, to the disk."""
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(seal_owner(owner))
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)  # a lock without an owner keeps everybody out for a while
        raise


def _release(folder: Path, held: Path, owner: dict[str, Any]) -> None:
    chain = _chain(folder)
    last = chain[-1] if chain else None
    if last is not None and last.content is None:
        raise OSError(f"{last.path} cannot be read")  # it may be ours
    is_ours = last is not None and (
        last.owner.get("token") == owner["token"] or (last.is_torn and last.path == held)
    )
    if is_ours:  # else it was taken over, or removed by hand
        # From the front: a file whose predecessor is gone belongs to no chain, so nobody can
        # follow it, while a predecessor without its successor could be followed anew.
        for link in chain:
            link.path.unlink(missing_ok=True)
        # Of killed processes; a living one whose file goes begins again.
        for private in folder.glob("lock.*"):
            private.unlink(missing_ok=True)


def _chain(folder: Path) -> list[_Link]:
    """Return the lock files as they are now, the one that counts last."""
    chain: list[_Link] = []
    link = _look(folder / "lock")
    while link is not None and link.path not in (known.path for known in chain):
        chain.append(link)
        link = _look(link.successor)
    return chain


def _look(path: Path) -> _Link | None:
    """Return a lock file as it is now; None if there is none.

    Raises
    ------
    ScanExistsError
        If it is no file: nobody holds it, and nobody could ever take it over safely.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise ScanExistsError(
                f"{path} is no regular file; expected the lock of an ingest, or nothing; remove it"
            )
        content = None
        with contextlib.suppress(PermissionError), open_plain(path) as file:
            # Opening asks a file server anew, where a mere look may be answered from memory.
            status, content = os.fstat(file.fileno()), file.read(_MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _Link(path, content, status.st_mtime_ns)


def _is_gone(link: _Link) -> bool:
    if link.is_torn:
        return not _has_living(link.path.parent) and _is_still(link, _TORN_BEATS)
    gone = is_dead(link.owner)
    # Its age alone does not tell: a clock that jumps makes the lock of a living owner old.
    return gone if gone is not None else _is_old(link) and _is_still(link, _WATCH_BEATS)


def _has_living(folder: Path) -> bool:
    """Return whether somebody alive holds a successor to which a torn lock may have led."""
    links: list[_Link | None] = []
    with contextlib.suppress(FileNotFoundError):  # released meanwhile, with the folder
        links = [_look(path) for path in folder.glob("lock-*")]
    return any(_lives(link) for link in links if link is not None and link.owner)


def _lives(link: _Link) -> bool:
    gone = is_dead(link.owner)
    return not _is_old(link) if gone is None else not gone


def _is_old(link: _Link) -> bool:
    return time.time() - link.touched_ns / 1e9 > _STALE_S


def _is_still(link: _Link, n_beats: int) -> bool:
    """Return whether a lock stays as it was seen while its owner would have touched it."""
    deadline = time.monotonic() + n_beats * HEARTBEAT_S
    while time.monotonic() < deadline:
        time.sleep(HEARTBEAT_S / 2)
        seen = _look(link.path)
        if seen != link:
            return seen is None
    return True


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with contextlib.suppress(OSError):
            os.utime(path)
