"""Frames of a member in any memory order, read without holding the stack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import ConfigError, ShapeError, SourceError
from ptyzarr.scan import FrameReader
from ptyzarr.sources.columns import as_bytes, as_native, transposed_blocks
from ptyzarr.sources.memberbytes import MemberBytes
from ptyzarr.sources.npyheader import NpyHeader


@dataclass(frozen=True, slots=True)
class StackLayout:
    """How a stack of square frames lies in its member.

    Attributes
    ----------
    axes
        ``"nyx"``, ``"nyx1"`` or ``"yxn"``.
    n_frames, frame_size
        Of the whole stack.
    dtype
        As stored, with its byte order.
    offset
        Of the first pixel in the member, in bytes.
    is_interleaved
        The frame axis varies fastest: the file holds pixel after pixel, not frame after frame.
    is_transposed
        Of the image axes, y varies faster than x.
    """

    axes: str
    n_frames: int
    frame_size: int
    dtype: np.dtype[Any]
    offset: int
    is_interleaved: bool
    is_transposed: bool

    @property
    def frame_nbytes(self) -> int:
        """Size of one frame."""
        return self.frame_size**2 * self.dtype.itemsize

    @property
    def native_dtype(self) -> np.dtype[Any]:
        """The dtype in the byte order of this machine."""
        return self.dtype.newbyteorder("=")


def find_layout(header: NpyHeader, n_positions: int, what: str) -> StackLayout:
    """Return how frames lie in a member.

    Parameters
    ----------
    header
        Of the member: (n, N, N), (n, N, N, 1), or (N, N, n) if only the last axis is the number of
        positions; bool, integer or float of at most 64 bits.
    n_positions
        Number of positions.
    what
        File and member, for messages.

    Raises
    ------
    ShapeError
        If the shape is none of these, the frames are not square or there are none.
    SourceError
        If the dtype cannot hold amplitudes or counts.
    """
    shape = header.shape
    axes = "nyx"
    if len(shape) == 4 and shape[3] == 1:
        axes, shape = "nyx1", shape[:3]
    elif len(shape) == 3 and shape[2] == n_positions != shape[0] == shape[1]:
        axes, shape = "yxn", (shape[2], shape[0], shape[1])
    if len(shape) != 3 or shape[1] != shape[2] or 0 in shape:
        raise ShapeError(
            f"{what} has shape {header.shape}; expected (n_frames, N, N) with at least one square "
            f"frame, (n_frames, N, N, 1), or (N, N, n_frames) for {n_positions} positions; check "
            "that it holds the frames of a scan"
        )
    dtype = header.dtype
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise SourceError(
            f"{what} has dtype {dtype!s:.80}; expected real numbers of at most 64 bits; convert "
            "the frames to amplitudes (square roots of counts)"
        )
    return StackLayout(
        axes=axes,
        n_frames=shape[0],
        frame_size=shape[1],
        dtype=dtype,
        offset=header.length,
        is_interleaved=header.is_fortran != (axes == "yxn"),
        is_transposed=header.is_fortran,
    )


@dataclass(frozen=True, slots=True)
class StackedFrames:
    """Frames that lie one after another in the file; a `FrameReader`.

    Attributes
    ----------
    member
        Where the bytes are.
    layout
        How they lie.
    span
        Which frames of the stack are read; the others count for the checksum only.
    """

    member: MemberBytes
    layout: StackLayout
    span: range

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n_frames, N, N)."""
        return len(self.span), self.layout.frame_size, self.layout.frame_size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Native byte order."""
        return self.layout.native_dtype

    @property
    def has_random_access(self) -> bool:
        """Whether the member is stored; a deflated one is read front to back only."""
        return not self.member.entry.is_deflated

    def read(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return frames in the order asked; adjacent ones are fetched by one read.

        Parameters
        ----------
        indices : (m,) int64

        Returns
        -------
        (m, N, N), native dtype

        Raises
        ------
        SourceError
            If an index is outside the scan, the member is deflated or the file was cut off.
        StorageError
            If the file system refuses a read.
        """
        frames, _ = self.read_summed(indices)
        return frames

    def read_summed(self, indices: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.uint32]]:
        """Return frames in the order asked, and the CRC-32 of the bytes that each has in the file.

        Parameters
        ----------
        indices : (m,) int64

        Returns
        -------
        frames : (m, N, N), native dtype
        sums : (m,) uint32

        Raises
        ------
        SourceError, StorageError
            As `read` does.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        self._check(wanted)
        layout = self.layout
        out = np.empty((len(wanted), layout.frame_size, layout.frame_size), layout.dtype)
        rows = out.reshape(-1).view(np.uint8).reshape(len(wanted), layout.frame_nbytes)
        sums = np.empty(len(wanted), np.uint32)
        offsets = layout.offset + (wanted + self.span.start) * layout.frame_nbytes
        self.member.read_summed(offsets, rows, sums)
        return self._oriented(out), sums

    def check_sums(self, sums: NDArray[np.uint32]) -> None:
        """Compare the checksum of the whole member with those of all frames.

        Parameters
        ----------
        sums : (n_frames,) uint32
            CRC-32 of each frame's bytes in acquisition order, as `read_summed` gave them.

        Raises
        ------
        SourceError
            If the member is not what its checksum says.
        StorageError
            If the file system refuses a read.
        """
        layout = self.layout
        start = layout.offset + self.span.start * layout.frame_nbytes
        self.member.check_sums(start, sums, layout.frame_nbytes)

    def blocks(self, max_frames: int) -> Iterator[NDArray[Any]]:
        """Yield all frames front to back, checksum of the whole member verified after the last.

        Parameters
        ----------
        max_frames
            Frames in a block; a block is a fresh array.

        Yields
        ------
        (m, N, N), native dtype

        Raises
        ------
        SourceError
            If the member is cut off or fails its checksum.
        StorageError
            If the file system refuses a read.
        """
        layout = self.layout
        _check_step(max_frames)
        stream = self.member.open()
        stream.skip(layout.offset + self.span.start * layout.frame_nbytes)
        for first in range(0, len(self.span), max_frames):
            n_frames = min(max_frames, len(self.span) - first)
            out = np.empty((n_frames, layout.frame_size, layout.frame_size), layout.dtype)
            stream.read_into(as_bytes(out))
            yield self._oriented(out)
        stream.finish()

    def _check(self, indices: NDArray[np.int64]) -> None:
        if not self.has_random_access:
            raise _front_to_back(self.member)
        outside = indices[(indices < 0) | (indices >= len(self.span))]
        if len(outside):
            raise SourceError(
                f"{self.member.what}: frame index {outside[0]} is outside the scan; expected 0 to "
                f"{len(self.span) - 1}"
            )

    def _oriented(self, frames: NDArray[Any]) -> NDArray[Any]:
        native = as_native(frames)
        if self.layout.is_transposed:
            return np.ascontiguousarray(native.transpose(0, 2, 1))
        return native


@dataclass(frozen=True, slots=True)
class InterleavedFrames:
    """Frames whose axis varies fastest in the file, read by blocked transposition.

    A `FrameReader`. A deflated member is spooled to a temporary file first.

    Attributes
    ----------
    member
        Where the bytes are.
    layout
        How they lie.
    span
        Which frames of the stack are read; the others count for the checksum only.
    spool_dir
        Directory for the temporary file; None is the system's.
    """

    member: MemberBytes
    layout: StackLayout
    span: range
    spool_dir: str | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n_frames, N, N)."""
        return len(self.span), self.layout.frame_size, self.layout.frame_size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Native byte order."""
        return self.layout.native_dtype

    @property
    def has_random_access(self) -> bool:
        """Never: a frame is spread over the whole member."""
        return False

    def read(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Refuse with a `SourceError`: a frame is spread over the whole member."""
        raise _front_to_back(self.member)

    def read_summed(self, indices: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.uint32]]:
        """Refuse as `read` does."""
        raise _front_to_back(self.member)

    def check_sums(self, sums: NDArray[np.uint32]) -> None:
        """Refuse as `read` does; `blocks` compares the checksum."""
        raise _front_to_back(self.member)

    def blocks(self, max_frames: int) -> Iterator[NDArray[Any]]:
        """Yield all frames front to back; beside a block, 17 MiB or one more of its size is held.

        Parameters
        ----------
        max_frames
            Frames in a block; a block is a fresh array.

        Yields
        ------
        (m, N, N), native dtype

        Raises
        ------
        SourceError
            If the member is cut off or fails its checksum.
        StorageError
            If the file system refuses a read or the temporary file cannot be written.
        """
        layout, size = self.layout, self.layout.frame_size
        _check_step(max_frames)
        # Where y varies faster than x, reversing all axes puts y before x again.
        image = (size, size) if layout.is_transposed else (size * size,)
        in_file = (*image, layout.n_frames)
        with self.member.random_access(self.spool_dir) as data:
            for block in transposed_blocks(
                data, layout.offset, in_file, layout.dtype, self.span, max_frames
            ):
                yield block.reshape(-1, size, size)


def frame_reader(
    member: MemberBytes, layout: StackLayout, span: range, spool_dir: str | None
) -> FrameReader:
    """Return the reader for the frames ``span`` of a member.

    Parameters
    ----------
    member
        Where the bytes are.
    layout
        How they lie.
    span
        Contiguous frames of the stack.
    spool_dir
        Directory for temporary files; None is the system's.
    """
    if layout.is_interleaved:
        return InterleavedFrames(member, layout, span, spool_dir)
    return StackedFrames(member, layout, span)


def _check_step(max_frames: int) -> None:
    if max_frames < 1:
        raise ConfigError(f"max_frames is {max_frames}; expected 1 or more")


def _front_to_back(member: MemberBytes) -> SourceError:
    return SourceError(
        f"{member.what} can only be read front to back; expected a stored member with frame after "
        "frame; use blocks"
    )
