"""A temporary file of encoded frames, for sources that can only be read front to back.

Frames are encoded one by one while the next ones are inflated, each as what seems to be stored at
that moment. Shards are then put together in stored order: where a chunk is one frame, by copying.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import DamagedStoreError, SourceChangedError
from ptyzarr.ingestion.kinds import Kind
from ptyzarr.ingestion.records import frame_records, masked_pixels
from ptyzarr.ingestion.threads import worker_threads
from ptyzarr.ingestion.values import amplitude_of, check_block
from ptyzarr.progress import Progress
from ptyzarr.scan import Quantity, Scan
from ptyzarr.store import EncodedChunks, checked_chunks, decode_frames, encode_frames

#: Where the encoded frame is in the file, and the item size of its counts; 0 for amplitudes.
PIECE = np.dtype([("offset", "<i8"), ("length", "<i4"), ("counts", "u1")])


@dataclass(frozen=True, slots=True)
class Spooled:
    """What the pass over a source found.

    Attributes
    ----------
    kind
        What is to be stored.
    pieces : (n,) PIECE
        In acquisition order.
    """

    kind: Kind
    pieces: NDArray[Any]


@dataclass(frozen=True, slots=True)
class _EncodedBlock:
    kind: Kind
    counts: int
    chunks: EncodedChunks
    records: NDArray[Any]
    masked: NDArray[Any]


def spool_frames(
    scan: Scan,
    folder: Path,
    n_block: int,
    n_workers: int,
    *,
    mask: bool,
    progress: Progress,
) -> Spooled:
    """Check and encode every frame of a source, front to back.

    Parameters
    ----------
    scan
        The source.
    folder
        Gets ``frames.bin``, ``masked.bin`` and ``records.bin``, all in acquisition order; the
        records have no checksums of frames, since the source has verified its own.
    n_block, n_workers
        Frames handled at once, and blocks checked at once beside the one being read.
    mask
        Whether pixels that are not finite are masked.
    progress
        Receives the frames.

    Raises
    ------
    SourceError
        At the first value that is refused, or if the source's checksum is wrong.
    """
    kind = Kind.least(scan)
    pieces = np.empty(scan.n_frames, PIECE)
    row, offset = 0, 0
    progress.start("checking", scan.n_frames, "frames")
    blocks = _encoded_blocks(scan, n_block, n_workers, mask=mask)
    with (
        (folder / "frames.bin").open("wb") as file,
        (folder / "masked.bin").open("wb") as masked,
        (folder / "records.bin").open("wb") as records,
        contextlib.closing(blocks),
    ):
        for block in blocks:
            lengths = block.chunks.lengths
            rows = slice(row, row + len(lengths))
            pieces["length"][rows] = lengths
            pieces["offset"][rows] = offset + np.cumsum(lengths) - lengths
            pieces["counts"][rows] = block.counts
            kind = kind.wider(block.kind)
            file.write(block.chunks.data.data)
            masked.write(block.masked.tobytes())
            records.write(block.records.tobytes())
            row, offset = rows.stop, offset + len(block.chunks.data)
            progress.advance(len(lengths))
        # Unlike encoded frames, these have no checksum that would miss them.
        for beside in (masked, records):
            beside.flush()
            os.fsync(beside.fileno())
    progress.finish()
    return Spooled(kind, pieces)


def _encoded_blocks(
    scan: Scan, n_block: int, n_workers: int, *, mask: bool
) -> Generator[_EncodedBlock]:
    """Yield the encoded blocks in order.

    The reader inflates all the time, so it is one of the threads that `n_workers` allows; the
    others keep up with it if they have a few blocks in hand.
    """
    n_workers = max(1, n_workers - 1)
    kind = Kind.least(scan)
    encode = functools.partial(
        _encode_block, quantity=scan.quantity, what=scan.frames_origin, mask=mask
    )
    pending: deque[Future[_EncodedBlock]] = deque()
    row = 0
    with worker_threads(n_workers, "spool") as pool:
        for frames in scan.frames.blocks(n_block):
            pending.append(pool.submit(encode, frames, row, kind))
            row += len(frames)
            while pending and (len(pending) > n_workers + 1 or pending[0].done()):
                block = pending.popleft().result()
                kind = kind.wider(block.kind)
                yield block
        while pending:
            yield pending.popleft().result()


def _encode_block(
    frames: NDArray[Any], first: int, kind: Kind, *, quantity: Quantity, what: str, mask: bool
) -> _EncodedBlock:
    numbers = np.arange(first, first + len(frames))
    block = check_block(frames, numbers, quantity, what, mask=mask, counts=kind.counts)
    kind = kind.with_block(block)
    chunks = encode_frames(kind.stored(block), 1)
    return _EncodedBlock(
        kind,
        0 if kind.counts is None else kind.counts.itemsize,
        chunks,
        frame_records(block, None),
        masked_pixels(block, numbers),
    )


@dataclass(frozen=True, slots=True)
class SpoolReader:
    """Reads spooled frames in any order.

    Attributes
    ----------
    path
        File that `spool_frames` wrote.
    frame_size
        Width of a frame in pixels.
    amplitude_dtype
        Of frames that are no counts, ``np.dtype.str``.
    """

    path: str
    frame_size: int
    amplitude_dtype: str

    def read_chunks(self, pieces: NDArray[Any], kind: Kind, chunk_frames: int) -> EncodedChunks:
        """Return frames as encoded chunks of what is stored.

        Parameters
        ----------
        pieces : (m,) PIECE
            The frames wanted, in stored order.
        kind
            What is stored.
        chunk_frames
            Frames in a chunk.

        Raises
        ------
        SourceChangedError
            If the file no longer holds what was written.
        """
        try:
            with open(self.path, "rb", buffering=0) as file:
                encoded = _read_pieces(file, pieces)
            counts = 0 if kind.counts is None else kind.counts.itemsize
            if chunk_frames == 1 and bool((pieces["counts"] == counts).all()):
                checked_chunks(encoded)
                return encoded
            return encode_frames(self._decoded(encoded, pieces, kind), chunk_frames)
        except (DamagedStoreError, EOFError) as error:
            raise SourceChangedError(
                f"{self.path} is not what was written ({error}); expected the frames that were "
                "checked; run the same command again"
            ) from error

    def _decoded(self, encoded: EncodedChunks, pieces: NDArray[Any], kind: Kind) -> NDArray[Any]:
        frames = np.empty((len(pieces), self.frame_size, self.frame_size), kind.dtype)
        ends = np.cumsum(encoded.lengths)
        for row, (length, end) in enumerate(zip(encoded.lengths, ends, strict=True)):
            counts = int(pieces["counts"][row])
            dtype = np.dtype(f"u{counts}" if counts else self.amplitude_dtype)
            chunk = EncodedChunks(encoded.data[end - length : end], encoded.lengths[row : row + 1])
            frame = decode_frames(chunk, (1, *frames.shape[1:]), dtype)
            frames[row] = amplitude_of(frame)[0] if counts and kind.counts is None else frame[0]
        return frames


def _read_pieces(file: BinaryIO, pieces: NDArray[Any]) -> EncodedChunks:
    lengths = pieces["length"].astype(np.int64)
    data = np.empty(int(lengths.sum()), np.uint8)
    view, place = data.data, 0
    for offset, length in zip(pieces["offset"].tolist(), lengths.tolist(), strict=True):
        file.seek(offset)
        part = view[place : place + length]
        while part:
            got = file.readinto(part)  # type: ignore[attr-defined]
            if not got:
                raise EOFError(f"it ends {len(part)} bytes too early")
            part = part[got:]
        place += length
    return EncodedChunks(data, lengths)
