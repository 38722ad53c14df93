"""Canonical factors kept on disk beside the groups that they belong to.

A factor follows from the power of every frame and the whole selection: for a million groups that
takes longer than opening the store, and gives four bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from ptyzarr.config import GroupingConfig
from ptyzarr.grouping.cache import StoredScan, cache_paths, keep_content, table_key
from ptyzarr.grouping.coords import normalization_factor
from ptyzarr.grouping.select import GroupTable
from ptyzarr.plainfiles import open_plain

_MAGIC: Final = b"ptyzarr factor\n"
_MOST_NBYTES: Final = 64 * 1024


class PoweredScan(StoredScan, Protocol):
    """A scan in a store that knows the power of its frames."""

    @property
    def frame_size(self) -> int:
        """N, width of a frame."""
        ...

    @property
    def frame_power(self) -> NDArray[np.float64]:
        """(n,) power of every frame."""
        ...


def cached_factor(scan: PoweredScan, config: GroupingConfig, table: GroupTable) -> np.float32:
    """Return the canonical factor of a selection, from the cache where it was computed before.

    Parameters
    ----------
    scan, config
        Of which scan, and by which options, the groups were drawn.
    table
        The groups, all of them.

    Returns
    -------
    float32
        See `normalization_factor`; the same bits whether it was computed now or before.
    """
    key = table_key(scan, config)
    paths = [] if key is None else cache_paths(scan.path, key, ".factor")
    for path in paths:
        known = _read_factor(path, key or b"")
        if known is not None:
            return known
    factor = normalization_factor(scan.frame_power, table.nn_indices, scan.frame_size)
    if key is not None:
        content = key + b"\n" + float(factor).hex().encode()
        keep_content(paths, _MAGIC + xxhash.xxh3_128_digest(content) + content)
    return factor


def _read_factor(path: Path, key: bytes) -> np.float32 | None:
    """Return the factor in a file, or None unless it is whole and about `key`."""
    try:
        with open_plain(path) as file:
            raw = file.read(_MOST_NBYTES)
    except OSError:
        return None
    start = len(_MAGIC) + 16
    checksum, content = raw[len(_MAGIC) : start], raw[start:]
    if not raw.startswith(_MAGIC) or xxhash.xxh3_128_digest(content) != checksum:
        return None
    about, _, text = content.rpartition(b"\n")
    return np.float32(float.fromhex(text.decode())) if about == key else None
