"""The scan map: every position, coloured, over the object, with the groups marked."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptyzarr.store import ScanStore
from ptyzarr.view.groups import GROUP_COLORS, GROUP_LETTERS, ShownGroups
from ptyzarr.view.patterns import add_color_bar, intensity_unit

Color = Literal["power", "order"]

_MAP_CMAP = "cividis"
_OBJECT_PIXELS = 1000  # drawn pixels along an axis of the object
_POINTS = 340  # about the length in points of the longer axis of the map


def draw_map(figure: Any, store: ScanStore, groups: ShownGroups, color: Color) -> None:
    """Draw the positions, x to the right and y down as in the rows of an image."""
    axes = figure.subplots()
    positions = np.asarray(store.positions, np.float64)
    finite = np.isfinite(positions).all(axis=1)
    shown = positions[finite]
    x_range, y_range = _map_limits(shown)
    axes.set(xlim=x_range, ylim=y_range[::-1], aspect="equal")
    has_object = _draw_object(axes, store, shown, x_range, y_range)
    size = _marker_size(axes, shown, share=0.55 if has_object else 0.8)
    values, name, label = _map_values(store, color)
    points = axes.scatter(
        *shown.T, c=values[finite], s=size, cmap=_MAP_CMAP, linewidths=0,
        rasterized=len(shown) > 5000, **_color_limits(values[finite]),
    )  # fmt: skip
    for letter, members, edge in zip(GROUP_LETTERS, groups.nn_indices, GROUP_COLORS, strict=False):
        _mark_group(axes, positions[members], points.to_rgba(values[members]), size, letter, edge)
    axes.set_xlabel("x (object pixels)")
    axes.set_ylabel("y (object pixels)")
    behind = ", object amplitude behind" if has_object else ""
    axes.set_title(f"Scan map: {name}{behind}", fontsize=11, pad=8)
    has_second_scale = _add_micrometre_axes(axes, store)
    add_color_bar(figure, points, axes, label, gap=0.17 if has_second_scale else 0.03)


def _map_limits(positions: NDArray[np.float64]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return x and y limits with a margin, none of the two ranges below a third of the other."""
    if len(positions) == 0:
        return (0.0, 1.0), (0.0, 1.0)
    low, high = positions.min(axis=0), positions.max(axis=0)
    extent = high - low
    largest = max(float(extent.max()), 1.0)
    half = np.maximum(extent, largest / 3) / 2 + 0.06 * largest
    center = (low + high) / 2
    (x0, y0), (x1, y1) = (center - half).tolist(), (center + half).tolist()
    return (x0, x1), (y0, y1)


def _marker_size(axes: Any, positions: NDArray[np.float64], share: float) -> float:
    """Return the area of a marker in square points that fills `share` of the mean spacing."""
    if len(positions) < 2:
        return 60.0
    extent = np.ptp(positions, axis=0)
    area = max(float(extent.prod()), float(extent.max()) ** 2 / len(positions))
    spacing = np.sqrt(area / len(positions)) * _points_per_pixel(axes)
    return float(np.clip(share * spacing, 1.2, 11.0) ** 2)


def _map_values(store: ScanStore, color: Color) -> tuple[NDArray[np.float64], str, str]:
    """Return what colours the positions (n,), its name and its label with unit."""
    if color == "order":
        return np.arange(store.n_frames, dtype=np.float64), "acquisition order", "acquisition index"
    return store.frame_power, "summed power", f"power of a frame ({intensity_unit(store)})"


def _color_limits(values: NDArray[np.float64]) -> dict[str, float]:
    """Return limits that a few outliers do not stretch."""
    if len(values) == 0:
        return {}
    low, high = np.percentile(values, (0.5, 99.5))
    return {"vmin": float(low), "vmax": float(high)} if high > low else {}


def _draw_object(
    axes: Any,
    store: ScanStore,
    positions: NDArray[np.float64],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
) -> bool:
    """Draw the object's amplitude behind the positions if they lie in it; say whether."""
    if "object_guess" not in store.nodes() or len(positions) == 0:
        return False
    array = store.array("object_guess")
    height, width = array.shape
    low, high = positions.min(axis=0), positions.max(axis=0)
    if low.min() < 0 or high[0] > width - 1 or high[1] > height - 1:
        return False
    x0, x1 = max(0, int(x_range[0])), min(width, int(x_range[1]) + 2)
    y0, y1 = max(0, int(y_range[0])), min(height, int(y_range[1]) + 2)
    step = max(1, -(-max(x1 - x0, y1 - y0) // _OBJECT_PIXELS))
    amplitude = np.abs(np.asarray(array[y0:y1:step, x0:x1:step]))
    darkest, brightest = np.nanpercentile(amplitude, (1, 99))
    if not brightest > darkest:
        return False
    # Object pixel i is centred at coordinate i.
    rows, columns = amplitude.shape
    extent = (x0 - 0.5, x0 + columns * step - 0.5, y0 + rows * step - 0.5, y0 - 0.5)
    axes.imshow(
        amplitude, extent=extent, cmap="gray", vmin=darkest, vmax=brightest, alpha=0.5,
        interpolation="nearest", zorder=0,
    )  # fmt: skip
    axes.set(xlim=x_range, ylim=y_range[::-1])
    return True


def _mark_group(
    axes: Any,
    members: NDArray[np.float64],
    faces: Any,
    size: float,
    letter: str,
    color: str,
) -> None:
    """Ring the members (C, 2) and put the letter at their centre, or above them if it is crowded.

    The lines to the centre lie below all positions, the rings above.
    """
    center = members.mean(axis=0)
    for member in members:
        axes.plot(*zip(center, member, strict=True), color="white", lw=3.4, zorder=0.4)
        axes.plot(*zip(center, member, strict=True), color=color, lw=1.8, zorder=0.5)
    ring = max(1.6 * size, 22.0)
    axes.scatter(*members.T, s=ring, c="white", edgecolors="white", lw=3.6, zorder=5)
    axes.scatter(*members.T, s=ring, c=faces, edgecolors=color, lw=1.8, zorder=6)
    radius = np.linalg.norm(members - center, axis=1).min() * _points_per_pixel(axes)
    is_roomy = radius > np.sqrt(ring) / 2 + 16
    axes.annotate(
        letter, center if is_roomy else members[np.argmin(members[:, 1])],
        xytext=(0, 0 if is_roomy else np.sqrt(ring) / 2 + 10), textcoords="offset points",
        ha="center", va="center", fontsize=10, fontweight="bold", color="white", zorder=7,
        bbox={"boxstyle": "circle,pad=0.2", "fc": color, "ec": "white", "lw": 1},
    )  # fmt: skip


def _points_per_pixel(axes: Any) -> float:
    """Return about how many points wide an object pixel is drawn."""
    ranges = (np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim()))
    return _POINTS / float(max(ranges))


def _add_micrometre_axes(axes: Any, store: ScanStore) -> bool:
    """Add a second scale in micrometres where the pixel size is known; say whether."""
    scale = 1e6 * store.attrs["physics"].get("pixel_size_m", 0.0)
    if scale <= 0:
        return False
    functions = (lambda value: value * scale, lambda value: value / scale)
    axes.secondary_xaxis("top", functions=functions).set_xlabel("x (µm)")
    axes.secondary_yaxis("right", functions=functions).set_ylabel("y (µm)")
    return True
