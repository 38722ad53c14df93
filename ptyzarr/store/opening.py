"""`open_store` and `open_stores`: by path or URL, one or all that a pattern names."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ptyzarr.errors import ConfigError, ScanNotFoundError
from ptyzarr.paths import check_path
from ptyzarr.store.access import RemoteAccess, is_url, remote_access
from ptyzarr.store.listing import match_urls
from ptyzarr.store.scanstore import ScanStore
from ptyzarr.store.schema import natural_key

_OPENED_AT_ONCE = 8  # stores at URLs, each of which is a round trip


def open_store(
    path: str | os.PathLike[str],
    key: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_size: str | int | None = None,
    *,
    timeout_s: float | None = None,
    attempts: int | None = None,
) -> ScanStore:
    """Open a finished store, in a folder or at a URL.

    The options are for URLs. What is None is taken from the environment (``PTYZARR_KEY``,
    ``PTYZARR_CACHE``, ``PTYZARR_CACHE_SIZE``, ``PTYZARR_TIMEOUT_S``, ``PTYZARR_ATTEMPTS``), else
    it has the default that is stated. S3 takes its credentials from ``AWS_*``.

    Parameters
    ----------
    path
        Folder, ``http(s)://...`` or ``s3://bucket/...``.
    key
        Sent as ``Authorization: Bearer KEY`` over HTTP (none).
    cache
        Folder in which fetched parts of frames are kept (none); any processes may share it.
    cache_size
        Most bytes in it (10 GiB); what was unused for longest is removed.
    timeout_s
        Seconds without a byte after which a request counts as stalled (10).
    attempts
        How often a request is made before it counts as failed (5).

    Raises
    ------
    ScanNotFoundError, SchemaError, DamagedStoreError
        See `ScanStore`.
    ConfigError
        If an option cannot work.
    DeviceError
        If a URL is given and obstore is not installed.
    StorageError
        If the server cannot be reached, refuses, or keeps failing.
    """
    if not is_url(path):
        return ScanStore(path)
    return ScanStore(path, remote_access(key, cache, cache_size, timeout_s, attempts))


def open_stores(
    pattern: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    key: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_size: str | int | None = None,
    *,
    timeout_s: float | None = None,
    attempts: int | None = None,
) -> list[ScanStore]:
    """Open every store that a glob pattern names, in natural order (``run_9`` before ``run_10``).

    ``s3://bucket/runs/*.zarr`` is looked up by listing. HTTP has no listing: there a pattern must
    be the URL of one store; `ptyzarr.catalog` lists a service. Of a list of patterns the stores of
    the first come first.

    Parameters and errors as those of `open_store`.

    Raises
    ------
    ScanNotFoundError
        If nothing matches.
    ConfigError
        If it is neither a path nor a sequence of paths.
    """
    names: list[Any] = list(pattern) if isinstance(pattern, list | tuple) else [pattern]
    if not names or not all(isinstance(name, str | os.PathLike) for name in names):
        raise ConfigError(
            f"{str(pattern)[:100]} names no stores; expected a path, a URL, a pattern such as "
            "'DIR/*.zarr', or a list of them"
        )
    texts = [check_path(name, "stores") for name in names]
    access = None
    if any(is_url(text) for text in texts):
        access = remote_access(key, cache, cache_size, timeout_s, attempts)
    paths = [path for text in texts for path in _matching(text, access)]
    if access is None:
        return [ScanStore(path) for path in paths]
    with ThreadPoolExecutor(_OPENED_AT_ONCE, "ptyzarr-open") as pool:
        return list(pool.map(_open, paths, itertools.repeat(access)))


def _matching(name: str, access: RemoteAccess | None) -> list[str]:
    """Return the paths or URLs that a pattern names, in natural order."""
    found = glob.glob(name) if access is None or not is_url(name) else match_urls(name, access)
    if not found:
        raise ScanNotFoundError(f"no store matches {name!r}; expected 'DIR/*.zarr'")
    return sorted(found, key=natural_key)


def _open(path: str, access: RemoteAccess) -> ScanStore:
    return ScanStore(path, access) if is_url(path) else ScanStore(path)
