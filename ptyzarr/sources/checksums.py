"""CRC-32 of frames read in any order, and from them the CRC-32 of the whole member.

A CRC-32 is a remainder of polynomials over two elements: appending bytes multiplies the remainder
so far by x**(8 * n) and adds that of the appended bytes. So the checksums of frames that were read
in stored order, each once, combine in acquisition order to what a reader front to back would get.
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

# The polynomial of zip's CRC-32 (PKWARE APPNOTE 6.3, section 4.4.7), lowest power in bit 31.
_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31

_PREAD = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
)
_CRC32 = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint64)


@dataclass(frozen=True, slots=True)
class NativeReads:
    """``pread`` and ISA-L's ``crc32_gzip_refl`` as C function pointers."""

    pread: Any
    crc32: Any


@functools.cache
def native_reads() -> NativeReads | None:
    """Return the C functions, or None where this installation does not export them."""
    try:
        isal = ctypes.CDLL(import_module("isal.isal_zlib").__file__)
        return NativeReads(
            pread=_PREAD(("pread64", ctypes.CDLL(None))),
            crc32=_CRC32(("crc32_gzip_refl", isal)),
        )
    except (ImportError, AttributeError, OSError, TypeError):
        return None


@kernel
def read_summed(
    pread: Any,
    crc32: Any,
    fd: int,
    offsets: NDArray[np.int64],
    out: NDArray[np.uint8],
    sums: NDArray[np.uint32],
) -> int:
    """Read rows of `out` from a file and fill in their CRC-32; return how many were read.

    Rows that follow one another in the file are fetched by one positioned read. Fewer rows than
    asked for are returned where a read fails; which error it is, an ordinary read tells.

    Parameters
    ----------
    pread, crc32
        C functions of `NativeReads`.
    fd : int
        The open file.
    offsets : (m,) int64
        In the file, of each row.
    out : (m, row_nbytes) uint8
    sums : (m,) uint32
    """
    row_nbytes = out.shape[1]
    first = 0
    while first < offsets.size:
        last = first + 1
        while last < offsets.size and offsets[last] == offsets[last - 1] + row_nbytes:
            last += 1
        start = out[first].ctypes.data
        length = (last - first) * row_nbytes
        done = 0
        while done < length:
            got = pread(fd, start + done, length - done, offsets[first] + done)
            if got <= 0:
                return first
            done += got
        for row in range(first, last):
            sums[row] = crc32(0, out[row].ctypes.data, row_nbytes)
        first = last
    return first


def append_crc32(crc: int, sums: NDArray[np.uint32], nbytes: int) -> int:
    """Return the CRC-32 of what `crc` is the checksum of, followed by equal pieces.

    Parameters
    ----------
    crc
        Of the bytes so far; 0 for none.
    sums : (m,) uint32
        CRC-32 of each piece, in order.
    nbytes
        Size of every piece.
    """
    return int(_append(crc, np.ascontiguousarray(sums, np.uint32), _power_of_x(8 * nbytes)))


# Remainders are kept in 64-bit integers: kernels mix signed and unsigned 32-bit ones into floats.


@kernel
def _power_of_x(exponent: int) -> int:
    """Return x**exponent modulo the polynomial."""
    result = _ONE
    square = _ONE >> 1
    while exponent:
        if exponent & 1:
            result = _multiply(result, square)
        square = _multiply(square, square)
        exponent >>= 1
    return result


@kernel
def _append(crc: int, sums: NDArray[np.uint32], factor: int) -> int:
    for i in range(sums.size):
        crc = _multiply(crc, factor) ^ int(sums[i])
    return crc


@kernel
def _multiply(one: int, other: int) -> int:
    """Return the product of two remainders modulo the polynomial."""
    product = 0
    for bit in range(31, -1, -1):
        if (one >> bit) & 1:
            product ^= other
        carry = other & 1
        other >>= 1
        if carry:
            other ^= _POLYNOMIAL
    return product
