"""Encoded chunks are those of numcodecs, whichever way they are made; shards are their files."""

from __future__ import annotations

import io

import google_crc32c
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from numcodecs import Blosc

from ptyzarr.errors import DamagedStoreError
from ptyzarr.store import (
    EncodedChunks,
    FrameFormat,
    checked_chunks,
    decode_frames,
    encode_frames,
    file_checksum,
    write_shard,
)

DTYPES = ["bool", "uint8", "uint16", "uint32", "int64", "float16", "float32", "float64"]
LAYOUT = FrameFormat(20, 6, np.dtype(np.uint16), 2, 8)


def make_frames(n_frames: int, size: int, dtype: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if seed % 3 == 0:  # incompressible: stored as it is behind a header
        n_bytes = n_frames * size**2 * np.dtype(dtype).itemsize
        values = np.frombuffer(rng.bytes(n_bytes), np.uint8)
        return (values % 2 if dtype == "bool" else values).view(dtype).reshape(-1, size, size)
    return rng.poisson(seed % 5, (n_frames, size, size)).astype(dtype)


def numcodecs_chunks(frames: np.ndarray, chunk_frames: int) -> list[bytes]:
    """Return what numcodecs and google-crc32c make of each chunk, the last one filled up."""
    codec = Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE)
    chunks = []
    for start in range(0, len(frames), chunk_frames):
        chunk = np.zeros((chunk_frames, *frames.shape[1:]), frames.dtype)
        part = frames[start : start + chunk_frames]
        chunk[: len(part)] = part
        body = bytes(codec.encode(chunk))
        chunks.append(body + google_crc32c.value(body).to_bytes(4, "little"))
    return chunks


@pytest.fixture(params=["compiled", "numcodecs"])
def way(request, monkeypatch):
    if request.param == "numcodecs":
        monkeypatch.setattr("ptyzarr.store.shardwriter.native_functions", lambda: None)


@pytest.mark.parametrize("is_compiled", [True, False], ids=["compiled", "numcodecs"])
@given(
    n_frames=st.integers(1, 9),
    size=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    chunk_frames=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_chunks_have_the_bytes_of_numcodecs(is_compiled, n_frames, size, dtype, chunk_frames, seed):
    frames = make_frames(n_frames, size, dtype, seed)
    with pytest.MonkeyPatch.context() as patch:
        if not is_compiled:
            patch.setattr("ptyzarr.store.shardwriter.native_functions", lambda: None)
        encoded = encode_frames(frames, chunk_frames)
    expected = numcodecs_chunks(frames, chunk_frames)
    assert encoded.data.tobytes() == b"".join(expected)
    assert encoded.lengths.tolist() == [len(chunk) for chunk in expected]


@pytest.mark.parametrize("size", [128, 512])
def test_large_chunks_have_the_bytes_of_numcodecs(size):
    frames = make_frames(3, size, "uint16", 1)
    expected = b"".join(numcodecs_chunks(frames, 2))
    assert encode_frames(frames, 2).data.tobytes() == expected


@given(n_frames=st.integers(1, 6), size=st.integers(1, 9), dtype=st.sampled_from(DTYPES), seed=...)
def test_decoded_frames_are_those_that_were_encoded(n_frames: int, size: int, dtype, seed: bool):
    frames = make_frames(n_frames, size, dtype, int(seed))
    encoded = encode_frames(frames, 1)
    found = decode_frames(encoded, frames.shape, frames.dtype)
    assert found.tobytes() == frames.tobytes()
    bodies = checked_chunks(encoded)
    assert [len(body) + 4 for body in bodies] == encoded.lengths.tolist()


def test_flipped_bit_in_an_encoded_chunk_is_found():
    encoded = encode_frames(make_frames(3, 16, "uint16", 1), 1)
    for place in (0, int(encoded.lengths[0]), -1):
        data = encoded.data.copy()
        data[place] ^= 8
        with pytest.raises(DamagedStoreError, match="fails its checksum"):
            checked_chunks(EncodedChunks(data, encoded.lengths))


def test_chunk_that_is_none_is_damage():
    body = bytes(40)
    raw = np.frombuffer(body + google_crc32c.value(body).to_bytes(4, "little"), np.uint8)
    with pytest.raises(DamagedStoreError, match="cannot be decoded"):
        decode_frames(EncodedChunks(raw, np.array([44])), (1, 4, 4), np.dtype("u2"))


def test_shards_are_written_alike_whatever_the_blocks(way, tmp_path):
    frames = make_frames(8, 6, "uint16", 1)
    files = []
    for step in (2, 4, 8):
        files.append(io.BytesIO())
        blocks = (encode_frames(frames[i : i + step], 2) for i in range(0, 8, step))
        written = write_shard(files[-1], LAYOUT, blocks)
        (tmp_path / "shard").write_bytes(files[-1].getvalue())
        assert written == file_checksum(tmp_path / "shard")
    assert len({file.getvalue() for file in files}) == 1


def test_last_shard_lists_the_chunks_it_has():
    file = io.BytesIO()
    encoded = encode_frames(make_frames(3, 6, "uint16", 1), 2)
    write_shard(file, LAYOUT, [encoded])
    index = np.frombuffer(file.getvalue()[-68:-4], "<u8").reshape(4, 2)
    ends = np.cumsum(encoded.lengths)
    assert index[:2, 1].tolist() == encoded.lengths.tolist()
    assert index[:2, 0].tolist() == [0, ends[0]]
    assert (index[2:] == 2**64 - 1).all()


def test_checksum_of_a_file_is_that_of_its_bytes(tmp_path):
    data = np.random.default_rng(0).bytes(2_500_000)
    (tmp_path / "file").write_bytes(data)
    assert file_checksum(tmp_path / "file") == (len(data), xxhash.xxh3_128_hexdigest(data))
