"""The store schema, version 1: node names, dimension names, codecs. See docs/store-format.md."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import SchemaError
from ptyzarr.scan import FIELDS, Member

SCHEMA_VERSION = 1
ATTRIBUTE = "ptyzarr"
ROOT_KEY = "zarr.json"
EXTRA = "extra"
MASKED = "masked"
COUNT_DTYPES = ("uint8", "uint16", "uint32")
#: Counts above 16 bits are used only where float32 holds them exactly.
MAX_COUNT = 2**24 - 1


def array_dims(node: str, ndim: int) -> tuple[str, ...]:
    """Return the dimension names of a node, unique per axis for everything under ``extra``.

    Raises
    ------
    SchemaError
        If a field of the schema has another number of axes.
    """
    field = FIELDS.get(node)
    if field is None and node.startswith(f"{MASKED}/"):
        return ("masked_pixel",)
    if field is None:
        return tuple(f"{node.rsplit('/', maxsplit=1)[-1]}_{axis}" for axis in range(ndim))
    dims = field.dims
    if dims[0] == "[mode]":
        dims = ("mode", *dims[1:]) if ndim == len(dims) else dims[1:]
    if len(dims) != ndim:
        raise SchemaError(f"{node!r} has {ndim} axes; expected {len(dims)} ({', '.join(dims)})")
    return dims


def member_to_json(member: Member) -> dict[str, Any]:
    """Return the JSON form of a member; the npy header is latin-1 text (its bytes one to one)."""
    return {
        "name": member.name,
        "size": member.size,
        "crc32": member.crc32,
        "node": member.node,
        "column": member.column,
        "header": member.header.decode("latin-1"),
    }


def member_from_json(entry: Mapping[str, Any]) -> Member:
    """Return the member that `member_to_json` described."""
    return Member(
        name=entry["name"],
        size=int(entry["size"]),
        crc32=None if entry["crc32"] is None else int(entry["crc32"]),
        node=entry["node"],
        column=entry["column"],
        header=entry["header"].encode("latin-1"),
    )


def source_identity(members: list[dict[str, Any]]) -> list[tuple[str, int, int | None]]:
    """Return (name, size, CRC-32) of each member: equal for a copied or touched file."""
    return sorted((entry["name"], entry["size"], entry["crc32"]) for entry in members)


def little_endian(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return `dtype` with the byte order in which digests and stores are written."""
    return dtype.newbyteorder("<")


def array_digest(array: NDArray[Any]) -> str:
    """Return the sha256 of an array's dtype, shape and little-endian C-order values."""
    state = start_array_digest(array.dtype, array.shape)
    state.update(array_bytes(array))
    return state.hexdigest()


def array_bytes(array: NDArray[Any]) -> memoryview:
    """Return an array's little-endian C-order bytes, without a copy where they are in memory."""
    little = np.ascontiguousarray(array, little_endian(array.dtype))
    return little.reshape(-1).view(np.uint8).data


def start_array_digest(dtype: np.dtype[Any], shape: tuple[int, ...]) -> hashlib._Hash:
    """Return a sha256 that already holds dtype and shape; feed it little-endian C-order bytes."""
    return hashlib.sha256(f"{little_endian(dtype).str}{tuple(map(int, shape))}".encode())


def frames_digest(amplitude_dtype: np.dtype[Any], hashes: NDArray[np.uint64], size: int) -> str:
    """Return the digest of all frames from their hashes in acquisition order.

    Parameters
    ----------
    amplitude_dtype
        Dtype of the amplitudes that were hashed.
    hashes : (n,) uint64
    size
        Frame width in pixels.
    """
    state = hashlib.sha256(f"{little_endian(amplitude_dtype).str}{len(hashes)}x{size}".encode())
    state.update(np.ascontiguousarray(hashes, "<u8").data)
    return state.hexdigest()


def store_digest(frames: str, contents: Mapping[str, str]) -> str:
    """Return the digest of a whole scan: the frames' digest and that of every other array."""
    state = hashlib.sha256(frames.encode())
    for node in sorted(contents):
        state.update(f"\n{node} {contents[node]}".encode())
    return state.hexdigest()


def natural_key(text: str) -> list[Any]:
    """Return a sort key by which ``run_10`` follows ``run_9``."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", text))]
