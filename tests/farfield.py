"""Simulated far-field scans: an object known at every point, probes, frames without noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Plane = Callable[[Any, Any], Any]


def smooth_object(width: float, height: float) -> Plane:
    """Return transmission by x and y in pixels: blobs so wide that a few pixels sample them."""
    blobs = [(0.4, 0.45, 0.25), (0.6, 0.5, -0.2 + 0.15j), (0.45, 0.6, 0.3j)]

    def at(x: Any, y: Any) -> Any:
        total = 1.0 + 0j
        for cx, cy, strength in blobs:
            r2 = (x - cx * width) ** 2 + (y - cy * height) ** 2
            total = total + strength * np.exp(-r2 / (2 * 10.0**2))
        return total

    return at


def sample(plane: Plane, height: int, width: int) -> Any:
    """Return (height, width): the object at whole pixels."""
    y, x = np.mgrid[:height, :width]
    return plane(x, y)


def smooth_probe(size: int, radius: float, tilt: float = 0.0) -> Any:
    """Return (size, size) complex: narrow, without symmetry, 0 where an even width has no partner.

    That is the row and the column at -N/2.
    """
    y, x = np.mgrid[:size, :size] - size // 2
    wave = np.exp(-((x - 0.7) ** 2 + 1.2 * (y + 0.4) ** 2) / (2 * radius**2))
    wave = wave * np.exp(1j * (0.02 * x * y + tilt * (x + 0.5 * y)))
    if size % 2 == 0:
        wave[0, :] = wave[:, 0] = 0
    return wave


def diffract(exit_waves: Any) -> Any:
    """Return amplitudes (n, N, N) of exit waves (n, N, N), the zero frequency at pixel N//2."""
    axes = (-2, -1)
    shifted = np.fft.ifftshift(exit_waves, axes)
    return np.abs(np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes))


def frames_of(probe: Any, at: Plane, positions: Any) -> Any:
    """Return (n, N, N) amplitudes; pixel (N//2, N//2) of a patch shows the position's x and y."""
    size = probe.shape[-1]
    place = np.arange(size) - size // 2
    x = positions[:, 0, None, None] + place[None, None, :]
    y = positions[:, 1, None, None] + place[None, :, None]
    return diffract(probe * at(x, y))


def by_pixel(values: Any) -> Plane:
    """Return an object (H, W) as a function of whole pixels."""

    def at(x: Any, y: Any) -> Any:
        return values[np.rint(y).astype(int), np.rint(x).astype(int)]

    return at
