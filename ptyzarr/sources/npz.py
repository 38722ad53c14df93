"""The NPZ convention of PtychoPINN: published keys become fields of a `Scan`.

The published keys appear in this module only (``docs/grouping.md``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import BudgetError, MissingFieldError, ShapeError, SourceError
from ptyzarr.scan import FIELD_KEYS, Member, MemberReader, Scan
from ptyzarr.sources.fileaccess import SourceFile
from ptyzarr.sources.frames import StackLayout, find_layout, frame_reader
from ptyzarr.sources.memberbytes import MemberBytes
from ptyzarr.sources.members import TrailingFrames, is_core_dtype, member_reader, read_array
from ptyzarr.sources.nodes import label, node_names
from ptyzarr.sources.npyheader import HEAD_LENGTH, MAGIC, NpyHeader, parse_header
from ptyzarr.sources.options import ReadOptions
from ptyzarr.sources.positions import (
    check_column,
    check_column_dtype,
    common_length,
    is_exact,
    pair_dtype,
)
from ptyzarr.sources.zipdir import Entry, read_directory

FRAME_KEYS = ("diff3d", "diffraction")
POSITION_KEYS = FIELD_KEYS["positions"]
START_KEYS = FIELD_KEYS["positions_start"]
(SCAN_INDEX_KEY,) = FIELD_KEYS["scan_index"]
(PROBE_KEY,) = FIELD_KEYS["probe_guess"]
(OBJECT_KEY,) = FIELD_KEYS["object_guess"]

# Deflated blanks cost next to nothing in the file, but every header is kept for export.
_HEADERS_LIMIT = 16 * 1024**2

_WANTED = (*FRAME_KEYS, *POSITION_KEYS, *START_KEYS, SCAN_INDEX_KEY, PROBE_KEY, OBJECT_KEY)


@dataclass(frozen=True, slots=True)
class _Found:
    """A member and its header; None if it is no npy."""

    member: MemberBytes
    header: NpyHeader | None

    @property
    def array_header(self) -> NpyHeader:
        if self.header is None:
            raise SourceError(
                f"{self.member.what} is no npy array; expected one under this name; write the "
                "file with numpy.savez"
            )
        return self.header


@dataclass(frozen=True, slots=True)
class _PerFrame:
    """What depends on the number of frames that are kept."""

    frames_key: str
    layout: StackLayout
    start_keys: tuple[str, ...]
    lengths: dict[str, int]
    n_frames: int


_Places = dict[str, tuple[str, int | None]]
"""Node and column of each key that is a field."""


def open_npz(path: str, options: ReadOptions) -> Scan:
    """Return the scan in an NPZ file; small arrays are read, frames and object are not.

    Parameters
    ----------
    path
        The file.
    options
        How to read it.

    Returns
    -------
    Scan
        With ``incomplete="truncate"``, fields that were cut are kept whole in `extra` under their
        keys, and surplus frames alone under ``<frames key>__trailing``.

    Raises
    ------
    ScanNotFoundError
        If there is no such file.
    MissingFieldError
        If frames, positions or probe are not in it.
    ShapeError
        If a field has a shape that cannot be a scan, or lengths differ.
    SourceError
        If the file is damaged, holds two different frame stacks or values that are refused.
    BudgetError
        If what must be in memory exceeds ``options.max_resident`` or the memory there is.
    StorageError
        If the file system refuses a read.
    """
    file = SourceFile(path)
    found = _find_members(file)
    per_frame = _measure(file, found, options)
    places = _places(found, per_frame)
    streamed = {per_frame.frames_key, OBJECT_KEY}
    _check_resident(file, found, set(places) - streamed, options.max_resident)
    n_frames = per_frame.n_frames
    positions = _read_pair(found, POSITION_KEYS, n_frames, places)
    start = _read_pair(found, START_KEYS, n_frames, places) if per_frame.start_keys else None
    scan_index = _read_scan_index(found, n_frames, places)
    extra = _extra(found, per_frame, places, options)
    return Scan(
        name=file.name,
        format="npz",
        path=file.path,
        size=file.size,
        mtime_ns=file.mtime_ns,
        frames=frame_reader(
            found[per_frame.frames_key].member,
            per_frame.layout,
            range(n_frames),
            options.spool_dir,
        ),
        axes=per_frame.layout.axes,
        quantity=options.quantity,
        positions=positions,
        positions_start=start,
        scan_index=scan_index,
        probe_guess=_read_probe(found),
        object_reader=_object_reader(found, options) if OBJECT_KEY in found else None,
        extra=extra,
        lengths=per_frame.lengths,
        members=_members(found, places, node_names(extra)),
    )


def member_keys(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the keys of an NPZ file in file order; raises as `open_npz` does for a broken one.

    Parameters
    ----------
    path
        The file.
    """
    return tuple(_find_members(SourceFile(path)))


def _find_members(file: SourceFile) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    n_header_bytes = 0
    for entry in read_directory(file):
        key, member = _identify(file, entry)
        n_header_bytes += member.header.length if member.header else 0
        if n_header_bytes > _HEADERS_LIMIT:
            raise SourceError(
                f"{file.name}: the npy headers have more than {_HEADERS_LIMIT} bytes together; "
                "expected some 128 for each member; the file is forged"
            )
        if key in found:
            raise SourceError(
                f"{file.name}: members {found[key].member.entry.label} and {entry.label} both "
                f"have the key {label(key)}; expected one; rename one of them"
            )
        found[key] = member
    return found


def _identify(file: SourceFile, entry: Entry) -> tuple[str, _Found]:
    member = MemberBytes(file, entry)
    head = member.head(HEAD_LENGTH)
    key = entry.name.removesuffix(".npy")
    if head.startswith(MAGIC):
        return key, _Found(member, parse_header(head, entry.size, member.what))
    found = _Found(member, None)
    if key in _WANTED:
        _ = found.array_header
    return entry.name, found


def _need(found: dict[str, _Found], key: str, name: str, purpose: str) -> _Found:
    if key not in found:
        raise MissingFieldError(
            f"{name}: field {label(key)} is missing ({purpose}); found {_listed(found)}; expected "
            "it beside the frames; check that the file is a scan"
        )
    return found[key]


def _listed(found: dict[str, _Found]) -> str:
    return ", ".join(label(key) for key in list(found)[:20]) or "no member"


def _choose_frames(file: SourceFile, found: dict[str, _Found], options: ReadOptions) -> str:
    if options.frames_key is not None:
        frames = _need(found, options.frames_key, file.name, "asked for as the frames")
        _ = frames.array_header
        if options.frames_key in _WANTED and options.frames_key not in FRAME_KEYS:
            raise SourceError(
                f"{frames.member.what} is asked for as the frames; expected one that is no other "
                "field of a scan; choose another frames_key"
            )
        return options.frames_key
    there = [key for key in FRAME_KEYS if key in found]
    if not there:
        raise MissingFieldError(
            f"{file.name}: no frames: neither 'diff3d' nor 'diffraction' is in the file; found "
            f"{_listed(found)}; name the member that holds them with frames_key"
        )
    if len(there) == 2 and not _are_equal(*(found[key] for key in there)):
        raise SourceError(
            f"{file.name}: 'diff3d' and 'diffraction' differ; expected one stack of frames or two "
            "equal ones; choose with frames_key='diff3d' or frames_key='diffraction'"
        )
    return options.prefer if options.prefer in there else there[0]


def _are_equal(one: _Found, other: _Found) -> bool:
    """Compare without reading: header, size and CRC-32 of the whole member."""
    a, b = one.array_header, other.array_header
    return (a.dtype, a.shape, a.is_fortran) == (b.dtype, b.shape, b.is_fortran) and (
        (one.member.entry.size, one.member.entry.crc32)
        == (other.member.entry.size, other.member.entry.crc32)
    )


def _measure(file: SourceFile, found: dict[str, _Found], options: ReadOptions) -> _PerFrame:
    frames_key = _choose_frames(file, found, options)
    for key in POSITION_KEYS:
        _need(found, key, file.name, "positions in object pixels")
    _need(found, PROBE_KEY, file.name, "the probe")
    start_keys = START_KEYS if all(key in found for key in START_KEYS) else ()
    keys = [*POSITION_KEYS, *start_keys, *((SCAN_INDEX_KEY,) if SCAN_INDEX_KEY in found else ())]
    lengths = {key: _vector_length(found[key]) for key in keys}
    frames = found[frames_key]
    n_positions = min(lengths[key] for key in POSITION_KEYS)
    layout = find_layout(frames.array_header, n_positions, frames.member.what)
    lengths = {frames_key: layout.n_frames, **lengths}
    n_frames = common_length(lengths, options.incomplete, file.name)
    return _PerFrame(frames_key, layout, start_keys, lengths, n_frames)


def _vector_length(found: _Found) -> int:
    shape = found.array_header.shape
    if len(shape) != 1:
        raise ShapeError(
            f"{found.member.what} has shape {shape}; expected (n_frames,); check that it holds "
            "one number for each frame"
        )
    return shape[0]


def _places(found: dict[str, _Found], per_frame: _PerFrame) -> _Places:
    places: _Places = {per_frame.frames_key: ("diffraction", None)}
    for node, keys in (("positions", POSITION_KEYS), ("positions_start", per_frame.start_keys)):
        places |= {key: (node, column) for column, key in enumerate(keys)}
    for key, node in (
        (SCAN_INDEX_KEY, "scan_index"),
        (PROBE_KEY, "probe_guess"),
        (OBJECT_KEY, "object_guess"),
    ):
        if key in found:
            places[key] = (node, None)
    return places


def _check_resident(
    file: SourceFile, found: dict[str, _Found], keys: set[str], limit: int | None
) -> None:
    needs = {key: _resident_bytes(key, found[key]) for key in keys}
    total = sum(needs.values())
    if limit is not None and total > limit:
        raise BudgetError(
            f"{file.name}: positions and probe need {total} bytes while they are read, "
            f"most of them for {max(needs, key=needs.__getitem__)!r}; expected at most {limit}; "
            "give more memory"
        )


def _resident_bytes(key: str, found: _Found) -> int:
    """Return what an array takes while it becomes a field, copies included."""
    header = found.array_header
    if key == PROBE_KEY:
        return header.nbytes * (2 if header.is_fortran else 1)
    return header.nbytes * 3  # the column, its part of the pair, what compares them


def _read_pair(
    found: dict[str, _Found], keys: tuple[str, ...], n_frames: int, places: _Places
) -> NDArray[Any]:
    """Return (n_frames, 2) positions; columns that they cannot give back leave `places`."""
    dtypes = [found[key].array_header.native_dtype for key in keys]
    for key, dtype in zip(keys, dtypes, strict=True):
        check_column_dtype(dtype, found[key].member.what)
    try:
        pair = np.empty((n_frames, 2), pair_dtype(*dtypes))
    except MemoryError as error:
        raise BudgetError(
            f"{found[keys[0]].member.what} and the other column have {n_frames} positions; "
            "expected as many as fit in memory; use a larger machine"
        ) from error
    for axis, key in enumerate(keys):
        member = found[key].member
        column = read_array(member, found[key].array_header)
        check_column(column, member.what)
        # Extended precision may exceed the range of float64; infinities are refused then.
        with np.errstate(over="ignore"):
            pair[:, axis] = column[:n_frames]
        check_column(pair[:, axis], member.what)
        if len(column) > n_frames or not is_exact(column, pair[:, axis]):
            del places[key]
    return pair


def _read_scan_index(
    found: dict[str, _Found], n_frames: int, places: _Places
) -> NDArray[Any] | None:
    if SCAN_INDEX_KEY not in found:
        return None
    member, header = found[SCAN_INDEX_KEY].member, found[SCAN_INDEX_KEY].array_header
    if header.dtype.kind not in "biuf" or not is_core_dtype(header.dtype):
        raise SourceError(
            f"{member.what} has dtype {header.dtype!s:.80}; expected integers, one for each frame; "
            "convert or rename it"
        )
    values = read_array(member, header)
    if len(values) > n_frames:
        del places[SCAN_INDEX_KEY]
        values = values[:n_frames].copy()
    return values


def _read_probe(found: dict[str, _Found]) -> NDArray[Any]:
    member, header = found[PROBE_KEY].member, found[PROBE_KEY].array_header
    shape = header.shape
    if len(shape) not in (2, 3) or shape[-1] != shape[-2] or 0 in shape:
        raise ShapeError(
            f"{member.what} has shape {shape}; expected (N, N) or (modes, N, N); check the probe"
        )
    _check_numbers(member, header)
    return read_array(member, header)


def _object_reader(found: dict[str, _Found], options: ReadOptions) -> MemberReader:
    """Return what reads the object, which was looked through: damage is told before any work."""
    member, header = found[OBJECT_KEY].member, found[OBJECT_KEY].array_header
    if len(header.shape) != 2 or 0 in header.shape:
        raise ShapeError(
            f"{member.what} has shape {header.shape}; expected (H, W); check the object"
        )
    _check_numbers(member, header)
    member.verify()
    return member_reader(member, header, options.spool_dir)


def _check_numbers(member: MemberBytes, header: NpyHeader) -> None:
    if not is_core_dtype(header.dtype):
        raise SourceError(
            f"{member.what} has dtype {header.dtype!s:.80}; expected complex64, complex128 or "
            "another type of at most 64 bits a component; convert it"
        )


def _extra(
    found: dict[str, _Found], per_frame: _PerFrame, places: _Places, options: ReadOptions
) -> dict[str, MemberReader]:
    extra = {
        key: member_reader(item.member, item.header, options.spool_dir)
        for key, item in found.items()
        if key not in places
    }
    surplus = range(per_frame.n_frames, per_frame.layout.n_frames)
    if surplus:
        key = f"{per_frame.frames_key}__trailing"
        if key in extra:
            raise SourceError(
                f"{found[key].member.what} has the name that the surplus frames would get; "
                "expected another; rename it"
            )
        member = found[per_frame.frames_key].member
        extra[key] = TrailingFrames(
            frame_reader(member, per_frame.layout, surplus, options.spool_dir)
        )
    return extra


def _members(
    found: dict[str, _Found], places: _Places, nodes: dict[str, str]
) -> tuple[Member, ...]:
    members = []
    for key, item in found.items():
        node, column = places[key] if key in places else (f"extra/{nodes[key]}", None)
        is_array = item.header is not None and is_core_dtype(item.header.dtype)
        header = item.array_header.raw if is_array else b""
        entry = item.member.entry
        members.append(Member(entry.name, entry.size, entry.crc32, node, column, header))
    return tuple(members)
