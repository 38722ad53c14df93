import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import Blosc

from ptyzarr.store.native import native_functions
from ptyzarr.store.planes import decode_pixels, decode_planes, lz4_function

pytestmark = pytest.mark.skipif(
    native_functions() is None or lz4_function() is None,
    reason="this numcodecs does not show its C functions",
)


def counts(n_pixels, dtype, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.poisson(0.3, n_pixels) * rng.choice([1, 1, 1, 300], n_pixels)
    return values.astype(dtype)


def decoded(encoded, pixels):
    out = np.full(pixels.nbytes + 64, 0xEE, np.uint8)
    raw = np.frombuffer(encoded, np.uint8)
    is_decoded = decode_planes(
        lz4_function(),
        native_functions().decompress,
        raw,
        out,
        pixels.nbytes,
        pixels.dtype.itemsize,
    )
    assert (out[pixels.nbytes :] == 0xEE).all()
    return is_decoded, out[: pixels.nbytes]


def decoded_pixels(encoded, pixels):
    out, planes = np.full(pixels.nbytes + 64, 0xEE, np.uint8), np.empty(pixels.nbytes, np.uint8)
    is_decoded = decode_pixels(
        lz4_function(),
        native_functions().decompress,
        np.frombuffer(encoded, np.uint8),
        planes,
        out,
        pixels.nbytes,
        pixels.dtype.itemsize,
    )
    assert (out[pixels.nbytes :] == 0xEE).all()
    return is_decoded, out[: pixels.nbytes]


def planes_of(pixels):
    return pixels.view(np.uint8).reshape(-1, pixels.dtype.itemsize).T.reshape(-1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32", "float64"])
@pytest.mark.parametrize(
    "n_pixels",
    [
        pytest.param(64, id="too short to be split"),
        pytest.param(64 * 64 * 2, id="one block"),
        pytest.param(512 * 512, id="many blocks"),
        pytest.param(200 * 200 + 64, id="a short last block"),
    ],
)
@pytest.mark.parametrize(
    "codec",
    [
        pytest.param(Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE), id="ours"),
        pytest.param(
            Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE, blocksize=4096), id="small blocks"
        ),
        pytest.param(Blosc(cname="lz4", clevel=0, shuffle=Blosc.SHUFFLE), id="stored"),
        pytest.param(Blosc(cname="lz4", clevel=5, shuffle=Blosc.NOSHUFFLE), id="no shuffle"),
        pytest.param(Blosc(cname="lz4", clevel=5, shuffle=Blosc.BITSHUFFLE), id="bit shuffle"),
        pytest.param(Blosc(cname="zstd", clevel=1, shuffle=Blosc.SHUFFLE), id="zstd"),
        pytest.param(Blosc(cname="blosclz", clevel=5, shuffle=Blosc.SHUFFLE), id="blosclz"),
    ],
)
def test_planes_are_the_bytes_of_the_pixels(codec, n_pixels, dtype):
    pixels = counts(n_pixels, dtype)
    encoded = codec.encode(pixels)
    is_decoded, out = decoded(encoded, pixels)
    assert is_decoded
    assert out.tobytes() == planes_of(pixels).tobytes()
    is_decoded, out = decoded_pixels(encoded, pixels)
    assert is_decoded
    assert out.tobytes() == pixels.tobytes()


def test_planes_that_cannot_be_compressed_are_copied():
    low = np.random.default_rng(0).integers(0, 2**16, 16384, dtype=np.uint16) & 0x00FF
    is_decoded, out = decoded(Blosc(cname="lz4", shuffle=Blosc.SHUFFLE).encode(low), low)
    assert is_decoded
    assert out.tobytes() == planes_of(low).tobytes()


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_damaged_chunks_are_refused_or_decoded_to_something_in_bounds(data):
    pixels = counts(4096, "<u2")
    encoded = bytearray(Blosc(cname="lz4", shuffle=Blosc.SHUFFLE).encode(pixels))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(16, len(encoded) - 1))
        encoded[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(16, len(encoded)))
    decoded(bytes(encoded[:cut]), pixels)  # asserts that nothing is written beyond the chunk


@pytest.mark.parametrize(
    ("place", "word"),
    [
        pytest.param(16, 2**31, id="negative block start"),
        pytest.param(16, 10**6, id="block start beyond the end"),
        pytest.param(16, 3, id="block start in the header"),
        pytest.param(20, 2**31, id="negative plane size"),
        pytest.param(20, 10**6, id="plane size beyond the end"),
    ],
)
def test_impossible_places_are_refused(place, word):
    pixels = counts(4096, "<u2")
    encoded = bytearray(Blosc(cname="lz4", shuffle=Blosc.SHUFFLE).encode(pixels))
    encoded[place : place + 4] = int(word).to_bytes(4, "little")
    is_decoded, _ = decoded(bytes(encoded), pixels)
    assert not is_decoded
