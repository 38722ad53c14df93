"""Members of a scan that no file holds: what `numpy.save` would write."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from synthetic import npy_bytes

from ptyzarr.sources import ArrayReader, array_member, parse_header, published_members

FIELDS = {
    "positions": np.arange(10.0).reshape(5, 2),
    "positions_start": None,
    "scan_index": np.arange(5),
    "probe_guess": np.ones((4, 4), np.complex64),
    "object_guess": np.ones((9, 8), np.complex64),
    "bad_pixels": np.zeros((4, 4), bool),
}


@given(
    hnp.arrays(
        st.one_of(hnp.boolean_dtypes(), hnp.integer_dtypes(), hnp.floating_dtypes()),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
    )
)
def test_a_member_is_what_numpy_saves(array):
    member = array_member("key", "extra/key", array)
    saved = npy_bytes(array.astype(array.dtype.newbyteorder("<")))
    assert (member.name, member.size, member.crc32) == ("key.npy", len(saved), zlib.crc32(saved))
    assert saved.startswith(member.header)
    assert parse_header(member.header, member.size, "it").shape == array.shape


def test_a_scan_gets_the_published_names_and_frames_without_a_checksum():
    members = published_members("diffraction", (5, 4, 4), np.dtype(np.float32), FIELDS)
    assert [member.name for member in members] == [
        "diffraction.npy", "xcoords.npy", "ycoords.npy", "scan_index.npy", "probeGuess.npy",
        "objectGuess.npy", "bad_pixels.npy",
    ]  # fmt: skip
    frames, x, y = members[:3]
    assert (frames.node, frames.crc32) == ("diffraction", None)
    assert frames.size == len(frames.header) + 5 * 16 * 4
    assert ((x.node, x.column), (y.node, y.column)) == (("positions", 0), ("positions", 1))
    column = npy_bytes(FIELDS["positions"][:, 1].copy())
    assert (y.size, y.crc32) == (len(column), zlib.crc32(column))


def test_frames_of_another_name_get_the_published_one():
    members = published_members("pictures", (5, 4, 4), np.dtype(np.float32), FIELDS)
    assert members[0].name == "diff3d.npy"


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.float64(3.5), id="scalar"),
        pytest.param(np.arange(24, dtype=">i4").reshape(6, 4), id="rows, big-endian"),
        pytest.param(np.zeros((0, 4)), id="no rows"),
        pytest.param(np.zeros((3, 0)), id="empty rows"),
    ],
)
@pytest.mark.parametrize("max_bytes", [1, 40, 10**6])
def test_an_array_is_read_in_blocks_of_rows(array, max_bytes):
    reader = ArrayReader(np.asarray(array))
    blocks = list(reader.blocks(max_bytes))
    assert reader.dtype.isnative
    assert all(block.nbytes <= max(max_bytes, 16) for block in blocks)
    if reader.shape and array.size:
        assert np.array_equal(np.concatenate(blocks), array)
    else:
        assert [block.tolist() for block in blocks] == ([] if reader.shape else [3.5])
