"""The spool holds counts while it can, and is rewritten when it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from ptyzarr.errors import SourceError
from ptyzarr.ingestion.spool import Spool, SpoolReader
from ptyzarr.ingestion.values import CheckedBlock, amplitude_of, check_block


def counted(largest: int, seed: int = 0) -> CheckedBlock:
    counts = np.random.default_rng(seed).integers(0, largest + 1, (3, 4, 4))
    counts[1, 2, 3] = largest
    return checked(amplitude_of(counts.astype(np.uint32)))


def checked(frames: np.ndarray, quantity: str = "amplitude") -> CheckedBlock:
    return check_block(frames, 0, quantity, "x", mask=False, want_counts=True)


def uncounted(dtype: str = "f4", seed: int = 0) -> CheckedBlock:
    return checked(np.random.default_rng(seed).uniform(1, 99, (3, 4, 4)).astype(dtype))


@pytest.mark.parametrize(
    ("blocks", "dtype"),
    [
        pytest.param([counted(9), counted(65535)], "uint16", id="16 bits"),
        pytest.param([counted(9), counted(65536), counted(7)], "uint32", id="32 bits later"),
        pytest.param([counted(65536), counted(9)], "uint32", id="32 bits at once"),
        pytest.param([counted(9), counted(9, 1), uncounted()], "float32", id="no counts later"),
        pytest.param([counted(9), counted(65536), uncounted()], "float32", id="both promotions"),
        pytest.param([uncounted(), counted(9)], "float32", id="no counts at once"),
        pytest.param([uncounted("f8"), uncounted("f8")], "float64", id="float64"),
        pytest.param([uncounted("u2"), uncounted("u2", 1)], "uint16", id="uint16 amplitudes"),
        pytest.param([uncounted("u4"), uncounted("u4", 1)], "uint32", id="uint32 amplitudes"),
        pytest.param([uncounted("i8")], "int64", id="int64 amplitudes"),
    ],
)
def test_spooled_frames_are_exact_whatever_was_promoted(tmp_path, blocks, dtype):
    with Spool.create(tmp_path, 4) as spool:
        for block in blocks:
            spool.append(block)
    assert spool.dtype == dtype
    amplitude = np.concatenate([block.amplitude for block in blocks])
    reader = SpoolReader(str(tmp_path / "frames.bin"), spool.dtype.str, 4)
    order = np.random.default_rng(0).permutation(len(amplitude))
    found = reader.read(order)
    holds_counts = all(block.counts is not None for block in blocks)
    found = amplitude_of(found) if holds_counts else found
    assert found.tobytes() == amplitude[order].tobytes()
    assert [path.name for path in tmp_path.iterdir()] == ["frames.bin"]


def test_long_spool_is_rewritten_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("ptyzarr.ingestion.spool.REWRITE_BYTES", 10)
    blocks = [counted(50, seed) for seed in range(5)] + [uncounted()]
    with Spool.create(tmp_path, 4) as spool:
        for block in blocks:
            spool.append(block)
    reader = SpoolReader(str(tmp_path / "frames.bin"), spool.dtype.str, 4)
    expected = np.concatenate([block.amplitude for block in blocks])
    assert reader.read(np.arange(18)).tobytes() == expected.tobytes()


def test_spool_that_ends_early_is_an_error(tmp_path):
    with Spool.create(tmp_path, 4) as spool:
        spool.append(counted(9))
    reader = SpoolReader(str(tmp_path / "frames.bin"), "<u2", 4)
    with pytest.raises(SourceError, match="ended at frame 3"):
        reader.read(np.array([3]))
