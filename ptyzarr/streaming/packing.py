"""Packed frames: which pixels are not zero, and the values of those alone.

Most pixels of a diffraction frame are zero and most others small, so a decoded frame kept this
way takes a third to a tenth of its size, and a budget holds as many more of them. A packed frame
is a run of bytes: the number of values and of wide ones (two uint32), one bit for each pixel, the
low bytes of the non-zero counts in pixel order, and for each count above 255 its place among
them and its whole value (two uint32). Floats are kept as they are, none of them wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptyzarr.compiled import kernel
from ptyzarr.streaming.vectors import (
    ALIGNMENT,
    WORD,
    compress_word,
    compresses,
    count_bits,
    expands,
    first_bit,
    nonzero_pixels,
    wide_pixels,
)

_HEADER_NBYTES: Final = 8
_WIDE_NBYTES: Final = 8
_PACKABLE: Final = frozenset(["u1", "u2", "u4", "f4"])
# Frames that shrink less are kept as they are: expanding them costs more than it saves.
_WORTH: Final = 0.5


@dataclass(frozen=True, slots=True)
class FramePacking:
    """How the frames of one scan lie packed in memory.

    Attributes
    ----------
    dtype
        Stored dtype: an unsigned integer of at most 32 bits, or float32.
    n_pixels
        Pixels of a frame; a multiple of `WORD`.
    max_nonzero, max_wide
        Most non-zero pixels, and most pixels above 255, of any frame.
    """

    dtype: np.dtype[Any]
    n_pixels: int
    max_nonzero: int
    max_wide: int

    @property
    def value_dtype(self) -> np.dtype[Any]:
        """Dtype of the values."""
        return self.dtype if self.dtype.kind == "f" else np.dtype(np.uint8)

    @property
    def wants_planes(self) -> bool:
        """Whether the low bytes of pixels are better had apart from the others."""
        return self.dtype.kind == "u" and self.dtype.itemsize > 1

    @property
    def values_start(self) -> int:
        """First byte of the values."""
        return _HEADER_NBYTES + self.n_pixels // 8

    @property
    def wide_start(self) -> int:
        """First byte of the wide values."""
        # A whole vector may be written at the last value.
        nbytes = self.max_nonzero * self.value_dtype.itemsize + ALIGNMENT
        return self.values_start + -(-nbytes // 4) * 4

    @property
    def frame_nbytes(self) -> int:
        """Bytes of a packed frame, whatever it holds; a multiple of `ALIGNMENT`."""
        nbytes = self.wide_start + _WIDE_NBYTES * self.max_wide
        return -(-nbytes // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True, eq=False)
class PackedFrames:
    """Memory that holds packed frames.

    Attributes
    ----------
    packing
        How each of them lies there.
    words : 1-D uint32, masks : 1-D uint16, values : 1-D `packing.value_dtype`
        The same memory, its first byte aligned to `ALIGNMENT`.
    """

    packing: FramePacking
    words: NDArray[np.uint32]
    masks: NDArray[np.uint16]
    values: NDArray[Any]

    @classmethod
    def over(cls, memory: NDArray[np.uint8], packing: FramePacking) -> PackedFrames:
        """Return flat memory, a multiple of `ALIGNMENT` long, seen as packed frames."""
        value_dtype = packing.value_dtype
        return cls(
            packing, memory.view(np.uint32), memory.view(np.uint16), memory.view(value_dtype)
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored dtype of the pixels."""
        return self.packing.dtype


def choose_packing(
    dtype: np.dtype[Any], n_pixels: int, limits: tuple[int, int] | None
) -> FramePacking | None:
    """Return how frames are packed, or None where they had better be kept as they are.

    Parameters
    ----------
    dtype
        Stored dtype.
    n_pixels
        Pixels of a frame.
    limits
        Most non-zero pixels and most pixels above 255 of any frame, if they are known.
    """
    if limits is None or n_pixels % WORD or dtype.str[1:] not in _PACKABLE or not expands():
        return None
    max_wide = 0 if dtype.kind == "f" else limits[1]
    packing = FramePacking(dtype, n_pixels, limits[0], max_wide)
    is_worth = packing.frame_nbytes <= _WORTH * n_pixels * dtype.itemsize
    return packing if is_worth else None


def choose_packings(
    dtypes: Sequence[np.dtype[Any]], n_pixels: int, limits: Sequence[tuple[int, int] | None]
) -> list[FramePacking | None]:
    """Return how the frames of several scans are packed: those of a dtype alike, where that pays.

    Frames that are packed alike can be gathered together, whatever scan they are from.

    Parameters
    ----------
    dtypes, limits
        Of each scan; see `choose_packing`.
    n_pixels
        Pixels of a frame.
    """
    alone = [choose_packing(*one) for one in zip(dtypes, repeat(n_pixels), limits)]
    chosen = list(alone)
    for dtype in set(dtypes):
        alike = {i: p for i, p in enumerate(alone) if p is not None and p.dtype == dtype}
        if alike:
            most = (
                max(p.max_nonzero for p in alike.values()),
                max(p.max_wide for p in alike.values()),
            )
            together = choose_packing(dtype, n_pixels, most)
            for i, packing in alike.items():
                chosen[i] = together or packing
    return chosen


def pack_frames(pixels: NDArray[Any], offsets: NDArray[np.int64], packed: PackedFrames) -> bool:
    """Pack frames; return whether each stayed within the packing's limits.

    Parameters
    ----------
    pixels : (m, P) of the stored dtype
        Frames.
    offsets : (m,) int64
        Byte of the packed memory at which each begins.
    packed
        Where they go.
    """
    packing = packed.packing
    limits = packing.max_nonzero, packing.max_wide
    starts = packing.values_start, packing.wide_start
    masks = packed.words.view(np.uint64)
    return bool(pack_pixels(pixels, offsets, packed.words, masks, packed.values, limits, starts))


def pack_planes(
    decoded: NDArray[np.uint8],
    chunk_frames: int,
    offsets: NDArray[np.int64],
    packed: PackedFrames,
) -> bool:
    """Pack frames out of chunks that are decoded to byte planes; otherwise as `pack_frames`.

    Parameters
    ----------
    decoded : (n, chunk_nbytes) uint8
        Chunks: the lowest byte of every pixel, then the next, and so on.
    chunk_frames
        Frames in a chunk.
    offsets : (m,) int64
        Byte of the packed memory at which each frame begins; m is n * chunk_frames at most.
    packed
        Where they go.
    """
    packing = packed.packing
    limits = packing.max_nonzero, packing.max_wide
    starts = packing.values_start, packing.wide_start
    shape = chunk_frames, packing.n_pixels, packing.dtype.itemsize
    masks = packed.words.view(np.uint64)
    memory = packed.words, masks, packed.values
    return bool(pack_bytes(decoded, shape, offsets, memory, limits, starts))


@kernel
def pack_bytes(  # pragma: no cover - compiled
    decoded: NDArray[np.uint8],
    shape: tuple[int, int, int],
    offsets: NDArray[np.int64],
    memory: tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint8]],
    limits: tuple[int, int],
    starts: tuple[int, int],
) -> bool:
    """Pack frames; see `pack_planes`."""
    words, masks, values = memory
    chunk_frames, n_pixels, n_planes = shape
    flat = decoded.reshape(-1)
    plane_nbytes = chunk_frames * n_pixels
    for frame in range(offsets.size):
        base = frame // chunk_frames * decoded.shape[1] + frame % chunk_frames * n_pixels
        mask_place = offsets[frame] // 8 + 1
        first = offsets[frame] + starts[0]
        wide = (offsets[frame] + starts[1]) // 4
        n_values, n_wide = 0, 0
        for start in range(base, base + n_pixels, WORD):
            above = np.uint64(0)
            for plane in range(1, n_planes):
                above |= nonzero_pixels(flat, start + plane * plane_nbytes)
            mask = nonzero_pixels(flat, start) | above
            masks[mask_place] = mask
            mask_place += 1
            end = n_values + count_bits(mask)
            if end > limits[0]:
                return False
            while above != 0:
                if n_wide == limits[1]:
                    return False
                pixel = first_bit(above)
                value = 0
                for plane in range(n_planes):
                    value |= int(flat[start + pixel + plane * plane_nbytes]) << (8 * plane)
                below = (np.uint64(1) << np.uint64(pixel)) - np.uint64(1)
                words[wide + 2 * n_wide] = n_values + count_bits(mask & below)
                words[wide + 2 * n_wide + 1] = value
                n_wide += 1
                above &= above - np.uint64(1)
            _pack_word(flat, start, mask, values, first + n_values)
            n_values = end
        words[offsets[frame] // 4] = n_values
        words[offsets[frame] // 4 + 1] = n_wide
    return True


@kernel
def pack_pixels(  # pragma: no cover - compiled
    pixels: NDArray[Any],
    offsets: NDArray[np.int64],
    words: NDArray[np.uint32],
    masks: NDArray[np.uint64],
    values: NDArray[Any],
    limits: tuple[int, int],
    starts: tuple[int, int],
) -> bool:
    """Pack frames; see `pack_frames`."""
    flat = pixels.reshape(-1)
    n_pixels = pixels.shape[1]
    for frame in range(offsets.size):
        header = offsets[frame] // 4
        mask_place = offsets[frame] // 8 + 1
        first = (offsets[frame] + starts[0]) // values.itemsize
        wide = (offsets[frame] + starts[1]) // 4
        n_values, n_wide = 0, 0
        for start in range(frame * n_pixels, (frame + 1) * n_pixels, WORD):
            mask = nonzero_pixels(flat, start)
            masks[mask_place] = mask
            mask_place += 1
            end = n_values + count_bits(mask)
            if end > limits[0]:
                return False
            if pixels.itemsize > values.itemsize:
                n_wide = _list_wide(flat, start, mask, n_values, words, wide, n_wide, limits[1])
                if n_wide < 0:
                    return False
            _pack_word(flat, start, mask, values, first + n_values)
            n_values = end
        words[header] = n_values
        words[header + 1] = n_wide
    return True


@kernel
def pack_word(  # pragma: no cover - compiled
    pixels: NDArray[Any], start: int, mask: Any, values: NDArray[Any], place: int
) -> None:
    """Write the values of a word of pixels one by one; where no vector step does it at once."""
    while mask != 0:
        values[place] = pixels[start + first_bit(mask)]
        mask &= mask - np.uint64(1)
        place += 1


_pack_word = compress_word if compresses() else pack_word


@kernel
def _list_wide(  # pragma: no cover - compiled
    pixels: NDArray[Any],
    start: int,
    mask: int,
    n_values: int,
    words: NDArray[np.uint32],
    wide: int,
    n_wide: int,
    limit: int,
) -> int:
    """Note the pixels of a word that a byte cannot hold; return how many there are now, or -1."""
    above = wide_pixels(pixels, start)
    while above != 0:
        if n_wide == limit:
            return -1
        pixel = first_bit(above)
        below = (np.uint64(1) << np.uint64(pixel)) - np.uint64(1)
        words[wide + 2 * n_wide] = n_values + count_bits(np.uint64(mask) & below)
        words[wide + 2 * n_wide + 1] = pixels[start + pixel]
        n_wide += 1
        above &= above - np.uint64(1)
    return n_wide
