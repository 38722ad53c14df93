"""The scripts in ``benchmarks/`` run, at a size that takes seconds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

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
def test_peak_memory_does_not_grow_with_the_scan(tmp_path: Path) -> None:
    folders = ["--cache", tmp_path / "cache", "--out", tmp_path]
    sizes = ["--sizes", "64MiB", "256MiB", "--memory", "256MiB", "--remove"]
    run_script("memory.py", *folders, *sizes, "--kinds", "deflated", "--shuffles", "window")
    document = json.loads((tmp_path / "memory.json").read_text())
    assert [row["is_kept"] for row in document["rows"]] == [True] * 4
    # An epoch over so little keeps all of it in its buffer, so more of the larger one.
    taken_in, streamed = document["growth"]
    assert "ingest" in taken_in["step"]
    assert taken_in["is_kept"]
    assert streamed["added_bytes"] < 1.05 * streamed["limit_bytes"]
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.slow
def test_memory_limited_by_the_kernel_is_enough_and_a_tenth_of_it_is_not(
    script: Callable[[str], Any], tmp_path: Path
) -> None:
    spec = script("memory").make_spec(16 * 2**20, 128, "stored")
    source = script("scans").write_scan(tmp_path / "scan.npz", spec)
    arguments = ["ingest", source, tmp_path / "scan.zarr", "--memory", "256MiB"]
    assert run_script("enforced.py", *arguments, "--times", "0.1").returncode != 0
    assert not (tmp_path / "scan.zarr").exists()
    done = run_script("enforced.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) < 256 * 2**20


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


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Import a script of the folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module


def test_promises_without_results_are_unmeasured(
    script: Callable[[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = script("claims").save(tmp_path)
    assert {row[3] for row in table.rows} == {"unmeasured"}
    assert {row[4] for row in table.rows} == {""}
    assert capsys.readouterr().out.startswith("Promises")
    assert json.loads((tmp_path / "claims.json").read_text())["tables"][0]["name"] == "claims"


@pytest.mark.parametrize(
    ("peak", "kept"), [pytest.param(520, "yes", id="kept"), pytest.param(600, "no", id="broken")]
)
def test_promises_are_compared_with_results(
    script: Callable[[str], Any], tmp_path: Path, peak: int, kept: str
) -> None:
    tables = script("tables")
    growth = tables.Table(
        name="growth",
        title="Growth",
        columns=("scan", "groups/s", "peak MiB"),
        rows=[
            ["small, first epoch", 90.0, 300],
            ["larger, first epoch", 89.0, 300],
            ["small", 100.0, 300],
            ["larger", 90.0, 500],
            ["largest", 88.0, peak],
        ],
    )
    tables.save_tables([growth], tmp_path / "growth.json")
    rows = {row[1]: row for row in script("claims").save(tmp_path).rows}
    first = rows["groups/s of the largest over the smallest, first epoch"]
    assert first[3] == pytest.approx(88 / 90, abs=1e-3)
    assert first[4] == "yes"
    kept_rows = [row for name, row in rows.items() if "in a budget that keeps both" in name]
    assert [row[3] for row in kept_rows] == ["unmeasured"]
    assert rows["peak memory of the largest over the next smaller"][4] == kept


def test_blocks_are_rewritten_from_results_and_stay_without(
    script: Callable[[str], Any], tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    readme, page = tmp_path / "README.md", tmp_path / "docs" / "performance.md"
    readme.write_text("a\n<!-- begin readme-epoch -->\nold\n<!-- end readme-epoch -->\nb\n")
    page.write_text("x\n<!-- begin claims -->\nold\n<!-- end claims -->\ny\n")
    results = tmp_path / "results"
    script("claims").save(results)
    for place in script("publish").PLACES[2:]:
        (tmp_path / place).write_text("no block\n")
    left = script("publish").publish(results, tmp_path)
    assert {place: names for place, names in left.items() if names} == {
        "README.md": ["readme-epoch"]
    }
    assert "old" in readme.read_text()
    lines = page.read_text().splitlines()
    assert lines[:3] == [
        "x",
        "<!-- begin claims -->",
        "| subject | what | promised | measured | kept |",
    ]
    assert lines[-2:] == ["<!-- end claims -->", "y"]
    again = page.read_text()
    script("publish").publish(results, tmp_path)
    assert page.read_text() == again


def test_every_block_of_the_documents_is_known(script: Callable[[str], Any]) -> None:
    publish = script("publish")
    found = set()
    for place in publish.PLACES:
        text = (BENCHMARKS.parent / place).read_text()
        found |= set(re.findall(r"<!-- begin ([\w-]+) -->", text))
        assert text.count("<!-- begin") == text.count("<!-- end")
    assert found == set(publish.BLOCKS)


def test_run_all_names_scripts_that_are_there(script: Callable[[str], Any]) -> None:
    scales = script("run_all").SCALES
    names = {name for subjects in scales.values() for name, _ in subjects}
    assert all((BENCHMARKS / f"{name}.py").is_file() for name in names)
    assert {name for name, _ in scales["quick"]} == names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param("neighbors", ("--positions", 20_000, "--sample", 500), id="neighbors"),
        pytest.param("strategies", ("--positions", 3_000, "--sample", 50), id="strategies"),
        pytest.param("amplification", ("--frames", 3_000), id="amplification"),
        pytest.param("quality", ("--frames", 8_000), id="quality"),
        pytest.param("start", ("--frames", 500, "--rounds", 1, "--no-first-run"), id="start"),
        pytest.param(
            "several",
            ("--frames", 400, "--stores", 2, "--ranks", 2, "--rounds", 1, "--memory", "256MiB"),
            id="several",
        ),
        pytest.param("timeline", ("--scan", "small", "--memory", "256MiB"), id="timeline"),
        pytest.param("device", ("--scan", "small"), id="device"),
        pytest.param("migration", ("--frames", 300, "--rounds", 1), id="migration"),
        pytest.param("transform", ("--scan", "small", "--rounds", 1), id="transform"),
        pytest.param("remote", ("--scan", "small", "--latency", "0.01"), id="remote"),
        pytest.param("service", ("--mb", 4, "--rounds", 1, "--load-s", 1), id="service"),
        pytest.param(
            "growth",
            ("--frames", 500, 1_000, "--memory", "256MiB", "--rounds", 1),
            id="growth",
        ),
    ],
)
def test_a_subject_runs_and_has_a_table(
    name: str, arguments: tuple[object, ...], tmp_path: Path
) -> None:
    done = run_script(name + ".py", *arguments, "--cache", tmp_path / "cache", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / f"{name}.json").read_text())
    table = document["tables"][0]
    assert table["rows"]
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert document["machine"]["cores"] >= 1
    assert document["packages"]["numpy"] == np.__version__


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


@pytest.mark.slow
def test_reliability_is_measured(tmp_path: Path) -> None:
    few = ["--flips", "60", "--only", "flips"]
    done = run_script("reliability.py", *few, "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "reliability.json").read_text())["tables"][0]["rows"]
    assert rows[0][1].startswith("60 bits flipped")
    assert rows[0][3] == 0
