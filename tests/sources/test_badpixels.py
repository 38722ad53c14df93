"""Masks of bad pixels in files of any form, and files that hold none."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import npy_bytes, write_npz

from ptyzarr.errors import ScanNotFoundError, ShapeError, SourceError
from ptyzarr.sources import read_bad_pixels

VALUES = np.zeros((6, 6), np.int16)
VALUES[1, 4], VALUES[5, 0] = 7, -1


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(VALUES, id="integers"),
        pytest.param(VALUES != 0, id="bool"),
        pytest.param(VALUES.astype(">f8"), id="big-endian floats"),
        pytest.param(np.asfortranarray(VALUES), id="Fortran order"),
    ],
)
def test_what_is_not_zero_is_bad_in_npy_and_npz(tmp_path, values):
    np.save(tmp_path / "mask.npy", values)
    write_npz(tmp_path / "mask.npz", {"anything": values}, compressed=True)
    for name in ("mask.npy", "mask.npz"):
        mask = read_bad_pixels(tmp_path / name, 6)
        assert (mask.dtype, np.argwhere(mask).tolist()) == (bool, [[1, 4], [5, 0]])


def test_of_several_arrays_the_one_of_that_name_is_the_mask(tmp_path):
    path = write_npz(tmp_path / "both.npz", {"gain": np.ones((6, 6)), "bad_pixels": VALUES})
    assert read_bad_pixels(path, 6).sum() == 2


def test_a_mask_without_bad_pixels_is_one(tmp_path):
    np.save(tmp_path / "mask.npy", np.zeros((6, 6), bool))
    assert not read_bad_pixels(tmp_path / "mask.npy", 6).any()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        pytest.param("mask.npy", b"", "neither an npy nor an npz", id="empty"),
        pytest.param("mask.png", b"\x89PNG and more", "neither", id="picture"),
        pytest.param("mask.npy", npy_bytes(VALUES)[:-3], "the npy header has", id="cut off"),
        pytest.param("mask.npz", b"PK\x03\x04 and no more", "mask.npz", id="damaged zip"),
    ],
)
def test_a_file_that_is_no_mask_is_refused(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=words):
        read_bad_pixels(tmp_path / name, 6)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        pytest.param({"a": VALUES, "b": VALUES}, "'a', 'b'", id="two arrays"),
        pytest.param({"notes.txt": b"no array"}, "the arrays none", id="no array"),
    ],
)
def test_an_npz_without_one_mask_is_refused(tmp_path, members, words):
    with pytest.raises(SourceError, match=words):
        read_bad_pixels(write_npz(tmp_path / "mask.npz", members), 6)


def test_a_header_that_claims_a_huge_mask_allocates_nothing(tmp_path):
    head = npy_bytes(VALUES).replace(b"(6, 6)", b"(9**9)")
    (tmp_path / "mask.npy").write_bytes(head)
    with pytest.raises(SourceError):
        read_bad_pixels(tmp_path / "mask.npy", 6)
    np.save(tmp_path / "wide.npy", np.broadcast_to(np.int8(0), (3000, 3000)))
    with pytest.raises(ShapeError, match="before they are cut or padded"):
        read_bad_pixels(tmp_path / "wide.npy", 6)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ScanNotFoundError, match=r"no\.npy"):
        read_bad_pixels(tmp_path / "no.npy", 6)
