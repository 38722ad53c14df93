"""The compiled power of frames has the bits of NumPy's own sum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptyzarr.scan import frame_power

DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", ">f4", ">i2"]


def random_frames(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """Return values of very different sizes, so that a sum in another order is another sum."""
    rng = np.random.default_rng(seed)
    values = np.exp(rng.normal(0, 3, shape)) * np.where(rng.random(shape) < 0.5, 0, 3)
    limit = 1 if dtype == "?" else 100
    return np.minimum(values, limit).astype(dtype)


def numpys_own(frames: np.ndarray) -> list[float]:
    squares = np.square(frames.astype(np.float64))
    return [float(np.sum(frame.reshape(-1))) for frame in squares]


@given(
    n_frames=st.integers(0, 3),
    height=st.integers(0, 45),
    width=st.integers(1, 45),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_power_has_the_bits_of_numpys_sum(n_frames, height, width, dtype, seed):
    frames = random_frames((n_frames, height, width), dtype, seed)
    assert frame_power(frames).tolist() == numpys_own(frames)


@pytest.mark.parametrize("dtype", ["u2", "f4", "f8"])
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 1, 7), id="less than one vector"),
        pytest.param((2, 1, 8), id="one vector"),
        pytest.param((2, 1, 127), id="one run but one"),
        pytest.param((2, 1, 128), id="one run"),
        pytest.param((2, 1, 129), id="one run and one"),
        pytest.param((2, 64, 64), id="64 x 64"),
        pytest.param((2, 128, 128), id="128 x 128"),
        pytest.param((1, 515, 517), id="odd"),
        pytest.param((1, 1447, 1447), id="two million pixels"),
    ],
)
def test_power_of_the_sizes_where_the_sum_branches(shape, dtype):
    frames = random_frames(shape, dtype, 1)
    assert frame_power(frames).tolist() == numpys_own(frames)


def test_power_of_full_integers_is_that_of_their_float64():
    frames = np.array([[[2**64 - 1, 2**63 + 1025, 3]]], np.uint64)
    assert frame_power(frames).tolist() == numpys_own(frames)


def test_power_does_not_depend_on_memory_order_and_alignment():
    frames = random_frames((3, 20, 21), "f4", 2)
    unaligned = np.frombuffer(b"x" + frames.tobytes(), np.uint8)[1:].view("f4").reshape(3, 20, 21)
    for other in (np.asfortranarray(frames), frames[::-1][::-1], unaligned):
        assert frame_power(other).tolist() == frame_power(frames).tolist()


def test_power_that_overflows_is_infinite():
    with np.errstate(over="ignore"):
        assert frame_power(np.full((1, 4, 4), 1e200)).tolist() == [np.inf]
