"""Group tables kept on disk, beside the store or in the user's cache.

A cached table is a convenience: a file that is damaged, truncated or about something else is
drawn again, and a disk that refuses to take one is no error.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import operator
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import numpy as np
import xxhash
from numpy.typing import NDArray

from ptyzarr.config import GroupingConfig
from ptyzarr.grouping.claims import one_at_a_time
from ptyzarr.grouping.select import GroupTable
from ptyzarr.grouping.strategies import group_table
from ptyzarr.plainfiles import open_plain
from ptyzarr.scan import ScanLike

logger = logging.getLogger(__name__)

_MAGIC = b"ptyzarr groups\n"
_CHECKSUM_NBYTES = 16
# Raised whenever the same scan and options would give other groups or the file another form.
_TABLE_VERSION = 1


@runtime_checkable
class StoredScan(ScanLike, Protocol):
    """A scan in a store: what identifies its content, and where it lies."""

    @property
    def digest(self) -> str:
        """What identifies all content, independent of chunks and order on disk."""
        ...

    @property
    def path(self) -> str:
        """Folder or URL of the store."""
        ...


def cached_group_table(store: StoredScan, config: GroupingConfig) -> GroupTable:
    """Return the groups of `store`, from the cache where they were drawn before.

    Files lie in ``.ptyzarr-cache`` beside the store, or in the user's cache (``XDG_CACHE_HOME``,
    ``~/.cache``) where that folder cannot be written or the store is remote. ``seed=None`` means
    new groups at every call and is never cached. Of several processes that need a table at once
    one draws it and the others wait for it; see `claims`.

    Raises
    ------
    GroupingError, DtypeError, ShapeError
        As `group_table`; never for the cache's sake.
    """
    key = table_key(store, config)
    if key is None:
        return group_table(store, config)
    paths = cache_paths(store.path, key, ".groups")
    before = [_signature(path) for path in paths]
    table = _find_table(paths, key, store.n_frames)
    if table is not None:
        return table
    with one_at_a_time(paths, lambda: [_signature(path) for path in paths] != before):
        table = _find_table(paths, key, store.n_frames)
        if table is None:
            table = group_table(store, config)
            keep_content(paths, _encode_table(table, key))
    return table


def _find_table(paths: Sequence[Path], key: bytes, n_frames: int) -> GroupTable | None:
    """Return the first table that can be trusted."""
    tables = (_read_table(path, key, n_frames) for path in paths)
    return next((table for table in tables if table is not None), None)


def keep_content(paths: Sequence[Path], content: bytes) -> None:
    """Write the first of the files that can be written, if any can."""
    for path in paths:
        try:
            _write_atomically(path, content)
        except OSError as error:
            logger.info("groups are not cached in %s: %s", path.parent, error)
        else:
            break


def _signature(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file is replaced, or None where there is none to see."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def table_key(store: StoredScan, config: GroupingConfig) -> bytes | None:
    """Return what decides the groups, or None where nothing can (no usable seed)."""
    options = config.deciding_options()
    if options["seed"] is None:
        return None
    try:
        plain = {name: _plain(value) for name, value in options.items()}
    except TypeError:
        return None
    key = {"version": _TABLE_VERSION, "digest": store.digest, **plain}
    return json.dumps(key, sort_keys=True).encode()


def _plain(value: Any) -> Any:
    """Return an option as JSON has it, NumPy's numbers as Python's; raise `TypeError`."""
    if value is None or isinstance(value, bool | str | tuple):
        return value
    return operator.index(value) if hasattr(value, "__index__") else float(value)


def cache_paths(path: str, key: bytes, suffix: str) -> list[Path]:
    """Return where a file about `key` and the store at `path` may lie, best first."""
    name = xxhash.xxh3_128_hexdigest(key) + suffix
    return [folder / name for folder in _cache_folders(path)]


def _cache_folders(path: str) -> list[Path]:
    """Return the folders in which files of the store at `path` may lie, best first."""
    folders = []
    if "://" not in path:
        folders.append(Path(path).absolute().parent / ".ptyzarr-cache")
    user = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(user):
        folders.append(Path(user) / "ptyzarr")
    else:
        # No home folder, no cache.
        with contextlib.suppress(RuntimeError):
            folders.append(Path.home() / ".cache" / "ptyzarr")
    return folders


def _encode_table(table: GroupTable, key: bytes) -> bytes:
    """Return the file: magic, checksum of all that follows, key line, two npy arrays."""
    parts: list[Any] = [key + b"\n"]
    for array in map(np.ascontiguousarray, (table.nn_indices, table.seeds)):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, np.lib.format.header_data_from_array_1_0(array)
        )
        parts += [header.getvalue(), array.data]
    content = xxhash.xxh3_128()
    for part in parts:
        content.update(part)
    # Joined once: a table may be a good part of the loader's budget.
    return b"".join([_MAGIC, content.digest(), *parts])


def _read_table(path: Path, key: bytes, n_frames: int) -> GroupTable | None:
    """Return the table in the file, or None where there is none that can be trusted."""
    try:
        with open_plain(path) as file:
            table = _decode_table(file, key)
    except OSError:
        return None
    if table is None or not _is_within(table, n_frames):
        logger.info("cached groups in %s are damaged or of another scan; drawn again", path)
        return None
    return table


def _decode_table(file: BinaryIO, key: bytes) -> GroupTable | None:
    """Return the table in `file`, or None unless it is whole and about `key`."""
    magic, checksum = file.read(len(_MAGIC)), file.read(_CHECKSUM_NBYTES)
    line = file.read(len(key) + 1)
    if magic != _MAGIC or line != key + b"\n":
        return None
    content = xxhash.xxh3_128(line)
    try:
        arrays = [_read_array(file, content) for _ in range(2)]
    except ValueError:
        return None
    if content.digest() != checksum or file.read(1):
        return None
    return GroupTable(*arrays)


def _read_array(file: BinaryIO, content: xxhash.xxh3_128) -> NDArray[Any]:
    """Return the npy array that begins here, in memory of its own, its bytes added to `content`.

    Raises
    ------
    ValueError
        If there is none, or not all of it.
    """
    start = file.tell()
    np.lib.format.read_magic(file)
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    first = file.tell()
    # Before memory is taken for what a damaged header claims.
    nbytes = math.prod(shape) * dtype.itemsize
    if is_fortran or dtype.hasobject or first + nbytes > file.seek(0, os.SEEK_END):
        raise ValueError(f"{shape} {dtype} in a file that ends before")
    file.seek(start)
    content.update(file.read(first - start))
    array = np.empty(shape, dtype)
    if file.readinto(array.reshape(-1).view(np.uint8).data) != nbytes:  # type: ignore[attr-defined]
        raise ValueError("the file ends before the array")
    content.update(array.data)
    return array


def _is_within(table: GroupTable, n_frames: int) -> bool:
    """Return whether every number in `table` can be an acquisition index."""
    members, seeds = table.nn_indices, table.seeds
    return (
        members.ndim == 2
        and seeds.shape == members.shape[:1]
        and all(
            array.dtype in (np.int32, np.int64)
            and (array.size == 0 or bool(array.min() >= 0 and array.max() < n_frames))
            for array in (members, seeds)
        )
    )


def _write_atomically(path: Path, content: bytes) -> None:
    """Write the file whole or not at all; raise `OSError` where the disk refuses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        # Gone already unless something failed.
        with contextlib.suppress(OSError):
            temporary.unlink()
