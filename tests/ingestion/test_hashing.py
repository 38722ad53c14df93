"""The hash of a frame is XXH3 of its little-endian bytes, whoever computes it."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from ptyzarr.ingestion.hashing import hash_frames, native_hash


@pytest.mark.parametrize("is_native", [True, False], ids=["compiled", "python"])
@given(n_frames=st.integers(1, 3), size=st.integers(1, 24), dtype=st.sampled_from(["u1", "f4"]))
def test_hash_is_that_of_xxhash(is_native, n_frames, size, dtype):
    frames = np.random.default_rng(size).integers(0, 99, (n_frames, size, size)).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        if not is_native:
            patch.setattr("ptyzarr.ingestion.hashing.native_hash", lambda: None)
        found = hash_frames(frames)
    assert found.tolist() == [xxhash.xxh3_64_intdigest(frame.tobytes()) for frame in frames]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float16", "float32", "float64"])
def test_hash_does_not_depend_on_byte_order_and_layout(dtype):
    frames = np.random.default_rng(0).integers(0, 2, (3, 4, 4)).astype(dtype)
    expected = hash_frames(frames)
    assert np.array_equal(hash_frames(frames.astype(frames.dtype.newbyteorder(">"))), expected)
    assert np.array_equal(hash_frames(np.asfortranarray(frames)), expected)
    assert len(set(expected.tolist())) == 3


def no_library(*_: object) -> object:
    raise OSError("cannot open shared object file")


def no_symbols(name: object) -> object:
    return type("Library", (), {})()


@pytest.mark.parametrize("substitute", [no_library, no_symbols])
def test_missing_function_is_none(monkeypatch, substitute):
    native_hash.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", substitute)
    assert native_hash() is None
    native_hash.cache_clear()


def test_this_installation_has_it():
    """Not a promise of every platform, but of the one that is tested."""
    assert native_hash() is not None
