"""Diffraction patterns as pictures: intensities, their mean, logarithmic scales."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.store import ScanStore

FRAME_CMAP = "magma"

_BLOCK_BYTES = 16 * 1024**2  # intensities held while the mean is summed
_MEAN_FRAMES = 1000
_MEAN_PIXELS = 64 * 1024**2
_DECADES = 6


def draw_mean(figure: Any, store: ScanStore) -> None:
    """Draw the mean intensity of the scan, or of frames spread over it."""
    axes = figure.subplots()
    mean, count = _mean_intensity(store)
    image = axes.imshow(mean, cmap=FRAME_CMAP, norm=log_norm(mean))
    of = "one frame" if store.n_frames == 1 else f"all {count:,} frames"
    if count < store.n_frames:
        of = f"{count:,} of {store.n_frames:,} frames"
    axes.set_title(f"Mean diffraction pattern, {of}", fontsize=11, pad=8)
    axes.set_xlabel("detector x (pixels)")
    axes.set_ylabel("detector y (pixels)")
    add_color_bar(figure, image, axes, f"mean of a pixel ({intensity_unit(store)})")


def _mean_intensity(store: ScanStore) -> tuple[NDArray[np.float64], int]:
    """Return the mean of squared amplitude (N, N) and the number of frames in it."""
    n_pixels = store.frame_size**2
    count = min(store.n_frames, _MEAN_FRAMES, max(16, _MEAN_PIXELS // n_pixels))
    # In stored order, so that frames of one chunk are decoded together.
    rows = np.linspace(0, store.n_frames - 1, count).astype(np.int64)
    indices = store.frame_index[rows]
    total = np.zeros((store.frame_size, store.frame_size))
    step = max(1, _BLOCK_BYTES // (8 * n_pixels))
    for start in range(0, count, step):
        total += intensity(store, indices[start : start + step]).sum(axis=0)
    return total / count, count


def intensity(store: ScanStore, indices: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return squared amplitudes (m, N, N) of frames `indices`; exact where counts are stored."""
    frames = store.stored(indices).astype(np.float64)
    return frames if store.quantity == "counts" else np.square(frames, out=frames)


def intensity_unit(store: ScanStore) -> str:
    """Return what the numbers of `intensity` are."""
    return "counts" if store.quantity == "counts" else "squared amplitude"


def log_norm(values: NDArray[np.float64]) -> Any:
    """Return a logarithmic norm over the positive values, at most six decades."""
    from matplotlib.colors import LogNorm

    positive = values[(values > 0) & np.isfinite(values)]
    if len(positive) == 0:
        return LogNorm(0.1, 1.0, clip=True)
    high = float(positive.max())
    low = max(float(positive.min()), high / 10**_DECADES)
    return LogNorm(low if low < high else high / 10, high, clip=True)


def add_color_bar(figure: Any, mappable: Any, axes: Any, label: str, gap: float = 0.03) -> None:
    """Add a colour bar as high as the axes, whatever shape their equal aspect gives them.

    `gap` and the bar's width are in units of the width of square axes.
    """
    ranges = np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())
    stretch = float(max(ranges) / ranges[0])
    bar = axes.inset_axes((1 + gap * stretch, 0, 0.04 * stretch, 1))
    figure.colorbar(mappable, cax=bar, label=label)
