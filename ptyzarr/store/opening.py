"""`open_store` and `open_stores`: by path or URL, one or all that a pattern names."""

from __future__ import annotations

import glob
import itertools
import os
from concurrent.futures import ThreadPoolExecutor

from ptyzarr.errors import ScanNotFoundError
from ptyzarr.paths import check_path
from ptyzarr.store.access import is_url, remote_access
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
    pattern: str | os.PathLike[str],
    key: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_size: str | int | None = None,
    *,
    timeout_s: float | None = None,
    attempts: int | None = None,
) -> list[ScanStore]:
    """Open every store that a glob pattern names, in natural order (``run_9`` before ``run_10``).

    ``s3://bucket/runs/*.zarr`` is looked up by listing. HTTP has no listing: there a pattern must
    be the URL of one store.

    Parameters and errors as those of `open_store`.

    Raises
    ------
    ScanNotFoundError
        If nothing matches.
    """
    name = check_path(pattern, "stores")
    access = None
    if is_url(name):
        access = remote_access(key, cache, cache_size, timeout_s, attempts)
    found = glob.glob(name) if access is None else match_urls(name, access)
    if not found:
        raise ScanNotFoundError(f"no store matches {name!r}; expected 'DIR/*.zarr'")
    paths = sorted(found, key=natural_key)
    if access is None:
        return [ScanStore(path) for path in paths]
    with ThreadPoolExecutor(_OPENED_AT_ONCE, "ptyzarr-open") as pool:
        return list(pool.map(ScanStore, paths, itertools.repeat(access)))
