"""``ptyzarr transform``: what it prints, what it refuses, and with which status."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def store(make_scan_store, tmp_path: Path) -> Path:
    make_scan_store(flat=np.ones((16, 16))).close()
    return tmp_path / "scan.zarr"


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    np.save(tmp_path / "mask.npy", np.arange(256).reshape(16, 16) >= 254)
    return tmp_path / "mask.npy"


def test_every_option_is_a_flag_and_the_step_is_printed(run, store, mask, tmp_path) -> None:
    result = run(
        "transform", store, tmp_path / "made.zarr", "--frame-size", "20", "--flip-x", "--flip-y",
        "--quarter-turns", "1", "--bad-pixels", mask, "--bad-pixel-mode", "keep", "--layout",
        "acquisition", "--memory", "512MiB", "--n-workers", "1", "--overwrite", "--json",
    )  # fmt: skip
    assert result.code == 0
    facts = result.json
    assert (facts["n_frames"], facts["frame_size"]) == (40, 20)
    step = facts["transform"]
    assert step["frame_size"] == [16, 20]
    assert (step["flip_x"], step["flip_y"], step["quarter_turns"]) == (True, True, 1)
    assert step["bad_pixels"]["n_bad"] == 2
    assert facts["digest"] == run("info", tmp_path / "made.zarr", "--json").json["digest"]


def test_people_are_told_what_was_done_and_left_out(run, store, mask, tmp_path) -> None:
    made = tmp_path / "made.zarr"
    result = run("transform", store, made, "--frame-size", "12", "--flip-y", "--bad-pixels", mask)
    assert "40 frames of 12x12, counts" in result.out
    told = "scan.zarr with 2 bad pixels set to 0, cut from 16 to 12 pixels, flipped in y"
    assert told in result.out
    assert "left out, as they no longer hold: flat" in result.err
    again = run("transform", made, tmp_path / "twice.zarr", "--quarter-turns", "3")
    assert "made.zarr turned by 270 degrees" in again.out
    info = run("info", tmp_path / "twice.zarr").out
    assert f"transform 1:    {told}" in info
    assert "transform 2:    made.zarr turned by 270 degrees" in info
    facts = run("info", tmp_path / "twice.zarr", "--json").json
    assert [step["store"] for step in facts["transforms"]] == ["scan.zarr", "made.zarr"]


def test_info_counts_bad_pixels(run, store, mask, tmp_path) -> None:
    plain = run("info", store, "--json").json
    assert (plain["bad_pixels"], plain["transforms"]) == (None, [])
    run("transform", store, tmp_path / "made.zarr", "--bad-pixels", mask)
    assert run("info", tmp_path / "made.zarr", "--json").json["bad_pixels"] == 2
    assert "bad pixels:     2" in run("info", tmp_path / "made.zarr").out


def test_verify_takes_the_origin_as_source(run, store, tmp_path) -> None:
    run("transform", store, tmp_path / "made.zarr", "--flip-x")
    result = run("verify", tmp_path / "made.zarr", "--source", store)
    assert (result.code, "every value equals" in result.out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        pytest.param(["no.zarr", "out.zarr", "--flip-x"], 3, "does not exist", id="missing"),
        pytest.param(["scan.zarr", "out.zarr"], 2, "nothing of scan.zarr", id="nothing to do"),
        pytest.param(["scan.zarr", "scan.zarr", "--flip-x"], 2, "stays as it is", id="itself"),
        pytest.param(["scan.zarr", "o.zarr", "--frame-size", "0"], 2, "frame_size", id="size"),
        pytest.param(["scan.zarr", "o.zarr", "--frame-size", "x"], 2, "not a valid", id="text"),
        pytest.param(["scan.zarr", "o.zarr", "--quarter-turns", "5"], 2, "0, 1, 2", id="turns"),
        pytest.param(["scan.zarr", "o.zarr", "--bad-pixels", "no.npy"], 3, "no.npy", id="mask"),
        pytest.param(["scan.zarr", "o.zarr", "--bad-pixels", "scan.npz"], 3, "one", id="no mask"),
        pytest.param(["scan.zarr"], 2, "DEST", id="no destination"),
    ],
)
def test_errors_are_one_line_with_an_exit_code(
    run, store, monkeypatch, tmp_path, arguments, code, words
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("transform", *arguments)
    assert (result.code, result.out) == (code, "")
    assert len(result.err.splitlines()) == 1
    assert words in result.err
