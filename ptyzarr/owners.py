"""Who holds a file that stands for a right: a process, described so that it can be told apart."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Whether signal 0 asks if a process is there; on Windows it would end it.
CAN_PROBE = os.name == "posix"
_WORDS = frozenset(("token", "host", "pid", "started"))
_SEAL = "seal"


def describe_self() -> dict[str, Any]:
    """Return this process as JSON: a new token, host, number and when it started."""
    pid = os.getpid()
    return {
        "token": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "pid": pid,
        "started": start_time(pid),
    }


def seal_owner(owner: Mapping[str, Any]) -> bytes:
    """Return a description as the bytes of a file, in which any change can be told."""
    return json.dumps({**owner, _SEAL: _digest(owner)}).encode()


def parse_owner(text: str | bytes) -> dict[str, Any]:
    """Return the description in a file; empty where it is none, not whole, or was changed."""
    try:
        owner = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(owner, dict):
        return {}
    seal = owner.pop(_SEAL, None)
    # A description without a seal has no word but ours: else the name of the seal was damaged.
    whole = _WORDS.issuperset(owner) if seal is None else seal == _digest(owner)
    return owner if whole else {}


def _digest(owner: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(owner, sort_keys=True).encode()).hexdigest()[:16]


def is_dead(owner: Mapping[str, Any]) -> bool | None:
    """Return whether a process is gone; None where only its heartbeat can tell."""
    pid = owner.get("pid")
    if not CAN_PROBE or owner.get("host") != socket.gethostname() or type(pid) is not int:
        return None
    started = owner.get("started")
    return not _is_alive(pid) or (started is not None and start_time(pid) != started)


def start_time(pid: int) -> str | None:
    """Return when a process started, so that a reused number is told apart; None if unknown."""
    status = _status(pid)
    return status[19] if len(status) > 19 else None


def _is_alive(pid: int) -> bool:
    # A killed process whose parent has not asked for its status answers signals for ever.
    if _status(pid)[:1] == ["Z"]:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _status(pid: int) -> list[str]:
    """Return the fields of proc(5)'s ``stat`` from the third on; empty where there is none."""
    try:
        # The name before them may hold spaces and parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
