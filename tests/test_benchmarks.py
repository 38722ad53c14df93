"""The scripts in ``benchmarks/`` run, at a size that takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run_script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_ingest_and_epochs_stay_within_their_budget(tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    done = run_script(
        "memory.py", "--size", "64MiB", "--memory", "256MiB", "--cache", cache, "--out", out
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((out / "memory.json").read_text())["rows"]
    assert len(rows) == 8
    assert all(row["is_kept"] for row in rows)
    # A measurement of nothing would pass too: the float32 frames alone are larger than this.
    assert all(16 * 2**20 < row["added_bytes"] <= 256 * 2**20 for row in rows)
    assert done.stdout.count("PASS") == 8


@pytest.mark.slow
def test_a_broken_promise_is_a_failure(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import memory; "
        "from ptyzarr.bench import Promise; "
        "memory.measure_promises = lambda *a, **k: [Promise(step='x', limit_bytes=1, "
        "added_bytes=2)]; "
        "kept = [p.is_kept for p in memory.run(memory.parse(sys.argv[1:]))]; "
        "sys.exit(not all(kept))"
    )
    command = [sys.executable, "-c", code, str(BENCHMARKS)]
    options = [
        "--size",
        "1MiB",
        "--kinds",
        "stored",
        "--cache",
        tmp_path,
        "--out",
        tmp_path / "out",
    ]
    done = subprocess.run(
        [*command, *map(str, options)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("FAIL")


@pytest.mark.slow
def test_draws_are_compared_with_the_reference(tmp_path: Path) -> None:
    done = run_script("draws.py", "--groups", 20_000, "--rounds", 2, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "draws.json").read_text())["reports"][0]
    ours, reference = report["rows"]
    assert reference["ratio"] == 1
    assert ours["ratio"] > 5
    assert report["conditions"]["reference_groups"] == 1_000


@pytest.mark.slow
def test_synthetic_scans_are_the_same_everywhere(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import scans; from pathlib import Path; "
        "spec = scans.ScanSpec(n_frames=70, frame_size=16, columns=9, n_distinct=40); "
        "scans.write_scan(Path(sys.argv[2]), spec)"
    )
    arrays = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.npz"
        subprocess.run([sys.executable, "-c", code, str(BENCHMARKS), str(path)], check=True)
        with np.load(path) as archive:
            arrays.append(dict(archive))
    first, second = arrays
    assert first.keys() == second.keys()
    for key, values in first.items():
        np.testing.assert_array_equal(values, second[key])
    counts = np.square(first["diff3d"].astype(np.float64))
    assert 2 < counts.mean() < 4
    np.testing.assert_array_equal(first["diff3d"], np.sqrt(np.rint(counts).astype(np.float32)))
    assert first["xcoords"].shape == (70,)
