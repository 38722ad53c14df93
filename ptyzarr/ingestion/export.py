"""`export`: the source file again, each member bit for bit."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from ptyzarr.errors import ScanExistsError, VerificationError
from ptyzarr.ingestion.aside import name_aside, remove_abandoned
from ptyzarr.ingestion.masks import MaskCursor
from ptyzarr.ingestion.staging import storage_errors, sync_folder
from ptyzarr.paths import check_path
from ptyzarr.progress import Progress, Silent
from ptyzarr.scan import Member
from ptyzarr.sources import NpyHeader, parse_header
from ptyzarr.store import ScanStore, open_store, sync_file

BLOCK_BYTES = 8 * 1024**2
_OLDEST_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def export(
    store: str | os.PathLike[str] | ScanStore,
    destination: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
) -> Path:
    """Write the source of a store again as an NPZ.

    Every member has its original name, dtype, byte order, memory order and bits; each is compared
    with the source's CRC-32. Members are stored uncompressed, so any frame of the result can be
    read without reading the others.

    Parameters
    ----------
    store
        The store or its folder.
    destination
        File to write; nothing may be there. It appears when it is whole.
    progress
        Receives the bytes written; silent if None.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ScanExistsError
        If the destination exists.
    VerificationError
        If a member's bytes are not those of the source.
    """
    opened = store if isinstance(store, ScanStore) else open_store(store)
    target = Path(check_path(destination, "the file to write"))
    remove_abandoned(target)
    if os.path.lexists(target):
        raise ScanExistsError(
            f"{target} exists; expected nothing there; remove it or choose another name"
        )
    scratch = name_aside(target)
    outcome = "nothing is left of it; remove the cause and run the same command again"
    with storage_errors(f"export to {target}", outcome):
        try:
            _write_npz(opened, scratch, progress or Silent())
            sync_file(scratch)
            _move_new(scratch, target)
        except FileExistsError as error:
            raise ScanExistsError(
                f"{target} appeared during export; expected nothing there; remove it"
            ) from error
        finally:
            scratch.unlink(missing_ok=True)
        sync_folder(target.parent)
    return target


def _move_new(scratch: Path, target: Path) -> None:
    """Give a file its name; raise `FileExistsError` if something has that name."""
    try:
        os.link(scratch, target)  # unlike a rename, never replaces what appeared meanwhile
    except FileExistsError:
        raise
    except OSError:
        # No hard links on this file system: a look and a rename are the best there is.
        if os.path.lexists(target):
            raise FileExistsError(str(target)) from None
        os.rename(scratch, target)


def member_bytes(store: ScanStore, member: Member, spool_dir: Path) -> Iterator[bytes]:
    """Yield the bytes of a source member, header included, in bounded pieces.

    Parameters
    ----------
    store
        The store.
    member
        One of `ScanStore.source_members`.
    spool_dir
        Folder for a temporary file, needed where pixels of all frames interleave.
    """
    if not member.header:
        array = store.array(member.node)
        for start in range(0, array.shape[0], BLOCK_BYTES):
            yield np.asarray(array[start : start + BLOCK_BYTES]).tobytes()
        return
    yield member.header
    header = parse_header(member.header, member.size, f"member {member.name!r} of {store.path}")
    _check_header(store, member, header)
    if member.node == "diffraction":
        yield from _frame_bytes(store, header, spool_dir)
        return
    values = _per_frame(store, member)
    if values is None:
        yield from _array_bytes(store.array(member.node), header)
    else:
        yield values.astype(header.dtype).tobytes()


def _per_frame(store: ScanStore, member: Member) -> NDArray[Any] | None:
    """Return a member whose rows are in stored order as the source had it; None for others."""
    if member.node == "scan_index":
        return store.scan_index
    if member.node not in ("positions", "positions_start"):
        return None
    pair = store.positions if member.node == "positions" else store.positions_start
    return None if pair is None else pair[:, member.column]


def _check_header(store: ScanStore, member: Member, header: NpyHeader) -> None:
    """Raise `VerificationError` where a header, which anybody can write, is of another array."""
    array = store.array(member.node)
    shape, dtype = tuple(array.shape), array.dtype
    if member.node == "diffraction":
        source = store.attrs["source"]
        n_frames, (height, width) = source["n_frames"], shape[1:]
        shapes = {"nyx": (n_frames, height, width), "yxn": (height, width, n_frames)}
        shape = shapes.get(source["axes"], (n_frames, height, width, 1))
        dtype = np.dtype(source["frame_dtype"])
    elif member.column is not None:
        shape, dtype = shape[:1], header.dtype
    is_same = header.dtype.newbyteorder("=") == dtype.newbyteorder("=")
    # Positions have NumPy's result type of two columns.
    is_column = member.column is not None and header.dtype.kind in "biuf"
    if header.shape != shape or not (is_same or is_column):
        raise VerificationError(
            f"{store.path}: the npy header of member {member.name!r} says {header.dtype!s:.80} "
            f"{header.shape}; expected {dtype!s:.80} {shape}, as stored; nothing was exported; "
            "ingest the source again with --overwrite"
        )


def _write_npz(store: ScanStore, path: Path, progress: Progress) -> None:
    members = store.source_members
    progress.start("exporting", sum(member.size for member in members), "bytes")
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED, allowZip64=True) as file:
        for member in members:
            info = zipfile.ZipInfo(member.name, _OLDEST_ZIP_DATE)
            crc, size = 0, 0
            with file.open(info, "w", force_zip64=True) as stream:
                for block in member_bytes(store, member, path.parent):
                    stream.write(block)
                    crc, size = isal_zlib.crc32(block, crc), size + len(block)
                    progress.advance(len(block))
            _check_member(store, member, size, crc)
    progress.finish()


def _check_member(store: ScanStore, member: Member, size: int, crc: int) -> None:
    """Raise `VerificationError` unless a member came out as the source's."""
    expected = crc if member.crc32 is None else member.crc32
    if (size, crc) != (member.size, expected):
        raise VerificationError(
            f"{store.path}: member {member.name!r} comes out as {size} bytes with CRC-32 "
            f"{crc:08x}; the source had {member.size} with {expected:08x}; nothing was exported; "
            "run 'ptyzarr verify'"
        )


def _array_bytes(array: Any, header: NpyHeader) -> Iterator[bytes]:
    """Yield the values of a node in the member's byte and memory order."""
    shape = array.shape
    axis = len(shape) - 1 if header.is_fortran else 0
    order = "F" if header.is_fortran else "C"
    if not shape:
        yield np.asarray(array[...]).astype(header.dtype).tobytes()
        return
    step = max(1, BLOCK_BYTES * shape[axis] // max(array.nbytes, 1))
    for start in range(0, shape[axis], step):
        key = [slice(None)] * len(shape)
        key[axis] = slice(start, start + step)
        block = np.asarray(array[tuple(key)])
        yield block.astype(header.dtype).tobytes(order)  # type: ignore[arg-type]


def _frame_bytes(store: ScanStore, header: NpyHeader, spool_dir: Path) -> Iterator[bytes]:
    """Yield the frames as the source's member held them."""
    axes = store.attrs["source"]["axes"]
    if (axes == "yxn") == header.is_fortran:
        # Frames follow one another in the file; Fortran order only turns each of them.
        for frames in _source_frames(store):
            turned = frames.swapaxes(1, 2) if header.is_fortran else frames
            yield turned.astype(header.dtype).tobytes()
        return
    yield from _interleaved_bytes(store, header, spool_dir)


def _interleaved_bytes(store: ScanStore, header: NpyHeader, spool_dir: Path) -> Iterator[bytes]:
    """Yield pixel after pixel, all frames of each: transposed block by block in a file."""
    n_frames = store.attrs["source"]["n_frames"]
    itemsize = header.dtype.itemsize
    with tempfile.TemporaryFile(dir=spool_dir) as file:
        first = 0
        for frames in _source_frames(store):
            turned = frames.swapaxes(1, 2) if header.is_fortran else frames
            columns = turned.astype(header.dtype).reshape(len(frames), -1).T
            for pixel, run in enumerate(np.ascontiguousarray(columns)):
                file.seek((pixel * n_frames + first) * itemsize)
                file.write(run.tobytes())
            first += len(frames)
        file.seek(0)
        while block := file.read(BLOCK_BYTES):
            yield block


def _source_frames(store: ScanStore) -> Iterator[NDArray[Any]]:
    """Yield all frames in acquisition order with the source's values."""
    source = store.attrs["source"]
    dtype = np.dtype(source["frame_dtype"])
    is_counts = source["quantity"] == "counts"
    masks = MaskCursor(store)
    step = max(1, BLOCK_BYTES // (store.frame_size**2 * max(dtype.itemsize, 4)))
    for start in range(0, store.n_frames, step):
        indices = np.arange(start, min(start + step, store.n_frames))
        frames = store.stored(indices) if is_counts else store.amplitude(indices)
        frames = frames.astype(dtype, copy=False)
        masks.restore(frames, start)
        yield frames
    if source["trailing"] is not None:
        array = store.array(source["trailing"])
        for start in range(0, array.shape[0], step):
            yield np.asarray(array[start : start + step])
