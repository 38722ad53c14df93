"""Columns of coordinates, alone."""

from __future__ import annotations

import numpy as np
import pytest

from ptyzarr.errors import SourceError
from ptyzarr.sources.positions import check_column


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_coordinates_that_are_not_finite_are_refused(dtype, value):
    with pytest.raises(SourceError, match="at index 1; expected a finite position"):
        check_column(np.array([0, value], dtype), "x")


@pytest.mark.parametrize("value", [1e300, -1e300, 1e150])
def test_coordinates_whose_distances_overflow_are_refused(value):
    with pytest.raises(SourceError, match="expected a finite position below 1e\\+150"):
        check_column(np.array([0, value]), "x")


@pytest.mark.parametrize("dtype", ["float16", "float32", "int64", "uint64", "uint8"])
def test_whatever_fewer_bits_hold_is_accepted(dtype):
    kind = np.dtype(dtype)
    limits = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    check_column(np.array([limits.min, 0, limits.max], kind), "x")
    check_column(np.array([-9e149, 9e149]), "x")
