from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from ptyzarr.config import GroupingConfig
from ptyzarr.grouping import cached_factor, group_table, normalization_factor

from .memory_scan import make_scan

CONFIG = GroupingConfig(gridsize=2, n_neighbors=6, seed=3)


class ComputedAgainError(Exception):
    pass


class PowerlessScan:
    """A scan whose power nobody may look at."""

    def __init__(self, scan):
        self.path, self.digest, self.frame_size = scan.path, scan.digest, scan.frame_size
        self.n_frames, self.positions = scan.n_frames, scan.positions

    @property
    def frame_power(self):
        raise ComputedAgainError


@pytest.fixture
def scan(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    (tmp_path / "stores").mkdir()
    return make_scan(40, path=str(tmp_path / "stores" / "scan.zarr"))


def factor_file(tmp_path):
    (path,) = (tmp_path / "stores" / ".ptyzarr-cache").glob("*.factor")
    return path


def test_a_factor_is_computed_once_and_has_the_same_bits(scan, tmp_path):
    table = group_table(scan, CONFIG)
    expected = normalization_factor(scan.frame_power, table.nn_indices, scan.frame_size)
    first = cached_factor(scan, CONFIG, table)
    again = cached_factor(PowerlessScan(scan), CONFIG, table)
    assert first.dtype == again.dtype == np.float32
    assert first.tobytes() == again.tobytes() == expected.tobytes()
    assert factor_file(tmp_path).stat().st_size < 1000


def test_other_options_and_other_scans_have_factors_of_their_own(scan):
    cached_factor(scan, CONFIG, group_table(scan, CONFIG))
    other = dataclasses.replace(CONFIG, seed=4)
    with pytest.raises(ComputedAgainError):
        cached_factor(PowerlessScan(scan), other, group_table(scan, other))
    changed = PowerlessScan(scan)
    changed.digest = "another"
    with pytest.raises(ComputedAgainError):
        cached_factor(changed, CONFIG, group_table(scan, CONFIG))
    drawn_anew = dataclasses.replace(CONFIG, seed=None)
    with pytest.raises(ComputedAgainError):
        cached_factor(PowerlessScan(scan), drawn_anew, group_table(scan, drawn_anew))


def test_no_damaged_byte_of_a_file_is_trusted(scan, tmp_path):
    table = group_table(scan, CONFIG)
    cached_factor(scan, CONFIG, table)
    path = factor_file(tmp_path)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(ComputedAgainError):
            cached_factor(PowerlessScan(scan), CONFIG, table)
    for length in (0, 5, 20, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ComputedAgainError):
            cached_factor(PowerlessScan(scan), CONFIG, table)
    assert cached_factor(scan, CONFIG, table) > 0
    assert path.read_bytes() == whole


@pytest.mark.parametrize("power", [0.0, np.inf])
def test_factors_that_are_no_numbers_are_kept_too(scan, power):
    table = group_table(scan, CONFIG)
    odd = SimpleNamespace(
        path=scan.path,
        digest="odd",
        frame_size=scan.frame_size,
        n_frames=scan.n_frames,
        frame_power=np.full(scan.n_frames, power),
    )
    first = cached_factor(odd, CONFIG, table)
    odd.frame_power = None
    assert cached_factor(odd, CONFIG, table).tobytes() == first.tobytes()
