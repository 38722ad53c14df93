from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.errors import ConfigError
from ptyzarr.grouping import as_scans, check_options, split_groups, split_scans

from .memory_scan import make_scan

SCAN = make_scan(12)


def test_one_store_or_several_are_a_list():
    assert as_scans(SCAN) == [SCAN]
    assert as_scans((SCAN, SCAN)) == [SCAN, SCAN]


@pytest.mark.parametrize(
    ("stores", "message"),
    [
        pytest.param("a.zarr", r"stores is the path a.zarr; .*open_store\('a.zarr'\)", id="path"),
        pytest.param(Path("a.zarr"), "stores is the path a.zarr", id="path object"),
        pytest.param([SCAN, "b.zarr"], r"stores\[1\] is the path b.zarr", id="path among stores"),
        pytest.param(None, "stores is None; expected a store", id="none"),
        pytest.param([SCAN, None], r"stores\[1\] is None", id="none among stores"),
        pytest.param(3, "stores is a int", id="number"),
        pytest.param(np.zeros(3), "stores is a ndarray", id="array"),
    ],
)
def test_what_is_no_store_is_named(stores, message):
    with pytest.raises(ConfigError, match=message):
        as_scans(stores)


@pytest.mark.parametrize(
    ("options", "found"),
    [(None, "None"), ({}, "a dict"), (LoaderConfig(), "a LoaderConfig")],
    ids=["none", "dict", "swapped"],
)
def test_options_of_another_kind_are_named(options, found):
    with pytest.raises(ConfigError, match=f"grouping is {found}; expected a GroupingConfig"):
        check_options(options, GroupingConfig, "grouping")


def test_splits_ask_for_opened_stores():
    with pytest.raises(ConfigError, match="is the path a"):
        split_groups("a.zarr", GroupingConfig())
    with pytest.raises(ConfigError, match="grouping is None"):
        split_groups(SCAN, None)
    with pytest.raises(ConfigError, match=r"stores\[0\] is the path"):
        split_scans(["a.zarr", "b.zarr"])
