"""The C functions that come with our dependencies, and doing without them."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from synthetic import make_arrays

from ptyzarr.store.native import native_functions
from ptyzarr.store.shards import FallbackReader, ShardReader


@pytest.fixture
def fresh():
    """`native_functions` without what it remembers."""
    native_functions.cache_clear()
    yield native_functions
    native_functions.cache_clear()


def no_library(*_: Any) -> Any:
    raise OSError("cannot open shared object file")


def no_symbols(name: Any) -> Any:
    return type("Library", (), {})()


def no_name(name: Any) -> Any:
    raise TypeError("a name is needed")


@pytest.mark.parametrize("substitute", [no_library, no_symbols, no_name])
def test_missing_functions_are_none(monkeypatch, fresh, substitute):
    monkeypatch.setattr(ctypes, "CDLL", substitute)
    assert fresh() is None


def test_missing_module_is_none(monkeypatch, fresh):
    monkeypatch.setitem(__import__("sys").modules, "google_crc32c._crc32c", None)
    assert fresh() is None


def test_store_reads_the_same_without_them(make_scan_store, monkeypatch, set_sizes):
    set_sizes(4, 16)
    monkeypatch.setattr("ptyzarr.store.scanstore.native_functions", lambda: None)
    store = make_scan_store()
    assert isinstance(store.chunks, FallbackReader)
    every = np.arange(40)
    assert store.amplitude(every).tobytes() == make_arrays()["diff3d"].tobytes()


def test_this_installation_has_them(make_scan_store):
    """Not a promise of every platform, but of the one that is tested."""
    assert native_functions() is not None
    assert isinstance(make_scan_store().chunks, ShardReader)
