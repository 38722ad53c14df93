"""A mask of bad pixels in a file: one array of an npy or an npz, not 0 where a pixel is bad."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import DtypeError, ShapeError, SourceError
from ptyzarr.sources.fileaccess import SourceFile
from ptyzarr.sources.memberbytes import MemberBytes
from ptyzarr.sources.members import read_array
from ptyzarr.sources.nodes import label
from ptyzarr.sources.npyheader import HEAD_LENGTH, MAGIC, NpyHeader, parse_header
from ptyzarr.sources.zipdir import read_directory

BAD_PIXELS_KEY = "bad_pixels"


def read_bad_pixels(path: str | os.PathLike[str], frame_size: int) -> NDArray[np.bool_]:
    """Return the mask in a file; nothing is allocated before its shape is known to be right.

    Parameters
    ----------
    path
        An npy, or an npz with one array or with one of the name ``bad_pixels``.
    frame_size
        Width N of the frames.

    Returns
    -------
    (N, N) bool
        Rows y, columns x; True where the file has anything but 0.

    Raises
    ------
    ScanNotFoundError
        If there is no such file.
    SourceError
        If it is neither, is damaged, holds several arrays, values that are not finite, or calls
        every pixel bad.
    ShapeError, DtypeError
        If the array is not (N, N), or of no real numbers.
    StorageError
        If the file system refuses a read.
    """
    file = SourceFile(path)
    head = file.read(0, min(file.size, HEAD_LENGTH))
    if head.startswith(MAGIC):
        header = parse_header(head, file.size, file.name)
        _check(header, frame_size, file.name)
        raw = file.read(header.length, header.nbytes)
        values = np.frombuffer(raw, header.dtype).reshape(header.shape)
        return _as_mask(values.T if header.is_fortran else values, file.name)
    if not head.startswith(b"PK"):
        raise SourceError(
            f"{file.name}: is neither an npy nor an npz; expected a mask of bad pixels; write it "
            "with numpy.save"
        )
    member, header = _choose(file)
    _check(header, frame_size, member.what)
    return _as_mask(read_array(member, header), member.what)


def _choose(file: SourceFile) -> tuple[MemberBytes, NpyHeader]:
    """Return the member that holds the mask."""
    arrays = {}
    for entry in read_directory(file):
        member = MemberBytes(file, entry)
        head = member.head(HEAD_LENGTH)
        if head.startswith(MAGIC):
            arrays[entry.name.removesuffix(".npy")] = member, head
    key = BAD_PIXELS_KEY if BAD_PIXELS_KEY in arrays else next(iter(arrays), "")
    if not arrays or (key != BAD_PIXELS_KEY and len(arrays) > 1):
        found = ", ".join(label(name) for name in list(arrays)[:20]) or "none"
        raise SourceError(
            f"{file.name}: holds the arrays {found}; expected one, or one named "
            f"{BAD_PIXELS_KEY!r}; write the mask with numpy.save"
        )
    member, head = arrays[key]
    return member, parse_header(head, member.entry.size, member.what)


def _check(header: NpyHeader, frame_size: int, what: str) -> None:
    if header.shape != (frame_size, frame_size):
        raise ShapeError(
            f"{what}: the mask of bad pixels has shape {header.shape}; expected "
            f"{(frame_size, frame_size)}, that of the frames before they are cut or padded"
        )
    if header.dtype.kind not in "biuf":
        raise DtypeError(
            f"{what}: the mask of bad pixels has dtype {header.dtype!s:.80}; expected bool or "
            "real numbers, not 0 where a pixel is bad"
        )


def _as_mask(values: NDArray[Any], what: str) -> NDArray[np.bool_]:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise SourceError(
            f"{what}: the mask of bad pixels has values that are not finite; expected 0 for good "
            "and another number for bad pixels"
        )
    mask = np.ascontiguousarray(values != 0)
    if mask.all():
        raise SourceError(
            f"{what}: the mask calls every pixel bad; expected 0 for good pixels; invert it"
        )
    return mask
