from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ptyzarr.bench import format_table, run_bench
from ptyzarr.errors import ScanNotFoundError


@pytest.mark.slow
def test_a_file_is_ingested_measured_and_reported(
    make_npz: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptyzarr.bench.run.SHORT", ("window", "memmap"))
    source = make_npz(tmp_path / "scan.npz", n_frames=60)
    out = tmp_path / "out"
    report = run_bench(
        source, out, memory="256MiB", batch_size=16, n_rounds=1, round_s=0.05, channels="first"
    )
    assert [row.label for row in report.rows] == ["ptyzarr window, 256 MiB", "numpy.memmap gather"]
    assert "(B, C, N, N)" in format_table(report)
    assert json.loads((out / "bench.json").read_text())["reports"][0]["conditions"]["groups"] == 60
    assert not (out / "scratch").exists()
    assert (out / "scan.zarr" / "zarr.json").is_file()


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScanNotFoundError, match=r"nothing\.npz does not exist"):
        run_bench(tmp_path / "nothing.npz", tmp_path / "out")
