"""Side files of shards give records and masked pixels back, put into acquisition order."""

from __future__ import annotations

import numpy as np

from ptyzarr.ingestion.records import (
    FRAME_RECORD,
    SideFile,
    frame_records,
    mask_record,
    masked_pixels,
    merge_masked,
    read_records,
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
    sides, records = [], np.empty(11, FRAME_RECORD)
    for number, rows in enumerate((order[:6], order[6:])):
        path = tmp_path / f"{number}.bin"
        make_side(path, frames[rows], rows, 4)
        records[rows] = read_records(path, len(rows))
        sides.append((path, rows))
    assert records["crc32"].tolist() == list(range(11))
    n_masked = records["n_masked"].astype(np.int64)
    assert n_masked.tolist() == (~np.isfinite(frames)).sum(axis=(1, 2)).tolist()
    dtype = mask_record(frames.dtype)
    merge_masked(sides, n_masked, dtype.itemsize, tmp_path / "all")
    merged = np.fromfile(tmp_path / "all", dtype)
    expected = np.flatnonzero(~np.isfinite(frames))
    assert merged["index"].tolist() == expected.tolist()
    assert merged["value"].tobytes() == frames.reshape(-1)[expected].tobytes()
