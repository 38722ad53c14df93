"""What callers hand over, checked before it is used: stores that are opened, options of our own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ptyzarr.errors import ConfigError


def as_scans(stores: Any) -> list[Any]:
    """Return opened stores as a list, given one or several.

    Raises
    ------
    ConfigError
        If one of them is a path, or no store at all.
    """
    is_several = isinstance(stores, Sequence) and not isinstance(stores, str)
    scans = list(stores) if is_several else [stores]
    for number, scan in enumerate(scans):
        name = f"stores[{number}]" if is_several else "stores"
        if isinstance(scan, str | os.PathLike):
            raise ConfigError(f"{name} is the path {scan}; open it first: open_store({scan!r})")
        if not isinstance(getattr(scan, "digest", None), str):
            found = "None" if scan is None else f"a {type(scan).__name__}"
            raise ConfigError(f"{name} is {found}; expected a store; open_store opens one")
    return scans


def check_options(options: Any, kind: type, name: str) -> None:
    """Refuse options that are not of a kind, before an attribute is missing somewhere.

    Raises
    ------
    ConfigError
        If they are not.
    """
    if not isinstance(options, kind):
        raise ConfigError(
            f"{name} is {'None' if options is None else f'a {type(options).__name__}'}; expected "
            f"a {kind.__name__}"
        )
