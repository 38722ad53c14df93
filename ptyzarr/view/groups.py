"""A few groups of a scan: which are shown, and the pictures of their frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.config import GroupingConfig
from ptyzarr.grouping import cached_group_table
from ptyzarr.store import ScanStore
from ptyzarr.view.patterns import FRAME_CMAP, intensity, intensity_unit, log_norm

# After Okabe and Ito, darkened where they have to be legible as text. Groups carry letters too:
# colour is never the only sign.
GROUP_COLORS = (
    "#d55e00", "#b0408e", "#007a5a", "#0072b2", "#b87700", "#5b3a9e", "#8c2d04", "#666666",
)  # fmt: skip
GROUP_LETTERS = "ABCDEFGH"

FIGURE_WIDTH = 13.0  # inches

_SHOWN_MEMBERS = 16
_PANEL_PIXELS = 256  # drawn pixels along an axis of a frame
_PANEL_INCHES = 1.8  # largest width of a frame


@dataclass(frozen=True, slots=True)
class ShownGroups:
    """The groups that are shown, or why there are none.

    Attributes
    ----------
    nn_indices : (m, C) int
        Acquisition indices of the members.
    numbers : (m,) int64
        Number of each group in the canonical order.
    title
        What the pictures of the groups are.
    """

    nn_indices: NDArray[Any]
    numbers: NDArray[np.int64]
    title: str

    @property
    def n_members(self) -> int:
        """Frames of a group that are shown."""
        return min(int(self.nn_indices.shape[1]), _SHOWN_MEMBERS)


def choose_groups(
    store: ScanStore, grouping: GroupingConfig, n_groups: int, seed: int
) -> ShownGroups:
    """Return up to `n_groups` groups whose seeds are spread along the stored order.

    That order follows the scan through space, so even steps along it are spread over the map.
    """
    size = grouping.group_size
    none = np.empty((0, size), np.int64), np.empty(0, np.int64)
    if n_groups == 0:
        return ShownGroups(*none, "")
    if store.n_frames < size:
        frames = "1 frame" if store.n_frames == 1 else f"{store.n_frames} frames"
        return ShownGroups(*none, f"No groups: a group has {size} frames, the scan has {frames}")
    table = cached_group_table(store, grouping)
    if table.n_groups == 0:
        return ShownGroups(*none, "No groups: none were asked for")
    count = min(n_groups, table.n_groups)
    edges = np.arange(count + 1) * table.n_groups // count
    # From the middle half of each part, so that neighbouring choices do not touch.
    jitter = np.random.default_rng(seed).uniform(0.25, 0.75, count)
    places = edges[:-1] + (jitter * np.diff(edges)).astype(np.int64)
    numbers = np.argsort(store.rows[table.seeds], kind="stable")[places]
    title = _groups_title(grouping, count, table.n_groups)
    return ShownGroups(table.nn_indices[numbers], numbers, title)


def _groups_title(grouping: GroupingConfig, count: int, total: int) -> str:
    seed = "no seed" if grouping.seed is None else f"seed {grouping.seed}"
    shown = "all" if count == total else f"{count} of {total:,}"
    if grouping.group_size == 1:
        return f"Groups of one frame ({seed}), {shown} shown"
    if grouping.strategy != "canonical":
        return (
            f"Groups of {grouping.group_size} frames, {grouping.strategy} ({seed}), {shown} shown"
        )
    return (
        f"Groups of {grouping.group_size} frames among {grouping.n_neighbors} nearest neighbors "
        f"({seed}), {shown} shown"
    )


def groups_height(groups: ShownGroups) -> float:
    """Return the height in inches of the row of groups."""
    if len(groups.numbers) == 0:
        return 0.4
    side, panel = _panel_grid(groups)
    rows = -(-groups.n_members // side)
    return 0.95 + rows * (panel + 0.3)


def _panel_grid(groups: ShownGroups) -> tuple[int, float]:
    """Return how many frames of a group lie side by side, and the width of one in inches."""
    side = int(np.ceil(np.sqrt(groups.n_members)))
    return side, min(_PANEL_INCHES, (FIGURE_WIDTH / len(groups.numbers) - 0.3) / side - 0.1)


def draw_groups(figure: Any, store: ScanStore, groups: ShownGroups) -> None:
    """Draw the members of every group, side by side, all in one logarithmic scale."""
    if len(groups.numbers) == 0:
        figure.suptitle(groups.title, fontsize=11)
        return
    members = groups.nn_indices[:, : groups.n_members]
    frames = [[_panel_frame(store, member) for member in group] for group in members]
    norm = log_norm(np.array(frames))
    limits = f"{_format_value(norm.vmin)} to {_format_value(norm.vmax)} {intensity_unit(store)}"
    figure.suptitle(f"{groups.title}; log scale, {limits}", fontsize=11)
    n_hidden = groups.nn_indices.shape[1] - groups.n_members
    hidden = f", {n_hidden} more frames" if n_hidden else ""
    for i, block in enumerate(_group_blocks(figure, groups)):
        title = f"{GROUP_LETTERS[i]}: group {groups.numbers[i]}{hidden}"
        block.suptitle(title, fontsize=10.5, fontweight="bold", color=GROUP_COLORS[i])
        _draw_group(block, frames[i], members[i], norm, GROUP_COLORS[i], _panel_grid(groups))


def _group_blocks(figure: Any, groups: ShownGroups) -> list[Any]:
    """Return a subfigure for each group, side by side in the middle."""
    n_groups = len(groups.numbers)
    side, panel = _panel_grid(groups)
    width = side * (panel + 0.1) + 0.3
    margin = (FIGURE_WIDTH - n_groups * width) / 2
    # A subfigure without width would stop the layout.
    margins = [margin] if margin > 0.2 else []
    widths = [*margins, *[width] * n_groups, *margins]
    blocks = np.atleast_1d(figure.subfigures(1, len(widths), width_ratios=widths))
    return list(blocks[len(margins) : len(margins) + n_groups])


def _format_value(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _panel_frame(store: ScanStore, member: int) -> NDArray[np.float64]:
    """Return a frame's intensity, large ones as means of square blocks."""
    frame: NDArray[np.float64] = intensity(store, np.array([member]))[0]
    step = -(-len(frame) // _PANEL_PIXELS)
    if step == 1:
        return frame
    size = len(frame) // step
    blocks = frame[: size * step, : size * step].reshape(size, step, size, step)
    pooled: NDArray[np.float64] = blocks.mean(axis=(1, 3))
    return pooled


def _draw_group(
    figure: Any,
    frames: list[NDArray[np.float64]],
    members: NDArray[Any],
    norm: Any,
    color: str,
    panel_grid: tuple[int, float],
) -> None:
    """Draw the frames of one group, labelled with their acquisition indices."""
    side, panel = panel_grid
    rows = -(-len(members) // side)
    grid = figure.subplots(rows, side, squeeze=False)
    for axes in grid.flat[len(members) :]:
        axes.remove()
    label = "frame {}" if panel > 0.9 else "{}"
    size = float(np.clip(8 * panel, 5.5, 8.5))
    for axes, frame, member in zip(grid.flat, frames, members, strict=False):
        axes.imshow(frame, cmap=FRAME_CMAP, norm=norm)
        axes.set(xticks=(), yticks=())
        axes.set_title(label.format(member), fontsize=size, pad=3)
        for spine in axes.spines.values():
            spine.set(edgecolor=color, linewidth=2)
