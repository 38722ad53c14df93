"""Where a store will be published: told before any work whether that can be."""

from __future__ import annotations

import os
from pathlib import Path

from ptyzarr.config import IngestConfig
from ptyzarr.errors import ScanExistsError
from ptyzarr.paths import check_path


def check_target(destination: str | os.PathLike[str], config: IngestConfig) -> str:
    """Return the destination of a store, unless it is a link on which no folder can be renamed.

    Parameters
    ----------
    destination
        Folder or URL.
    config
        With ``overwrite`` the link is replaced, not what it leads to.

    Raises
    ------
    ConfigError
        If it cannot be a path.
    ScanExistsError
        If it is a link to an empty folder; what other links lead to is judged as if it were there.
    """
    name = check_path(destination, "the store")
    target = Path(os.path.abspath(name))
    is_empty_link = target.is_symlink() and target.is_dir() and not any(target.iterdir())
    if is_empty_link and not config.overwrite:
        raise ScanExistsError(
            f"{name} is a link to the empty folder {os.path.realpath(target)}; expected nothing "
            "there; give that folder itself, or remove the link"
        )
    return name
