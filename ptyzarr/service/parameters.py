"""The parameters that routes take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ptyzarr.config import GroupingConfig
from ptyzarr.errors import ConfigError
from ptyzarr.service.pictures import COLOR_MAPS, MAX_SIZE, SCALES, PictureOptions
from ptyzarr.service.query import Parameter

_DEFAULTS: Final = GroupingConfig()

LISTING: Final = (
    Parameter(name="cursor", kind="string", help="`next` of the page before"),
    Parameter(
        name="limit", kind="integer", help="scans on a page", default=100, minimum=1, maximum=1000
    ),
)
GROUPS: Final = (
    Parameter(
        name="gridsize", kind="integer", help="groups have gridsize x gridsize frames",
        default=_DEFAULTS.gridsize, minimum=1, maximum=64,
    ),
    Parameter(
        name="n_neighbors", kind="integer", help="nearest neighbours a group is drawn from",
        default=_DEFAULTS.n_neighbors, minimum=0, maximum=2**20,
    ),
    Parameter(
        name="n_samples", kind="integer", help="number of groups; left out: one a position",
        minimum=0,
    ),
    Parameter(
        name="seed", kind="integer", help="seed of the canonical stream",
        default=_DEFAULTS.seed, minimum=0, maximum=2**32 - 1,
    ),
    Parameter(
        name="position", kind="integer",
        help="answer with JSON: the groups drawn for this acquisition index", minimum=0,
    ),
)  # fmt: skip
_SIZE: Final = Parameter(
    name="size", kind="integer", help="pixels of the longer side; left out: one for each value",
    minimum=1, maximum=MAX_SIZE,
)  # fmt: skip
_CMAP: Final = Parameter(name="cmap", kind="string", help="colour map", choices=COLOR_MAPS)
_LIMITS: Final = (
    Parameter(name="vmin", kind="number", help="value of the lowest colour"),
    Parameter(name="vmax", kind="number", help="value of the highest colour"),
    Parameter(
        name="pmin", kind="number", help="percentile of the lowest colour, instead of vmin",
        default=0.0, minimum=0, maximum=100, instead_of="vmin",
    ),
    Parameter(
        name="pmax", kind="number", help="percentile of the highest colour, instead of vmax",
        default=100.0, minimum=0, maximum=100, instead_of="vmax",
    ),
)  # fmt: skip


def _scale(default: str) -> Parameter:
    return Parameter(
        name="scale", kind="string", help="scale of the colours", default=default, choices=SCALES
    )


FRAME_PICTURE: Final = (_scale("log"), *_LIMITS, _CMAP, _SIZE)
PROBE_PICTURE: Final = (_scale("linear"), *_LIMITS, _CMAP, _SIZE)
PHASE_PICTURE: Final = (_CMAP, _SIZE)
PROBE_MODE: Final = Parameter(
    name="mode", kind="integer", help="mode of the probe", default=0, minimum=0, maximum=10**6
)


def picture_options(query: Mapping[str, Any], default_cmap: str = "ember") -> PictureOptions:
    """Return the options that a query asks for.

    Raises
    ------
    ConfigError
        If the percentiles are not in order.
    """
    options = PictureOptions(**{**query, "cmap": query["cmap"] or default_cmap})
    if not options.pmin < options.pmax:
        raise ConfigError(
            f"pmin is {options.pmin:g} and pmax {options.pmax:g}; expected pmin below pmax"
        )
    return options
