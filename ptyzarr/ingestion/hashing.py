"""The hash of each frame: XXH3 of its little-endian bytes, without the GIL where that can be."""

from __future__ import annotations

import ctypes
import functools
from importlib import import_module
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from ptyzarr.compiled import kernel

_XXH3 = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t)


def hash_frames(amplitude: NDArray[Any]) -> NDArray[np.uint64]:
    """Return the 64-bit XXH3 hash of each frame's little-endian C-order bytes.

    Parameters
    ----------
    amplitude : (m, N, N)

    Returns
    -------
    (m,) uint64
    """
    little = np.ascontiguousarray(amplitude, amplitude.dtype.newbyteorder("<"))
    pixels = little.reshape(len(little), -1).view(np.uint8)
    function = native_hash()
    if function is None:
        return np.array([xxhash.xxh3_64_intdigest(frame.data) for frame in pixels], np.uint64)
    hashes = np.empty(len(pixels), np.uint64)
    _fill_hashes(function, pixels, hashes)
    return hashes


@functools.cache
def native_hash() -> Any:
    """Return ``XXH3_64bits`` of the xxhash package as a C function, or None if it hides it.

    The variant that looks what the processor can is preferred; not every build has it.
    """
    try:
        library = ctypes.CDLL(import_module("xxhash._xxhash").__file__)
    except (ImportError, OSError, TypeError):
        return None
    for name in ("XXH3_64bits_dispatch", "XXH3_64bits"):
        try:
            return _XXH3((name, library))
        except AttributeError:
            continue
    return None


@kernel
def _fill_hashes(function: Any, pixels: NDArray[np.uint8], hashes: NDArray[np.uint64]) -> None:
    for frame in range(hashes.size):
        hashes[frame] = function(pixels[frame].ctypes.data, pixels.shape[1])
