"""``ptyzarr repair``: what it prints, what it refuses, and with which status."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ptyzarr.cli import main


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    """Run the command line in this process; return status, output and errors."""

    def call(*arguments: object) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return exit_info.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture
def damaged(make_scan_store, tmp_path: Path) -> Path:
    make_scan_store().close()
    os.truncate(tmp_path / "scan.zarr/diffraction/c/0/0/0", 100)
    return tmp_path / "scan.zarr"


def test_damaged_store_is_found_repaired_and_passes(run, damaged, tmp_path):
    assert run("verify", damaged)[0] == 4
    code, out, _ = run("repair", damaged, "--source", tmp_path / "scan.npz")
    assert code == 0
    assert out.splitlines()[0] == "rewritten: diffraction/c/0/0/0"
    assert "1 of " in out.splitlines()[-1]
    assert run("verify", damaged, "--source", tmp_path / "scan.npz")[0] == 0


def test_json_lists_what_was_rewritten(run, damaged, tmp_path):
    source = tmp_path / "scan.npz"
    code, out, _ = run("repair", damaged, "--source", source, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["rewritten"] == ["diffraction/c/0/0/0"]
    assert set(facts) == {"store", "rewritten", "n_files", "digest"}
    assert json.loads(run("repair", damaged, "--source", source, "--json")[1])["rewritten"] == []


def test_another_source_and_a_missing_store_are_bad_input(run, damaged, make_npz, tmp_path):
    other = make_npz(tmp_path / "other.npz", seed=9)
    for store in (damaged, tmp_path / "none.zarr"):
        code, out, err = run("repair", store, "--source", other)
        assert (code, out) == (3, "")
        assert err.startswith("ptyzarr: ")
        assert err.count("\n") == 1


def test_source_must_be_given(run, damaged):
    code, _, err = run("repair", damaged)
    assert code == 2
    assert "--source" in err
