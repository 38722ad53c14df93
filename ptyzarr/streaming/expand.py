"""The kernels of `gather` for packed frames; same results, same rules."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptyzarr.compiled import kernel
from ptyzarr.streaming.rounding import round_block
from ptyzarr.streaming.vectors import (
    ALIGNMENT,
    LANES,
    WORD,
    count_bits,
    expand_lanes,
    first_bit,
    stream_expanded,
    stream_fence,
    stream_four_expanded,
)

# Pixels of one channel that pass through scratch at a time.
_BLOCK: Final = 512
# Scratch rows a multiple of 4 KiB apart would fall on the same cache sets.
_PAD: Final = 16

#: `PackedFrames.words`, `.masks` and `.values`.
Packed = tuple[NDArray[np.uint32], NDArray[np.uint16], NDArray[Any]]


@kernel
def expand_float32(  # pragma: no cover - compiled
    packed: Packed,
    shape: tuple[int, int, int],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    scales: NDArray[np.float32],
    is_counts: bool,
    out: NDArray[np.float32],
) -> None:
    """Gather to float32; `shape` is (values_start, wide_start, max_nonzero) of the packing."""
    n_groups, n_channels = offsets.shape
    n_pixels = out.shape[1] // n_channels
    width = shape[2] + _PAD
    values = np.empty(n_channels * width, np.float32)
    is_aligned = out.ctypes.data % ALIGNMENT == 0
    if is_aligned and n_channels == 1:
        flat = out.reshape(-1)
        for group in range(n_groups):
            scale = scales[group]
            _root_values(packed, shape, offsets[group, 0], scale, is_counts, values)
            place = rows[group] * n_pixels
            _stream_one(packed[1], offsets[group, 0], values, scale, flat, place, n_pixels)
        stream_fence()
    elif is_aligned and n_channels == 4:
        flat = out.reshape(-1)
        for group in range(n_groups):
            scale = scales[group]
            for channel in range(4):
                part = values[channel * width : (channel + 1) * width]
                _root_values(packed, shape, offsets[group, channel], scale, is_counts, part)
            place = rows[group] * 4 * n_pixels
            _stream_four(packed[1], offsets[group], values, width, scale, flat, place, n_pixels)
        stream_fence()
    else:
        block = np.empty(n_channels * (_BLOCK + _PAD), np.float32)
        cursors = np.empty(n_channels, np.int64)
        for group in range(n_groups):
            scale = scales[group]
            _root_group(packed, shape, offsets[group], scale, is_counts, values, cursors)
            row = out[rows[group]]
            for start in range(0, n_pixels, _BLOCK):
                n = min(_BLOCK, n_pixels - start)
                target = row[start * n_channels : (start + n) * n_channels]
                _fill(packed[1], offsets[group], start, n, scale, values, cursors, block, target)


@kernel
def expand_half(  # pragma: no cover - compiled
    packed: Packed,
    shape: tuple[int, int, int],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    scales: NDArray[np.float32],
    is_counts: bool,
    target: int,
    out: NDArray[np.uint16],
) -> None:
    """Gather to sixteen-bit floats, written as bits; see `expand_float32`."""
    n_groups, n_channels = offsets.shape
    n_pixels = out.shape[1] // n_channels
    values = np.empty(n_channels * (shape[2] + _PAD), np.float32)
    block = np.empty(n_channels * (_BLOCK + _PAD), np.float32)
    cursors = np.empty(n_channels, np.int64)
    exact = np.empty(n_channels * _BLOCK, np.float32)
    for group in range(n_groups):
        scale = scales[group]
        _root_group(packed, shape, offsets[group], scale, is_counts, values, cursors)
        row = out[rows[group]]
        for start in range(0, n_pixels, _BLOCK):
            n = min(_BLOCK, n_pixels - start)
            whole = exact[: n * n_channels]
            _fill(packed[1], offsets[group], start, n, scale, values, cursors, block, whole)
            round_block(whole, target, row[start * n_channels : (start + n) * n_channels])


@kernel
def copy_expanded(  # pragma: no cover - compiled
    packed: Packed,
    shape: tuple[int, int],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    out: NDArray[Any],
) -> None:
    """Copy frames as they were before they were packed; `shape` as above."""
    words, values = packed[0], packed[2]
    masks = words.view(np.uint64)
    n_groups, n_channels = offsets.shape
    n_pixels = out.shape[2]
    for group in range(n_groups):
        for channel in range(n_channels):
            frame = out[rows[group], channel]
            frame[:] = 0
            offset = offsets[group, channel]
            first = (offset + shape[0]) // values.itemsize
            wide = (offset + shape[1]) // 4
            n_wide = words[offset // 4 + 1]
            value, next_wide = 0, 0
            for start in range(0, n_pixels, WORD):
                mask = masks[offset // 8 + 1 + start // WORD]
                while mask != 0:
                    pixel = start + first_bit(mask)
                    mask &= mask - np.uint64(1)
                    frame[pixel] = values[first + value]
                    if next_wide < n_wide and words[wide + 2 * next_wide] == value:
                        frame[pixel] = words[wide + 2 * next_wide + 1]
                        next_wide += 1
                    value += 1


@kernel
def _root_values(  # pragma: no cover - compiled
    packed: Packed,
    shape: tuple[int, int, int],
    offset: int,
    scale: np.float32,
    is_counts: bool,
    out: NDArray[np.float32],
) -> None:
    """Write the scaled amplitudes of one frame's values."""
    words, _, values = packed
    first = (offset + shape[0]) // values.itemsize
    n_values, n_wide = words[offset // 4], words[offset // 4 + 1]
    stored = values[first : first + n_values]
    if is_counts:
        for i in range(stored.size):
            out[i] = np.sqrt(np.float32(stored[i])) * scale
    else:
        for i in range(stored.size):
            out[i] = np.float32(stored[i]) * scale
    wide = (offset + shape[1]) // 4
    for i in range(n_wide):
        value = np.float32(words[wide + 2 * i + 1])
        out[words[wide + 2 * i]] = (np.sqrt(value) if is_counts else value) * scale


@kernel
def _root_group(  # pragma: no cover - compiled
    packed: Packed,
    shape: tuple[int, int, int],
    offsets: NDArray[np.int64],
    scale: np.float32,
    is_counts: bool,
    values: NDArray[np.float32],
    cursors: NDArray[np.int64],
) -> None:
    """Write the amplitudes of a group's values, channel after channel, and where each begins."""
    width = shape[2] + _PAD
    for channel in range(offsets.size):
        part = values[channel * width : (channel + 1) * width]
        _root_values(packed, shape, offsets[channel], scale, is_counts, part)
        cursors[channel] = channel * width


@kernel
def _stream_one(  # pragma: no cover - compiled
    masks: NDArray[np.uint16],
    offset: int,
    values: NDArray[np.float32],
    scale: np.float32,
    out: NDArray[np.float32],
    place: int,
    n_pixels: int,
) -> None:
    """Expand one frame past the caches."""
    first = offset // 2 + 4
    fill = np.float32(0) * scale
    cursor = 0
    for block in range(n_pixels // LANES):
        mask = masks[first + block]
        stream_expanded(values, cursor, mask, fill, out, place + block * LANES)
        cursor += count_bits(mask)


@kernel
def _stream_four(  # pragma: no cover - compiled
    masks: NDArray[np.uint16],
    offsets: NDArray[np.int64],
    values: NDArray[np.float32],
    width: int,
    scale: np.float32,
    out: NDArray[np.float32],
    place: int,
    n_pixels: int,
) -> None:
    """Expand four frames past the caches, interleaved."""
    fill = np.float32(0) * scale
    at_a, at_b = offsets[0] // 2 + 4, offsets[1] // 2 + 4
    at_c, at_d = offsets[2] // 2 + 4, offsets[3] // 2 + 4
    a, b, c, d = 0, width, 2 * width, 3 * width
    for block in range(n_pixels // LANES):
        bits = (masks[at_a + block], masks[at_b + block], masks[at_c + block], masks[at_d + block])
        target = place + 4 * block * LANES
        stream_four_expanded(values, (a, b, c, d), bits, fill, out, target)
        a += count_bits(bits[0])
        b += count_bits(bits[1])
        c += count_bits(bits[2])
        d += count_bits(bits[3])


@kernel
def _fill(  # pragma: no cover - compiled
    masks: NDArray[np.uint16],
    offsets: NDArray[np.int64],
    start: int,
    n: int,
    scale: np.float32,
    values: NDArray[np.float32],
    cursors: NDArray[np.int64],
    block: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write pixels ``start .. start + n`` of one group, channels interleaved; move the cursors."""
    n_channels = offsets.size
    fill = np.float32(0) * scale
    for channel in range(n_channels):
        base = channel * (_BLOCK + _PAD)
        first = offsets[channel] // 2 + 4 + start // LANES
        cursor = cursors[channel]
        for lanes in range(n // LANES):
            mask = masks[first + lanes]
            expand_lanes(values, cursor, mask, fill, block, base + lanes * LANES)
            cursor += count_bits(mask)
        cursors[channel] = cursor
    for pixel in range(n):
        for channel in range(n_channels):
            out[pixel * n_channels + channel] = block[channel * (_BLOCK + _PAD) + pixel]
