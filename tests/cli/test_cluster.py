from __future__ import annotations

import numpy as np
import pytest

from ptyzarr.store import open_store


@pytest.fixture
def scans(make_npz, tmp_path):
    """Three scans, of which the second holds a refused pixel."""
    bad = np.ones((9, 8, 8), np.float32)
    bad[4, 1, 2] = np.inf
    make_npz(tmp_path / "run_2.npz", n_frames=9, N=8, seed=1)
    make_npz(tmp_path / "run_9.npz", n_frames=9, N=8, diff3d=bad)
    make_npz(tmp_path / "run_10.npz", n_frames=9, N=8, seed=3)
    return tmp_path


@pytest.fixture
def scan(make_npz, tmp_path, set_sizes):
    set_sizes(2, 8)
    return make_npz(tmp_path / "scan.npz")


def test_a_quoted_pattern_goes_into_a_folder(run, scans):
    result = run("ingest", f"{scans}/run_*.npz", f"{scans}/stores/", "--json")
    facts = result.json
    assert result.code == 3
    assert (facts["n_sources"], facts["done"], facts["present"], facts["failed"]) == (3, 2, 0, 1)
    assert [scan["status"] for scan in facts["scans"]] == ["done", "failed", "done"]
    assert set(facts["scans"][0]) == {"source", "store", "status", "code", "message", "seconds"}
    assert facts["scans"][1]["code"] == "source"
    assert "frame 4" in facts["scans"][1]["message"]
    assert (scans / "stores" / "run_10.zarr" / "zarr.json").is_file()
    assert not (scans / "stores" / "run_9.zarr").exists()


@pytest.mark.parametrize("pattern", ["run_*.npz", "run_10*.npz", "none_*.npz"])
def test_a_pattern_needs_a_folder_however_many_match(run, scans, pattern):
    result = run("ingest", f"{scans}/{pattern}", f"{scans}/stores")
    assert result.code == 2
    assert f"end '{scans}/stores' with a slash" in result.err
    assert not (scans / "stores").exists()


def test_a_pattern_of_one_match_goes_into_a_folder(run, scans):
    assert run("ingest", f"{scans}/run_10*.npz", f"{scans}/stores/").code == 0
    assert (scans / "stores" / "run_10.zarr" / "zarr.json").is_file()


def test_an_existing_name_that_looks_like_a_pattern_is_one_scan(run, make_npz, tmp_path):
    source = make_npz(tmp_path / "run[1].npz", n_frames=9, N=8)
    assert run("ingest", source, tmp_path / "one.zarr").code == 0
    assert (tmp_path / "one.zarr" / "zarr.json").is_file()


def test_failures_are_listed_at_the_end_for_people(run, scans):
    result = run("ingest", f"{scans}/run_*.npz", f"{scans}/stores/")
    assert result.code == 3
    assert [line.split(": ")[1].split(",")[0] for line in result.out.splitlines()] == ["done"] * 2
    failed, last = result.err.splitlines()[-2:]
    assert failed.startswith(f"failed: {scans}/run_9.npz: ")
    assert "1 of 3 scans failed (2 done, 0 present, 1 failed)" in last


def test_a_repetition_succeeds_when_the_cause_is_gone(run, scans, make_npz):
    run("ingest", f"{scans}/run_*.npz", f"{scans}/stores/")
    make_npz(scans / "run_9.npz", n_frames=9, N=8, seed=4)
    result = run("ingest", f"{scans}/run_*.npz", f"{scans}/stores/")
    assert result.code == 0
    assert "3 scans: 1 done, 2 present, 0 failed" in result.err


def test_equal_stems_are_refused_before_anything_starts(run, make_npz, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        make_npz(tmp_path / folder / "scan.npz", n_frames=9, N=8, seed=2)
    result = run("ingest", f"{tmp_path}/*/scan.npz", f"{tmp_path}/stores/")
    assert result.code == 3
    assert "rename one" in result.err
    assert not (tmp_path / "stores").exists()


def test_an_interrupt_among_many_scans_has_its_own_code(run, scans, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ptyzarr.ingestion.runner.open_source", interrupt)
    result = run("ingest", f"{scans}/run_*.npz", f"{scans}/stores/", "--json")
    assert result.code == 75
    assert [scan["code"] for scan in result.json["scans"]] == ["interrupted"]
    assert "interrupted at scan 1 of 3" in result.err.splitlines()[-1]


def test_a_scan_in_parts_is_the_scan_at_once(run, scan, tmp_path):
    dest = tmp_path / "scan.zarr"
    assert run("plan", scan, dest, "--json").json["n_shards"] == 5
    assert "5 shards planned for 40 frames" in run("plan", scan, dest).out
    part = run("ingest", scan, dest, "--part", "1/2", "--json").json
    assert (part["part"], part["n_parts"], part["n_shards"], part["n_frames"]) == (1, 2, 2, 16)
    lacking = run("publish", dest)
    assert (lacking.code, len(lacking.err.splitlines())) == (75, 1)
    assert "--part 0/2" in lacking.err
    assert "3 shards, 24 frames" in run("ingest", scan, dest, "--part", "0/2").out
    assert "40 frames" in run("publish", dest).out
    facts = run("publish", dest, "--json").json
    assert run("ingest", scan, tmp_path / "once.zarr", "--json").json["digest"] == facts["digest"]
    assert facts["n_shards"] == open_store(dest).format.n_shards == 5
    for step in (["plan", scan, dest], ["ingest", scan, dest, "--part", "0/2"]):
        assert "nothing is left to do" in run(*step).out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        pytest.param(["plan", "no.npz", "x.zarr"], 3, "no.npz", id="plan missing source"),
        pytest.param(["publish", "x.zarr"], 3, "has no plan", id="publish nothing"),
        pytest.param(["publish"], 2, "DEST", id="publish without a path"),
        pytest.param(["ingest", "s.npz", "x.zarr", "--part", "0/2"], 3, "no plan", id="no plan"),
        pytest.param(["ingest", "s.npz", "x.zarr", "--part", "2/2"], 2, "0 to n", id="part 2/2"),
        pytest.param(["ingest", "s.npz", "x.zarr", "--part", "half"], 2, "i/n", id="no part"),
        pytest.param(["ingest", "s.npz", "x/", "--part", "0/2"], 2, "one scan", id="folder"),
        pytest.param(["ingest", "s.npz", "t", "x", "--part", "0/2"], 2, "slash", id="two scans"),
        pytest.param(["ingest", "s.npz", "t", "x/", "--part", "0/2"], 2, "one", id="two, folder"),
        pytest.param(["ingest", "no_*.npz", "x/"], 3, "no file matches", id="empty pattern"),
        pytest.param(
            ["ingest", "s.npz", "x", "--part", "0/2", "--scheduler", "tcp://x:1"],
            2, "exclude", id="part and scheduler",
        ),
    ],
)  # fmt: skip
def test_errors_are_one_line(run, make_npz, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    make_npz(tmp_path / "s.npz", n_frames=9, N=8)
    result = run(*arguments)
    assert (result.code, result.out, len(result.err.splitlines())) == (code, "", 1)
    assert words in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["s.npz"]


@pytest.mark.parametrize(
    "part",
    [
        pytest.param("0/" + "9" * 5000, id="thousands of digits"),
        pytest.param("0/" + "9" * 300, id="hundreds of digits"),
        pytest.param("0/\u0664", id="other digits"),
        pytest.param("\uff10/4", id="wide digits"),
        pytest.param("x" * 5000, id="long text"),
    ],
)
def test_part_that_cannot_be_is_one_short_line(run, scan, tmp_path, part):
    result = run("ingest", scan, tmp_path / "scan.zarr", "--part", part)
    assert result.code == 2
    assert "expected i/n" in result.err
    assert result.err.count("\n") == 1
    assert len(result.err) < 200
