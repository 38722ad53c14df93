"""C functions that come with our dependencies, callable from compiled code without the GIL.

numcodecs ships c-blosc and google-crc32c ships libcrc32c as ordinary shared objects. Reading a
chunk through them costs no Python call: the system's ``pread``, the checksum and the
decompression run in one compiled loop. Where one of them is missing, the store falls back to
zarr-python's own codecs.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.compiled import kernel
from ptyzarr.store.planes import decode_pixels, decode_planes

OK = 0
SHORT_READ = 1
BAD_CHECKSUM = 2
BAD_CHUNK = 3

_PREAD = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
)
_CRC32C = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t)
_DECOMPRESS = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
)
# Level, shuffle, type size, bytes, source, target, room, compressor's name, block size, threads.
_COMPRESS = ctypes.CFUNCTYPE(
    ctypes.c_int,
    *(ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t),
    *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t),
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
)


@dataclass(frozen=True, slots=True)
class NativeFunctions:
    """``pread``, ``crc32c_value``, ``blosc_{de,}compress_ctx`` as C function pointers."""

    pread: Any
    crc32c: Any
    decompress: Any
    compress: Any


@functools.cache
def native_functions() -> NativeFunctions | None:
    """Return the C functions, or None where this installation does not export them."""
    try:
        libc = ctypes.CDLL(None)
        crc32c = ctypes.CDLL(import_module("google_crc32c._crc32c").__file__)
        blosc = ctypes.CDLL(import_module("numcodecs.blosc").__file__)
        return NativeFunctions(
            pread=_PREAD(("pread64", libc)),
            crc32c=_CRC32C(("crc32c_value", crc32c)),
            decompress=_DECOMPRESS(("blosc_decompress_ctx", blosc)),
            compress=_COMPRESS(("blosc_compress_ctx", blosc)),
        )
    except (ImportError, AttributeError, OSError, TypeError):
        return None


@kernel
def read_encoded(
    pread: Any,
    crc32c: Any,
    decompress: Any,
    fd: int,
    offsets: NDArray[np.int64],
    lengths: NDArray[np.int64],
    slots: NDArray[np.int64],
    max_gap: int,
    scratch: NDArray[np.uint8],
    out: NDArray[np.uint8],
    chunk_nbytes: int,
    lz4: Any,
    itemsize: int,
    wants_planes: bool,
) -> tuple[int, int, int]:
    """Read and decode chunks of one shard; return (status, index of the chunk, bytes read).

    Chunks that follow one another in the file are fetched by one positioned read, as many as
    `scratch` holds.

    Parameters
    ----------
    pread, crc32c, decompress
        C functions of `NativeFunctions`.
    fd : int
        The open shard file.
    offsets, lengths : (m,) int64
        Byte range of each encoded chunk in the file, checksum included.
    slots : (m,) int64
        Row of `out` for each chunk.
    max_gap : int
        Unwanted bytes between two chunks that are read along rather than skipped.
    scratch : (>= longest chunk,) uint8
    out : (n_slots, slot_nbytes) uint8
    chunk_nbytes : int
        Decoded size of a chunk.
    lz4
        C function of `planes.lz4_function`; any other where `itemsize` is 0.
    itemsize : int
        Size of a pixel; 0 where chunks can be decompressed as a whole only.
    wants_planes : bool
        Whether the bytes of the pixels are wanted as planes.
    """
    base = scratch.ctypes.data
    planes = np.empty(chunk_nbytes, np.uint8)
    n_read = 0
    first = 0
    while first < offsets.size:
        start = offsets[first]
        end = start + lengths[first]
        last = first + 1
        while last < offsets.size:
            gap = offsets[last] - end
            stop = offsets[last] + lengths[last]
            if gap < 0 or gap > max_gap or stop - start > scratch.size:
                break
            end = stop
            last += 1
        done = 0
        while done < end - start:
            got = pread(fd, base + done, end - start - done, start + done)
            if got <= 0:
                return SHORT_READ, first, n_read
            done += got
        n_read += done
        for i in range(first, last):
            at = offsets[i] - start
            encoded = scratch[at : at + lengths[i]]
            status = _check(crc32c, encoded, chunk_nbytes)
            if status != OK:
                return status, i, n_read
            body, target = encoded[:-4], out[slots[i]]
            if wants_planes:
                fits = decode_planes(lz4, decompress, body, target, chunk_nbytes, itemsize)
            else:
                fits = decode_pixels(lz4, decompress, body, planes, target, chunk_nbytes, itemsize)
            if not fits:
                return BAD_CHUNK, i, n_read
        first = last
    return OK, 0, n_read


@kernel
def _check(crc32c: Any, encoded: NDArray[np.uint8], chunk_nbytes: int) -> int:
    """Check one encoded chunk, its header and the checksum at its end; return the status."""
    size = encoded.size - 4
    if size < 16:
        return BAD_CHUNK
    stored = 0
    decoded = 0
    framed = 0
    for byte in range(4):
        stored |= int(encoded[size + byte]) << (8 * byte)
        decoded |= int(encoded[4 + byte]) << (8 * byte)
        framed |= int(encoded[12 + byte]) << (8 * byte)
    if int(crc32c(encoded.ctypes.data, size)) != stored:
        return BAD_CHECKSUM
    if decoded != chunk_nbytes or framed != size:
        return BAD_CHUNK
    return OK
