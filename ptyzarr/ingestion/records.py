"""What is known about each frame beside its pixels, and how shards hand it over.

While shards are written in stored order, each leaves a side file: its masked pixels, then one
record a frame. Records stay in files, and are put into acquisition order a field at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from ptyzarr.compiled import kernel
from ptyzarr.errors import DamagedStoreError
from ptyzarr.ingestion.values import CheckedBlock

FRAME_RECORD = np.dtype(
    [
        ("power", "<f8"),
        ("hash", "<u8"),
        ("crc32", "<u4"),
        ("n_masked", "<u4"),
        ("n_nonzero", "<u4"),
        ("n_wide", "<u4"),
    ]
)
_BLOCK_RECORDS = 32768  # read at once
WIDE = 255  # integers above this do not fit a byte


def mask_record(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of a masked pixel: its number in the whole stack and its original value."""
    return np.dtype([("index", "<i8"), ("value", dtype)])


def frame_records(block: CheckedBlock, sums: NDArray[np.uint32] | None) -> NDArray[Any]:
    """Return the records of a block.

    Parameters
    ----------
    block
        The checked frames.
    sums : (m,) uint32 or None
        Checksum of each frame in the source, where they are read one by one.
    """
    records = np.zeros(len(block.power), FRAME_RECORD)
    records["power"], records["hash"] = block.power, block.hashes
    if sums is not None:
        records["crc32"] = sums
    frames = block.masked_index // block.amplitude[0].size
    records["n_masked"] = np.bincount(frames, minlength=len(records))
    stored = block.amplitude if block.counts is None else block.counts
    records["n_nonzero"], records["n_wide"] = _count_pixels(stored)
    return records


def pixel_limits(frames: NDArray[Any]) -> tuple[int, int]:
    """Return the most non-zero pixels and the most integers above 255 of any of stored frames.

    Parameters
    ----------
    frames : (m, N, N)
        At least one; pixels are zero where all their bits are.
    """
    n_nonzero, n_wide = _count_pixels(frames)
    return int(n_nonzero.max()), int(n_wide.max())


def _count_pixels(frames: NDArray[Any]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    bits = np.ascontiguousarray(frames).view(f"u{frames.dtype.itemsize}")
    bits = bits.reshape(len(frames), -1)
    n_nonzero = count_above(bits, 0)
    is_integer = frames.dtype.kind == "u"
    return n_nonzero, count_above(bits, WIDE) if is_integer else np.zeros_like(n_nonzero)


@kernel
def count_above(pixels: NDArray[Any], limit: int) -> NDArray[np.uint32]:
    """Return how many pixels of each frame, (m, P) unsigned integers, are above a limit."""
    n_above = np.empty(pixels.shape[0], np.uint32)
    for frame in range(pixels.shape[0]):
        count = np.uint32(0)
        for pixel in range(pixels.shape[1]):
            count += np.uint32(pixels[frame, pixel] > limit)
        n_above[frame] = count
    return n_above


def masked_pixels(block: CheckedBlock, numbers: NDArray[np.int64]) -> NDArray[Any]:
    """Return the masked pixels of a block, frame after frame.

    Parameters
    ----------
    block
        The checked frames.
    numbers : (m,) int64
        Their acquisition indices.
    """
    n_pixels = block.amplitude[0].size
    masked = np.empty(len(block.masked_index), mask_record(block.masked_value.dtype))
    frame, pixel = np.divmod(block.masked_index, n_pixels)
    masked["index"], masked["value"] = numbers[frame] * n_pixels + pixel, block.masked_value
    return masked


class SideFile:
    """Writes the side file of a shard.

    Parameters
    ----------
    file
        Open for writing, at its beginning.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._state = xxhash.xxh3_128()
        self._size = 0
        self._records: list[NDArray[Any]] = []

    def add(self, records: NDArray[Any], masked: NDArray[Any]) -> None:
        """Add the next frames of the shard in stored order."""
        self._records.append(records)
        self._write(masked)

    def finish(self) -> tuple[int, str]:
        """Write the records; return size and checksum of the file."""
        self._write(np.concatenate(self._records))
        return self._size, self._state.hexdigest()

    def _write(self, values: NDArray[Any]) -> None:
        data = values.tobytes()
        self._file.write(data)
        self._state.update(data)
        self._size += len(data)


@dataclass(frozen=True, slots=True)
class FrameRecords:
    """The records of all frames, in files.

    Attributes
    ----------
    n_frames
        Number of frames.
    sides
        Files that end with the records of frames, and the acquisition indices of these; None
        instead of them for a file that has all frames in acquisition order.
    """

    n_frames: int
    sides: Sequence[tuple[Path, NDArray[np.int64] | None]]

    def field(self, name: str) -> NDArray[Any]:
        """Return one field of all records, (n_frames,) in acquisition order."""
        out = np.empty(self.n_frames, FRAME_RECORD[name])
        for numbers, records in self._blocks():
            out[numbers] = records[name]
        return out

    def largest(self, name: str) -> int:
        """Return the largest value of an integer field."""
        return max(int(records[name].max()) for _, records in self._blocks())

    def _blocks(self) -> Iterator[tuple[NDArray[np.int64] | slice, NDArray[Any]]]:
        for path, numbers in self.sides:
            n_records = self.n_frames if numbers is None else len(numbers)
            with path.open("rb") as file:
                beginning = file.seek(0, os.SEEK_END) - n_records * FRAME_RECORD.itemsize
                if beginning < 0:
                    raise DamagedStoreError(
                        f"{path} is cut off; expected the records of {n_records} frames; run the "
                        "same command again"
                    )
                file.seek(beginning)
                for start in range(0, n_records, _BLOCK_RECORDS):
                    rows = slice(start, min(start + _BLOCK_RECORDS, n_records))
                    records = np.fromfile(file, FRAME_RECORD, rows.stop - start)
                    yield (rows if numbers is None else numbers[rows]), records


def merge_masked(
    sides: list[tuple[Path, NDArray[np.int64]]],
    n_masked: NDArray[np.int64],
    itemsize: int,
    target: Path,
) -> None:
    """Write the masked pixels of all shards in acquisition order, a frame at a time.

    Parameters
    ----------
    sides
        Side file of each shard and the acquisition indices of its frames in stored order.
    n_masked : (n,) int64
        Masked pixels of each frame in acquisition order.
    itemsize
        Of one masked pixel's record.
    target
        The file to write.
    """
    starts = np.cumsum(n_masked) - n_masked
    with target.open("wb") as out:
        for path, numbers in sides:
            with path.open("rb") as file:
                for number in numbers[n_masked[numbers] > 0].tolist():
                    out.seek(int(starts[number]) * itemsize)
                    out.write(file.read(int(n_masked[number]) * itemsize))
