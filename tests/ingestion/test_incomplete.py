"""Scans that stopped early: refused, or cut with a record of it, and never losing a value."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import make_arrays, make_npz, member_crcs

from ptyzarr.cli import main
from ptyzarr.config import IngestConfig
from ptyzarr.errors import ShapeError, SourceError
from ptyzarr.ingestion import export, ingest, verify
from ptyzarr.store import open_store

TRUNCATE = IngestConfig(incomplete="truncate")
PER_FRAME = ("diff3d", "xcoords", "ycoords", "xcoords_start", "ycoords_start", "scan_index")
ARRAYS = make_arrays()

MORE_POSITIONS = {"diff3d": ARRAYS["diff3d"][:33]}
MORE_FRAMES = {key: ARRAYS[key][:33] for key in PER_FRAME[1:]}
ONE_COLUMN_SHORT = {"ycoords": ARRAYS["ycoords"][:33]}
KINDS = [
    pytest.param(MORE_POSITIONS, id="positions without frames"),
    pytest.param(MORE_FRAMES, id="frames without positions"),
    pytest.param(ONE_COLUMN_SHORT, id="one column short"),
]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; give exit code, output and errors."""

    def call(*arguments: str | os.PathLike[str]) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([os.fspath(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


def lengths(overrides: dict[str, Any]) -> dict[str, int]:
    return {key: len(overrides.get(key, ARRAYS[key])) for key in PER_FRAME}


@pytest.mark.parametrize("overrides", KINDS)
def test_scan_that_stopped_early_is_refused_with_its_lengths(tmp_path, overrides):
    source = make_npz(tmp_path / "scan.npz", **overrides)
    listed = ", ".join(f"{key} {length}" for key, length in lengths(overrides).items())
    with pytest.raises(ShapeError, match=rf"lengths differ: {listed};.*--incomplete truncate"):
        ingest(source, tmp_path / "scan.zarr")
    assert os.listdir(tmp_path) == ["scan.npz"]


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
@pytest.mark.parametrize("overrides", KINDS)
def test_what_was_found_and_kept_is_recorded(tmp_path, overrides, compressed):
    source = make_npz(tmp_path / "scan.npz", compressed=compressed, **overrides)
    with closing(ingest(source, tmp_path / "scan.zarr", TRUNCATE)) as store:
        assert store.n_frames == 33
        expected = {"found": lengths(overrides), "kept": 33}
        assert store.attrs["source"]["incomplete"] == expected


def test_whole_scan_is_recorded_as_whole(tmp_path):
    source = make_npz(tmp_path / "scan.npz")
    with closing(ingest(source, tmp_path / "scan.zarr", TRUNCATE)) as store:
        assert store.attrs["source"]["incomplete"] is None


@pytest.mark.parametrize("layout", ["hilbert", "acquisition"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
@pytest.mark.parametrize("overrides", KINDS)
def test_nothing_of_a_cut_scan_is_lost(tmp_path, overrides, compressed, order, layout):
    frames = np.asarray(overrides.get("diff3d", ARRAYS["diff3d"]), order=order)
    source = make_npz(
        tmp_path / "scan.npz", compressed=compressed, **{**overrides, "diff3d": frames}
    )
    config = IngestConfig(incomplete="truncate", layout=layout)
    ingest(source, tmp_path / "scan.zarr", config).close()
    assert verify(tmp_path / "scan.zarr", source).n_frames == 33
    out = export(tmp_path / "scan.zarr", tmp_path / "out.npz")
    assert list(member_crcs(out).items()) == list(member_crcs(source).items())
    with closing(open_store(tmp_path / "scan.zarr")) as store:
        assert np.array_equal(store.amplitude(np.arange(33)), frames[:33])
        assert np.array_equal(store.positions[:, 0], ARRAYS["xcoords"][:33])


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), quantity=st.sampled_from(["amplitude", "counts"]))
def test_any_lengths_are_cut_to_the_shortest_and_come_back(tmp_path_factory, data, quantity):
    folder = tmp_path_factory.mktemp("lengths")
    arrays = make_arrays(9, 4)
    arrays["diff3d"] = np.rint(arrays["diff3d"] ** 2)
    cut = {key: arrays[key][: data.draw(st.integers(1, 9), key)] for key in PER_FRAME}
    source = make_npz(folder / "scan.npz", 9, 4, **cut)
    config = IngestConfig(incomplete="truncate", quantity=quantity)
    with closing(ingest(source, folder / "scan.zarr", config)) as store:
        assert store.n_frames == min(map(len, cut.values()))
        out = export(store, folder / "out.npz")
    assert list(member_crcs(out).items()) == list(member_crcs(source).items())


def test_surplus_frames_are_kept_with_whatever_values_they_have(tmp_path):
    # A detector that ran on after the stage stopped may well have written nonsense.
    frames = ARRAYS["diff3d"].copy()
    frames[35, 2, 3], frames[36], frames[39, 0, 0] = np.nan, np.inf, -1.0
    source = make_npz(tmp_path / "scan.npz", **MORE_FRAMES, diff3d=frames)
    with closing(ingest(source, tmp_path / "scan.zarr", TRUNCATE)) as store:
        assert store.extra["diff3d__trailing"].shape == (7, 16, 16)
        out = export(store, tmp_path / "out.npz")
    assert list(member_crcs(out).items()) == list(member_crcs(source).items())


def test_scan_without_a_single_position_is_refused_even_so(tmp_path):
    none = {key: ARRAYS[key][:0] for key in PER_FRAME[1:]}
    source = make_npz(tmp_path / "scan.npz", **none)
    with pytest.raises(ShapeError, match="scan is empty"):
        ingest(source, tmp_path / "scan.zarr", TRUNCATE)
    assert os.listdir(tmp_path) == ["scan.npz"]


def test_damage_among_the_surplus_frames_is_noticed(tmp_path):
    source = make_npz(tmp_path / "scan.npz", **MORE_FRAMES)
    data = bytearray(source.read_bytes())
    last = bytes(ARRAYS["diff3d"][39].tobytes())
    data[data.find(last) + 100] ^= 1
    source.write_bytes(bytes(data))
    with pytest.raises(SourceError, match=r"'diff3d\.npy' has CRC-32"):
        ingest(source, tmp_path / "scan.zarr", TRUNCATE)
    assert sorted(os.listdir(tmp_path)) == ["scan.npz"]


def test_info_says_that_a_scan_was_cut(run, tmp_path: Path) -> None:
    source = make_npz(tmp_path / "scan.npz", **MORE_POSITIONS)
    code, _, err = run("ingest", source, tmp_path / "scan.zarr")
    assert (code, err.count("\n")) == (3, 1)
    assert "diff3d 33, xcoords 40" in err
    assert run("ingest", source, tmp_path / "scan.zarr", "--incomplete", "truncate")[0] == 0
    _, out, _ = run("info", tmp_path / "scan.zarr")
    assert "incomplete:     found diff3d 33, xcoords 40" in out
    assert "the first 33 are frames" in out
    _, out, _ = run("info", tmp_path / "scan.zarr", "--json")
    assert json.loads(out)["source"]["incomplete"]["kept"] == 33


def test_info_of_a_whole_scan_does_not_speak_of_it(run, tmp_path: Path) -> None:
    source = make_npz(tmp_path / "scan.npz")
    assert run("ingest", source, tmp_path / "scan.zarr")[0] == 0
    _, out, _ = run("info", tmp_path / "scan.zarr")
    assert "incomplete" not in out
    _, out, _ = run("info", tmp_path / "scan.zarr", "--json")
    assert json.loads(out)["source"]["incomplete"] is None
