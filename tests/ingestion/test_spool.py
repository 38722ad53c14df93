"""Spooled frames come back as what is stored, whatever seemed to be stored when they came."""

from __future__ import annotations

import os

import numpy as np
import pytest
from synthetic import make_arrays, make_npz

from ptyzarr.errors import SourceChangedError, SourceError
from ptyzarr.ingestion.kinds import Kind
from ptyzarr.ingestion.records import FrameRecords
from ptyzarr.ingestion.spool import SpoolReader, spool_frames
from ptyzarr.ingestion.values import amplitude_of
from ptyzarr.progress import Silent
from ptyzarr.scan import frame_power
from ptyzarr.sources import open_source
from ptyzarr.store import decode_frames


def records_in(folder) -> FrameRecords:
    return FrameRecords(40, [(folder / "records.bin", None)])


def spooled(tmp_path, frames, n_block=3, n_workers=1, mask=False, **options):
    source = make_npz(tmp_path / "scan.npz", diff3d=frames, compressed=True)
    scan = open_source(source, **options)
    found = spool_frames(scan, tmp_path, n_block, n_workers, mask=mask, progress=Silent())
    return found, SpoolReader(str(tmp_path / "frames.bin"), 16, frames.dtype.str)


def amplitudes_with(pixels: dict[int, float]) -> np.ndarray:
    frames = make_arrays()["diff3d"]
    for frame, value in pixels.items():
        frames[frame, 4, 5] = value
    return frames


@pytest.mark.parametrize("chunk_frames", [1, 4])
@pytest.mark.parametrize("n_workers", [1, 3])
@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        pytest.param({}, Kind("counts", "|u1"), id="8 bits"),
        pytest.param({0: 255.0}, Kind("counts", "<u2"), id="16 bits at once"),
        pytest.param({20: 255.0}, Kind("counts", "<u2"), id="16 bits later"),
        pytest.param({9: 20.0, 30: 300.0}, Kind("counts", "<u4"), id="16 and 32 bits later"),
        pytest.param({0: 0.3}, Kind("amplitude", "<f4"), id="no counts at once"),
        pytest.param({30: 0.3}, Kind("amplitude", "<f4"), id="no counts later"),
        pytest.param({9: 20.0, 39: 0.3}, Kind("amplitude", "<f4"), id="large, then none"),
    ],
)
def test_spooled_frames_are_exact_whatever_came_later(
    tmp_path, pixels, kind, n_workers, chunk_frames
):
    frames = amplitudes_with(pixels)
    found, reader = spooled(tmp_path, frames, n_workers=n_workers)
    assert found.kind == kind
    assert records_in(tmp_path).field("power").tolist() == frame_power(frames).tolist()
    order = np.random.default_rng(0).permutation(40)
    chunks = reader.read_chunks(found.pieces[order], kind, chunk_frames)
    stored = decode_frames(chunks, frames.shape, np.dtype(kind.dtype))
    amplitude = amplitude_of(stored) if kind.counts is not None else stored
    assert amplitude.tobytes() == frames[order].tobytes()
    assert len(chunks.lengths) == 40 // chunk_frames


@pytest.mark.parametrize("dtype", ["f8", "f2", "u2", "i8", "?"])
def test_amplitudes_of_other_dtypes_are_spooled_as_they_are(tmp_path, dtype):
    frames = (make_arrays()["diff3d"] > 1).astype(dtype)
    found, reader = spooled(tmp_path, frames)
    assert found.kind == Kind("amplitude", frames.dtype.str)
    chunks = reader.read_chunks(found.pieces, found.kind, 1)
    assert decode_frames(chunks, frames.shape, frames.dtype).tobytes() == frames.tobytes()


def test_declared_counts_are_spooled_in_the_least_dtype(tmp_path):
    counts = np.full((40, 16, 16), 256, np.int64)
    found, reader = spooled(tmp_path, counts, quantity="counts")
    assert found.kind == Kind("counts", "<u2")
    chunks = reader.read_chunks(found.pieces, found.kind, 2)
    assert (decode_frames(chunks, counts.shape, np.dtype("u2")) == 256).all()


def test_masked_pixels_are_kept_in_acquisition_order(tmp_path):
    frames = amplitudes_with({2: np.nan, 20: np.inf, 21: -np.inf})
    spooled(tmp_path, frames, mask=True, n_workers=3)
    assert np.flatnonzero(records_in(tmp_path).field("n_masked")).tolist() == [2, 20, 21]
    raw = np.fromfile(tmp_path / "masked.bin", [("index", "<i8"), ("value", "<f4")])
    assert raw["index"].tolist() == [frame * 256 + 4 * 16 + 5 for frame in (2, 20, 21)]
    assert raw["value"].tobytes() == frames[[2, 20, 21], 4, 5].tobytes()


def test_refused_frame_is_named(tmp_path):
    with pytest.raises(SourceError, match="frame 17 has the value nan"):
        spooled(tmp_path, amplitudes_with({17: np.nan}), n_workers=2)


def flip(path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("chunk_frames", [1, 2])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: os.truncate(path, 100), id="cut off"),
        pytest.param(lambda path: flip(path, 50), id="flipped bit"),
    ],
)
def test_damaged_spool_is_noticed(tmp_path, damage, chunk_frames):
    found, reader = spooled(tmp_path, make_arrays()["diff3d"])
    damage(tmp_path / "frames.bin")
    with pytest.raises(SourceChangedError, match=r"frames.bin is not what was written"):
        reader.read_chunks(found.pieces, found.kind, chunk_frames)
