"""Deflate streams written in every way, damaged and lying, beside zlib's reading."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptyzarr.errors import BudgetError, SourceError
from ptyzarr.sources import open_source

from .fuzzing import (
    bounded_memory,
    check_against_numpy,
    fuzzed,
    read_or_refuse,
)
from .npzfiles import (
    Packed,
    deflated,
    make_arrays,
    npy_bytes,
    npy_with_header,
    packed_member,
    write_zip,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "scan.npz"


def with_frames(path: Path, frames: Packed) -> Path:
    """Write a scan whose frames are one member as given."""
    rest = {key: npy_bytes(array) for key, array in make_arrays(n=40, size=8).items()}
    others = [packed_member(f"{key}.npy", rest[key]) for key in rest if key != "diff3d"]
    return write_zip(path, [frames, *others])


FRAMES = make_arrays(n=40, size=8)["diff3d"]
CONTENT = npy_bytes(FRAMES)


def inflate(packed: bytes) -> bytes | None:
    """Return what zlib makes of a stream; None unless it is one whole stream and nothing more."""
    engine = zlib.decompressobj(-15)
    try:
        data = engine.decompress(packed)
    except zlib.error:
        return None
    return data if engine.eof and not engine.unused_data else None


@st.composite
def streams(draw: Any) -> bytes:
    """Return a deflate stream of the frames in any of the ways to write one."""
    level, strategy = draw(st.integers(0, 9)), draw(st.integers(0, 4))
    window, memory = draw(st.integers(9, 15)), draw(st.integers(1, 9))
    engine = zlib.compressobj(level, zlib.DEFLATED, -window, memory, strategy)
    packed, at = b"", 0
    for end in sorted(draw(st.lists(st.integers(0, len(CONTENT)), max_size=4))):
        packed += engine.compress(CONTENT[at:end])
        packed += engine.flush(draw(st.sampled_from((zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH))))
        at = end
    return packed + engine.compress(CONTENT[at:]) + engine.flush()


@fuzzed(80)
@given(packed=streams())
def test_every_way_to_write_a_stream_is_read(path, packed):
    with_frames(path, packed_member("diff3d.npy", CONTENT, packed=packed))
    assert check_against_numpy(path)


@fuzzed(100)
@given(packed=streams(), data=st.data())
def test_damaged_streams_are_refused_or_give_the_same_frames(path, packed, data):
    change = data.draw(st.sampled_from(("cut", "flip", "append", "put", "drop")), "change")
    at = data.draw(st.integers(0, len(packed) - 1) | st.integers(0, min(40, len(packed) - 1)), "at")
    some = data.draw(st.binary(min_size=1, max_size=8) | st.just(b"\0\0\0\xff\xff"), "bytes")
    flipped = bytearray(packed)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7), "bit")
    damaged = {
        "cut": packed[:at],
        "flip": bytes(flipped),
        "append": packed + some,
        "put": packed[:at] + some + packed[at:],
        "drop": packed[:at] + packed[at + len(some) :],
    }[change]
    with_frames(path, packed_member("diff3d.npy", CONTENT, packed=damaged))
    with bounded_memory(2**24):
        accepted = check_against_numpy(path)
    assert accepted == (inflate(damaged) == CONTENT)


@fuzzed(80)
@given(
    size=st.integers(0, 2**32 - 2) | st.integers(-3, 3).map(lambda change: len(CONTENT) + change),
    crc32=st.just(zlib.crc32(CONTENT)) | st.integers(0, 2**32 - 1),
)
def test_wrong_sizes_and_checksums_are_refused(path, size, crc32):
    with_frames(path, packed_member("diff3d.npy", CONTENT, size=size, crc32=crc32))
    with bounded_memory(2**24):
        accepted = check_against_numpy(path)
    assert accepted == ((size, crc32) == (len(CONTENT), zlib.crc32(CONTENT)))


@pytest.mark.parametrize("key", ["diff3d", "xcoords", "probeGuess", "objectGuess", "other"])
def test_stream_that_inflates_to_more_than_declared_is_stopped_there(path, key):
    # 32 MiB of zeros behind what the directory knows of.
    arrays = make_arrays(n=40, size=8)
    arrays |= {"objectGuess": np.ones((9, 9), complex), "other": np.ones(9)}
    content = {name: npy_bytes(array) for name, array in arrays.items()}
    bomb = deflated(content[key] + bytes(2**25))
    lies = {name: {"packed": bomb} if name == key else {} for name in content}
    write_zip(path, [packed_member(f"{name}.npy", content[name], **lies[name]) for name in content])
    with bounded_memory(2**23):
        assert read_or_refuse(path) is None


@pytest.mark.parametrize("key", ["xcoords", "probeGuess", "scan_index"])
def test_declared_size_beyond_the_limit_is_refused_before_it_is_allocated(path, key):
    # An honest bomb: 32 MiB for 32 KiB; the limit is half of that.
    shape = (2**22,) if key in ("xcoords", "scan_index") else (2**11, 2**11)
    head = npy_with_header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n")
    packed = deflated(head + bytes(2**25))
    rest = {name: npy_bytes(array) for name, array in make_arrays().items() if name != key}
    lying = Packed(name=f"{key}.npy".encode(), packed=packed, size=len(head) + 2**25, crc32=0)
    write_zip(path, [lying, *(packed_member(f"{name}.npy", rest[name]) for name in rest)])
    with bounded_memory(2**23), pytest.raises(BudgetError, match=f"for '{key}'; expected at most"):
        open_source(path, incomplete="truncate", max_resident=2**24)


def test_object_of_any_size_is_looked_through_in_bounded_memory(path):
    # 32 MiB from 32 KiB, and a checksum that is not theirs.
    shape = (2**11, 2**11)
    head = npy_with_header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n")
    lying = Packed(
        name=b"objectGuess.npy",
        packed=deflated(head + bytes(2**25)),
        size=len(head) + 2**25,
        crc32=0,
    )
    kept = {name: npy_bytes(array) for name, array in make_arrays().items()}
    kept.pop("objectGuess", None)
    write_zip(path, [lying, *(packed_member(f"{name}.npy", kept[name]) for name in kept)])
    with bounded_memory(2**23), pytest.raises(SourceError, match=r"objectGuess.*CRC-32"):
        open_source(path, max_resident=2**24)
