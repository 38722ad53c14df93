"""Writing a shard file: frames are encoded block by block, then put together with their index.

The bytes are those of ``numcodecs.Blosc`` and of zarr v3's ``sharding_indexed`` codec. Where the C
functions are there, a block of frames is compressed and summed by one compiled call without the
GIL; elsewhere chunk by chunk through numcodecs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import xxhash
from numcodecs import Blosc
from numpy.typing import NDArray

from ptyzarr.compiled import kernel
from ptyzarr.errors import DamagedStoreError
from ptyzarr.store.native import native_functions
from ptyzarr.store.shards import ABSENT, FrameFormat

_CHECKSUM = 4
_READ_BYTES = 1024**2
_OVERHEAD = 16  # c-blosc's header; what cannot be compressed is copied behind it
_LEVEL = 5
_NAME = np.frombuffer(b"lz4\0", np.uint8)


@dataclass(frozen=True, slots=True)
class EncodedChunks:
    """Encoded chunks back to back.

    Attributes
    ----------
    data : (nbytes,) uint8
        Each chunk is followed by its CRC-32C.
    lengths : (n_chunks,) int64
        Bytes of each, checksum included.
    """

    data: NDArray[np.uint8]
    lengths: NDArray[np.int64]


def frame_codec() -> Blosc:
    """Return the codec of the frames: LZ4 behind a byte shuffle (docs/decisions/0003)."""
    return Blosc(cname="lz4", clevel=_LEVEL, shuffle=Blosc.SHUFFLE, blocksize=0)


def encode_frames(frames: NDArray[Any], chunk_frames: int) -> EncodedChunks:
    """Return frames as the encoded chunks of a shard; the GIL is released meanwhile.

    Parameters
    ----------
    frames : (m, N, N)
        Of the stored dtype.
    chunk_frames
        Frames in a chunk; the last one is filled up with zeros.
    """
    missing = -len(frames) % chunk_frames
    if missing:
        padding = np.zeros((missing, *frames.shape[1:]), frames.dtype)
        frames = np.concatenate([frames, padding])
    frames = np.ascontiguousarray(frames)
    n_chunks = len(frames) // chunk_frames
    raw = frames.reshape(-1).view(np.uint8).reshape(n_chunks, frames.nbytes // max(n_chunks, 1))
    native = native_functions()
    lengths = np.empty(n_chunks, np.int64)
    if native is not None:
        data = np.empty(n_chunks * (raw.shape[1] + _OVERHEAD + _CHECKSUM), np.uint8)
        compress, crc32c, itemsize = native.compress, native.crc32c, frames.dtype.itemsize
        nbytes = _encode(compress, crc32c, raw, itemsize, _LEVEL, _NAME, data, lengths)
        if nbytes >= 0:
            return EncodedChunks(data[:nbytes], lengths)
    return _encode_by_numcodecs(raw, frames.dtype, lengths)


def decode_frames(
    chunks: EncodedChunks, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return the frames of encoded chunks, their checksums compared.

    Parameters
    ----------
    chunks
        What `encode_frames` gave.
    shape
        (m, N, N) of all of them together.
    dtype
        Of the frames.

    Raises
    ------
    DamagedStoreError
        If a chunk is not what was encoded.
    """
    out = np.empty(shape, dtype)
    parts = out.reshape(-1).view(np.uint8).reshape(len(chunks.lengths), -1)
    codec = frame_codec()
    for part, encoded in zip(parts, checked_chunks(chunks), strict=True):
        try:
            codec.decode(encoded, part)
        except (RuntimeError, ValueError) as error:
            raise DamagedStoreError(
                f"an encoded chunk cannot be decoded: {error}; expected what was encoded; check "
                "the memory"
            ) from error
    return out


def checked_chunks(chunks: EncodedChunks) -> list[memoryview]:
    """Return the bytes of each chunk without its checksum, which is compared.

    Raises
    ------
    DamagedStoreError
        If a checksum is wrong.
    """
    data = np.ascontiguousarray(chunks.data).data
    bodies, offset = [], 0
    for length in chunks.lengths.tolist():
        body = data[offset : offset + length - _CHECKSUM]
        stored = data[offset + len(body) : offset + length]
        if google_crc32c.value(bytes(body)).to_bytes(_CHECKSUM, "little") != stored:
            raise DamagedStoreError(
                f"an encoded chunk of {length} bytes fails its checksum; expected the bytes that "
                "were written; check the disk"
            )
        bodies.append(body)
        offset += length
    return bodies


def write_shard(
    file: BinaryIO, layout: FrameFormat, encoded: Iterable[EncodedChunks]
) -> tuple[int, str]:
    """Write one shard from its encoded chunks in stored order.

    Parameters
    ----------
    file
        Open for writing, at its beginning.
    layout
        How frames lie in shards.
    encoded
        All chunks that hold a frame.

    Returns
    -------
    size : int
        Bytes written.
    checksum : str
        Their XXH3, 128 bits: what `file_checksum` must find in the file.
    """
    index = np.full((layout.shard_chunks, 2), ABSENT, dtype="<u8")
    state = xxhash.xxh3_128()
    chunk, size = 0, 0
    for block in encoded:
        file.write(block.data.data)
        state.update(block.data.data)
        ends = size + np.cumsum(block.lengths)
        rows = index[chunk : chunk + len(ends)]
        rows[:, 0], rows[:, 1] = ends - block.lengths, block.lengths
        chunk, size = chunk + len(ends), int(ends[-1])
    raw = index.tobytes()
    tail = raw + google_crc32c.value(raw).to_bytes(_CHECKSUM, "little")
    file.write(tail)
    state.update(tail)
    return size + len(tail), state.hexdigest()


def file_checksum(path: Path) -> tuple[int, str]:
    """Return size and XXH3 (128 bits) of a file, read in bounded memory.

    Twenty times as fast as the manifest's sha256; it finds what a disk or a kill did to a file.
    """
    state, size = xxhash.xxh3_128(), 0
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            state.update(block)
            size += len(block)
    return size, state.hexdigest()


def _encode_by_numcodecs(
    raw: NDArray[np.uint8], dtype: np.dtype[Any], lengths: NDArray[np.int64]
) -> EncodedChunks:
    codec = frame_codec()
    parts = []
    for number, chunk in enumerate(raw):
        body = codec.encode(chunk.view(dtype))
        parts += [body, google_crc32c.value(bytes(body)).to_bytes(_CHECKSUM, "little")]
        lengths[number] = len(body) + _CHECKSUM
    return EncodedChunks(np.frombuffer(b"".join(parts), np.uint8), lengths)


@kernel
def _encode(
    compress: Any,
    crc32c: Any,
    raw: NDArray[np.uint8],
    itemsize: int,
    level: int,
    name: NDArray[np.uint8],
    out: NDArray[np.uint8],
    lengths: NDArray[np.int64],
) -> int:
    """Fill `out` with the encoded chunks ``raw[i]`` and `lengths`; return the bytes, -1 on failure.

    Parameters
    ----------
    compress, crc32c
        C functions of `NativeFunctions`.
    raw : (n_chunks, chunk_nbytes) uint8
    itemsize, level, name
        Of the shuffle, the compression and the compressor (a C string).
    out : (>= n_chunks * (chunk_nbytes + 20),) uint8
    lengths : (n_chunks,) int64
    """
    chunk_nbytes = raw.shape[1]
    place = 0
    for chunk in range(raw.shape[0]):
        start = out.ctypes.data + place
        source = raw[chunk].ctypes.data
        room = chunk_nbytes + 16
        nbytes = compress(
            level, 1, itemsize, chunk_nbytes, source, start, room, name.ctypes.data, 0, 1
        )
        if nbytes <= 0:
            return -1
        checksum = int(crc32c(start, nbytes))
        for byte in range(4):
            out[place + nbytes + byte] = (checksum >> (8 * byte)) & 255
        lengths[chunk] = nbytes + 4
        place += nbytes + 4
    return place
