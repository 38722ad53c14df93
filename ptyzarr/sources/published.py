"""Members that a scan has without a file: the published names, npy headers, checksums."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from ptyzarr.scan import Member
from ptyzarr.sources.badpixels import BAD_PIXELS_KEY
from ptyzarr.sources.npz import (
    FRAME_KEYS,
    OBJECT_KEY,
    POSITION_KEYS,
    PROBE_KEY,
    SCAN_INDEX_KEY,
    START_KEYS,
)

PUBLISHED_KEYS = frozenset(
    (
        *FRAME_KEYS,
        *POSITION_KEYS,
        *START_KEYS,
        SCAN_INDEX_KEY,
        PROBE_KEY,
        OBJECT_KEY,
        BAD_PIXELS_KEY,
    )
)
"""Keys that are no extra members of a scan."""

_COLUMNS = {"positions": POSITION_KEYS, "positions_start": START_KEYS}
_KEYS = {
    "scan_index": SCAN_INDEX_KEY,
    "probe_guess": PROBE_KEY,
    "object_guess": OBJECT_KEY,
    "bad_pixels": BAD_PIXELS_KEY,
}


def published_members(
    frames_key: str,
    frames_shape: tuple[int, ...],
    frames_dtype: np.dtype[Any],
    fields: Mapping[str, NDArray[Any] | None],
) -> tuple[Member, ...]:
    """Return the members by which an export writes a scan that no file holds.

    Parameters
    ----------
    frames_key
        Name of the frames; the first published one unless it is published.
    frames_shape, frames_dtype
        Of the frames, which are not read: their member has no checksum.
    fields
        Values by node; positions are (n, 2).
    """
    key = frames_key if frames_key in FRAME_KEYS else FRAME_KEYS[0]
    header = _header(frames_dtype, frames_shape)
    size = len(header) + math.prod(frames_shape) * frames_dtype.itemsize
    members = [Member(f"{key}.npy", size, None, "diffraction", None, header)]
    for node, values in fields.items():
        if values is None:
            continue
        if node in _COLUMNS:
            members += [
                array_member(name, node, values[:, column], column)
                for column, name in enumerate(_COLUMNS[node])
            ]
        else:
            members.append(array_member(_KEYS[node], node, values, None))
    return tuple(members)


def array_member(key: str, node: str, values: NDArray[Any], column: int | None = None) -> Member:
    """Return the member that `numpy.save` would make of an array of a core dtype."""
    header = _header(values.dtype, values.shape)
    body = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    crc = isal_zlib.crc32(body, isal_zlib.crc32(header))
    return Member(f"{key}.npy", len(header) + len(body), crc, node, column, header)


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    descr = npy_format.dtype_to_descr(dtype.newbyteorder("<"))
    fields = {"descr": descr, "fortran_order": False, "shape": tuple(map(int, shape))}
    npy_format.write_array_header_1_0(stream, fields)
    return stream.getvalue()


class ArrayReader:
    """An array at hand, or one that is read when it is sliced, as a `MemberReader`.

    Parameters
    ----------
    array
        NumPy array, or what is sliced like one.
    is_raw
        Whether its bytes are those of a whole member.
    """

    def __init__(self, array: Any, *, is_raw: bool = False) -> None:
        self._array = array
        self.is_raw = is_raw

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return tuple(self._array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the array, native byte order."""
        dtype: np.dtype[Any] = self._array.dtype
        return dtype.newbyteorder("=")

    def blocks(self, max_bytes: int) -> Iterator[NDArray[Any]]:
        """Yield the array in C order, cut along axis 0."""
        shape, dtype = self.shape, self.dtype
        if not shape:
            yield np.asarray(self._array[...], dtype)
            return
        row_bytes = math.prod(shape[1:]) * dtype.itemsize
        step = max(1, max_bytes // max(1, row_bytes))
        for start in range(0, shape[0] if row_bytes else 0, step):
            yield np.asarray(self._array[start : start + step], dtype)
