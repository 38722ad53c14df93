"""What is stored grows with what is found, and the guess is what a sample asks for."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import make_arrays, make_npz

from ptyzarr.errors import SourceError
from ptyzarr.ingestion.kinds import Kind, guess_kind
from ptyzarr.ingestion.values import check_block
from ptyzarr.sources import open_source

COUNTS = [Kind("counts", dtype) for dtype in ("|u1", "<u2", "<u4")]


def block_with(value: float):
    frames = np.full((1, 2, 2), value, np.float32)
    numbers = np.zeros(1, np.int64)
    return check_block(frames, numbers, "amplitude", "x", mask=False, counts=np.dtype("u1"))


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        pytest.param(COUNTS[0], 5.0, COUNTS[0], id="fits"),
        pytest.param(COUNTS[0], 16.0, COUNTS[1], id="256"),
        pytest.param(COUNTS[0], 256.0, COUNTS[2], id="65536"),
        pytest.param(COUNTS[2], 5.0, COUNTS[2], id="never less"),
        pytest.param(COUNTS[1], 0.5, Kind("amplitude", "<f4"), id="no count"),
        pytest.param(Kind("amplitude", "<f4"), 5.0, Kind("amplitude", "<f4"), id="for good"),
    ],
)
def test_kind_grows_with_what_is_found(kind, value, expected):
    assert kind.with_block(block_with(value)) == expected


def test_wider_of_two_kinds_holds_both():
    kinds = [*COUNTS, Kind("amplitude", "<f4")]
    for low, one in enumerate(kinds):
        for other in kinds[low:]:
            assert one.wider(other) == other.wider(one) == other


@pytest.mark.parametrize(
    ("frame", "value", "expected"),
    [
        pytest.param(0, 300.0, COUNTS[2], id="first frame"),
        pytest.param(39, 300.0, COUNTS[2], id="last frame"),
        pytest.param(39, 0.5, Kind("amplitude", "<f4"), id="no count"),
        pytest.param(1, 300.0, COUNTS[0], id="not in the sample"),
    ],
)
def test_guess_is_what_the_sample_asks_for(tmp_path, monkeypatch, frame, value, expected):
    monkeypatch.setattr("ptyzarr.ingestion.kinds.SAMPLE_FRAMES", 4)
    frames = make_arrays()["diff3d"]
    frames[frame, 2, 3] = value
    scan = open_source(make_npz(tmp_path / "scan.npz", diff3d=frames))
    assert guess_kind(scan, mask=False) == expected


def test_guess_reads_nothing_where_the_dtype_decides(tmp_path):
    scan = open_source(make_npz(tmp_path / "scan.npz", diff3d=np.full((40, 16, 16), np.nan)))
    assert guess_kind(scan, mask=False) == Kind("amplitude", "<f8")


def test_refused_frame_in_the_sample_is_named(tmp_path):
    frames = make_arrays()["diff3d"]
    frames[39, 2, 3] = np.nan
    scan = open_source(make_npz(tmp_path / "scan.npz", diff3d=frames))
    with pytest.raises(SourceError, match="frame 39 has the value nan at row 2, column 3"):
        guess_kind(scan, mask=False)
    assert guess_kind(scan, mask=True) == COUNTS[0]
