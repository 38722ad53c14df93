import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyzarr.streaming import packing
from ptyzarr.streaming.gather import copy_frames, gather_frames
from ptyzarr.streaming.packing import (
    FramePacking,
    PackedFrames,
    choose_packing,
    choose_packings,
    pack_frames,
    pack_planes,
    pack_word,
)
from ptyzarr.streaming.recycling import aligned_bytes
from ptyzarr.streaming.vectors import WORD

SIZE = 24
N_PIXELS = SIZE * SIZE
SCALE = np.float32(0.7310586)
DTYPES = [pytest.param(np.dtype(name), id=name) for name in ("u1", "u2", "u4", "f4")]


def sparse_frames(dtype, n=7, seed=0, filled=0.3):
    """Frames with zeros, small and wide values; the first is empty, the second is full."""
    rng = np.random.default_rng(seed)
    shape = (n, N_PIXELS)
    frames = np.where(rng.random(shape) < filled, rng.integers(1, 6, shape), 0)
    if dtype.itemsize > 1:
        frames = np.where(rng.random(shape) < 0.02, rng.integers(256, 4000, shape), frames)
    frames[0] = 0
    frames[1] = rng.integers(1, 256, N_PIXELS)
    if dtype.kind == "f":
        values = (np.sqrt(frames) * 1.3).astype(dtype)
        values[2, :4] = -0.0, np.nan, np.inf, 1e-42
        return values
    return frames.astype(dtype)


def limits_of(frames):
    bits = frames.view(np.uint32) if frames.dtype.kind == "f" else frames
    wide = 0 if frames.dtype.kind == "f" else int((frames > 255).sum(1).max())
    return int((bits != 0).sum(1).max()), wide


def packed_frames(frames, limits=None):
    """Return the frames packed, with gaps between them, and where each begins."""
    how = FramePacking(frames.dtype, frames.shape[1], *(limits or limits_of(frames)))
    stride = how.frame_nbytes + 64
    memory = aligned_bytes(len(frames) * stride)
    memory.fill(0xFF)
    packed = PackedFrames.over(memory, how)
    offsets = np.arange(len(frames), dtype=np.int64) * stride
    assert pack_frames(frames, offsets, packed)
    gaps = memory.reshape(len(frames), stride)[:, how.frame_nbytes :]
    assert (gaps == 0xFF).all()
    return packed, offsets


def as_pixels(frames):
    return frames.reshape(-1), np.arange(len(frames), dtype=np.int64) * frames.shape[1]


def gathered(frames, offsets, chosen, rounding, is_counts, group_size, shift):
    rows = np.random.default_rng(1).permutation(len(chosen) + 1)[: len(chosen)]
    dtype = np.dtype(np.float32 if rounding == "float32" else np.uint16)
    shape = (len(chosen) + 1, N_PIXELS * group_size)
    nbytes = shape[0] * shape[1] * dtype.itemsize
    out = aligned_bytes(nbytes + shift)[shift:].view(dtype).reshape(shape)
    out[:] = 7
    gather_frames(frames, offsets[chosen], rows, SCALE, out, is_counts=is_counts, rounding=rounding)
    return out.tobytes()


@pytest.mark.parametrize("rounding", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("group_size", [1, 2, 4, 9])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_counts", [True, False], ids=["counts", "amplitude"])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_packed_frames_are_gathered_to_the_same_bits(dtype, group_size, rounding, is_counts):
    frames = sparse_frames(dtype)
    packed, places = packed_frames(frames)
    flat, starts = as_pixels(frames)
    chosen = np.random.default_rng(0).integers(0, len(frames), (5, group_size))
    for shift in (0, 4):  # aligned for vectors, and not
        arguments = (chosen, rounding, is_counts, group_size, shift)
        assert gathered(packed, places, *arguments) == gathered(flat, starts, *arguments)


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_frames_are_copied_as_they_were(dtype):
    frames = sparse_frames(dtype)
    packed, places = packed_frames(frames)
    chosen = np.array([[0, 1], [2, 6], [5, 2]])
    out = np.full((4, 2, N_PIXELS), 9, dtype)
    copy_frames(packed, places[chosen], np.array([3, 0, 1]), out)
    assert out[[3, 0, 1]].tobytes() == frames[chosen].tobytes()
    assert (out[2] == 9).all()


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 100),
    filled=st.floats(0, 1),
    dtype=st.sampled_from(["u1", "u2", "u4", "f4"]),
)
def test_any_frames_come_back_from_packing(seed, filled, dtype):
    frames = sparse_frames(np.dtype(dtype), n=3, seed=seed, filled=filled)
    packed, places = packed_frames(frames)
    out = np.empty((3, 1, N_PIXELS), frames.dtype)
    copy_frames(packed, places[:, np.newaxis], np.arange(3), out)
    assert out.tobytes() == frames.tobytes()


def test_a_scale_that_is_not_finite_reaches_the_zeros_too():
    frames = sparse_frames(np.dtype(np.uint16))
    packed, places = packed_frames(frames)
    for group_size in (1, 4):
        out = aligned_bytes(4 * N_PIXELS * group_size).view(np.float32).reshape(1, -1)
        zero = np.zeros(1, np.int64)
        chosen = places[np.zeros((1, group_size), np.int64)]
        gather_frames(packed, chosen, zero, np.float32(np.inf), out, is_counts=True)
        assert np.isnan(out).all()


@pytest.mark.parametrize(
    "short", [pytest.param((1, 0), id="non-zero pixels"), pytest.param((0, 1), id="wide pixels")]
)
def test_frames_beyond_the_limits_are_noticed(short):
    frames = sparse_frames(np.dtype(np.uint16))
    nonzero, wide = limits_of(frames)
    how = FramePacking(frames.dtype, N_PIXELS, nonzero - short[0], wide - short[1])
    memory = aligned_bytes(len(frames) * how.frame_nbytes + 64)
    memory.fill(0xFF)
    packed = PackedFrames.over(memory, how)
    offsets = np.arange(len(frames), dtype=np.int64) * how.frame_nbytes
    assert not pack_frames(frames, offsets, packed)
    assert (memory[-64:] == 0xFF).all(), "it wrote beyond the last frame"


def test_sparse_frames_are_packed(monkeypatch):
    monkeypatch.setattr(packing, "expands", lambda: True)
    how = choose_packing(np.dtype(np.uint16), 128 * 128, (2648, 69))
    assert how is not None
    assert how.frame_nbytes < 5440


@pytest.mark.parametrize(
    ("dtype", "n_pixels", "limits", "fast"),
    [
        pytest.param("u2", 128 * 128, None, True, id="limits unknown"),
        pytest.param("u2", 128 * 128, (16000, 9000), True, id="full"),
        pytest.param("u1", 128 * 128, (9000, 0), True, id="bytes, half full"),
        pytest.param("u2", 36 * 36, (10, 0), True, id="no whole words"),
        pytest.param("f8", 128 * 128, (10, 0), True, id="float64"),
        pytest.param("i2", 128 * 128, (10, 0), True, id="signed"),
        pytest.param("u2", 128 * 128, (10, 0), False, id="slow processor"),
    ],
)
def test_other_frames_are_kept_as_they_are(monkeypatch, dtype, n_pixels, limits, fast):
    monkeypatch.setattr(packing, "expands", lambda: fast)
    assert choose_packing(np.dtype(dtype), n_pixels, limits) is None


@pytest.mark.parametrize("chunk_frames", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES[1:3])
def test_planes_are_packed_like_pixels(dtype, chunk_frames):
    frames = sparse_frames(dtype, n=7)
    expected, places = packed_frames(frames)
    padded = np.concatenate([frames, np.full((-len(frames) % chunk_frames, N_PIXELS), 9, dtype)])
    chunks = padded.reshape(-1, chunk_frames * N_PIXELS)
    shape = (len(chunks), chunks.shape[1], dtype.itemsize)
    planes = np.moveaxis(chunks.view(np.uint8).reshape(shape), 2, 1).reshape(len(chunks), -1)
    # Rows are longer than the chunks, as scratch may be.
    rows = np.full((len(planes), planes.shape[1] + 64), 0xAA, np.uint8)
    rows[:, : planes.shape[1]] = planes
    memory = np.full(expected.words.nbytes + 64, 0xFF, np.uint8)[: expected.words.nbytes]
    packed = PackedFrames.over(memory, expected.packing)
    assert pack_planes(rows, chunk_frames, places, packed)
    out = np.empty((len(frames), 1, N_PIXELS), dtype)
    copy_frames(packed, places[:, np.newaxis], np.arange(len(frames)), out)
    assert out.tobytes() == frames.tobytes()


@pytest.mark.parametrize(
    "short", [pytest.param((1, 0), id="non-zero pixels"), pytest.param((0, 1), id="wide pixels")]
)
def test_planes_beyond_the_limits_are_noticed(short):
    frames = sparse_frames(np.dtype(np.uint16))
    nonzero, wide = limits_of(frames)
    how = FramePacking(frames.dtype, N_PIXELS, nonzero - short[0], wide - short[1])
    packed = PackedFrames.over(aligned_bytes(len(frames) * how.frame_nbytes), how)
    offsets = np.arange(len(frames), dtype=np.int64) * how.frame_nbytes
    planes = np.moveaxis(frames.view(np.uint8).reshape(len(frames), N_PIXELS, 2), 2, 1)
    assert not pack_planes(planes.reshape(len(frames), -1), 1, offsets, packed)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_written_one_by_one_are_those_of_the_frame(dtype):
    # What a processor without the vector step does.
    pixels = sparse_frames(dtype)[3]
    values = np.zeros(WORD, np.uint8 if dtype.kind == "u" else dtype)
    for start in range(0, N_PIXELS, WORD):
        word = pixels[start : start + WORD]
        pack_word(pixels, start, nonzero_pixels_of(pixels, start), values, 0)
        chosen = word[word != 0]
        assert values[: len(chosen)].tobytes() == chosen.astype(values.dtype).tobytes()


def nonzero_pixels_of(pixels, start):
    bits = pixels[start : start + WORD] != 0
    return np.uint64(int("".join("1" if bit else "0" for bit in bits[::-1]), 2))


def test_scans_of_one_dtype_are_packed_alike_where_that_pays(monkeypatch):
    monkeypatch.setattr(packing, "expands", lambda: True)
    counts, floats = np.dtype(np.uint16), np.dtype(np.float32)
    limits = [(30, 0), (20, 5), (30, 0), None]
    packings = choose_packings([counts, counts, floats, counts], 256, limits)
    assert packings[0] == packings[1] == choose_packing(counts, 256, (30, 5))
    assert packings[2] == choose_packing(floats, 256, (30, 0))
    assert packings[3] is None
    # Together they would take more than half of their plain size.
    many, wide = (150, 0), (20, 15)
    apart = choose_packings([counts, counts], 256, [many, wide])
    assert apart == [choose_packing(counts, 256, limit) for limit in (many, wide)]
    assert None not in apart
