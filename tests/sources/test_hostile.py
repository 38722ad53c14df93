"""The hostile table: one test for each way an NPZ file can lie, and random damage."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyzarr.errors import PtyzarrError, SourceError
from ptyzarr.sources import open_source

from .contracts import read_everything
from .npzfiles import make_arrays, npy_bytes, npy_with_header, write_npz


class Boom:
    """Fails the test if anybody unpickles it."""

    def __reduce__(self):
        return os.abort, ()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan.npz"


def _header(shape: str, descr: str = "<f4") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"


@pytest.mark.parametrize("key", ["diff3d", "xcoords", "probeGuess", "objectGuess", "anything"])
def test_pickled_objects_are_refused_and_never_loaded(path, key):
    value = np.array([Boom()], dtype=object)
    with pytest.raises(SourceError, match=rf"{key}\.npy.*pickled Python objects"):
        open_source(write_npz(path, make_arrays() | {key: value}))


@pytest.mark.parametrize("key", ["diff3d", "xcoords", "probeGuess", "scan_index", "anything"])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(npy_with_header(_header(f"({2**45},)"), bytes(8)), "follow", id="huge"),
        pytest.param(npy_with_header(_header("(3,)"), bytes(8)), "follow", id="too short"),
        pytest.param(npy_with_header(_header("(1,)"), bytes(8)), "follow", id="trailing bytes"),
        pytest.param(npy_with_header(_header("(-2,)"), bytes(8)), "0 or more", id="negative"),
        pytest.param(npy_with_header(" " * 10_001), "at most 10000", id="long header"),
        pytest.param(npy_with_header(_header("(2,)"))[:30], "30 of", id="cut in its header"),
        pytest.param(npy_bytes(np.zeros(3))[:-1], "follow", id="cut in its data"),
    ],
)
def test_header_that_lies_is_refused(path, key, data, reason):
    arrays = make_arrays()
    arrays.pop(key, None)
    with pytest.raises(SourceError, match=rf"scan\.npz: member '{key}\.npy'.*{reason}"):
        open_source(write_npz(path, arrays | {f"{key}.npy": data}))


@pytest.mark.parametrize(
    "key", ["diff3d", "xcoords", "probeGuess", "objectGuess", "scan_index", "ycoords_start"]
)
def test_wanted_member_that_is_no_array_is_refused(path, key):
    arrays = make_arrays()
    arrays.pop(key, None)
    with pytest.raises(SourceError, match=rf"'{key}\.npy' is no npy array"):
        open_source(write_npz(path, arrays | {f"{key}.npy": b"\x89HDF"}))


@pytest.mark.parametrize("is_deflated", [False, True], ids=["stored", "deflated"])
@pytest.mark.parametrize("key", ["xcoords", "probeGuess"])
def test_checksum_of_small_arrays_is_verified_at_once(path, key, is_deflated):
    arrays = make_arrays()
    write_npz(path, arrays, is_deflated=is_deflated)
    entry = {m.name: m for m in open_source(path).members}[f"{key}.npy"]
    data = path.read_bytes()
    wrong = (entry.crc32 ^ 1).to_bytes(4, "little")
    path.write_bytes(data.replace(entry.crc32.to_bytes(4, "little"), wrong))
    with pytest.raises(SourceError, match=rf"{key}\.npy.*CRC-32"):
        open_source(path)


@pytest.mark.parametrize("value", [np.nan, -1.0, np.inf])
def test_frame_values_are_not_judged_here(path, value):
    arrays = make_arrays()
    arrays["diff3d"][3, 0, 0] = value
    frames = np.concatenate(list(open_source(write_npz(path, arrays)).frames.blocks(2)))
    assert np.array_equal(frames, arrays["diff3d"], equal_nan=True)


def test_coincident_positions_are_allowed(path):
    arrays = make_arrays() | {"xcoords": np.ones(7), "ycoords": np.ones(7)}
    assert (open_source(write_npz(path, arrays)).positions == 1).all()


def test_single_frame_is_a_scan(path):
    assert open_source(write_npz(path, make_arrays(n=1))).n_frames == 1


# Random damage


def _base(path: Path, *, is_deflated: bool) -> tuple[bytes, dict[str, Any]]:
    arrays = make_arrays(n=5, size=3) | {
        "objectGuess": np.asfortranarray(np.arange(6.0).reshape(2, 3) + 1j),
        "scan_index": np.arange(5, dtype=">i4"),
        "table": np.asfortranarray(np.arange(12, dtype=">u2").reshape(3, 4)),
        "_metadata": np.array('{"k": 1}'),
        "note.txt": b"text",
    }
    write_npz(path, arrays, is_deflated=is_deflated)
    return path.read_bytes(), read_everything(open_source(path))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


def _check(path: Path, damaged: bytes, expected: dict[str, Any]) -> None:
    path.write_bytes(damaged)
    try:
        got = read_everything(open_source(path))
    except PtyzarrError:
        return
    assert got.keys() == expected.keys()
    assert all(_same(got[key], expected[key]) for key in expected)


@pytest.fixture(scope="module", params=[False, True], ids=["stored", "deflated"])
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / "scan.npz"
    data, expected = _base(path, is_deflated=request.param)
    return path, data, expected


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 2**32 - 1), n_flips=st.integers(1, 3))
def test_flipped_bits_are_refused_or_change_nothing(base, seed, n_flips):
    path, data, expected = base
    choose = random.Random(seed)
    damaged = bytearray(data)
    for _ in range(n_flips):
        damaged[choose.randrange(len(damaged))] ^= 1 << choose.randrange(8)
    _check(path, bytes(damaged), expected)


@settings(deadline=None, max_examples=150)
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 40), data_=st.binary(max_size=20))
def test_replaced_inserted_or_missing_bytes_are_refused_or_change_nothing(
    base, seed, length, data_
):
    path, data, expected = base
    at = random.Random(seed).randrange(len(data))
    _check(path, data[:at] + data_ + data[at + length :], expected)


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**32 - 1))
def test_overwritten_directory_bytes_are_refused_or_change_nothing(base, seed):
    path, data, expected = base
    choose = random.Random(seed)
    damaged = bytearray(data)
    damaged[choose.randrange(data.find(b"PK\x01\x02"), len(data))] = choose.randrange(256)
    _check(path, bytes(damaged), expected)
