"""Frames, probe, object and positions that are moved together still explain one another."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from farfield import by_pixel, frames_of, sample, smooth_object, smooth_probe
from hypothesis import given
from hypothesis import strategies as st

from ptyzarr.ingestion.geometry import (
    Orientation,
    move_object,
    move_pixels,
    move_positions,
    move_probe,
    pixel_map,
    position_sums,
)

ALL = [
    pytest.param({"flip_x": x, "flip_y": y, "quarter_turns": n}, id=f"x{x:d} y{y:d} turns {n}")
    for x in (False, True)
    for y in (False, True)
    for n in range(4)
]
STEPS = {
    "flip_x": Orientation.of(flip_x=True, flip_y=False, quarter_turns=0),
    "flip_y": Orientation.of(flip_x=False, flip_y=True, quarter_turns=0),
    "left": Orientation.of(flip_x=False, flip_y=False, quarter_turns=1),
    "right": Orientation.of(flip_x=False, flip_y=False, quarter_turns=3),
}
INVERSE = {"flip_x": "flip_x", "flip_y": "flip_y", "left": "right", "right": "left"}
SIDE, HEIGHT, WIDTH = 40, 150, 160


def moved(fields, orientation, size, new_size):
    """Return frames, probe, object and positions moved together."""
    frames, probe, values, positions = fields
    sums = position_sums(positions, values.shape)
    return (
        move_pixels(frames, pixel_map(size, new_size, orientation)),
        move_probe(probe, new_size, orientation),
        move_object(values, orientation, size, new_size),
        move_positions(positions, sums, orientation, size, new_size),
    )


@functools.cache
def simulated(size):
    """Return what a scan at whole pixels has."""
    rng = np.random.default_rng(size)
    values = np.exp(1j * rng.uniform(0, 1, (HEIGHT, WIDTH))) * rng.uniform(0.5, 1, (HEIGHT, WIDTH))
    positions = np.stack([rng.integers(25, 130, 12), rng.integers(25, 120, 12)], 1).astype(float)
    probe = smooth_probe(size, size / 6, tilt=0.3)
    return frames_of(probe, by_pixel(values), positions), probe, values, positions


@pytest.mark.parametrize("size", [SIDE, SIDE + 1])
@pytest.mark.parametrize("options", ALL)
def test_turned_and_flipped_frames_are_those_of_the_moved_probe_and_object(size, options):
    frames, probe, values, positions = moved(simulated(size), Orientation.of(**options), size, size)
    expected = frames_of(probe, by_pixel(values), positions)
    np.testing.assert_allclose(frames, expected, rtol=0, atol=1e-12 * expected.max())


@pytest.mark.parametrize("options", ALL)
def test_orientation_is_that_of_numpy_about_the_zero_frequency(options):
    size = 7  # odd: every frequency has a partner, so a flip is a plain reversal
    frame = np.arange(size * size).reshape(size, size)
    expected = frame[:: -1 if options["flip_y"] else 1, :: -1 if options["flip_x"] else 1]
    expected = np.rot90(expected, options["quarter_turns"])
    pixels = pixel_map(size, size, Orientation.of(**options))
    assert np.array_equal(move_pixels(frame[np.newaxis], pixels)[0], expected)


def test_a_flip_of_an_even_frame_keeps_the_zero_frequency():
    frame = np.zeros((1, 8, 8))
    frame[0, 4, 4], frame[0, 4, 6] = 9, 5
    flipped = move_pixels(frame, pixel_map(8, 8, STEPS["flip_x"]))[0]
    assert (flipped[4, 4], flipped[4, 2]) == (9, 5)
    assert np.count_nonzero(flipped) == 2


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=6), st.sampled_from([7, 8]))
def test_steps_that_are_taken_back_give_every_bit_again(steps, size):
    rng = np.random.default_rng(1)
    fields = (
        rng.integers(0, 99, (2, size, size)).astype(np.uint16),
        rng.normal(size=(2, size, size)).astype(np.complex64),
        rng.normal(size=(9, 12)).astype(np.complex64),
        rng.integers(0, 8 * 2**20, (5, 2)) / 2**20,
    )
    there = fields
    for step in steps:
        there = moved(there, STEPS[step], size, size)
    back = there
    for step in reversed(steps):
        back = moved(back, STEPS[INVERSE[step]], size, size)
    for one, other in zip(fields, back, strict=True):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


@given(st.booleans(), st.booleans(), st.integers(0, 3))
def test_one_orientation_does_what_its_steps_do(flip_x, flip_y, quarter_turns):
    fields = simulated(SIDE)
    steps = ["flip_x"] * flip_x + ["flip_y"] * flip_y + ["left"] * quarter_turns
    expected = fields
    for step in steps:
        expected = moved(expected, STEPS[step], SIDE, SIDE)
    at_once = Orientation.of(flip_x=flip_x, flip_y=flip_y, quarter_turns=quarter_turns)
    for one, other in zip(moved(fields, at_once, SIDE, SIDE), expected, strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("steps", [["left"] * 4, ["flip_x"] * 2, ["flip_y"] * 2])
def test_positions_come_back_to_one_rounding(steps):
    positions = np.random.default_rng(2).uniform(0.001, 100, (50, 2))
    there = positions
    for step in steps:
        sums = position_sums(there, None)
        there = move_positions(there, sums, STEPS[step], 8, 8)
    np.testing.assert_allclose(there, positions, rtol=0, atol=np.spacing(100.0))


@pytest.mark.parametrize(
    ("size", "new_size"),
    [
        pytest.param(64, 48, id="cut to three quarters"),
        pytest.param(64, 33, id="cut to odd"),
        pytest.param(63, 40, id="cut from odd"),
        pytest.param(64, 80, id="padded"),
        pytest.param(64, 97, id="padded to odd"),
    ],
)
@pytest.mark.parametrize("turns", [0, 1, 2])
def test_frames_of_another_size_are_those_of_the_resampled_probe_and_object(size, new_size, turns):
    at, probe = smooth_object(WIDTH, HEIGHT), smooth_probe(size, 5.0)
    rng = np.random.default_rng(3)
    # Fractions of pixels: the object is known everywhere.
    positions = np.stack([rng.uniform(60, 100, 9), rng.uniform(60, 95, 9)], 1)
    values = sample(at, HEIGHT, WIDTH)
    before = frames_of(probe, at, positions)
    orientation = Orientation.of(flip_x=False, flip_y=False, quarter_turns=turns)
    frames, probe, values, positions = moved(
        (before, probe, values, positions), orientation, size, new_size
    )
    ratio = size / new_size

    def moved_object(x, y):
        x, y = x * ratio, y * ratio
        turned = {0: (x, y), 1: (WIDTH - 1 - y, x), 2: (WIDTH - 1 - x, HEIGHT - 1 - y)}
        return at(*turned[turns])

    expected = frames_of(probe, moved_object, positions)
    # What is left is the light that the probe has at the edges of its window and of the detector.
    np.testing.assert_allclose(frames, expected, rtol=0, atol=2e-7 * expected.max())
    power = np.square(before).sum((1, 2))
    np.testing.assert_allclose(np.square(frames).sum((1, 2)), power, rtol=1e-12)
    np.testing.assert_allclose(values, sample(moved_object, *values.shape), atol=1e-6)


def test_padding_and_cutting_back_gives_frames_and_probe_again():
    frames, probe, _, _ = simulated(SIDE)
    plain = Orientation()
    wide = move_pixels(frames, pixel_map(SIDE, 64, plain))
    assert wide[:, 12:52, 12:52].tobytes() == frames.tobytes()
    assert np.count_nonzero(wide) == np.count_nonzero(frames)
    assert move_pixels(wide, pixel_map(64, SIDE, plain)).tobytes() == frames.tobytes()
    again = move_probe(move_probe(probe, 64, plain), SIDE, plain)
    np.testing.assert_allclose(again, probe, rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("new_size", [3, 4, 8, 9, 14, 15])
@pytest.mark.parametrize("options", ALL)
def test_the_zero_frequency_goes_to_the_middle_of_any_size(size, new_size, options):
    frame = np.zeros((1, size, size))
    frame[0, size // 2, size // 2] = 1
    pixels = pixel_map(size, new_size, Orientation.of(**options))
    found = np.argwhere(move_pixels(frame, pixels)[0])
    assert found.tolist() == [[new_size // 2, new_size // 2]]


@pytest.mark.parametrize(("size", "new_size"), [(64, 48), (48, 64)])
def test_an_object_whose_ends_differ_does_not_ring(size, new_size):
    place = np.arange(192.0)
    values = np.outer(np.exp(0.03j * place), np.exp(0.02j * place))
    resampled = move_object(values, Orientation(), size, new_size)
    y, x = np.mgrid[: len(resampled), : len(resampled)] * (size / new_size)
    error = np.abs(resampled - np.exp(1j * (0.03 * y + 0.02 * x)))
    # The ends touch over a bridge, else the jump between them would ring ten times as far.
    assert error.max() < 1e-2
    assert error[20:-20, 20:-20].max() < 5e-4


@pytest.mark.parametrize(
    ("flipped_first", "size", "new_size"),
    [pytest.param(True, 8, 6, id="cut"), pytest.param(False, 8, 10, id="padded")],
)
def test_the_highest_frequency_of_a_flipped_frame_is_the_one_that_was_opposite(
    flipped_first, size, new_size
):
    grid = max(size, new_size)
    frame = np.random.default_rng(4).uniform(1, 2, (1, size, size))
    flip, plain = STEPS["flip_x"], Orientation()
    on_grid = pixel_map(grid, grid, flip)
    if flipped_first:
        expected = move_pixels(move_pixels(frame, on_grid), pixel_map(size, new_size, plain))
    else:
        expected = move_pixels(move_pixels(frame, pixel_map(size, new_size, plain)), on_grid)
    assert np.array_equal(move_pixels(frame, pixel_map(size, new_size, flip)), expected)


def test_every_mode_of_a_probe_is_moved_alone_and_keeps_its_energy():
    modes = np.stack([smooth_probe(32, 4.0), smooth_probe(32, 3.0, tilt=0.4)]).astype(np.complex64)
    small = move_probe(modes, 24, STEPS["left"])
    assert (small.shape, small.dtype) == ((2, 24, 24), np.complex64)
    for mode, one in zip(modes, small, strict=True):
        assert np.array_equal(move_probe(mode, 24, STEPS["left"]), one)
    energy = np.square(np.abs(modes)).sum((1, 2))
    np.testing.assert_allclose(np.square(np.abs(small)).sum((1, 2)), energy, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "flipped", "scaled"),
    [
        (np.float64, np.float64, np.float64),
        (np.float32, np.float32, np.float32),
        (np.int32, np.int64, np.float64),
        (np.uint8, np.int64, np.float64),
        (np.uint64, np.float64, np.float64),
    ],
)
def test_positions_have_a_dtype_that_holds_them(dtype, flipped, scaled):
    positions = np.array([[1, 2], [30, 40], [5, 60]], dtype)
    sums = position_sums(positions, (20, 25))
    one = move_positions(positions, sums, STEPS["flip_x"], 8, 8)
    assert (one.dtype, one.tolist()) == (flipped, [[23, 2], [-6, 40], [19, 60]])
    other = move_positions(positions, sums, Orientation(), 8, 4)
    assert (other.dtype, other.tolist()) == (scaled, [[0.5, 1], [15, 20], [2.5, 30]])


def test_without_an_object_a_flip_keeps_the_range_of_the_positions():
    positions = np.array([[3.25, 10.0], [7.5, 90.5]])
    sums = position_sums(positions, None)
    moved_there = move_positions(positions, sums, STEPS["flip_x"], 8, 8)
    assert sums == (3 + 8, 10 + 91)
    assert moved_there.tolist() == [[7.75, 10.0], [3.5, 90.5]]


def test_the_new_object_ends_inside_the_old_one():
    values = np.ones((41, 64), np.complex64)
    assert move_object(values, Orientation(), 64, 48).shape == (31, 48)
    assert move_object(values, STEPS["left"], 64, 48).shape == (48, 31)
    assert move_object(values, Orientation(), 48, 64).shape == (54, 85)
    assert np.allclose(move_object(values, Orientation(), 64, 48), 1, atol=1e-6)
