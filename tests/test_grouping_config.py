"""`GroupingConfig`: which options belong together, and what PtychoPINN's fields become."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from ptyzarr.config import GroupingConfig
from ptyzarr.errors import ConfigError

#: Options other than their defaults, and the strategies that look at them.
OWNERS = {
    "n_samples": (9, {"canonical"}),
    "sequential_sampling": (True, {"canonical"}),
    "enable_oversampling": (True, {"canonical"}),
    "neighbor_pool_size": (9, {"canonical"}),
    "n_subsample": (7, {"nearest", "band", "quadrant"}),
    "min_neighbor_distance": (1.0, {"band", "quadrant"}),
    "max_neighbor_distance": (3.0, {"band", "quadrant"}),
    "x_bounds": ((0.1, 0.9), {"nearest", "band", "quadrant"}),
    "y_bounds": ((0.1, 0.9), {"nearest", "band", "quadrant"}),
}


@pytest.mark.parametrize("strategy", ["canonical", "nearest", "band", "quadrant"])
@pytest.mark.parametrize("name", OWNERS)
def test_an_option_of_another_strategy_is_refused(name: str, strategy: str) -> None:
    value, owners = OWNERS[name]
    options = {"strategy": strategy, "gridsize": 2, name: value}
    if strategy in owners:
        config = GroupingConfig(**options)
        assert config.deciding_options()[name] == value
        return
    with pytest.raises(ConfigError, match=f"{name} is .* with strategy '{strategy}'"):
        GroupingConfig(**options)


def test_canonical_options_are_told_as_before_there_were_strategies() -> None:
    # Caches of groups and saved loader states hold exactly these.
    assert GroupingConfig(gridsize=2, seed=3).deciding_options() == {
        "gridsize": 2,
        "n_neighbors": 4,
        "n_samples": None,
        "seed": 3,
        "sequential_sampling": False,
        "enable_oversampling": False,
        "neighbor_pool_size": None,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"strategy": "radial"}, "strategy is 'radial'", id="strategy"),
        pytest.param({"n_subsample": 0}, "n_subsample is 0", id="no-groups"),
        pytest.param({"n_subsample": 1.5}, "n_subsample is 1.5", id="part-of-a-group"),
        pytest.param({"min_neighbor_distance": -1}, "min_neighbor_distance is -1", id="negative"),
        pytest.param({"min_neighbor_distance": None}, "0 or more", id="no-distance"),
        pytest.param({"max_neighbor_distance": "3"}, "max_neighbor_distance is '3'", id="text"),
        pytest.param({"max_neighbor_distance": float("nan")}, "is nan", id="nan"),
        pytest.param({"max_neighbor_distance": float("inf")}, "is inf", id="infinite"),
        pytest.param({"min_neighbor_distance": 3, "max_neighbor_distance": 2}, "least", id="order"),
        pytest.param({"x_bounds": (0.9, 0.1)}, "x_bounds is", id="bounds-order"),
        pytest.param({"x_bounds": (0.5, 0.5)}, "low < high", id="bounds-empty"),
        pytest.param({"y_bounds": (0.1, 1.1)}, "y_bounds is", id="bounds-beyond"),
        pytest.param({"y_bounds": (0.1,)}, "two fractions", id="one-bound"),
        pytest.param({"y_bounds": (True, False)}, "two fractions", id="no-numbers"),
        pytest.param({"y_bounds": 0.5}, "two fractions", id="no-pair"),
        pytest.param({"strategy": "quadrant", "gridsize": 3}, "gridsize is 3", id="quadrant"),
        pytest.param(
            {"strategy": "quadrant", "n_neighbors": 10_001}, "at most 10000", id="quadrant-many"
        ),
        pytest.param({"gridsize": 1}, "groups of one frame", id="band-of-one"),
    ],
)
def test_values_that_cannot_work_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        GroupingConfig(**{"strategy": "band", "gridsize": 2, **options})
    assert raised.value.code == "config"


def test_numbers_of_any_kind_mean_the_same() -> None:
    plain = GroupingConfig(
        strategy="band", gridsize=2, max_neighbor_distance=3.0, x_bounds=(0.0, 0.5)
    )
    other = GroupingConfig(
        strategy="band",
        gridsize=2,
        max_neighbor_distance=np.int64(3),
        x_bounds=[0, np.float32(0.5)],
    )
    assert plain == other
    assert hash(plain) == hash(other)


def data_config(**changes: object) -> SimpleNamespace:
    """Return upstream's ``DataConfig`` of its torch loader, with its defaults."""
    fields = {
        "N": 64, "C": 4, "K": 6, "K_quadrant": 30, "n_subsample": 7, "subsample_seed": None,
        "grid_size": (2, 2), "neighbor_function": "Nearest", "min_neighbor_distance": 0.0,
        "max_neighbor_distance": 3.0, "scan_pattern": "Isotropic", "x_bounds": (0.1, 0.9),
        "y_bounds": (0.1, 0.9),
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **changes})


NEAREST = GroupingConfig(
    strategy="nearest", gridsize=2, n_neighbors=6, n_subsample=7, x_bounds=(0.1, 0.9),
    y_bounds=(0.1, 0.9), seed=5,
)  # fmt: skip
BAND = dataclasses.replace(NEAREST, strategy="band", max_neighbor_distance=3.0)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        pytest.param({}, NEAREST, id="nearest"),
        pytest.param({"neighbor_function": "Min_dist"}, BAND, id="band"),
        pytest.param(
            {"neighbor_function": "4_quadrant"},
            dataclasses.replace(BAND, strategy="quadrant", n_neighbors=30),
            id="quadrant",
        ),
        pytest.param(
            {"neighbor_function": "4_quadrant", "C": 1, "grid_size": (1, 1)},
            dataclasses.replace(NEAREST, gridsize=1),
            id="one-frame",
        ),
        pytest.param(
            {"C": 9, "grid_size": [3, 3], "K": 12, "x_bounds": [0, 1]},
            dataclasses.replace(NEAREST, gridsize=3, n_neighbors=12, x_bounds=(0, 1)),
            id="nine",
        ),
    ],
)
def test_the_torch_loaders_fields_become_a_strategy(changes: dict, wanted: GroupingConfig) -> None:
    assert GroupingConfig.from_ptychopinn(data_config(**changes), seed=5) == wanted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"neighbor_function": "Farthest"}, "'Farthest'", id="function"),
        pytest.param({"grid_size": (2, 3), "C": 6}, "square grid", id="not-square"),
        pytest.param({"grid_size": 2}, "grid_size is 2", id="no-pair"),
        pytest.param({"C": 1}, "with C 1", id="channels"),
        pytest.param(
            {"neighbor_function": "4_quadrant", "scan_pattern": "Rectangular"},
            "fixed sizes",
            id="rectangular",
        ),
        pytest.param(
            {"neighbor_function": "4_quadrant", "max_neighbor_distance": 12.0},
            "at 10 pixels",
            id="far",
        ),
        pytest.param({"x_bounds": (0.9, 0.1)}, "x_bounds", id="bounds"),
    ],
)
def test_what_has_no_counterpart_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GroupingConfig.from_ptychopinn(data_config(**changes))


def test_training_and_inference_fields_become_canonical_options() -> None:
    config = SimpleNamespace(
        model=SimpleNamespace(N=64, gridsize=2), n_groups=512, neighbor_count=7,
        n_subsample=None, subsample_seed=3, enable_oversampling=True, neighbor_pool_size=9,
        sequential_sampling=True, nphotons=1e9, batch_size=16,
    )  # fmt: skip
    assert GroupingConfig.from_ptychopinn(config, seed=4) == GroupingConfig(
        gridsize=2, n_neighbors=7, n_samples=512, seed=4, sequential_sampling=True,
        enable_oversampling=True, neighbor_pool_size=9,
    )  # fmt: skip
    nested = SimpleNamespace(
        model=config.model, sampling=SimpleNamespace(n_groups=512, neighbor_count=7)
    )
    assert GroupingConfig.from_ptychopinn(nested) == GroupingConfig(
        gridsize=2, n_neighbors=7, n_samples=512
    )
    assert GroupingConfig.from_ptychopinn(SimpleNamespace(gridsize=1)) == GroupingConfig()
    config.n_subsample = 100
    with pytest.raises(ConfigError, match="n_subsample is 100"):
        GroupingConfig.from_ptychopinn(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param(None, "a NoneType without any of", id="none"),
        pytest.param({"gridsize": 2}, r"a dict without any of .*SimpleNamespace", id="dict"),
        pytest.param(3, "a int without any of", id="number"),
        pytest.param(GroupingConfig(), "GroupingConfig already", id="ours"),
        pytest.param(SimpleNamespace(neighbor_function=[]), "neighbor_function is", id="list"),
        pytest.param(
            SimpleNamespace(neighbor_function="4_quadrant", max_neighbor_distance="a"),
            "max_neighbor_distance is a",
            id="text",
        ),
    ],
)
def test_what_is_no_configuration_of_upstream_is_refused(config: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GroupingConfig.from_ptychopinn(config)
