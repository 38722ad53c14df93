"""The plan: what it depends on, how it is saved, what fits in memory."""

from __future__ import annotations

import os

import numpy as np
import pytest
from synthetic import make_npz

from ptyzarr.config import IngestConfig
from ptyzarr.errors import BudgetError
from ptyzarr.ingestion.plan import Plan, block_frames, choose_workers, make_plan, plan_key
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


def test_saved_plan_is_loaded(tmp_path, staging):
    plan = planned(tmp_path, staging)
    loaded = Plan.load(staging, plan.key)
    assert loaded is not None
    for name in ("order", "power", "hashes"):
        assert np.array_equal(getattr(loaded, name), getattr(plan, name))
    assert (loaded.format, loaded.quantity, loaded.sizes) == (
        plan.format,
        plan.quantity,
        plan.sizes,
    )


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda s: s.plan.unlink(), id="no document"),
        pytest.param(lambda s: s.plan.write_text("{"), id="document cut off"),
        pytest.param(lambda s: s.plan.write_text("[]"), id="another document"),
        pytest.param(lambda s: os.truncate(s.plan_arrays / "order.npy", 200), id="array cut off"),
        pytest.param(lambda s: (s.plan_arrays / "power.npy").unlink(), id="array missing"),
        pytest.param(lambda s: os.truncate(s.spool / "frames.bin", 9), id="spool cut off"),
        pytest.param(lambda s: (s.spool / "masked_index.bin").unlink(), id="masks missing"),
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


def test_more_memory_and_fewer_workers_give_larger_blocks(tmp_path):
    scan = open_source(make_npz(tmp_path / "scan.npz", N=64, n_frames=4))
    small, middle, large = (
        block_frames(scan, IngestConfig(memory=memory), 4)
        for memory in ("130MiB", "200MiB", "1GiB")
    )
    assert 1 <= small < middle <= large
    assert block_frames(scan, IngestConfig(memory="130MiB"), 1) > small


def test_least_memory_that_is_named_is_enough(tmp_path):
    scan = open_source(make_npz(tmp_path / "scan.npz"))
    for n_workers in (1, 7):
        with pytest.raises(BudgetError, match="raise --memory or lower --n-workers") as caught:
            block_frames(scan, IngestConfig(memory=1), n_workers)
        least = str(caught.value).split("at least ")[1].split(";")[0]
        assert block_frames(scan, IngestConfig(memory=least), n_workers) >= 1


@pytest.mark.parametrize(
    ("memory", "cores", "expected"),
    [
        pytest.param("1GiB", 3, 3, id="all cores"),
        pytest.param("1GiB", 100_000, None, id="as memory allows"),
        pytest.param("1MiB", 8, 1, id="one at least"),
    ],
)
def test_workers_are_as_many_as_cores_and_memory_allow(
    tmp_path, monkeypatch, memory, cores, expected
):
    scan = open_source(make_npz(tmp_path / "scan.npz", N=64, n_frames=4))
    monkeypatch.setattr("ptyzarr.ingestion.plan.available_cores", lambda: cores)
    config = IngestConfig(memory=memory)
    found = choose_workers(scan, config)
    assert found == expected or (expected is None and 1000 < found < cores)
    assert choose_workers(scan, IngestConfig(memory=memory, n_workers=7)) == 7
    if memory != "1MiB":
        assert block_frames(scan, config, found) >= 1
