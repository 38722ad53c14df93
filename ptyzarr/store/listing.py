"""Stores that a pattern names at a URL."""

from __future__ import annotations

import fnmatch
import glob
from urllib.parse import urlsplit

from ptyzarr.errors import ConfigError
from ptyzarr.store.access import RemoteAccess, check_url
from ptyzarr.store.remote import RemoteFolder


def match_urls(pattern: str, access: RemoteAccess) -> list[str]:
    """Return the URLs of the folders that a pattern names, found by listing.

    Parameters
    ----------
    pattern
        ``s3://bucket/runs/*.zarr``; any part of the path may hold ``*``, ``?`` and ``[...]``, which
        never match a slash. A URL without them stands for itself.
    access
        How the URL is reached.

    Raises
    ------
    ConfigError
        If the bucket is a pattern, or the URL is one of HTTP, which has no listing.
    StorageError
        If the bucket cannot be listed.
    """
    if not glob.has_magic(pattern):
        return [check_url(pattern)]
    parts = urlsplit(pattern)
    if parts.scheme.lower() != "s3" or glob.has_magic(parts.netloc) or parts.query:
        raise ConfigError(
            f"{pattern} is a pattern; expected one below a bucket, such as s3://bucket/runs/*.zarr "
            "(HTTP has no listing; '?' is not understood): name each store"
        )
    bucket = RemoteFolder(f"s3://{parts.netloc}", access)
    check_url(pattern)
    found = [""]
    for part in parts.path.strip("/").split("/"):
        if glob.has_magic(part):
            found = [path for folder in found for path in _below(bucket, folder, part)]
        else:
            found = [f"{folder}/{part}".lstrip("/") for folder in found]
    return [f"{bucket.url}/{path}" for path in found]


def _below(bucket: RemoteFolder, folder: str, pattern: str) -> list[str]:
    """Return the folders right below `folder` whose names match."""
    return [
        path
        for path in bucket.folders(folder)
        if fnmatch.fnmatchcase(path.rsplit("/", maxsplit=1)[-1], pattern)
    ]
