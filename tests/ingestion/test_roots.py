"""Counts behind amplitudes are found with the power of the amplitudes, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptyzarr.ingestion.roots import find_counts
from ptyzarr.scan import frame_power


def roots(counts: np.ndarray) -> np.ndarray:
    return np.sqrt(counts.astype(np.float32))


@given(
    n_frames=st.integers(1, 3),
    size=st.integers(1, 40),
    top=st.sampled_from([1, 255, 256, 65535, 65536, 2**22]),
    dtype=st.sampled_from(["u1", "u2", "u4"]),
    seed=st.integers(0, 99),
)
def test_counts_and_power_of_roots(n_frames, size, top, dtype, seed):
    counts = np.random.default_rng(seed).integers(0, top + 1, (n_frames, size, size))
    frames = roots(counts)
    found, power, max_count = find_counts(frames, np.dtype(dtype))
    assert max_count == counts.max()
    assert power.tolist() == frame_power(frames).tolist()
    assert np.array_equal(found, counts.astype(dtype))  # the low bits where they do not fit


@given(size=st.integers(1, 20), place=st.integers(0, 399), seed=st.integers(0, 9), data=st.data())
def test_one_pixel_that_is_no_root_is_found_wherever_it_is(size, place, seed, data):
    frames = roots(np.random.default_rng(seed).integers(0, 99, (1, size, size)))
    other = data.draw(
        st.sampled_from([np.nan, np.inf, -np.inf, -0.0, -1.0, 0.5, 4096.0, 1e30, 1e-40])
        | st.floats(0, 4000, width=32).filter(lambda x: np.sqrt(np.float32(round(x * x))) != x)
    )
    frames.reshape(-1)[place % frames.size] = other
    assert find_counts(frames, np.dtype("u2"))[2] == -1


@pytest.mark.parametrize("bits", range(0, 2**32, 2**30 - 1))
def test_verdict_is_that_of_numpy_for_any_bits(bits):
    """A stretch of neighbouring floats from each part of the number line."""
    values = (np.arange(4096, dtype=np.uint64) + bits).astype(np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        square = np.rint(np.square(values.astype(np.float64)))
        counts = np.where(square < 2**24, square, 0).astype(np.float32)
        is_root = (square < 2**24) & (np.sqrt(counts).view(np.uint32) == values.view(np.uint32))
    for value, expected in zip(values, is_root, strict=True):
        found = find_counts(np.full((1, 1, 8), value), np.dtype("u4"))[2]
        assert (found >= 0) == expected
