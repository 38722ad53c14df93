"""Conversions between float32 and sixteen-bit floats, as bits: NumPy's own, for kernels."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ptyzarr.compiled import kernel

FLOAT16: Final = 0
BFLOAT16: Final = 1


@kernel
def round_block(  # pragma: no cover - compiled
    values: NDArray[np.float32], target: int, out: NDArray[np.uint16]
) -> None:
    """Write the bits of float32 values rounded once, half to even, to `FLOAT16` or `BFLOAT16`."""
    if target == BFLOAT16:
        _round_to_bfloat16(values.view(np.uint32), out)
    else:
        _round_to_float16(values.view(np.uint32), values, out)


@kernel
def half_value(bits: np.uint32) -> np.float32:  # pragma: no cover - compiled
    """Return the float32 value of float16 bits."""
    magnitude = (bits & np.uint32(0x7FFF)) << np.uint32(13)
    if (bits & np.uint32(0x7C00)) == np.uint32(0x7C00):
        value = np.uint32(magnitude | np.uint32(0x7F800000)).view(np.float32)
    else:
        # Moving the exponent's bias by a power of two is exact, subnormal values included.
        value = np.uint32(magnitude).view(np.float32) * np.float32(2.0**112)
    return -value if bits & np.uint32(0x8000) else value


@kernel
def _round_to_bfloat16(  # pragma: no cover - compiled
    bits: NDArray[np.uint32], out: NDArray[np.uint16]
) -> None:
    """Write the upper halves of float32 bits, rounded half to even; NaN stays NaN."""
    for i in range(bits.size):
        word = bits[i]
        is_nan = (word & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        odd = (word >> np.uint32(16)) & np.uint32(1)
        rounded = (word + np.uint32(0x7FFF) + odd) >> np.uint32(16)
        quiet = (word >> np.uint32(16)) | np.uint32(0x40)
        out[i] = np.uint16(quiet if is_nan else rounded)


@kernel
def _round_to_float16(  # pragma: no cover - compiled
    bits: NDArray[np.uint32], values: NDArray[np.float32], out: NDArray[np.uint16]
) -> None:
    """Write float16 bits of float32 values, rounded half to even; NaN stays NaN."""
    for i in range(bits.size):
        magnitude = bits[i] & np.uint32(0x7FFFFFFF)
        sign = (bits[i] >> np.uint32(16)) & np.uint32(0x8000)
        if magnitude > np.uint32(0x7F800000):
            half = np.uint32(0x7E00)
        elif magnitude >= np.uint32(0x477FF000):
            # 65520 and above: halfway between the largest float16 and the next power of two.
            half = np.uint32(0x7C00)
        elif magnitude < np.uint32(0x38800000):
            # Below 2**-14 the spacing is 2**-24, which is that of float32 in [0.5, 1).
            shifted = np.float32(abs(values[i]) + np.float32(0.5)).view(np.uint32)
            half = np.uint32(shifted - np.uint32(0x3F000000))
        else:
            odd = (magnitude >> np.uint32(13)) & np.uint32(1)
            rounded = magnitude + np.uint32(0xFFF) + odd
            half = np.uint32((rounded - np.uint32(0x38000000)) >> np.uint32(13))
        out[i] = np.uint16(sign | half)
