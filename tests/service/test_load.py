from __future__ import annotations

from pathlib import Path

import pytest
import synthetic
from service.load import run_load

from ptyzarr.ingestion import ingest


@pytest.mark.slow
def test_many_clients_get_right_answers_and_memory_stays_flat(tmp_path: Path) -> None:
    """The short form; `benchmarks/service.py` goes on for a minute."""
    source = synthetic.make_npz(tmp_path / "a.npz", n_frames=600, N=64)
    ingest(source, tmp_path / "served" / "a.zarr").close()
    report = run_load(tmp_path / "served", "a", seconds=4.0)
    assert report.problems == [], str(report)
    assert report.n_requests > 64
    # Sixty-four answers on their way take a few MiB; one copy kept of each shard would take more.
    assert report.growth_bytes < 32 * 1024**2, str(report)
