"""Claims: one process makes a file, the others wait for it, and nobody waits for the dead.

A claim is a file created exclusively beside the one to be made; it says whose it is, and its
owner touches it as long as it works. That needs neither ``flock`` nor equal clocks, which a
network file system may lack. A claim saves work and protects nothing: the file itself is
replaced in one step, so two processes that both make it do no harm.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from ptyzarr.owners import describe_self, is_dead, parse_owner, seal_owner
from ptyzarr.plainfiles import open_plain, read_plain

logger = logging.getLogger(__name__)

HEARTBEAT_S: Final = 5.0
#: Without a sign of life for so long, the owner of a claim is taken for dead.
STALE_S: Final = 30.0
#: Nobody waits longer, whatever the owner does.
PATIENCE_S: Final = 600.0
_FIRST_PAUSE_S: Final = 0.005
_LONGEST_PAUSE_S: Final = 1.0
_ATTEMPTS: Final = 8
_HELD: Final = "held"
_RELEASED: Final = "released"
_DEAD: Final = "dead"


@contextlib.contextmanager
def one_at_a_time(paths: Sequence[Path], is_made: Callable[[], bool]) -> Iterator[None]:
    """Enter when it is this process's turn to make a file, or nothing is gained by waiting.

    That is: the claim is ours; or another process had it and `is_made` holds, or gave it up; or
    no claim can be made anywhere; or the wait took ten minutes. The claim of a process that died
    is taken over: at once on the machine where it ran, after 30 s without a sign of life elsewhere.

    Parameters
    ----------
    paths
        Where the file may lie, best first. The claim lies beside the first that can have one.
    is_made
        Whether the file is there.
    """
    claim, token = _acquire_first(paths, is_made)
    if token is None:
        yield
        return
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(claim, stop), name="ptyzarr-claim", daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        _release(claim, token)


def _acquire_first(paths: Sequence[Path], is_made: Callable[[], bool]) -> tuple[Path, str | None]:
    """Return the claim beside the first file that can have one, and its token if it is ours."""
    claim = Path()
    for path in paths:
        claim = path.with_suffix(".claim")
        try:
            return claim, _acquire(claim, is_made)
        except OSError as error:
            logger.info("%s cannot be claimed: %s", path, error)
    return claim, None


def _acquire(claim: Path, is_made: Callable[[], bool]) -> str | None:
    """Return the token of our claim; None where another process had one that we waited for.

    Raises
    ------
    OSError
        If files cannot be made there.
    """
    owner = describe_self()
    watch = _Watch(claim)
    deadline = time.monotonic() + PATIENCE_S
    pause_s = _FIRST_PAUSE_S
    while not _create(claim, owner):
        status = watch.look()
        if status == _DEAD:
            logger.info("%s is of a process that is gone; taken over", claim)
            watch.remove()
            continue
        if status == _RELEASED or is_made() or time.monotonic() > deadline:
            _renew_view(claim, owner)
            return None
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    return str(owner["token"])


class _Watch:
    """Judges the owner of a claim by its process, or by its heartbeat on our own clock."""

    def __init__(self, claim: Path) -> None:
        self._claim = claim
        self._seen: tuple[bytes, int] | None = None
        self._since_s = 0.0

    def look(self) -> str:
        """Return whether the claim is held, released, or of a process that is gone."""
        try:
            # Opening asks a file server anew, where a mere look may be answered from memory.
            with open_plain(self._claim) as file:
                seen = file.read(), os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return _RELEASED
        except OSError:
            # Not readable, or replaced while it was read: no sign of life.
            seen = self._seen or (b"", 0)
        now_s = time.monotonic()
        if seen != self._seen:
            self._seen, self._since_s = seen, now_s
        is_silent = now_s - self._since_s > STALE_S
        return _DEAD if is_dead(parse_owner(seen[0])) or is_silent else _HELD

    def remove(self) -> None:
        """Remove the claim that was judged, unless another took its place meanwhile."""
        with contextlib.suppress(FileNotFoundError):
            if self._seen is None or not self._seen[0] or read_plain(self._claim) == self._seen[0]:
                self._claim.unlink()


def _create(claim: Path, owner: dict[str, Any]) -> bool:
    """Create a claim, and its folder; return False if it is there already."""
    for attempt in range(_ATTEMPTS):
        claim.parent.mkdir(parents=True, exist_ok=True)
        try:
            fd = os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            break
        except FileExistsError:
            return False
        except FileNotFoundError:
            # Who released the last claim removed the empty folder.
            if attempt == _ATTEMPTS - 1:
                raise
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(seal_owner(owner))
    except BaseException:
        claim.unlink(missing_ok=True)
        raise
    return True


def _renew_view(claim: Path, owner: dict[str, Any]) -> None:
    """Make and remove a file: a file server's client may keep an old view of the folder till then.

    It would go on saying that the file waited for is not there.
    """
    path = claim.with_suffix(f".{owner['token']}")
    with contextlib.suppress(OSError):
        path.touch()
        path.unlink()


def _release(claim: Path, token: str) -> None:
    """Remove our claim, and the folder if nothing came into it; another's claim stays."""
    with contextlib.suppress(OSError):
        if parse_owner(read_plain(claim)).get("token") == token:
            claim.unlink()
            claim.parent.rmdir()


def _beat(claim: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with contextlib.suppress(OSError):
            os.utime(claim)
