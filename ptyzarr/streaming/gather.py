"""The fused kernels: stored pixels become normalised amplitudes in the batch's layout, one pass.

A count k becomes ``scale * float32(sqrt(k))``: the hardware's float32 square root is correctly
rounded, so the result has the bits of NumPy's. An amplitude A becomes ``scale * float32(A)``.
Layout is one number: C channels interleaved in every pixel. Channels-first output is the same
kernel with C = 1 and one row per frame.

The kernels take arrays and integers only, release the GIL and start no threads; callers may run
them at once on rows that do not overlap.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptyzarr.compiled import kernel
from ptyzarr.errors import DtypeError
from ptyzarr.streaming.vectors import (
    ALIGNMENT,
    LANES,
    stream_counts,
    stream_fence,
    stream_four_counts,
    stream_four_values,
    stream_values,
)

# Pixels of one channel that pass through scratch at a time: 9 channels of it stay in L1.
_BLOCK: Final = 512
# Scratch rows a multiple of 4 KiB apart would fall on the same cache sets.
_PAD: Final = 16

_AMPLITUDES: Final = 0
_COUNTS: Final = 1
_HALF_AMPLITUDES: Final = 2

_FLOAT16: Final = 0
_BFLOAT16: Final = 1


def gather_frames(
    frames: NDArray[Any],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    scale: np.float32,
    out: NDArray[Any],
    *,
    is_counts: bool,
    rounding: str = "float32",
) -> None:
    """Write groups of stored frames to rows of a batch, widened, rooted and scaled.

    Parameters
    ----------
    frames : 1-D, the stored dtype, native byte order
        Memory that holds the decoded frames.
    offsets : (m, C) int64
        Element in `frames` at which each frame of each group begins.
    rows : (m,) int64
        Row of `out` that each group goes to.
    scale : float32
        Normalisation factor of these groups.
    out : (B, P * C), C-contiguous, float32 or uint16
        Batch memory; pixel p of channel c goes to column ``p * C + c``. Sixteen-bit results are
        written as their bits.
    is_counts
        Whether the values are counts, whose square root is the amplitude.
    rounding : {"float32", "float16", "bfloat16"}
        Format of `out`; the shorter ones are rounded once, half to even, from the float32 value.

    Raises
    ------
    DtypeError
        If frames of this dtype cannot be widened to float32 amplitudes.
    """
    kind = _COUNTS if is_counts else _AMPLITUDES
    if frames.dtype.kind not in "uif" or frames.dtype.itemsize > 8:
        raise DtypeError(
            f"stored frames have dtype {frames.dtype}; expected integers or floats of at most 64 "
            "bits; ingest the scan again"
        )
    if frames.dtype == np.float16:
        frames, kind = frames.view(np.uint16), _HALF_AMPLITUDES
    if rounding == "float32":
        gather_float32(frames, offsets, rows, np.float32(scale), kind, out)
    else:
        target = _FLOAT16 if rounding == "float16" else _BFLOAT16
        gather_half(frames, offsets, rows, np.float32(scale), kind, target, out)


def copy_frames(
    frames: NDArray[Any],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    out: NDArray[Any],
) -> None:
    """Copy groups of stored frames unchanged, for sinks that finish on a device.

    Parameters
    ----------
    frames : 1-D, the stored dtype
        Memory that holds the decoded frames.
    offsets : (m, C) int64
        Element in `frames` at which each frame of each group begins.
    rows : (m,) int64
        Row of `out` that each group goes to.
    out : (B, C, P), C-contiguous, the stored dtype
        Staging memory.
    """
    if frames.dtype == np.float16:
        frames, out = frames.view(np.uint16), out.view(np.uint16)
    copy_pixels(frames, offsets, rows, out)


@kernel
def gather_float32(  # pragma: no cover - compiled
    frames: NDArray[Any],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    scale: np.float32,
    kind: int,
    out: NDArray[np.float32],
) -> None:
    """Gather to float32; see `gather_frames`."""
    n_groups, n_channels = offsets.shape
    n_pixels = out.shape[1] // n_channels
    is_aligned = out.ctypes.data % ALIGNMENT == 0 and n_pixels % LANES == 0
    if is_aligned and n_channels in (1, 4) and kind != _HALF_AMPLITUDES:
        _stream(frames, offsets, rows, scale, kind, out)
        return
    block = n_pixels if n_channels in (1, 4) else _BLOCK
    scratch = np.empty((n_channels, _BLOCK + _PAD), np.float32)
    for group in range(n_groups):
        row = out[rows[group]]
        for start in range(0, n_pixels, block):
            n = min(block, n_pixels - start)
            target = row[start * n_channels : (start + n) * n_channels]
            _fill(frames, offsets[group], start, n, scale, kind, scratch, target)


@kernel
def _stream(  # pragma: no cover - compiled
    frames: NDArray[Any],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    scale: np.float32,
    kind: int,
    out: NDArray[np.float32],
) -> None:
    """Gather one or four aligned channels, stored past the caches."""
    flat = out.reshape(-1)
    n_channels = offsets.shape[1]
    n_pixels = out.shape[1] // n_channels
    for group in range(offsets.shape[0]):
        place = rows[group] * out.shape[1]
        if n_channels == 1:
            first = offsets[group, 0]
            for pixel in range(0, n_pixels, LANES):
                if kind == _COUNTS:
                    stream_counts(frames, first + pixel, flat, place + pixel, scale)
                else:
                    stream_values(frames, first + pixel, flat, place + pixel, scale)
        else:
            a, b = offsets[group, 0], offsets[group, 1]
            c, d = offsets[group, 2], offsets[group, 3]
            for pixel in range(0, n_pixels, LANES):
                starts = (a + pixel, b + pixel, c + pixel, d + pixel)
                if kind == _COUNTS:
                    stream_four_counts(frames, starts, flat, place + 4 * pixel, scale)
                else:
                    stream_four_values(frames, starts, flat, place + 4 * pixel, scale)
    stream_fence()


@kernel
def gather_half(  # pragma: no cover - compiled
    frames: NDArray[Any],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    scale: np.float32,
    kind: int,
    target: int,
    out: NDArray[np.uint16],
) -> None:
    """Gather to sixteen-bit floats, written as bits; see `gather_frames`."""
    n_groups, n_channels = offsets.shape
    n_pixels = out.shape[1] // n_channels
    scratch = np.empty((n_channels, _BLOCK + _PAD), np.float32)
    exact = np.empty(n_channels * _BLOCK, np.float32)
    for group in range(n_groups):
        row = out[rows[group]]
        for start in range(0, n_pixels, _BLOCK):
            n = min(_BLOCK, n_pixels - start)
            block = exact[: n * n_channels]
            _fill(frames, offsets[group], start, n, scale, kind, scratch, block)
            rounded = row[start * n_channels : (start + n) * n_channels]
            if target == _BFLOAT16:
                _round_to_bfloat16(block.view(np.uint32), rounded)
            else:
                _round_to_float16(block.view(np.uint32), block, rounded)


@kernel
def copy_pixels(  # pragma: no cover - compiled
    frames: NDArray[Any],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    out: NDArray[Any],
) -> None:
    """Copy frames; see `copy_frames`."""
    n_groups, n_channels = offsets.shape
    n_pixels = out.shape[2]
    for group in range(n_groups):
        for channel in range(n_channels):
            start = offsets[group, channel]
            out[rows[group], channel] = frames[start : start + n_pixels]


@kernel
def _fill(  # pragma: no cover - compiled
    frames: NDArray[Any],
    offsets: NDArray[np.int64],
    start: int,
    n: int,
    scale: np.float32,
    kind: int,
    scratch: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write pixels ``start .. start + n`` of one group, channels interleaved."""
    n_channels = offsets.size
    if n_channels == 1:
        _widen(frames[offsets[0] + start : offsets[0] + start + n], scale, kind, out)
    elif n_channels == 4 and kind != _HALF_AMPLITUDES:
        _interleave_four(frames, offsets, start, n, scale, kind, out)
    else:
        for first in range(0, n, _BLOCK):
            m = min(_BLOCK, n - first)
            for channel in range(n_channels):
                begin = offsets[channel] + start + first
                _widen(frames[begin : begin + m], scale, kind, scratch[channel, :m])
            for pixel in range(m):
                base = (first + pixel) * n_channels
                for channel in range(n_channels):
                    out[base + channel] = scratch[channel, pixel]


@kernel
def _widen(  # pragma: no cover - compiled
    values: NDArray[Any], scale: np.float32, kind: int, out: NDArray[np.float32]
) -> None:
    """Write scaled float32 amplitudes of consecutive pixels."""
    if kind == _COUNTS:
        for i in range(values.size):
            out[i] = np.sqrt(np.float32(values[i])) * scale
    elif kind == _AMPLITUDES:
        for i in range(values.size):
            out[i] = np.float32(values[i]) * scale
    else:
        for i in range(values.size):
            out[i] = _half_value(np.uint32(values[i])) * scale


@kernel
def _interleave_four(  # pragma: no cover - compiled
    frames: NDArray[Any],
    offsets: NDArray[np.int64],
    start: int,
    n: int,
    scale: np.float32,
    kind: int,
    out: NDArray[np.float32],
) -> None:
    """Write four channels at once; the compiler turns the four stores into vector shuffles."""
    a = frames[offsets[0] + start : offsets[0] + start + n]
    b = frames[offsets[1] + start : offsets[1] + start + n]
    c = frames[offsets[2] + start : offsets[2] + start + n]
    d = frames[offsets[3] + start : offsets[3] + start + n]
    if kind == _COUNTS:
        for i in range(n):
            out[4 * i] = np.sqrt(np.float32(a[i])) * scale
            out[4 * i + 1] = np.sqrt(np.float32(b[i])) * scale
            out[4 * i + 2] = np.sqrt(np.float32(c[i])) * scale
            out[4 * i + 3] = np.sqrt(np.float32(d[i])) * scale
    else:
        for i in range(n):
            out[4 * i] = np.float32(a[i]) * scale
            out[4 * i + 1] = np.float32(b[i]) * scale
            out[4 * i + 2] = np.float32(c[i]) * scale
            out[4 * i + 3] = np.float32(d[i]) * scale


@kernel
def _half_value(bits: np.uint32) -> np.float32:  # pragma: no cover - compiled
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
