"""What no path may be, whoever gives it."""

from __future__ import annotations

import os

from ptyzarr.errors import ConfigError


def check_path(path: str | os.PathLike[str], what: str) -> str:
    """Return a path as text.

    Parameters
    ----------
    path
        Of a file or folder, or a URL.
    what
        What it should be the path of, for messages.

    Raises
    ------
    ConfigError
        If it is empty, which would mean the working directory, or has a NUL character, which ends
        a name for the system.
    """
    text = os.fspath(path)
    if not isinstance(text, str):
        raise ConfigError(f"{text!r} is no text; expected the path of {what}; decode it")
    if not text:
        raise ConfigError(f"an empty path is given; expected the path of {what}; name it")
    if "\0" in text:
        raise ConfigError(
            f"{text!r} has a NUL character; expected the path of {what}; remove that character"
        )
    return text
