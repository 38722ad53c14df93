"""The demo: the scan that ships, the whole path on it, and the table it prints."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptyzarr import demo
from ptyzarr.demo import DemoReport, format_table, run_demo
from ptyzarr.errors import ConfigError
from ptyzarr.store import open_store

DATA = resources.files("ptyzarr") / "demo_data"
SCAN = DATA / "siemens_star_516.npz"


class Recorder:
    """Adds up what each stage reports."""

    def __init__(self) -> None:
        self.stages: dict[str, list[int]] = {}
        self._stage = ""

    def start(self, stage: str, total: int, unit: str) -> None:
        self._stage = stage
        self.stages[stage] = [total, 0]

    def advance(self, amount: int) -> None:
        self.stages[self._stage][1] += amount

    def finish(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Run:
    folder: Path
    report: DemoReport
    stages: dict[str, list[int]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("demo") / "new"
    recorder = Recorder()
    return Run(folder, run_demo(folder, device="numpy", progress=recorder), recorder.stages)


def hide_package(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make a package look as if it were not installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda found, *a: None if found == name else find_spec(found, *a),
    )


def test_the_scan_that_ships_is_the_one_its_readme_describes() -> None:
    readme = (DATA / "README.md").read_text()
    content = SCAN.read_bytes()
    assert hashlib.sha256(content).hexdigest() in readme
    assert f"{len(content):,} bytes" in readme
    assert len(content) < 8_000_000
    assert "UChicago Argonne, LLC. All rights reserved." in readme


def test_the_scan_that_ships_holds_roots_of_counts() -> None:
    with SCAN.open("rb") as file, np.load(file) as scan:
        frames = scan["diff3d"]
        height, width = scan["objectGuess"].shape
        assert frames.shape == (516, 128, 128)
        assert frames.dtype == np.float32
        counts = np.rint(frames.astype(np.float64) ** 2)
        np.testing.assert_array_equal(np.sqrt(counts.astype(np.float32)), frames)
        for name, largest in (("xcoords", width), ("ycoords", height)):
            # A whole frame around every position lies in the object.
            assert scan[name].min() >= 64
            assert scan[name].max() <= largest - 64


def test_demo_reports_what_it_made(run: Run) -> None:
    report = run.report
    store = open_store(report.store)
    files = [path for path in report.store.rglob("*") if path.is_file()]
    assert report.store.parent == run.folder
    assert (report.n_frames, report.frame_size, report.quantity) == (516, 128, "counts")
    assert report.bytes_file == len(SCAN.read_bytes())
    assert report.bytes_raw == 516 * 128 * 128 * 4
    assert report.bytes_stored == sum(path.stat().st_size for path in files)
    assert report.ratio == report.bytes_raw / report.bytes_stored
    assert report.digest == store.digest
    assert (report.n_groups, report.group_size, report.device) == (516, 4, "numpy")
    assert report.groups_per_s > 0
    assert report.picture is not None
    assert report.picture.read_bytes().startswith(b"\x89PNG")


def test_demo_decodes_each_frame_once_for_the_groups_that_share_it(run: Run) -> None:
    # Groups hold four frames each and overlap: one decoding serves four deliveries.
    assert run.report.decoded_per_delivered == pytest.approx(0.25, rel=0.1)


def test_demo_reports_every_step(run: Run) -> None:
    assert list(run.report.seconds) == ["ingest", "verify", "group", "stream", "draw"]
    assert all(seconds >= 0 for seconds in run.report.seconds.values())
    assert all(total == done for total, done in run.stages.values())
    batches = -(-516 // 64)
    assert run.stages["streaming"] == [2 * batches, 2 * batches]


def test_demo_measures_memory_where_the_system_tells(run: Run) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not tell")
    ingest, peak = run.report.ingest_memory_bytes, run.report.peak_memory_bytes
    assert ingest is not None
    assert peak is not None
    assert 0 < ingest <= peak


def test_demo_report_is_json(run: Run) -> None:
    facts = json.loads(json.dumps(dataclasses.asdict(run.report), default=str))
    assert facts["store"] == str(run.report.store)
    assert facts["seconds"].keys() == run.report.seconds.keys()


def test_second_demo_uses_the_store_that_is_there(run: Run, monkeypatch: Any) -> None:
    root = run.report.store / "zarr.json"
    written = root.stat().st_mtime_ns
    hide_package(monkeypatch, "matplotlib")
    again = run_demo(run.folder, device="numpy")
    assert root.stat().st_mtime_ns == written
    assert again.digest == run.report.digest
    assert again.picture is None
    assert "none: install 'ptyzarr[plot]'" in format_table(again)


def test_demo_without_torch_delivers_arrays(run: Run, monkeypatch: Any) -> None:
    hide_package(monkeypatch, "torch")
    monkeypatch.setattr(demo, "draw_scan", lambda store, path, **_: path)
    report = run_demo(run.folder)
    assert report.device == "numpy"
    assert "2 epochs as NumPy arrays" in format_table(report)


@pytest.mark.slow
def test_demo_delivers_tensors(run: Run, monkeypatch: Any) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(demo, "draw_scan", lambda store, path, **_: path)
    report = run_demo(run.folder)
    assert report.device == "cpu"
    assert "2 epochs as torch tensors on cpu" in format_table(report)


def test_unknown_device_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device is 'tpu'"):
        run_demo(tmp_path / "demo", device="tpu")
    assert list(tmp_path.iterdir()) == []


def test_table_has_a_line_for_each_fact(run: Run) -> None:
    table = format_table(run.report)
    lines = dict(line.split(None, 1) for line in table.splitlines())
    assert list(lines) == [
        "scan", "source", "stored", "verified", "digest", "groups", "streamed", "speed", "decoded",
        "memory", "store", "picture",
    ]  # fmt: skip
    assert lines["scan"] == "516 measured frames of 128 x 128"
    assert lines["source"] == "7.5 MiB as deflated NPZ, 32.2 MiB as float32 in memory"
    assert lines["digest"] == run.report.digest
    assert lines["groups"].startswith("516 of 4 frames among 6 nearest neighbors")
    assert lines["picture"] == str(run.report.picture)


def test_table_says_where_memory_is_not_measured(run: Run) -> None:
    unknown = dataclasses.replace(run.report, ingest_memory_bytes=None, peak_memory_bytes=None)
    assert "not measured on this system" in format_table(unknown)
