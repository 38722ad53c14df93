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
from ptyzarr.streaming.expand import copy_expanded, expand_float32, expand_half
from ptyzarr.streaming.packing import PackedFrames
from ptyzarr.streaming.rounding import BFLOAT16, FLOAT16, half_value, round_block
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

# The values of a dtype's name in `LoaderConfig`, as rounding kernels know them.
_TARGETS: Final = {"float16": FLOAT16, "bfloat16": BFLOAT16}


def gather_frames(
    frames: NDArray[Any] | PackedFrames,
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    scales: np.float32 | NDArray[np.float32],
    out: NDArray[Any],
    *,
    is_counts: bool,
    rounding: str = "float32",
) -> None:
    """Write groups of stored frames to rows of a batch, widened, rooted and scaled.

    Parameters
    ----------
    frames : 1-D, the stored dtype, native byte order; or packed frames
        Memory that holds the decoded frames.
    offsets : (m, C) int64
        Element in `frames`, or byte of the packed memory, at which each frame of each group
        begins.
    rows : (m,) int64
        Row of `out` that each group goes to.
    scales : (m,) float32, or one float32
        Normalisation factor of each group, or of all.
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
    if not isinstance(scales, np.ndarray):
        scales = np.full(len(rows), scales, np.float32)
    if isinstance(frames, PackedFrames):
        packed = frames.words, frames.masks, frames.values
        shape = frames.packing.values_start, frames.packing.wide_start, frames.packing.max_nonzero
        if rounding == "float32":
            expand_float32(packed, shape, offsets, rows, scales, is_counts, out)
        else:
            expand_half(packed, shape, offsets, rows, scales, is_counts, _TARGETS[rounding], out)
        return
    kind = _COUNTS if is_counts else _AMPLITUDES
    if frames.dtype.kind not in "uif" or frames.dtype.itemsize > 8:
        raise DtypeError(
            f"stored frames have dtype {frames.dtype}; expected integers or floats of at most 64 "
            "bits; ingest the scan again"
        )
    if frames.dtype == np.float16:
        frames, kind = frames.view(np.uint16), _HALF_AMPLITUDES
    if rounding == "float32":
        gather_float32(frames, offsets, rows, scales, kind, out)
    else:
        gather_half(frames, offsets, rows, scales, kind, _TARGETS[rounding], out)


def copy_frames(
    frames: NDArray[Any] | PackedFrames,
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    out: NDArray[Any],
) -> None:
    """Copy groups of stored frames unchanged, for sinks that finish on a device.

    Parameters
    ----------
    frames : 1-D, the stored dtype; or packed frames
        Memory that holds the decoded frames.
    offsets : (m, C) int64
        Element in `frames`, or byte of the packed memory, at which each frame of each group
        begins.
    rows : (m,) int64
        Row of `out` that each group goes to.
    out : (B, C, P), C-contiguous, the stored dtype
        Staging memory.
    """
    if isinstance(frames, PackedFrames):
        packed = frames.words, frames.masks, frames.values
        shape = frames.packing.values_start, frames.packing.wide_start
        copy_expanded(packed, shape, offsets, rows, out)
        return
    if frames.dtype == np.float16:
        frames, out = frames.view(np.uint16), out.view(np.uint16)
    copy_pixels(frames, offsets, rows, out)


@kernel
def gather_float32(  # pragma: no cover - compiled
    frames: NDArray[Any],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    scales: NDArray[np.float32],
    kind: int,
    out: NDArray[np.float32],
) -> None:
    """Gather to float32; see `gather_frames`."""
    n_groups, n_channels = offsets.shape
    n_pixels = out.shape[1] // n_channels
    is_aligned = out.ctypes.data % ALIGNMENT == 0 and n_pixels % LANES == 0
    if is_aligned and n_channels in (1, 4) and kind != _HALF_AMPLITUDES:
        _stream(frames, offsets, rows, scales, kind, out)
        return
    block = n_pixels if n_channels in (1, 4) else _BLOCK
    scratch = np.empty((n_channels, _BLOCK + _PAD), np.float32)
    for group in range(n_groups):
        row, scale = out[rows[group]], scales[group]
        for start in range(0, n_pixels, block):
            n = min(block, n_pixels - start)
            target = row[start * n_channels : (start + n) * n_channels]
            _fill(frames, offsets[group], start, n, scale, kind, scratch, target)


@kernel
def _stream(  # pragma: no cover - compiled
    frames: NDArray[Any],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    scales: NDArray[np.float32],
    kind: int,
    out: NDArray[np.float32],
) -> None:
    """Gather one or four aligned channels, stored past the caches."""
    flat = out.reshape(-1)
    n_channels = offsets.shape[1]
    n_pixels = out.shape[1] // n_channels
    for group in range(offsets.shape[0]):
        place, scale = rows[group] * out.shape[1], scales[group]
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
    scales: NDArray[np.float32],
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
        row, scale = out[rows[group]], scales[group]
        for start in range(0, n_pixels, _BLOCK):
            n = min(_BLOCK, n_pixels - start)
            block = exact[: n * n_channels]
            _fill(frames, offsets[group], start, n, scale, kind, scratch, block)
            rounded = row[start * n_channels : (start + n) * n_channels]
            round_block(block, target, rounded)


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
            out[i] = half_value(np.uint32(values[i])) * scale


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
