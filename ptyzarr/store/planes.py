"""Chunks decoded by way of byte planes: the first byte of every pixel, then the second, and so on.

A byte shuffle puts pixels into this order before they are compressed, and who packs frames wants
it so. Decompressing the planes one by one, in place, spares c-blosc's buffers and its pass that
puts the pixels together again; where pixels are wanted, one vectorised pass does that.
"""

from __future__ import annotations

import ctypes
import functools
from importlib import import_module
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptyzarr.compiled import kernel

_LZ4 = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
# A c-blosc chunk begins with version, version of the codec, flags and size of a pixel, one byte
# each; then bytes of the chunk, of a block and of the encoded chunk; then where blocks begin.
_HEADER_NBYTES: Final = 16
_LZ4_SHUFFLED: Final = 0x21
# Below this length c-blosc does not split a block into planes.
_MIN_PLANE_NBYTES: Final = 128


@functools.cache
def lz4_function() -> Any:
    """Return numcodecs' ``LZ4_decompress_safe`` as a C function, or None where it is not shown."""
    try:
        return _LZ4(("LZ4_decompress_safe", ctypes.CDLL(import_module("numcodecs.blosc").__file__)))
    except (ImportError, AttributeError, OSError, TypeError):
        return None


@kernel
def decode_planes(  # pragma: no cover - compiled
    lz4: Any,
    decompress: Any,
    encoded: NDArray[np.uint8],
    out: NDArray[np.uint8],
    chunk_nbytes: int,
    itemsize: int,
) -> bool:
    """Decompress a c-blosc chunk to planes; return whether it could be.

    Parameters
    ----------
    lz4, decompress
        ``LZ4_decompress_safe`` and ``blosc_decompress_ctx``.
    encoded : (size,) uint8
        The chunk, its header checked.
    out : (>= chunk_nbytes,) uint8
        Plane k goes to byte ``k * chunk_nbytes // itemsize`` and what follows.
    chunk_nbytes, itemsize : int
        Of the decoded chunk and of a pixel.
    """
    if _is_split(encoded, chunk_nbytes, itemsize):
        return _decode_blocks(lz4, encoded, out, chunk_nbytes, itemsize)
    # Stored in another way, or not compressed at all: taken apart afterwards.
    pixels = np.empty(chunk_nbytes, np.uint8)
    if decompress(encoded.ctypes.data, pixels.ctypes.data, chunk_nbytes, 1) != chunk_nbytes:
        return False
    n_pixels = chunk_nbytes // itemsize
    for plane in range(itemsize):
        for pixel in range(n_pixels):
            out[plane * n_pixels + pixel] = pixels[pixel * itemsize + plane]
    return True


@kernel
def decode_pixels(  # pragma: no cover - compiled
    lz4: Any,
    decompress: Any,
    encoded: NDArray[np.uint8],
    planes: NDArray[np.uint8],
    out: NDArray[np.uint8],
    chunk_nbytes: int,
    itemsize: int,
) -> bool:
    """Decompress a c-blosc chunk of pixels, by planes or as a whole; return whether it could be.

    Parameters as those of `decode_planes`; `planes` is scratch as long as the chunk.
    """
    if itemsize not in (2, 4) or not _is_split(encoded, chunk_nbytes, itemsize):
        n_bytes = decompress(encoded.ctypes.data, out.ctypes.data, chunk_nbytes, 1)
        return bool(n_bytes == chunk_nbytes)
    if not _decode_blocks(lz4, encoded, planes, chunk_nbytes, itemsize):
        return False
    n_pixels = chunk_nbytes // itemsize
    if itemsize == 2:
        pairs = out[:chunk_nbytes].view(np.uint16)
        for i in range(n_pixels):
            pairs[i] = np.uint16(planes[i]) | (np.uint16(planes[n_pixels + i]) << np.uint16(8))
    else:
        words = out[:chunk_nbytes].view(np.uint32)
        for i in range(n_pixels):
            low = np.uint32(planes[i]) | (np.uint32(planes[n_pixels + i]) << np.uint32(8))
            high = np.uint32(planes[2 * n_pixels + i])
            high |= np.uint32(planes[3 * n_pixels + i]) << np.uint32(8)
            words[i] = low | (high << np.uint32(16))
    return True


@kernel
def _is_split(  # pragma: no cover - compiled
    encoded: NDArray[np.uint8], chunk_nbytes: int, itemsize: int
) -> bool:
    """Whether every block of a chunk is compressed as LZ4 planes of pixels of this size."""
    block_nbytes = _int32_at(encoded, 8)
    is_shuffled = encoded[2] == _LZ4_SHUFFLED and encoded[3] == itemsize
    is_long = block_nbytes >= itemsize * _MIN_PLANE_NBYTES and block_nbytes % itemsize == 0
    return is_shuffled and is_long and chunk_nbytes % block_nbytes == 0


@kernel
def _decode_blocks(  # pragma: no cover - compiled
    lz4: Any,
    encoded: NDArray[np.uint8],
    out: NDArray[np.uint8],
    chunk_nbytes: int,
    itemsize: int,
) -> bool:
    """Decompress every plane of every block to its place."""
    block_nbytes = _int32_at(encoded, 8)
    n_blocks = chunk_nbytes // block_nbytes
    n_pixels = chunk_nbytes // itemsize
    piece = block_nbytes // itemsize
    if encoded.size < _HEADER_NBYTES + 4 * n_blocks:
        return False
    for block in range(n_blocks):
        place = _int32_at(encoded, _HEADER_NBYTES + 4 * block)
        for plane in range(itemsize):
            if place < _HEADER_NBYTES or place + 4 > encoded.size:
                return False
            nbytes = _int32_at(encoded, place)
            place += 4
            if nbytes < 0 or nbytes > encoded.size - place:
                return False
            target = plane * n_pixels + block * piece
            if nbytes == piece:
                out[target : target + piece] = encoded[place : place + piece]
            else:
                source = encoded.ctypes.data + place
                if lz4(source, out.ctypes.data + target, nbytes, piece) != piece:
                    return False
            place += nbytes
    return True


@kernel
def _int32_at(data: NDArray[np.uint8], place: int) -> int:  # pragma: no cover - compiled
    word = np.uint32(data[place]) | (np.uint32(data[place + 1]) << np.uint32(8))
    word |= np.uint32(data[place + 2]) << np.uint32(16)
    word |= np.uint32(data[place + 3]) << np.uint32(24)
    return int(np.int32(word))
