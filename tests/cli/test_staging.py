"""Commands on URLs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from farstores import FolderServer


@pytest.fixture(autouse=True)
def users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users-cache"))


@pytest.fixture
def source(make_npz: Any, tmp_path: Path) -> Path:
    path: Path = make_npz(tmp_path / "scan.npz", n_frames=40, N=16, seed=1)
    return path


def test_a_scan_goes_to_a_bucket_and_comes_back(
    run: Any, source: Path, bucket: str, tmp_path: Path
) -> None:
    url = f"{bucket}/runs/scan.zarr"
    staging = tmp_path / "staging"
    facts = run("ingest", source, url, "--staging", staging, "--json").json
    assert (facts["name"], facts["path"]) == ("scan", url)
    assert run("info", url, "--json").json["digest"] == facts["digest"]
    verified = run("verify", url, "--source", source, "--json").json
    assert verified["n_frames"] == 40
    streamed = run("stream", url, "--device", "numpy", "--json").json
    assert streamed["groups"] == 40
    staged = run("stage", url, f"{tmp_path}/disk/", "--json").json
    assert staged["path"] == str(tmp_path / "disk/scan.zarr")
    assert staged["bytes_per_s"] > 0
    assert staged["digest"] == facts["digest"]
    assert run("export", url, tmp_path / "again.npz").code == 0


def test_many_scans_go_to_a_bucket(run: Any, make_npz: Any, bucket: str, tmp_path: Path) -> None:
    for name in "ab":
        make_npz(tmp_path / f"{name}.npz", n_frames=20)
    arguments = ("ingest", tmp_path / "*.npz", f"{bucket}/runs/", "--staging", tmp_path, "--json")
    assert run(*arguments).json["done"] == 2
    assert run(*arguments).json["present"] == 2


def test_stage_tells_people_how_fast_it_was(
    run: Any, source: Path, folder_server: FolderServer, tmp_path: Path
) -> None:
    run("ingest", source, tmp_path / "scan.zarr")
    folder_server.key = "open-sesame"
    arguments = ("stage", f"{folder_server.url}/scan.zarr", tmp_path / "copy.zarr")
    result = run(*arguments)
    assert result.code == 3
    assert "PTYZARR_KEY" in result.err
    result = run(*arguments, "--key", "open-sesame")
    assert result.code == 0
    assert "copied in" in result.out
    assert "open-sesame" not in result.out + result.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        pytest.param(("info", "http://127.0.0.1:9/x"), 3, "no connection", id="unreachable"),
        pytest.param(("info", "ftp://host/x"), 2, "cannot be opened", id="scheme"),
        pytest.param(("stage", "none.zarr", "copy.zarr"), 3, "does not exist", id="absent"),
        pytest.param(("repair", "s3://b/x", "--source", "s"), 2, "is a URL", id="repair"),
        pytest.param(("publish", "s3://b/x"), 2, "is a URL", id="publish"),
    ],
)
def test_errors_are_one_line(
    run: Any, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, words: str
) -> None:
    monkeypatch.setenv("PTYZARR_ATTEMPTS", "1")
    result = run(*arguments)
    assert result.code == code
    assert words in result.err
    assert len(result.err.splitlines()) == 1
