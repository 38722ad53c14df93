import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyzarr.errors import DtypeError
from ptyzarr.streaming.gather import copy_frames, gather_frames
from ptyzarr.streaming.recycling import aligned_bytes

COUNTS = [pytest.param(dtype, id=dtype.__name__) for dtype in (np.uint8, np.uint16, np.uint32)]
AMPLITUDES = [
    pytest.param(np.dtype(name), id=name)
    for name in ("uint8", "int16", "uint16", "uint32", "int64", "float16", "float32", "float64")
]
SCALE = np.float32(0.7310586)


def gather_flat(values, *, is_counts, scale=SCALE, rounding="float32"):
    """Gather one frame made of all values."""
    out = np.empty((1, values.size), np.float32 if rounding == "float32" else np.uint16)
    zeros = np.zeros((1, 1), np.int64)
    gather_frames(values, zeros, zeros[0], scale, out, is_counts=is_counts, rounding=rounding)
    return out[0]


def test_all_sixteen_bit_counts_have_numpys_square_root():
    counts = np.arange(2**16, dtype=np.uint16)
    expected = SCALE * np.sqrt(counts.astype(np.float32))
    assert gather_flat(counts, is_counts=True).tobytes() == expected.tobytes()


def test_all_sixteen_bit_counts_have_numpys_square_root_in_aligned_memory():
    counts = np.arange(2**16, dtype=np.uint16)
    out = aligned_bytes(4 * counts.size).view(np.float32).reshape(1, -1)
    zeros = np.zeros((1, 1), np.int64)
    gather_frames(counts, zeros, zeros[0], SCALE, out, is_counts=True)
    assert out.tobytes() == (SCALE * np.sqrt(counts.astype(np.float32))).tobytes()


def test_counts_below_two_to_the_24_have_numpys_square_root():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 2**24, 200_000, dtype=np.uint32)
    expected = SCALE * np.sqrt(counts.astype(np.float32))
    assert gather_flat(counts, is_counts=True).tobytes() == expected.tobytes()


@pytest.mark.parametrize("channels", ["first", "last"])
@pytest.mark.parametrize("group_size", [1, 2, 4, 9])
@pytest.mark.parametrize("dtype", COUNTS)
def test_groups_of_counts_match_numpy(dtype, group_size, channels):
    check_groups(np.dtype(dtype), group_size, channels, is_counts=True)


@pytest.mark.parametrize("channels", ["first", "last"])
@pytest.mark.parametrize("group_size", [1, 4])
@pytest.mark.parametrize("dtype", AMPLITUDES)
def test_groups_of_amplitudes_match_numpy(dtype, group_size, channels):
    check_groups(dtype, group_size, channels, is_counts=False)


def check_groups(dtype, group_size, channels, *, is_counts):
    # 27 * 27 pixels: neither a multiple of a vector nor of the kernel's blocks. 36 * 36 pixels in
    # aligned memory are stored past the caches, in memory that is not aligned they are not.
    for size, shift in ((27, 0), (36, 0), (36, 4)):
        check_size(dtype, group_size, channels, size, shift, is_counts=is_counts)


def check_size(dtype, group_size, channels, size, shift, *, is_counts):
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 100, (7, size, size)).astype(dtype)
    frames = rng.integers(0, 7, (5, group_size))
    rows = rng.permutation(6)[:5]
    shape = (6, size * size * group_size)
    memory = aligned_bytes(4 * shape[0] * shape[1] + shift)[shift:]
    out = memory.view(np.float32).reshape(shape)
    out[:] = -1
    offsets = frames * size * size
    if channels == "first":
        places = (rows[:, None] * group_size + np.arange(group_size)).reshape(-1)
        arguments = (offsets.reshape(-1, 1), places, SCALE, out.reshape(-1, size * size))
    else:
        arguments = (offsets, rows, SCALE, out)
    gather_frames(stored.reshape(-1), *arguments, is_counts=is_counts)
    amplitude = stored.astype(np.float32)
    amplitude = np.sqrt(amplitude) if is_counts else amplitude
    expected = (SCALE * amplitude)[frames]
    if channels == "last":
        expected = np.moveaxis(expected, 1, -1)
    assert out[rows].tobytes() == np.ascontiguousarray(expected).tobytes()
    (untouched,) = set(range(6)) - set(rows.tolist())
    assert (out[untouched] == -1).all()


def test_float64_amplitudes_are_rounded_before_they_are_scaled():
    values = np.random.default_rng(0).uniform(0, 1000, 4096)
    expected = SCALE * values.astype(np.float32)
    assert gather_flat(values, is_counts=False).tobytes() == expected.tobytes()


def test_all_float16_amplitudes_are_widened_exactly():
    values = np.arange(2**16, dtype=np.uint16).view(np.float16)
    result = gather_flat(values, is_counts=False, scale=np.float32(1))
    np.testing.assert_array_equal(result, values.astype(np.float32))


@pytest.mark.parametrize("group_size", [1, 4, 9])
def test_float16_results_are_those_of_the_exact_float32(group_size):
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 60_000, (20, 32 * 32), dtype=np.uint16)
    offsets = rng.integers(0, 20, (6, group_size)) * 32 * 32
    exact = np.empty((6, 32 * 32 * group_size), np.float32)
    bits = np.empty(exact.shape, np.uint16)
    arguments = (stored.reshape(-1), offsets, np.arange(6), SCALE)
    gather_frames(*arguments, exact, is_counts=True)
    gather_frames(*arguments, bits, is_counts=True, rounding="float16")
    assert bits.tobytes() == exact.astype(np.float16).tobytes()


def special_values():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves = np.sort(halves[np.isfinite(halves)])
    between = (halves[1:] + halves[:-1]) / 2
    limits = np.array([65519.996, 65520, 3e38, np.inf, -np.inf, np.nan, 2**-24, 2**-25, -0.0])
    return np.concatenate([halves, between, limits.astype(np.float32)])


def test_float16_rounding_matches_numpy_for_every_halfway_value():
    values = special_values()
    result = gather_flat(values, is_counts=False, scale=np.float32(1), rounding="float16")
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    np.testing.assert_array_equal(result.view(np.float16), expected)
    known = ~np.isnan(values)
    assert (np.signbit(result.view(np.float16)) == np.signbit(expected))[known].all()


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_bfloat16_is_the_nearest_with_ties_to_even(words):
    values = np.array(words, np.uint32).view(np.float32)
    with np.errstate(invalid="ignore"):
        result = gather_flat(values, is_counts=False, scale=np.float32(1), rounding="bfloat16")
    for word, bits in zip(words, result.tolist(), strict=True):
        if (word & 0x7FFFFFFF) > 0x7F800000:
            assert (bits & 0x7FFF) > 0x7F80
            continue
        kept, rest = word >> 16, word & 0xFFFF
        expected = kept + (rest > 0x8000 or (rest == 0x8000 and kept & 1))
        assert bits == expected


@pytest.mark.parametrize("dtype", AMPLITUDES)
def test_frames_are_copied_unchanged(dtype):
    stored = np.arange(5 * 9).reshape(5, 9).astype(dtype)
    out = np.zeros((3, 2, 9), dtype)
    offsets = np.array([[0, 9], [36, 18]])
    copy_frames(stored.reshape(-1), offsets, np.array([2, 0]), out)
    assert out[2].tobytes() == stored[[0, 1]].tobytes()
    assert out[0].tobytes() == stored[[4, 2]].tobytes()
    assert not out[1].any()


@pytest.mark.parametrize(
    "dtype", [pytest.param("complex64", id="complex"), pytest.param("bool", id="bool")]
)
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(DtypeError, match=dtype) as caught:
        gather_flat(np.zeros(4, dtype), is_counts=False)
    assert caught.value.code == "dtype"
