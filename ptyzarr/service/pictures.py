"""Arrays as PNG pictures: limits, scales, colour maps, and the file itself."""

from __future__ import annotations

import dataclasses
import functools
import math
import struct
import zlib
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import ConfigError

ColorMap = Literal["ember", "ocean", "gray", "phase"]
Scale = Literal["log", "linear"]
COLOR_MAPS: Final[tuple[str, ...]] = get_args(ColorMap)
SCALES: Final[tuple[str, ...]] = get_args(Scale)
MAX_SIZE: Final = 2048

_LEVELS: Final = 256
_DECADES: Final = 6
#: Lightness, and hue in degrees, from the lowest value to the highest.
_COURSES: Final = {
    "ember": ((0.08, 0.97), (300.0, 470.0), 0.16),
    "ocean": ((0.10, 0.97), (285.0, 130.0), 0.10),
    "gray": ((0.0, 1.0), (0.0, 0.0), 0.0),
}
# OKLab to linear RGB (Ottosson 2020): cone responses, then primaries.
_TO_CONES: Final = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_TO_RGB: Final = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """How values become colours.

    Attributes
    ----------
    scale
        ``"log"`` or ``"linear"``.
    vmin, vmax
        Values of the lowest and the highest colour; None to choose by percentile.
    pmin, pmax
        Percentiles, 0 to 100, of the values that are shown (the positive ones on a logarithmic
        scale), for limits that are not given.
    cmap
        Name of the colour map.
    size
        Pixels of the longer side; None is one for each value.
    """

    scale: Scale = "log"
    vmin: float | None = None
    vmax: float | None = None
    pmin: float = 0.0
    pmax: float = 100.0
    cmap: ColorMap = "ember"
    size: int | None = None


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG file and the values of its lowest and highest colour."""

    png: bytes
    vmin: float
    vmax: float

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self.png)


def draw(values: NDArray[np.floating], options: PictureOptions) -> Picture:
    """Return a picture of values (rows y, columns x), row 0 at the top.

    Parameters
    ----------
    values : (h, w) real
        What is not finite gets the lowest colour.
    options
        Limits, scale, colours, size.

    Raises
    ------
    ConfigError
        If the limits are no limits.
    """
    shown = resize(np.asarray(values, np.float64), options.size)
    low, high = color_limits(shown, options)
    levels = _levels(shown, low, high, options.scale)
    return Picture(encode_png(levels, color_table(options.cmap)), low, high)


def resize(values: NDArray[np.float64], size: int | None) -> NDArray[np.float64]:
    """Return values (h, w) with `size` pixels on the longer side: means, or repeats."""
    longer = max(values.shape)
    if size is None or size == longer or values.size == 0:
        return values
    for axis in (0, 1):
        n = values.shape[axis]
        wanted = max(1, round(n * size / longer))
        starts = np.arange(wanted) * n // wanted
        if wanted <= n:
            counts = np.diff(np.append(starts, n))
            shape = (-1, 1) if axis == 0 else (1, -1)
            values = np.add.reduceat(values, starts, axis=axis) / counts.reshape(shape)
        else:
            values = values.take(starts, axis=axis)
    return values


def color_limits(values: NDArray[np.float64], options: PictureOptions) -> tuple[float, float]:
    """Return the values of the lowest and the highest colour, the second larger.

    Raises
    ------
    ConfigError
        If those that were asked for are not in order, or not positive on a logarithmic scale.
    """
    is_log = options.scale == "log"
    usable = values[np.isfinite(values) & ((values > 0) | (not is_log))]
    if usable.size == 0:
        usable = np.ones(1)
    low, high = np.percentile(usable, (options.pmin, options.pmax)).tolist()
    if is_log:
        low = max(low, high / 10**_DECADES)
    low = low if options.vmin is None else options.vmin
    high = high if options.vmax is None else options.vmax
    if options.vmin is not None and options.vmax is not None and not low < high:
        raise ConfigError(f"vmin is {low:g} and vmax {high:g}; expected vmin below vmax")
    if is_log and not (low > 0 and high > 0):
        raise ConfigError(f"limits are {low:g} and {high:g}; expected more than 0 on a log scale")
    if not low < high:
        # One value only, or one limit beyond all values.
        if options.vmin is None:
            low = high / 10 if is_log else high - max(1.0, abs(high))
        else:
            high = low * 10 if is_log else low + max(1.0, abs(low))
    return float(low), float(high)


def _levels(values: NDArray[np.float64], low: float, high: float, scale: str) -> NDArray[np.uint8]:
    """Return the colour number of each value."""
    clipped = np.clip(np.nan_to_num(values, nan=low, posinf=high, neginf=low), low, high)
    if scale == "log":
        share = np.log(clipped / low) / math.log(high / low)
    else:
        share = (clipped - low) / (high - low)
    return np.minimum(share * _LEVELS, _LEVELS - 1).astype(np.uint8)


@functools.cache
def color_table(name: str) -> bytes:
    """Return the 256 colours of a map, three bytes each.

    Along ``ember`` and ``ocean`` lightness grows evenly, as it does along ``gray``; ``phase`` is a
    circle of hues of equal lightness.
    """
    share = np.linspace(0.0, 1.0, _LEVELS)
    if name == "phase":
        lightness, chroma = np.full(_LEVELS, 0.72), np.full(_LEVELS, 0.12)
        hue = np.radians(np.arange(_LEVELS) * 360.0 / _LEVELS)
    else:
        (dark, light), (first, last), strength = _COURSES[name]
        lightness = dark + (light - dark) * share
        # Neither the darkest nor the lightest colours can be strong.
        chroma = strength * np.sin(np.pi * share) ** 0.6
        hue = np.radians(first + (last - first) * share)
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)])
    linear = np.clip(_TO_RGB @ (_TO_CONES @ lab) ** 3, 0.0, 1.0)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return bytes(np.rint(curved.T * 255).astype(np.uint8))


def encode_png(levels: NDArray[np.uint8], table: bytes) -> bytes:
    """Return a PNG file of colour numbers (h, w) and their colours."""
    height, width = levels.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each begins with its filter: none
    rows[:, 1:] = levels
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _png_chunk(b"IHDR", header),
            _png_chunk(b"PLTE", table),
            _png_chunk(b"IDAT", zlib.compress(rows.tobytes(), 3)),
            _png_chunk(b"IEND", b""),
        )
    )


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
