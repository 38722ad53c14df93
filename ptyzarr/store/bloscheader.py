"""What the header of a c-blosc chunk must say before its bytes are decompressed.

c-blosc believes the header's length of the chunk and would read beyond its end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

_HEADER_NBYTES = 16
_CHECKSUM = 4
_CODECS = ["bytes", "blosc", "crc32c"]


def decoded_sizes(nodes: Mapping[str, Any]) -> dict[str, int]:
    """Return the decoded bytes of a chunk of every array that is packed as ingest packs arrays."""
    return {
        node: math.prod(entry["chunk_grid"]["configuration"]["chunk_shape"])
        * np.dtype(entry["data_type"]).itemsize
        for node, entry in nodes.items()
        if entry["node_type"] == "array" and [codec["name"] for codec in entry["codecs"]] == _CODECS
    }


def array_of(key: str) -> str:
    """Return the path of the array that a chunk file belongs to."""
    return re.split(r"/c(?:/|$)", key)[0]


def is_sound(chunk: bytes, decoded: int | None) -> bool:
    """Return whether a chunk file's header gives the lengths that it has, encoded and decoded.

    Where `decoded` is None the chunk has no such header.
    """
    if decoded is None:
        return True
    word = [int.from_bytes(chunk[at : at + 4], "little") for at in (4, 12)]
    size = len(chunk) - _CHECKSUM
    return size >= _HEADER_NBYTES and word == [decoded, size]
