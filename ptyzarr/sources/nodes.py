"""Names that the members of a source get as nodes of a store."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from ptyzarr.errors import SourceError

_PLAIN = re.compile(r"(?!__)[A-Za-z0-9_-]{1,100}")
_NAME_SHOWN = 80


def label(name: str) -> str:
    """Return a member's name or key for messages: quoted, on one line, cut where it is very long.

    Parameters
    ----------
    name
        As the file spells it.
    """
    if len(name) > _NAME_SHOWN:
        return f"{name[:_NAME_SHOWN]!r}... ({len(name)} characters)"
    return repr(name)


def node_name(key: str) -> str:
    """Return the node name of a member key that no other key competes with.

    Keys of 1 to 100 letters, digits, ``_`` and ``-`` without a leading ``__`` keep their name;
    any other becomes ``x-`` and the first 16 hex digits of the SHA-256 of its UTF-8 bytes, since
    HTTP clients undo percent-encoding and a store's keys must survive them.

    Parameters
    ----------
    key
        Member name without ``.npy``.
    """
    return key if _PLAIN.fullmatch(key) else _hashed(key)


def node_names(keys: Iterable[str]) -> dict[str, str]:
    """Return the node name of each key, no two equal even where case does not count.

    Parameters
    ----------
    keys
        Member keys in file order; a later one that differs from an earlier one in case only gets
        the hashed form.

    Raises
    ------
    SourceError
        If two keys still collide.
    """
    owners: dict[str, str] = {}
    names: dict[str, str] = {}
    for key in keys:
        node = node_name(key)
        if node.lower() in owners:
            node = _hashed(key)
        if node.lower() in owners:
            raise SourceError(
                f"members {label(owners[node.lower()])} and {label(key)} both become node "
                f"{node!r}; expected different names; rename one of them"
            )
        owners[node.lower()] = key
        names[key] = node
    return names


def _hashed(key: str) -> str:
    return f"x-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
