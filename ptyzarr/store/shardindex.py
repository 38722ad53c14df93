"""The index at the end of a shard: where its chunks are, and what is said when they are not."""

from __future__ import annotations

import os
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import DamagedStoreError
from ptyzarr.store.access import is_url
from ptyzarr.store.native import BAD_CHECKSUM, SHORT_READ

_CHECKSUM = 4
#: What is to be done about damage in a folder.
REPAIR = "the store is damaged, 'ptyzarr repair' mends it from its source"
_FAR = (
    "the transfer, a proxy or the store is at fault; compare 'ptyzarr verify' of the URL with that "
    "where the store lies"
)


def cure_for(where: str) -> str:
    """Return what is to be done about damage at a path or URL; folders alone can be repaired."""
    return _FAR if is_url(where) else REPAIR


def read_index(
    fd: int, path: Path, size: int, n_chunks: int, tail: str | None = None
) -> NDArray[np.int64]:
    """Return the (n_chunks, 2) int64 offsets and lengths of a shard; -1 where a chunk is absent.

    Raises
    ------
    DamagedStoreError
        If the index fails its checksum, is that of another shard (its checksum is not `tail`) or
        points outside the file.
    """
    nbytes = index_nbytes(n_chunks)
    return parse_index(_read_at(fd, nbytes, max(size - nbytes, 0)), path, size, n_chunks, tail)


def index_nbytes(n_chunks: int) -> int:
    """Return the size of the index at the end of a shard of `n_chunks`, checksum included."""
    return 16 * n_chunks + _CHECKSUM


def parse_index(
    raw: bytes | memoryview,
    path: object,
    size: int,
    n_chunks: int,
    tail: str | None = None,
    cure: str = REPAIR,
) -> NDArray[np.int64]:
    """Return what `read_index` does, from the last bytes of a shard.

    `path` and `cure`, what is to be done about damage, are for messages.
    """
    nbytes = index_nbytes(n_chunks)
    raw = bytes(raw)
    body, checksum = raw[:-_CHECKSUM], raw[-_CHECKSUM:]
    if len(raw) != nbytes or google_crc32c.value(body).to_bytes(4, "little") != checksum:
        raise DamagedStoreError(
            f"{path}: the shard's index fails its checksum; expected the one that ingest wrote; "
            f"{cure}"
        )
    if tail is not None and checksum.hex() != tail:
        raise DamagedStoreError(
            f"{path}: the index is that of another shard, as where files were swapped; expected "
            f"the one that ingest wrote; {cure}"
        )
    index = np.frombuffer(body, dtype="<u8").reshape(n_chunks, 2).astype(np.int64)
    # Each is compared before their sum, which could overflow.
    limit = size - nbytes
    if (index > limit).any() or (index.sum(axis=1) > limit).any():
        raise DamagedStoreError(
            f"{path}: the shard's index points outside the file; expected chunks within it; {cure}"
        )
    return index


def _read_at(fd: int, nbytes: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(fd, nbytes, offset)
    # The descriptor is not shared yet, so its one file position is ours.
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, nbytes)


def chunk_ranges(
    index: NDArray[np.int64], inner: NDArray[np.int64], path: object
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return offset and length of each chunk; raise `DamagedStoreError` if one is absent."""
    offsets, lengths = index[inner, 0], index[inner, 1]
    absent = (offsets < 0) | (lengths < 0)
    if absent.any():
        raise DamagedStoreError(
            f"{path}: chunk {int(inner[np.argmax(absent)])} is not in the "
            "shard's index; expected every chunk; run 'ptyzarr verify' and ingest again"
        )
    return offsets, lengths


def chunk_damage(path: object, status: int, chunk: int, cure: str = REPAIR) -> DamagedStoreError:
    """Return the error for a chunk that could not be read or decoded."""
    if status == SHORT_READ:
        return DamagedStoreError(
            f"{path} ended or failed while chunk {chunk} was read; expected all of it; check the "
            f"disk; {cure}"
        )
    what = "fails its checksum" if status == BAD_CHECKSUM else "cannot be decoded"
    return DamagedStoreError(f"{path}: chunk {chunk} {what}; expected what ingest wrote; {cure}")
