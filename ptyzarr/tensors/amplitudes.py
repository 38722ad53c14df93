"""Stored pixels become float32 amplitudes by torch, with the bits of the host's kernel.

torch's own float32 square root is not used: on the CPU it is not correctly rounded, and on a
device it need not be. Sixteen bits and fewer are looked up in a table that NumPy made. Wider
counts are rooted in float64 and rounded once more; 53 bits are more than twice 24 and two, so
the second rounding never meets a value that the first has moved across a tie, and the result is
the correctly rounded float32 root.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

# torch computes little with unsigned integers: they travel as signed ones of the same width.
CARRIERS: Final[Mapping[np.dtype[Any], torch.dtype]] = {
    np.dtype(np.uint8): torch.uint8,
    np.dtype(np.uint16): torch.int16,
    np.dtype(np.uint32): torch.int32,
    np.dtype(np.int8): torch.int8,
    np.dtype(np.int16): torch.int16,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.float16): torch.float16,
    np.dtype(np.float32): torch.float32,
}
_TABLE_SIZE: Final = 1 << 16
_TABLE_DTYPES: Final = (np.dtype(np.uint8), np.dtype(np.uint16))


def root_table() -> NDArray[np.float32]:
    """Return (65536,) float32, the correctly rounded square root of every 16-bit count."""
    return np.sqrt(np.arange(_TABLE_SIZE, dtype=np.float32))


def widen_pixels(
    pixels: torch.Tensor, dtype: np.dtype[Any], table: torch.Tensor, *, is_counts: bool
) -> torch.Tensor:
    """Return amplitudes of stored pixels.

    Parameters
    ----------
    pixels
        Any shape, contiguous, of the carrier of `dtype`.
    dtype
        What the pixels are: a key of `CARRIERS`.
    table : (65536,) float32
        `root_table`, on the device of `pixels`.
    is_counts
        Whether the values are counts, whose square root is the amplitude.

    Returns
    -------
    amplitudes : the shape of `pixels`, float32
        The memory of `pixels` where nothing has to be done.
    """
    values = _unsigned(pixels, dtype)
    if not is_counts:
        return values.to(torch.float32)
    if dtype in _TABLE_DTYPES:
        return table.index_select(0, values.to(torch.int32).reshape(-1)).view(values.shape)
    return root_wide(values)


def root_wide(counts: torch.Tensor) -> torch.Tensor:
    """Return the correctly rounded float32 square root of float32(`counts`)."""
    return counts.to(torch.float32).to(torch.float64).sqrt_().to(torch.float32)


def _unsigned(pixels: torch.Tensor, dtype: np.dtype[Any]) -> torch.Tensor:
    """Return the values that carriers stand for, in a wider dtype where they are unsigned."""
    if dtype == np.uint16:
        return pixels.to(torch.int32).bitwise_and_(0xFFFF)
    if dtype == np.uint32:
        return pixels.to(torch.int64).bitwise_and_(0xFFFFFFFF)
    return pixels
