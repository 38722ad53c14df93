"""Side files of shards give records and masked pixels back, put into acquisition order."""

from __future__ import annotations

import os

import numpy as np
import pytest

from ptyzarr.errors import DamagedStoreError
from ptyzarr.ingestion.records import (
    FRAME_RECORD,
    FrameRecords,
    SideFile,
    frame_records,
    mask_record,
    masked_pixels,
    merge_masked,
)
from ptyzarr.ingestion.values import check_block
from ptyzarr.store import file_checksum


def make_side(path, frames: np.ndarray, numbers: np.ndarray, step: int):
    """Write the side file of `frames`, whose acquisition indices are `numbers`."""
    with path.open("wb") as file:
        side = SideFile(file)
        for start in range(0, len(frames), step):
            part = numbers[start : start + step]
            block = check_block(
                frames[start : start + step].copy(), part, "amplitude", "x", mask=True, counts=None
            )
            sums = part.astype(np.uint32)
            side.add(frame_records(block, sums), masked_pixels(block, part))
        assert side.finish() == file_checksum_after(file, path)


def file_checksum_after(file, path):
    file.flush()
    return file_checksum(path)


def test_records_and_masked_pixels_come_back_in_acquisition_order(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.random((11, 3, 3)).astype(np.float32)
    frames[rng.random(frames.shape) < 0.2] = np.nan
    frames[4] = np.inf
    frames[7] = 1
    order = rng.permutation(11)
    sides = []
    for number, rows in enumerate((order[:6], order[6:])):
        path = tmp_path / f"{number}.bin"
        make_side(path, frames[rows], rows, 4)
        sides.append((path, rows))
    records = FrameRecords(11, sides)
    assert records.field("crc32").tolist() == list(range(11))
    n_masked = records.field("n_masked").astype(np.int64)
    assert records.largest("n_masked") == n_masked.max()
    assert n_masked.tolist() == (~np.isfinite(frames)).sum(axis=(1, 2)).tolist()
    dtype = mask_record(frames.dtype)
    merge_masked(sides, n_masked, dtype.itemsize, tmp_path / "all")
    merged = np.fromfile(tmp_path / "all", dtype)
    expected = np.flatnonzero(~np.isfinite(frames))
    assert merged["index"].tolist() == expected.tolist()
    assert merged["value"].tobytes() == frames.reshape(-1)[expected].tobytes()


def test_records_that_were_cut_off_are_told(tmp_path):
    path = tmp_path / "records.bin"
    np.zeros(11, FRAME_RECORD).tofile(path)
    assert FrameRecords(11, [(path, None)]).field("hash").tolist() == [0] * 11
    os.truncate(path, 11 * FRAME_RECORD.itemsize - 1)
    with pytest.raises(DamagedStoreError, match="records of 11 frames"):
        FrameRecords(11, [(path, None)]).largest("n_wide")
