"""How many threads work on how many frames at once, within the memory budget."""

from __future__ import annotations

import pytest
from synthetic import make_npz

from ptyzarr.config import IngestConfig
from ptyzarr.errors import BudgetError
from ptyzarr.ingestion.budget import block_frames, choose_workers
from ptyzarr.sources import open_source


def test_more_memory_and_fewer_workers_give_larger_blocks(tmp_path):
    scan = open_source(make_npz(tmp_path / "scan.npz", N=64, n_frames=4))
    small, middle, large = (
        block_frames(scan, IngestConfig(memory=memory), 4)
        for memory in ("104MiB", "110MiB", "1GiB")
    )
    assert 1 <= small < middle <= large
    assert block_frames(scan, IngestConfig(memory="104MiB"), 1) > small


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
    monkeypatch.setattr("ptyzarr.ingestion.budget.available_cores", lambda: cores)
    config = IngestConfig(memory=memory)
    found = choose_workers(scan, config)
    assert found == expected or (expected is None and 1000 < found < cores)
    assert choose_workers(scan, IngestConfig(memory=memory, n_workers=7)) == 7
    if memory != "1MiB":
        assert block_frames(scan, config, found) >= 1
