from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from ptyzarr import errors
from ptyzarr.cli import BAD_INPUT, EXIT_CODES, INTERRUPTED

#: The room gives the function of this name.
main_module = import_module("ptyzarr.cli.main")


@pytest.fixture
def scan(make_npz, tmp_path: Path) -> Path:
    return make_npz(tmp_path / "scan.npz", n_frames=40, N=16, seed=1)


@pytest.fixture
def store(run, scan: Path, tmp_path: Path) -> Path:
    assert run("ingest", scan, tmp_path / "scan.zarr").code == 0
    return tmp_path / "scan.zarr"


def test_ingest_info_verify_export_and_group_work_together(run, scan, store, tmp_path) -> None:
    info = run("info", store, "--json").json
    assert (info["n_frames"], info["frame_size"], info["quantity"]) == (40, 16, "counts")
    assert info["name"] == "scan"
    assert info["source"]["name"] == "scan.npz"
    for key in ("layout", "digest", "frames_digest", "bytes_stored", "bytes_logical"):
        assert info[key]
    assert run("verify", store, "--source", scan, "--json").json["n_frames"] == 40
    assert run("export", store, tmp_path / "out.npz").code == 0
    with np.load(scan) as one, np.load(tmp_path / "out.npz") as other:
        assert one.files == other.files
        assert all(one[key].tobytes() == other[key].tobytes() for key in one.files)
    out = tmp_path / "groups.npz"
    facts = run("group", store, "--n-samples", "7", "--seed", "3", "-o", out, "--json").json
    assert facts["n_groups"] == 7
    with np.load(out) as groups:
        assert groups["nn_indices"].shape == (7, 4)
        assert groups["nn_indices"].dtype == np.int32


def test_a_second_ingest_changes_nothing(run, scan, store) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    assert run("ingest", scan, store).code == 0
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_info_says_what_a_store_holds_to_people(run, store) -> None:
    out = run("info", store).out
    assert "40 of 16x16, counts" in out
    assert "object pixels" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        pytest.param(["ingest", "no.npz", "out.zarr"], 3, "no.npz", id="missing source"),
        pytest.param(["info", "no.zarr"], 3, "does not exist", id="missing store"),
        pytest.param(["verify", "no.zarr"], 3, "does not exist", id="verify missing store"),
        pytest.param(["export", "no.zarr", "x.npz"], 3, "does not exist", id="export missing"),
        pytest.param(["group", "no.zarr"], 3, "does not exist", id="group missing store"),
        pytest.param(["ingest", "one"], 2, "SOURCE DEST", id="one path"),
        pytest.param(["ingest", "a", "b", "c"], 2, "slash", id="many sources, no folder"),
        pytest.param(["frobnicate"], 2, "No such command", id="unknown command"),
        pytest.param(["info", "x", "--frob"], 2, "--frob", id="unknown flag"),
        pytest.param(["ingest", "a", "b", "--memory", "lots"], 2, "lots", id="bad size"),
        pytest.param(["ingest", "a", "b", "--layout", "spiral"], 2, "spiral", id="bad choice"),
        pytest.param(["ingest", "a", "b", "--n-workers", "0"], 2, "n_workers", id="no workers"),
    ],
)
def test_errors_are_one_line_with_an_exit_code(run, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.code == code
    assert result.out == ""
    assert len(result.err.splitlines()) == 1
    assert words in result.err
    assert not list(tmp_path.iterdir())


def test_a_damaged_store_fails_verification_with_its_own_code(run, store) -> None:
    shard = store / "diffraction/c/0/0/0"
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 3] ^= 1
    shard.write_bytes(raw)
    result = run("verify", store)
    assert result.code == 4
    assert "diffraction/c/0/0/0" in result.err


def test_a_refused_source_publishes_nothing(run, make_npz, tmp_path) -> None:
    frames = np.zeros((9, 8, 8), np.float32)
    frames[4, 1, 2] = np.nan
    source = make_npz(tmp_path / "scan.npz", n_frames=9, N=8, seed=0, diff3d=frames)
    result = run("ingest", source, tmp_path / "scan.zarr")
    assert result.code == 3
    assert "frame 4" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["scan.npz"]
    assert run("ingest", source, tmp_path / "scan.zarr", "--nonfinite", "mask").code == 0


@pytest.mark.parametrize("shuffle", ["window", "full", "false"])
def test_stream_reports_what_it_moved(run, store, shuffle: str) -> None:
    result = run(
        "stream", store, "--shuffle", shuffle, "--epochs", "2", "--device", "numpy",
        "--batch-size", "7", "--json",
    )  # fmt: skip
    facts = result.json
    assert (facts["groups"], facts["epochs"]) == (80, 2)
    assert facts["groups_per_s"] > 0
    assert facts["gb_per_s"] > 0
    assert facts["bytes_read"] > 0
    # Two epochs deliver 320 frames; three chunks of 16 are decoded once, the last one padded.
    assert facts["decoded_per_delivered"] == pytest.approx(48 / 320)
    assert facts["stall_s"] >= 0
    assert facts["peak_memory_bytes"] > 10 * 1024**2


def test_stream_mixes_several_stores(run, make_npz, store, tmp_path) -> None:
    other = make_npz(tmp_path / "other.npz", n_frames=25, N=16, seed=9)
    run("ingest", other, tmp_path / "other.zarr")
    result = run("stream", store, tmp_path / "other.zarr", "--device", "numpy")
    assert result.code == 0
    assert "65 groups in" in result.out


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        pytest.param(["--memory", "1MiB"], 3, "expected at least", id="budget"),
        pytest.param(["--device", "tpu"], 2, "device", id="device"),
        pytest.param(["--gridsize", "9"], 3, "81", id="too few neighbours"),
        pytest.param(["--batch-size", "0"], 2, "batch_size", id="empty batches"),
    ],
)
def test_stream_refuses_what_cannot_work(run, store, flags, code, words) -> None:
    result = run("stream", store, "--device", "numpy", *flags)
    assert (result.code, len(result.err.splitlines())) == (code, 1)
    assert words in result.err


def test_stream_to_a_gpu_that_is_not_there_is_one_line(run, store, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = run("stream", store, "--device", "cuda")
    assert (result.code, len(result.err.splitlines())) == (3, 1)
    assert "no CUDA device; use device='cpu'" in result.err


def test_view_draws_a_picture(run, store, tmp_path) -> None:
    picture = tmp_path / "scan.png"
    assert run("view", store, "-o", picture, "--json").json == {"path": str(picture)}
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_view_of_no_store_leaves_no_picture(run, tmp_path) -> None:
    assert run("view", tmp_path / "no.zarr", "-o", tmp_path / "scan.png").code == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_bench_measures_a_scan_beside_the_plain_ways(run, scan, tmp_path) -> None:
    result = run("bench", scan, "-o", tmp_path / "bench", "--rounds", "1", "--memory", "400MiB")
    assert result.code == 0
    assert "ptyzarr" in result.out
    assert json.loads((tmp_path / "bench" / "bench.json").read_text())


def test_bench_of_nothing_is_one_line(run, tmp_path) -> None:
    result = run("bench", tmp_path / "no.npz", "-o", tmp_path / "bench")
    assert (result.code, len(result.err.splitlines())) == (3, 1)


@pytest.mark.slow
def test_bench_without_a_place_for_its_results_is_one_line(run, store, tmp_path) -> None:
    (tmp_path / "out").write_text("a file")
    result = run("bench", store, "-o", tmp_path / "out")
    assert result.code == 3
    assert f"{tmp_path / 'out'} cannot be made: " in result.err
    assert result.err.count("\n") == 1


def test_the_demo_runs_the_whole_path(run, tmp_path) -> None:
    report = run("demo", tmp_path / "demo", "--json").json
    assert (report["n_frames"], report["n_groups"]) == (516, 516)
    assert run("verify", report["store"]).code == 0
    assert Path(report["picture"]).is_file()
    table = run("demo", tmp_path / "demo").out
    for word in ("frames", "stored", "groups/s", "memory"):
        assert word in table


def test_json_is_valid_where_a_number_is_not_finite(run, store) -> None:
    result = run("group", store, "--n-samples", "0", "--json")
    facts = json.loads(result.out, parse_constant=lambda name: pytest.fail(name))
    assert (facts["n_groups"], facts["norm_factor"]) == (0, None)


def test_no_arguments_print_the_help_on_many_lines(run) -> None:
    result = run()
    assert result.code == 2
    assert len(result.err.splitlines()) > 10


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this platform has no /dev/full")
def test_output_that_cannot_be_written_is_one_line(store) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ptyzarr", "info", str(store), "--json"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)


def test_a_table_that_cannot_be_written_is_one_line(run, store, tmp_path) -> None:
    result = run("group", store, "-o", tmp_path / "no" / "groups.npz")
    assert (result.code, len(result.err.splitlines())) == (3, 1)


def test_verifying_against_a_scan_of_another_kind_fails(run, store, make_npz, tmp_path) -> None:
    other = make_npz(tmp_path / "other.npz", n_frames=9, N=8, seed=0)
    with np.load(other) as file:
        members = dict(file)
    members["diffraction"] = members.pop("diff3d")
    np.savez(other, **members)
    assert run("verify", store, "--source", other).code == 4


def test_every_error_code_has_an_exit_status() -> None:
    codes = {
        cls.code: EXIT_CODES.get(cls.code, BAD_INPUT)
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, errors.PtyzarrError)
    }
    assert codes == {
        "error": 3,
        "config": 2,
        "budget": 3,
        "source": 3,
        "missing_field": 3,
        "shape": 3,
        "source_changed": 3,
        "schema": 3,
        "damaged": 3,
        "verification": 4,
        "grouping": 3,
        "group_index": 3,
        "dtype": 3,
        "not_found": 3,
        "exists": 3,
        "storage": 3,
        "device": 3,
        "interrupted": INTERRUPTED,
    }


@pytest.mark.parametrize(
    "command",
    [
        "", "ingest", "plan", "publish", "info", "verify", "repair", "transform", "export", "group",
        "stream", "view", "bench", "demo", "stage",
    ],
)  # fmt: skip
def test_help_teaches(run, command: str) -> None:
    result = run(*filter(None, [command]), "--help")
    assert result.code == 0
    assert "Usage: ptyzarr" in result.out
    assert len(result.out.splitlines()) > 5
    assert "\\b" not in result.out


def test_examples_of_the_help_keep_their_lines(run) -> None:
    lines = [line.strip() for line in run("--help").out.splitlines()]
    assert "ptyzarr info scan.zarr" in lines


@pytest.mark.slow
def test_the_module_runs_as_a_program(store) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ptyzarr", "info", str(store), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["n_frames"] == 40
    assert done.stderr == ""


def forge_tile(document) -> None:
    document["attributes"]["ptyzarr"]["tile_frames"] = 0


def forge_shape(document) -> None:
    document["consolidated_metadata"]["metadata"]["diffraction"]["shape"] = [10**15, 16, 16]


@pytest.mark.parametrize("change", [forge_tile, forge_shape])
def test_forged_root_is_one_line_of_every_command(run, store, change) -> None:
    document = json.loads((store / "zarr.json").read_bytes())
    change(document)
    document["attributes"]["ptyzarr"]["manifest"]["root_sha256"] = "0" * 64
    blank = json.dumps(document, indent=1).encode()
    digest = hashlib.sha256(blank).hexdigest().encode()
    (store / "zarr.json").write_bytes(blank.replace(b"0" * 64, digest))
    for command in ("info", "verify", "stream"):
        result = run(command, store)
        assert result.code == BAD_INPUT
        assert "expected" in result.err
        assert result.err.startswith("ptyzarr: ")
        assert result.err.count("ptyzarr: ") == 1


def test_a_signal_right_after_an_ingest_comes_too_late(run, make_npz, tmp_path, monkeypatch):
    source = make_npz(tmp_path / "scan.npz", n_frames=20, N=8)
    tell = main_module.summary

    def late(store):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        return tell(store)

    monkeypatch.setattr(main_module, "summary", late)
    result = run("ingest", source, tmp_path / "scan.zarr", "--json")
    assert result.code == 0
    assert result.json["n_frames"] == 20
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def test_a_library_that_fails_when_it_is_interrupted_is_an_interrupt(run, store, monkeypatch):
    def fail(_):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("no compiled object yet") from error

    monkeypatch.setattr(main_module, "open_store", fail)
    result = run("info", store)
    assert (result.code, result.err) == (75, "ptyzarr: interrupted\n")
