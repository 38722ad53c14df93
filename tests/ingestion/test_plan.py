"""The plan: what it depends on and how it is saved."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from synthetic import make_npz

from ptyzarr.config import IngestConfig
from ptyzarr.ingestion.kinds import Kind
from ptyzarr.ingestion.plan import Plan, make_plan, plan_key
from ptyzarr.ingestion.staging import Staging
from ptyzarr.progress import Silent
from ptyzarr.sources import open_source

DEFAULT = IngestConfig()


@pytest.fixture
def staging(tmp_path):
    staging = Staging.beside(tmp_path / "scan.zarr")
    staging.root.mkdir()
    staging.prepare()
    return staging


def planned(tmp_path, staging, **scan) -> Plan:
    source = make_npz(tmp_path / "scan.npz", **scan)
    return make_plan(open_source(source), DEFAULT, staging, 2, Silent())


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_saved_plan_is_loaded(tmp_path, staging, compressed):
    plan = planned(tmp_path, staging, compressed=compressed)
    loaded = Plan.load(staging, plan.key)
    assert loaded is not None
    assert np.array_equal(loaded.order, plan.order)
    assert (loaded.pieces is None) == (plan.pieces is None) == (not compressed)
    assert loaded.pieces is None or np.array_equal(loaded.pieces, plan.pieces)
    assert (loaded.format, loaded.kind, loaded.sizes) == (plan.format, plan.kind, plan.sizes)
    assert loaded.stamp == plan.stamp


def test_plan_for_another_kind_has_its_sizes_and_another_stamp(tmp_path, staging):
    plan = planned(tmp_path, staging, N=64, n_frames=4, probeGuess=np.ones((64, 64)))
    wider = plan.with_kind(Kind("counts", "<u4"))
    assert plan.amplitude_dtype == wider.amplitude_dtype == np.float32
    assert wider.format.dtype == np.uint32
    assert wider.sizes.chunk_frames < plan.sizes.chunk_frames
    assert wider.stamp != plan.stamp
    assert np.array_equal(wider.order, plan.order)


def flip(path: Path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda s: s.plan.unlink(), id="no document"),
        pytest.param(lambda s: s.plan.write_text("{"), id="document cut off"),
        pytest.param(lambda s: s.plan.write_text("[]"), id="another document"),
        pytest.param(lambda s: os.truncate(s.plan_arrays / "order.npy", 200), id="array cut off"),
        pytest.param(lambda s: (s.plan_arrays / "pieces.npy").unlink(), id="array missing"),
        pytest.param(lambda s: os.truncate(s.spool / "frames.bin", 9), id="spool cut off"),
        pytest.param(lambda s: (s.spool / "masked.bin").unlink(), id="masks missing"),
        pytest.param(lambda s: (s.spool / "records.bin").unlink(), id="records missing"),
        pytest.param(lambda s: flip(s.spool / "records.bin", 40), id="record flipped"),
    ],
)
def test_damaged_plan_is_not_loaded(tmp_path, staging, damage):
    plan = planned(tmp_path, staging, compressed=True)
    assert Plan.load(staging, plan.key) is not None
    damage(staging)
    assert Plan.load(staging, plan.key) is None


def test_plan_of_another_key_is_not_loaded(tmp_path, staging):
    planned(tmp_path, staging)
    assert Plan.load(staging, "other") is None


def test_plan_is_current_until_another_one_is_saved(tmp_path, staging):
    plan = planned(tmp_path, staging)
    assert plan.is_current(staging)
    wider = plan.with_kind(Kind("counts", "<u4"))
    wider.save(staging)
    assert wider.is_current(staging)
    assert not plan.is_current(staging)
    staging.prepare()
    assert not wider.is_current(staging)


def test_key_is_that_of_the_content_not_of_the_file(tmp_path):
    one = open_source(make_npz(tmp_path / "one.npz"))
    two = open_source(make_npz(tmp_path / "two.npz"))
    assert plan_key(one, DEFAULT) == plan_key(two, DEFAULT)


@pytest.mark.parametrize(
    ("scan", "config"),
    [
        pytest.param({"seed": 1}, DEFAULT, id="other values"),
        pytest.param({"more": np.ones(1)}, DEFAULT, id="more members"),
        pytest.param({"compressed": True}, DEFAULT, id="deflated"),
        pytest.param({}, IngestConfig(layout="acquisition"), id="order"),
        pytest.param({}, IngestConfig(nonfinite="mask"), id="masks"),
    ],
)
def test_key_changes_with_what_changes_the_store(tmp_path, scan, config):
    one = open_source(make_npz(tmp_path / "one.npz"))
    other = open_source(make_npz(tmp_path / "other.npz", **scan))
    assert plan_key(one, DEFAULT) != plan_key(other, config)


@pytest.mark.parametrize(
    "config", [IngestConfig(memory="2GiB"), IngestConfig(n_workers=3), IngestConfig(overwrite=True)]
)
def test_key_does_not_depend_on_how_the_work_is_done(tmp_path, config):
    scan = open_source(make_npz(tmp_path / "one.npz"))
    assert plan_key(scan, config) == plan_key(scan, DEFAULT)
