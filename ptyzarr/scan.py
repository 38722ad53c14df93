"""The data model: what a scan consists of, whatever file or store it lives in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import BudgetError
from ptyzarr.power import sum_squares

Quantity = Literal["amplitude", "counts"]

_SQUARES_NBYTES = 1024**2
_READ_NBYTES = 8 * 1024**2
_COMPILED = frozenset(("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"))


@dataclass(frozen=True, slots=True)
class Field:
    """One stored array of a scan.

    Attributes
    ----------
    name
        Node name in the store.
    dims
        Dimension names; a leading ``[mode]`` is optional.
    unit
        Physical unit, or ``""``.
    per_frame
        Whether axis 0 is the frame axis (then it is kept in stored order).
    """

    name: str
    dims: tuple[str, ...]
    unit: str
    per_frame: bool


FIELDS: Mapping[str, Field] = {
    field.name: field
    for field in (
        Field("diffraction", ("frame", "y", "x"), "", True),
        Field("positions", ("frame", "xy"), "object pixels", True),
        Field("positions_start", ("frame", "xy"), "object pixels", True),
        Field("frame_index", ("frame",), "", True),
        Field("frame_power", ("frame",), "counts", True),
        Field("frame_hash", ("frame",), "", True),
        Field("scan_index", ("frame",), "", True),
        Field("probe_guess", ("[mode]", "probe_y", "probe_x"), "", False),
        Field("object_guess", ("object_y", "object_x"), "", False),
        Field("bad_pixels", ("y", "x"), "", False),
    )
}

FIELD_KEYS: Mapping[str, tuple[str, ...]] = {
    "positions": ("xcoords", "ycoords"),
    "positions_start": ("xcoords_start", "ycoords_start"),
    "scan_index": ("scan_index",),
    "probe_guess": ("probeGuess",),
    "object_guess": ("objectGuess",),
    "bad_pixels": ("bad_pixels",),
}
"""Keys in a source of each field but the frames: positions have one for x and one for y."""


class FrameReader(Protocol):
    """The frames of a source, without having them in memory.

    Attributes
    ----------
    shape : (n_frames, N, N)
    dtype
        Native byte order.
    has_random_access
        Whether `read` is cheap for any frames; otherwise only `blocks` may be used.
    """

    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def has_random_access(self) -> bool: ...

    def read(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return frames ``indices`` in the order asked, (m, N, N), native dtype.

        Raises `SourceError` where the file is shorter than it was.
        """
        ...

    def read_summed(self, indices: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.uint32]]:
        """Return what `read` does, and (m,) a checksum of each frame as it lies in the source."""
        ...

    def check_sums(self, sums: NDArray[np.uint32]) -> None:
        """Raise `SourceError` unless the checksums of all frames, (n,), are the source's own.

        After `read_summed` of every frame this stands for the verification that `blocks` ends
        with; only where `has_random_access`.
        """
        ...

    def blocks(self, max_frames: int) -> Iterator[NDArray[Any]]:
        """Yield all frames front to back, at most ``max_frames`` at a time, checksum verified.

        A block belongs to its receiver. The checksum error is raised after the last block.
        """
        ...


class MemberReader(Protocol):
    """Any other array of a source, streamed in C order.

    Attributes
    ----------
    shape, dtype
        As in the source, native byte order.
    is_raw
        The member has no zarr v3 core dtype (or is no array): `blocks` then gives the whole
        member's bytes as uint8, and `shape`/`dtype` describe those bytes.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def is_raw(self) -> bool: ...

    def blocks(self, max_bytes: int) -> Iterator[NDArray[Any]]:
        """Yield the array in C order, cut along axis 0 (0-d and 1 row at least whole)."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a source file, as needed to write it again bit for bit.

    Attributes
    ----------
    name
        Name in the file, e.g. ``"diff3d.npy"``.
    size, crc32
        Uncompressed size in bytes and CRC-32 of the whole member; None instead of the latter for
        frames that no file holds, since they were made from those of another store.
    node
        Where its values live in the store: ``"diffraction"``, ``"positions"``, ``"extra/..."``.
    column
        For a position member: 0 (x) or 1 (y); else None.
    header
        The exact npy header bytes (magic to newline); ``b""`` for a member kept raw.
    """

    name: str
    size: int
    crc32: int | None
    node: str
    column: int | None
    header: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The store that a scan was made from, where that was no file.

    Attributes
    ----------
    nbytes
        Size of the store on disk.
    transforms
        Every step since the source file as plain JSON, this one last.
    held_nbytes
        Memory that the store takes while the scan is read.
    worker_nbytes
        Memory that reading takes in each thread, beside the frames that it gives.
    """

    nbytes: int
    transforms: tuple[Mapping[str, Any], ...]
    held_nbytes: int
    worker_nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """A source file opened: the small arrays read and checked, frames and object ready to be read.

    Attributes
    ----------
    name, format
        File name and reader name (``"npz"``).
    path
        The file.
    size, mtime_ns
        Of the file when it was opened.
    frames
        Reader of the (n, N, N) stack, `axes` already undone.
    axes
        How the member lies in the file: ``"nyx"``, ``"yxn"`` or ``"nyx1"``.
    quantity
        What the frame values are.
    positions, positions_start : (n, 2) x, y in object pixels
    scan_index : (n,) or None
    probe_guess : ([mode,] N, N)
    object_reader
        Reader of the (H, W) object guess, whose area grows with that of the scan; None without one.
    extra
        Every other member by its original key.
    lengths
        How many frames each per-frame member has, by its key, the frames first; more than
        `n_frames` where the scan was cut to the common beginning.
    members
        Every member of the file, in file order.
    bad_pixels : (N, N) bool, or None
        Pixels whose values mean nothing, in every frame.
    origin
        The store that the scan was made from; None where `path` is the source.
    """

    name: str
    format: str
    path: str
    size: int
    mtime_ns: int
    frames: FrameReader
    axes: str
    quantity: Quantity
    positions: NDArray[Any]
    positions_start: NDArray[Any] | None
    scan_index: NDArray[Any] | None
    probe_guess: NDArray[Any]
    object_reader: MemberReader | None
    extra: Mapping[str, MemberReader]
    lengths: Mapping[str, int]
    members: tuple[Member, ...]
    bad_pixels: NDArray[np.bool_] | None = None
    origin: Origin | None = None

    @property
    def object_guess(self) -> NDArray[Any] | None:
        """The (H, W) object guess, read anew at each look; None without one.

        Raises `BudgetError` if there is no memory for it, `SourceError` if its member is damaged.
        """
        return None if self.object_reader is None else _read_whole(self.object_reader, self.name)

    @property
    def frames_member(self) -> Member:
        """The member that holds the frames."""
        return next(member for member in self.members if member.node == "diffraction")

    @property
    def frames_origin(self) -> str:
        """File and member of the frames, for messages."""
        return f"{self.name}: member {self.frames_member.name!r}"

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return int(self.frames.shape[0])

    @property
    def frame_size(self) -> int:
        """Width of a frame in pixels."""
        return int(self.frames.shape[1])


def _read_whole(reader: MemberReader, name: str) -> NDArray[Any]:
    try:
        out = np.empty(reader.shape, reader.dtype)
    except MemoryError as error:
        raise BudgetError(
            f"{name}: the object guess of {reader.shape} {reader.dtype} does not fit in memory; "
            "expected one that does; leave it out of the file or use a larger machine"
        ) from error
    row = 0
    for block in reader.blocks(_READ_NBYTES):
        out[row : row + len(block)] = block
        row += len(block)
    return out


@runtime_checkable
class ScanLike(Protocol):
    """What grouping and streaming need of a scan; every index is an acquisition index.

    `frame_power` is (n,) float64, the sum over pixels of squared amplitude.
    """

    @property
    def n_frames(self) -> int: ...
    @property
    def frame_size(self) -> int: ...
    @property
    def amplitude_dtype(self) -> np.dtype[Any]: ...
    @property
    def positions(self) -> NDArray[Any]: ...
    @property
    def positions_start(self) -> NDArray[Any] | None: ...
    @property
    def scan_index(self) -> NDArray[Any]: ...
    @property
    def probe_guess(self) -> NDArray[Any]: ...
    @property
    def object_guess(self) -> NDArray[Any] | None: ...
    @property
    def frame_power(self) -> NDArray[np.float64]: ...

    def amplitude(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return amplitudes (m, N, N) of frames `indices`, in the order asked."""
        ...


class ChunkReader(Protocol):
    """The stored frames as streaming reads them: whole chunks of consecutive stored rows.

    Attributes
    ----------
    n_frames
        Stored rows; row r lies in chunk ``r // chunk_frames``.
    frame_shape : (N, N)
    dtype
        Stored dtype, native byte order.
    chunk_frames
        Frames in a chunk; the last chunk is padded to the full size.
    n_chunks
        Number of chunks.
    chunk_nbytes
        Decoded size of a chunk.
    """

    @property
    def n_frames(self) -> int: ...
    @property
    def frame_shape(self) -> tuple[int, int]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def chunk_frames(self) -> int: ...
    @property
    def n_chunks(self) -> int: ...
    @property
    def chunk_nbytes(self) -> int: ...

    def read_chunks(
        self, chunks: NDArray[np.int64], slots: NDArray[np.int64], out: NDArray[np.uint8]
    ) -> int:
        """Decode chunk ``chunks[i]`` into ``out[slots[i], :chunk_nbytes]``; return bytes read.

        Parameters
        ----------
        chunks : (m,) int64, ascending
        slots : (m,) int64
        out : (n_slots, slot_nbytes) uint8, C-contiguous, slot_nbytes >= chunk_nbytes

        Thread-safe; the GIL is released while reading and decoding.

        Raises
        ------
        DamagedStoreError
            If a file is missing, has the wrong size or fails a checksum.
        """
        ...

    def prepare(self) -> None:
        """Load, or make, the compiled code that reading takes; no file is read."""
        ...

    def close(self) -> None:
        """Close files that are held open; reading again opens them again."""
        ...


@runtime_checkable
class PlaneReader(ChunkReader, Protocol):
    """A reader that can leave out the last step of decoding, which puts pixels together."""

    @property
    def has_planes(self) -> bool:
        """Whether `read_planes` may be used."""
        ...

    def read_planes(
        self, chunks: NDArray[np.int64], slots: NDArray[np.int64], out: NDArray[np.uint8]
    ) -> int:
        """Decode chunks as `read_chunks`, but to byte planes; return bytes read.

        A row of `out` gets the lowest byte of every pixel of the chunk, then the next, and so on.
        """
        ...


@runtime_checkable
class DistantReader(ChunkReader, Protocol):
    """A reader whose `read_chunks` spends most of its time waiting for a network."""

    @property
    def jobs_at_once(self) -> int:
        """Calls that are worth having under way at once, however few the cores."""
        ...


def frame_power(frames: NDArray[Any]) -> NDArray[np.float64]:
    """Return the sum over pixels of squared amplitude of each frame, by NumPy's own float64 sum.

    Parameters
    ----------
    frames : (m, N, N) real
        Amplitudes; squared in float64 whatever their dtype.

    Returns
    -------
    (m,) float64
        The same bits whichever frames are passed together.
    """
    if frames.flags.c_contiguous and frames.dtype.isnative and frames.dtype.str[1:] in _COMPILED:
        power = np.zeros(len(frames), np.float64)
        flat = frames.reshape(-1)
        sum_squares(flat.view(np.uint8) if flat.dtype == bool else flat, power)
        return power
    return _power_by_numpy(frames)


def _power_by_numpy(frames: NDArray[Any]) -> NDArray[np.float64]:
    """Return what `frame_power` does, of any real dtype in any order."""
    n_frames, n_pixels = frames.shape[0], int(np.prod(frames.shape[1:]))
    power = np.empty(n_frames, dtype=np.float64)
    block = max(1, _SQUARES_NBYTES // max(1, 8 * n_pixels))
    for start in range(0, n_frames, block):
        squares = np.array(frames[start : start + block], dtype=np.float64, order="C")
        np.square(squares, out=squares)
        power[start : start + block] = np.sum(squares.reshape(len(squares), n_pixels), axis=1)
    return power
