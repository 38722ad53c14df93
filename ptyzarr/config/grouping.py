"""Which groups are drawn."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

from ptyzarr.config.options import (
    check_bools,
    check_bounds,
    check_choice,
    check_distance,
    check_int,
    option,
)
from ptyzarr.errors import ConfigError

Strategy = Literal["canonical", "nearest", "band", "quadrant"]
Bounds = tuple[float, float]

_EVERY_STRATEGY = ("strategy", "gridsize", "n_neighbors", "seed")
_CENTERED = ("n_subsample", "x_bounds", "y_bounds")
_BANDED = ("min_neighbor_distance", "max_neighbor_distance", *_CENTERED)
_STRATEGY_OPTIONS: dict[str, tuple[str, ...]] = {
    "canonical": (
        "n_samples", "sequential_sampling", "enable_oversampling", "neighbor_pool_size",
    ),
    "nearest": _CENTERED,
    "band": _BANDED,
    "quadrant": _BANDED,
}  # fmt: skip
_NEIGHBOR_FUNCTIONS = {"Nearest": "nearest", "Min_dist": "band", "4_quadrant": "quadrant"}
_UPSTREAM_QUADRANT_PIXELS = 10
# The picks of one position are counted in 53 bits: (n_neighbors / 4)**4 of them.
_MOST_QUADRANT_NEIGHBORS = 10_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GroupingConfig:
    """Which groups are drawn; applied to each store alone.

    Values that only fail together with a scan (too few positions, a seed outside the
    generator's range) are refused when the groups are drawn, as the reference does. An option
    that the chosen strategy does not look at is refused unless it has its default.
    """

    gridsize: int = option(1, "groups have gridsize x gridsize frames")
    n_neighbors: int = option(4, "K: nearest neighbours among which a group is drawn")
    n_samples: int | None = option(None, "number of groups (default: one for every position)")
    seed: int | None = option(0, "seed of the random stream")
    sequential_sampling: bool = option(False, "take the first positions in order, not at random")
    enable_oversampling: bool = option(False, "allow more groups than positions")
    neighbor_pool_size: int | None = option(
        None, "neighbours that oversampling combines (default: n_neighbors)"
    )
    strategy: Strategy = option(
        "canonical",
        "canonical (as generate_grouped_data), or as PtychoPINN's torch loader: nearest (the "
        "position and its neighbours), band (neighbours between two distances), quadrant (one "
        "neighbour in each quadrant)",
    )
    n_subsample: int = option(1, "nearest, band, quadrant: groups drawn for each position")
    min_neighbor_distance: float = option(0.0, "band, quadrant: least distance, pixels")
    max_neighbor_distance: float | None = option(
        None, "band, quadrant: largest distance, pixels (default: no limit)"
    )
    x_bounds: Bounds | None = option(
        None, "nearest, band, quadrant: part of the scan's extent in x, e.g. 0.1 0.9"
    )
    y_bounds: Bounds | None = option(None, "the same in y")

    def __post_init__(self) -> None:
        """Check every option; raise `ConfigError`."""
        check_bools(self, "sequential_sampling", "enable_oversampling")
        check_int(self, "gridsize", 1)
        check_int(self, "n_neighbors", 0)
        check_int(self, "n_samples", 0, optional=True)
        check_int(self, "neighbor_pool_size", 1, optional=True)
        check_choice(self, "strategy", get_args(Strategy))
        check_int(self, "n_subsample", 1)
        check_distance(self, "min_neighbor_distance")
        check_distance(self, "max_neighbor_distance", optional=True)
        check_bounds(self, "x_bounds")
        check_bounds(self, "y_bounds")
        self._check_strategy()

    def _check_strategy(self) -> None:
        known = (*_EVERY_STRATEGY, *_STRATEGY_OPTIONS[self.strategy])
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in known and value != field.default:
                owners = [key for key, names in _STRATEGY_OPTIONS.items() if field.name in names]
                raise ConfigError(
                    f"{field.name} is {value!r} with strategy {self.strategy!r}, which has no such "
                    f"option; expected strategy {' or '.join(owners)}; choose one or leave it out"
                )
        limit = self.max_neighbor_distance
        if limit is not None and limit < self.min_neighbor_distance:
            raise ConfigError(
                f"max_neighbor_distance is {limit}; expected at least min_neighbor_distance "
                f"{self.min_neighbor_distance}"
            )
        if self.strategy == "quadrant":
            self._check_quadrant()
        if self.strategy == "band" and self.gridsize == 1:
            raise ConfigError(
                "strategy is 'band' with groups of one frame; expected gridsize 2 or more; use "
                "'nearest', which gives each position by itself"
            )

    def _check_quadrant(self) -> None:
        if self.gridsize != 2:
            raise ConfigError(
                f"gridsize is {self.gridsize} with strategy 'quadrant'; expected 2: a frame from "
                "each of four quadrants"
            )
        if self.n_neighbors > _MOST_QUADRANT_NEIGHBORS:
            raise ConfigError(
                f"n_neighbors is {self.n_neighbors} with strategy 'quadrant'; expected at most "
                f"{_MOST_QUADRANT_NEIGHBORS}"
            )

    @property
    def group_size(self) -> int:
        """C, the number of frames in a group."""
        return self.gridsize * self.gridsize

    def deciding_options(self) -> dict[str, Any]:
        """Return, by name, the options that decide which groups are drawn.

        What the strategy does not look at is left out, and so is the name of the canonical one:
        caches and saved loader states of canonical groups stay valid when strategies are added.
        """
        names = {*_EVERY_STRATEGY, *_STRATEGY_OPTIONS[self.strategy]}
        if self.strategy == "canonical":
            names.discard("strategy")
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if name in names}

    @classmethod
    def from_ptychopinn(cls, config: Any, seed: int | None = 0) -> GroupingConfig:
        """Return the options of one of upstream's configurations.

        Parameters
        ----------
        config
            A ``TrainingConfig`` or ``InferenceConfig`` of ``ptycho.config``, which give canonical
            groups, or a ``DataConfig`` of ``ptycho_torch`` (it has a ``neighbor_function``),
            which gives one of the other strategies; or anything with such field names. A field
            that it lacks keeps our default.
        seed
            Seed of the draws (upstream passes it to the call, or has none).

        Raises
        ------
        ConfigError
            If it is no such configuration, or one of its values has no counterpart here.
        """
        _check_upstream(config)
        if hasattr(config, "neighbor_function"):
            return cls(seed=seed, **_torch_options(config))
        model = getattr(config, "model", config)
        sampling = getattr(config, "sampling", config)  # later versions keep these fields there
        n_subsample = getattr(sampling, "n_subsample", None)
        if n_subsample is not None:
            raise ConfigError(
                f"n_subsample is {n_subsample}: the reference then groups a random part of "
                "the scan; expected None; take n_samples for fewer groups, or ingest a file with "
                "these frames alone"
            )
        return cls(
            gridsize=getattr(model, "gridsize", 1),
            n_neighbors=getattr(sampling, "neighbor_count", 4),
            n_samples=getattr(sampling, "n_groups", None),
            seed=seed,
            sequential_sampling=getattr(sampling, "sequential_sampling", False),
            enable_oversampling=getattr(sampling, "enable_oversampling", False),
            neighbor_pool_size=getattr(sampling, "neighbor_pool_size", None),
        )


def _check_upstream(config: Any) -> None:
    """Refuse what has none of upstream's fields, a dict for one: every default would be ours."""
    if isinstance(config, GroupingConfig):
        raise ConfigError("the configuration is a GroupingConfig already; use it as it is")
    names = ("model", "sampling", "gridsize", "neighbor_count", "neighbor_function", "n_groups")
    if not any(hasattr(config, name) for name in names):
        raise ConfigError(
            f"the configuration is a {type(config).__name__} without any of {', '.join(names)}; "
            "expected a TrainingConfig, InferenceConfig or DataConfig; make an object of a dict "
            "with types.SimpleNamespace(**fields)"
        )


def _torch_options(config: Any) -> dict[str, Any]:
    """Return our options for upstream's ``DataConfig``, without the seed."""
    function = config.neighbor_function
    strategy = _NEIGHBOR_FUNCTIONS.get(function) if isinstance(function, str) else None
    if strategy is None:
        listed = ", ".join(map(repr, _NEIGHBOR_FUNCTIONS))
        raise ConfigError(f"neighbor_function is {function!r}; expected one of {listed}")
    grid = getattr(config, "grid_size", (2, 2))
    is_pair = isinstance(grid, tuple | list) and len(grid) == 2
    n_channels = getattr(config, "C", grid[0] * grid[1] if is_pair else None)
    if not is_pair or grid[0] != grid[1] or n_channels != grid[0] * grid[1]:
        raise ConfigError(
            f"grid_size is {grid!r} with C {n_channels}; expected a square grid (g, g) and C its "
            "number of cells"
        )
    if n_channels == 1:
        strategy = "nearest"  # upstream asks for the neighbour function afterwards
    names = {name: name for name in _STRATEGY_OPTIONS[strategy]}
    names["n_neighbors"] = "K"
    if strategy == "quadrant":
        _check_upstream_quadrants(config)
        names["n_neighbors"] = "K_quadrant"
    return {
        "strategy": strategy,
        "gridsize": grid[0],
        **{ours: getattr(config, name) for ours, name in names.items() if hasattr(config, name)},
    }


def _check_upstream_quadrants(config: Any) -> None:
    pattern = getattr(config, "scan_pattern", "Isotropic")
    if pattern != "Isotropic":
        raise ConfigError(
            f"scan_pattern is {pattern!r}: the reference then has quadrants of fixed sizes in "
            "pixels; expected 'Isotropic'; choose distances, or another strategy"
        )
    limit = getattr(config, "max_neighbor_distance", 0)
    if not isinstance(limit, int | float) or limit > _UPSTREAM_QUADRANT_PIXELS:
        raise ConfigError(
            f"max_neighbor_distance is {limit}: the reference ends some of its quadrants at "
            f"{_UPSTREAM_QUADRANT_PIXELS} pixels; expected at most that, or a GroupingConfig of "
            "ours, whose quadrants have no such end"
        )
