"""How a store that is far away is reached: its URL, the key, the cache, patience."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from ptyzarr.config import parse_size
from ptyzarr.errors import ConfigError

SCHEMES = ("http", "https", "s3")
CACHE_SIZE = "10GiB"
#: Environment variable that stands for each option which is not given.
VARIABLES = {
    "key": "PTYZARR_KEY",
    "cache": "PTYZARR_CACHE",
    "cache_size": "PTYZARR_CACHE_SIZE",
    "timeout_s": "PTYZARR_TIMEOUT_S",
    "attempts": "PTYZARR_ATTEMPTS",
}


def is_url(path: str | os.PathLike[str]) -> bool:
    """Return whether a path names something that is not in the file system."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", os.fspath(path)) is not None


def scan_name(path: str | os.PathLike[str]) -> str:
    """Return the name of the scan that a store's folder or URL holds.

    It is the last part without ``.zarr``; the service serves scan NAME at ``.../NAME/zarr``.
    """
    parts = os.fspath(path).replace(os.sep, "/").rstrip("/").split("/")
    if parts[-1] == "zarr" and len(parts) > 1 and is_url(path):
        parts.pop()
    return parts[-1].removesuffix(".zarr")


def check_url(url: str) -> str:
    """Return a URL of a store without a slash at its end.

    Raises
    ------
    ConfigError
        If it is not one that can be opened.
    """
    parts = urlsplit(url)
    if parts.scheme.lower() not in SCHEMES or not parts.netloc:
        raise ConfigError(
            f"{url} cannot be opened; expected http://HOST/..., https://HOST/... or s3://BUCKET/..."
        )
    if "@" in parts.netloc:
        # Not repeated: a URL is shown, logged and pickled.
        raise ConfigError(
            "a URL with a name or password is refused; expected none, for URLs are shown; give "
            "key=..., or AWS_* in the environment"
        )
    if parts.query or parts.fragment:
        raise ConfigError(f"{url} has a query or fragment; expected the address of a folder")
    names = unquote(parts.path).strip("/").split("/")
    if parts.scheme.lower() == "s3" and len(names) > 1 and {"", ".", ".."} & set(names):
        raise ConfigError(
            f"{url} has an empty name, '.' or '..' between its slashes; expected "
            "s3://BUCKET/NAME/NAME; check it"
        )
    return url.rstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteAccess:
    """Options for stores at URLs; plain and picklable.

    Attributes
    ----------
    key
        Sent as ``Authorization: Bearer KEY`` over HTTP; None for none.
    cache
        Folder that keeps fetched parts of shards; None for none.
    cache_size
        Most bytes in it.
    timeout_s
        Seconds without a byte after which an answer counts as stalled.
    attempts
        How often a request is made before it counts as failed.
    """

    key: str | None = field(default=None, repr=False)
    cache: str | None = None
    cache_size: int = parse_size(CACHE_SIZE)
    timeout_s: float = 10.0
    attempts: int = 5


def remote_access(
    key: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_size: str | int | None = None,
    timeout_s: float | None = None,
    attempts: int | None = None,
) -> RemoteAccess:
    """Return the options given, those of the environment for what is None, defaults for the rest.

    Raises
    ------
    ConfigError
        If one cannot work; the key is never repeated.
    """
    key = _choose("key", key)
    if key is not None and not re.fullmatch(r"[\x21-\x7e]+", key):
        raise ConfigError(
            "the key is empty or has characters that no header may hold; expected visible ASCII; "
            "check it"
        )
    cache = _choose("cache", cache)
    return RemoteAccess(
        key=key,
        # Workers may have other working directories.
        cache=None if cache is None else os.path.abspath(cache),
        cache_size=parse_size(_choose("cache_size", cache_size) or CACHE_SIZE),
        timeout_s=_number("timeout_s", timeout_s, 10.0, float, 0.001),
        attempts=_number("attempts", attempts, 5, int, 1),
    )


def _choose(name: str, given: Any) -> Any:
    return given if given is not None else os.environ.get(VARIABLES[name]) or None


def _number(name: str, given: Any, default: Any, kind: type[Any], minimum: float) -> Any:
    value = _choose(name, given)
    if value is None:
        return default
    try:
        number = kind(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or not minimum <= number < 1e9:
        raise ConfigError(
            f"{name} is {value!r}; expected a number of at least {minimum} (or in "
            f"{VARIABLES[name]})"
        )
    return number
