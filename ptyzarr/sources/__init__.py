"""Sources: a file becomes a `Scan`.

A format is one function from a path and options to a `Scan`, a line in `READERS` and a subclass of
the reader contract test.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ptyzarr.errors import ScanNotFoundError, SourceError
from ptyzarr.paths import check_path
from ptyzarr.scan import Quantity, Scan
from ptyzarr.sources.badpixels import read_bad_pixels
from ptyzarr.sources.fileaccess import check_unchanged
from ptyzarr.sources.nodes import node_name, node_names
from ptyzarr.sources.npyheader import NpyHeader, parse_header
from ptyzarr.sources.npz import member_keys, open_npz
from ptyzarr.sources.options import Incomplete, Reader, ReadOptions
from ptyzarr.sources.published import (
    PUBLISHED_KEYS,
    ArrayReader,
    array_member,
    published_members,
)

__all__ = [
    "PUBLISHED_KEYS",
    "READERS",
    "ArrayReader",
    "NpyHeader",
    "ReadOptions",
    "Reader",
    "array_member",
    "member_keys",
    "node_name",
    "node_names",
    "open_source",
    "parse_header",
    "published_members",
    "read_bad_pixels",
    "source_unchanged",
]

READERS: Mapping[str, Reader] = {".npz": open_npz}
"""Reader of each file name suffix, in lower case."""


def open_source(
    path: str | os.PathLike[str],
    *,
    frames_key: str | None = None,
    prefer: str = "diff3d",
    quantity: Quantity = "amplitude",
    incomplete: Incomplete = "refuse",
    spool_dir: str | os.PathLike[str] | None = None,
    max_resident: int | None = None,
) -> Scan:
    """Return the scan in a file: small arrays read and checked, frames ready to be read.

    Parameters
    ----------
    path
        The file; its suffix chooses the reader.
    frames_key
        Member that holds the frames, whatever it is called; None finds it.
    prefer
        Which of two equal members, ``"diff3d"`` or ``"diffraction"``, holds the frames.
    quantity
        What the frame values are.
    incomplete
        Frames and positions differ in number: ``"refuse"``, or ``"truncate"`` to the common
        beginning (what is cut off stays in `Scan.extra`).
    spool_dir
        Directory for temporary files; None is the system's.
    max_resident
        Bytes that positions, probe and object may take together; None is no limit.

    Returns
    -------
    Scan
        Frame values are not checked here, and checksums of streamed members only when they are
        read to the end.

    Raises
    ------
    ConfigError
        If an option has an unknown value.
    ScanNotFoundError
        If there is no such file.
    SourceError
        If no reader has this suffix, the file is damaged or holds what is refused;
        `MissingFieldError` and `ShapeError` are among these.
    BudgetError
        If what must be in memory exceeds ``max_resident`` or the memory there is.
    StorageError
        If the file system refuses to read.
    """
    check_path(path, "a scan file")
    options = ReadOptions(
        frames_key=frames_key,
        prefer=prefer,
        quantity=quantity,
        incomplete=incomplete,
        spool_dir=None if spool_dir is None else os.fspath(spool_dir),
        max_resident=max_resident,
    )
    name = os.fspath(path)
    reader = READERS.get(os.path.splitext(name)[1].lower())
    if reader is None:
        if not os.path.exists(name):
            raise ScanNotFoundError(f"{name}: no such file; check the path")
        raise SourceError(
            f"{name}: no reader for this kind of file; expected a name that ends in "
            f"{' or '.join(READERS)}; convert the file"
        )
    return reader(name, options)


def source_unchanged(scan: Scan) -> None:
    """Raise unless the scan's file still has the size and time it had when it was opened.

    Parameters
    ----------
    scan
        An opened source.

    Raises
    ------
    SourceChangedError
        If it changed or is gone.
    """
    check_unchanged(scan.path, scan.size, scan.mtime_ns)
