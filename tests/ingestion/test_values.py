"""What a block of frames becomes: counts where the identity holds on every pixel, masks, hashes."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ptyzarr.errors import SourceError
from ptyzarr.ingestion.values import CheckedBlock, amplitude_of, check_block
from ptyzarr.scan import frame_power

WHAT = "scan.npz: member 'diff3d.npy'"


def check(frames: np.ndarray, **options: object) -> CheckedBlock:
    numbers = np.arange(10, 10 + len(frames))
    defaults = {"mask": False, "counts": np.dtype(np.uint32)}
    return check_block(frames, numbers, "amplitude", WHAT, **{**defaults, **options})


def test_every_16_bit_count_is_found_behind_its_root():
    counts = np.arange(65536, dtype=np.uint32).reshape(4, 128, 128)
    block = check(np.sqrt(counts.astype(np.float32)))
    assert np.array_equal(block.counts, counts)
    assert block.max_count == 65535


@settings(deadline=None)
@given(counts=hnp.arrays(np.uint32, (2, 3, 3), elements=st.integers(0, 2**24 - 1)))
def test_counts_below_two_to_the_24_are_found_behind_their_roots(counts):
    amplitude = amplitude_of(counts)
    assert amplitude.tobytes() == np.sqrt(counts.astype(np.float32)).tobytes()
    block = check(amplitude.copy())
    # Large neighbouring counts may have one root; whichever is stored, the amplitude is exact.
    assert amplitude_of(block.counts).tobytes() == amplitude.tobytes()
    assert block.max_count == int(block.counts.max())


@settings(deadline=None)
@given(
    frames=hnp.arrays(
        np.float32, (2, 2, 2), elements=st.floats(0, 2.0**60, width=32, allow_nan=False)
    )
)
def test_counts_are_claimed_only_where_all_roots_are_exact(frames):
    block = check(frames.copy())
    square = np.rint(np.square(frames.astype(np.float64)))
    roots = np.sqrt(np.minimum(square, 2.0**25).astype(np.float32))
    exact = bool((square < 2**24).all()) and roots.tobytes() == frames.tobytes()
    assert (block.counts is not None) == exact
    assert block.amplitude.tobytes() == frames.tobytes()


def test_counts_are_not_looked_for_where_nobody_wants_them():
    frames = np.ones((2, 3, 3), np.float32)
    assert check(frames, counts=None).counts is None
    assert check(frames.astype(np.float64)).counts is None


def test_power_and_hash_are_those_of_the_frames():
    frames = np.random.default_rng(0).uniform(0, 9, (4, 5, 5)).astype(np.float32)
    block = check(frames)
    assert block.power.tolist() == frame_power(frames).tolist()
    assert block.hashes.tolist() == [xxhash.xxh3_64_intdigest(f.tobytes()) for f in frames]


def test_masked_pixels_are_given_back_with_their_bits():
    frames = np.ones((2, 3, 3), np.float32)
    frames.view(np.uint32)[0, 1, 2] = 0xFFC00123
    frames[1, 2, 2] = -np.inf
    original = frames.copy()
    block = check(frames, mask=True)
    assert block.masked_index.tolist() == [5, 17]
    assert block.masked_value.tobytes() == original.reshape(-1)[[5, 17]].tobytes()
    assert np.isfinite(block.amplitude).all()
    assert block.counts.reshape(-1)[[5, 17]].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (np.nan, "frame 11 has the value nan at row 1, column 2; expected finite"),
        (-3.0, "frame 11 has the value -3.0 at row 1, column 2; expected amplitudes or counts"),
    ],
)
def test_refusals_name_file_member_frame_and_pixel(value, match):
    frames = np.ones((3, 4, 4), np.float32)
    frames[1, 1, 2] = value
    frames[2] = value  # the first is named
    with pytest.raises(SourceError, match=f"{WHAT}: {match}"):
        check(frames)


def test_negative_pixels_are_refused_even_where_others_are_masked():
    frames = np.ones((1, 2, 2), np.float32)
    frames[0, 0] = np.nan, -1
    with pytest.raises(SourceError, match="row 0, column 1"):
        check(frames, mask=True)


@pytest.mark.parametrize("dtype", ["int8", "int64", "float16"])
def test_negative_values_of_any_dtype_are_refused(dtype):
    frames = np.zeros((1, 2, 2), dtype)
    frames[0, 1, 1] = -1
    with pytest.raises(SourceError, match="row 1, column 1"):
        check(frames)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_counts_are_given_in_the_dtype_asked_for(dtype: type[np.unsignedinteger]) -> None:
    top = min(np.iinfo(dtype).max, 2**24 - 1)
    expected = np.array([[[0, 1], [7, top]]], dtype)
    block = check(np.sqrt(expected.astype(np.float32)), counts=np.dtype(dtype))
    assert block.counts is not None
    np.testing.assert_array_equal(block.counts[0, 0], expected[0, 0], strict=True)
    # Near 2**24 several counts have one root; the root is what must come back.
    assert np.sqrt(np.float32(block.counts[0, 1, 1])) == np.sqrt(np.float32(top))
    assert block.max_count == block.counts.max()


@pytest.mark.parametrize(("asked", "count", "given"), [("u1", 256, "u2"), ("u1", 65536, "u4")])
def test_counts_that_the_dtype_does_not_hold_come_in_a_wider_one(asked, count, given) -> None:
    block = check(np.sqrt(np.full((1, 2, 2), count, np.float32)), counts=np.dtype(asked))
    assert block.counts.dtype == given
    assert (block.counts == count).all()


def test_frames_are_named_by_their_own_numbers():
    frames = np.ones((3, 2, 2), np.float32)
    frames[2, 1, 0] = np.inf
    with pytest.raises(SourceError, match="frame 40 has the value inf at row 1, column 0"):
        check_block(
            frames, np.array([7, 3, 40]), "amplitude", WHAT, mask=False, counts=np.dtype("u1")
        )
