"""`draw_scan`: the parts of the picture put together and written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

from ptyzarr.config import GroupingConfig, format_size
from ptyzarr.errors import ConfigError, DeviceError, StorageError
from ptyzarr.store import ScanStore
from ptyzarr.view.groups import (
    FIGURE_WIDTH,
    GROUP_COLORS,
    choose_groups,
    draw_groups,
    groups_height,
)
from ptyzarr.view.patterns import draw_mean
from ptyzarr.view.scanmap import Color, draw_map

_SUFFIXES = (".png", ".pdf", ".svg")
_DPI = 140
_TOP_HEIGHT = 6.1  # inches


def draw_scan(
    store: ScanStore,
    path: str | os.PathLike[str],
    *,
    grouping: GroupingConfig | None = None,
    n_groups: int = 4,
    color: Color = "power",
    seed: int = 0,
) -> Path:
    """Draw the scan map, the mean diffraction pattern and a few groups into one picture.

    Memory does not grow with the frames: the mean of a large scan is that of a sample spread over
    it, which its title says.

    Parameters
    ----------
    store
        The scan.
    path
        Picture to write; ``.png``, ``.pdf`` or ``.svg``. Missing folders are made.
    grouping
        Which groups are drawn; default 2 x 2 frames among 6 neighbours. A scan with fewer frames
        than a group is drawn without groups.
    n_groups
        Groups to show, 0 to 8, spread over the scan.
    color
        What colours the positions: ``"power"``, the sum of squared amplitude, or ``"order"``, the
        acquisition index.
    seed
        Decides which groups are shown.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ConfigError
        If an option or the suffix is not one of those above.
    DeviceError
        If matplotlib is not installed.
    GroupingError
        If groups cannot be drawn with `grouping`.
    DamagedStoreError
        If a frame that is shown is damaged.
    StorageError
        If the picture cannot be written.
    """
    path = Path(path)
    _check_options(path, n_groups, color)
    figure_class = _figure_class()
    groups = choose_groups(store, grouping or _default_grouping(), n_groups, seed)
    bottom_height = groups_height(groups)
    figure = figure_class(figsize=(FIGURE_WIDTH, _TOP_HEIGHT + bottom_height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    heights = (_TOP_HEIGHT, bottom_height)
    top, bottom = figure.subfigures(2, 1, height_ratios=heights)
    left, right = top.subfigures(1, 2, width_ratios=(1.1, 1))
    # A name may hold dollar signs.
    top.suptitle(_title(store), fontsize=14, fontweight="bold", parse_math=False)
    draw_map(left, store, groups, color)
    draw_mean(right, store)
    draw_groups(bottom, store, groups)
    return _save(figure, path)


def _default_grouping() -> GroupingConfig:
    return GroupingConfig(gridsize=2, n_neighbors=6)


def _check_options(path: Path, n_groups: int, color: str) -> None:
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(
            f"picture {path.name!r} ends in {path.suffix!r}; expected one of {', '.join(_SUFFIXES)}"
        )
    if not 0 <= n_groups <= len(GROUP_COLORS):
        raise ConfigError(f"n_groups is {n_groups}; expected 0 to {len(GROUP_COLORS)}")
    if color not in get_args(Color):
        raise ConfigError(f"color is {color!r}; expected one of {', '.join(get_args(Color))}")


def _figure_class() -> Any:
    """Return matplotlib's figure; its own canvas draws without a display or pyplot's state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DeviceError(
            "pictures need matplotlib, which is not installed; install 'ptyzarr[plot]'"
        ) from error
    return Figure


def _save(figure: Any, path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=_DPI)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({error.strerror or error}); choose another place"
        ) from error
    return path


def _title(store: ScanStore) -> str:
    size = store.frame_size
    frames = "1 frame" if store.n_frames == 1 else f"{store.n_frames:,} frames"
    name = Path(store.path).name.removesuffix(".zarr")
    if len(name) > 48:
        name = f"{name[:45]}..."
    return (
        f"{name}   {frames} of {size} x {size}, stored as {store.quantity}\n"
        f"{format_size(store.bytes_stored)} on disk for {format_size(store.bytes_logical)} of "
        f"{store.amplitude_dtype.name} amplitudes"
    )
