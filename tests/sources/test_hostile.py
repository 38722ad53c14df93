"""The hostile table: one test for each way an NPZ file can lie; `test_fuzz_*` add random ones."""

import os
from pathlib import Path

import numpy as np
import pytest

from ptyzarr.errors import SourceError
from ptyzarr.sources import open_source

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
