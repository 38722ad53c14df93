"""Copies of stores on a local disk: every byte compared, whole or not there, resumable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from farstores import FolderServer

from ptyzarr.config import IngestConfig
from ptyzarr.errors import (
    DamagedStoreError,
    InterruptedIngestError,
    ScanExistsError,
    ScanNotFoundError,
    StorageError,
)
from ptyzarr.ingestion import ingest, plan_parts, stage, verify
from ptyzarr.store import RemoteFiles, ScanStore, open_store


@pytest.fixture
def store(make_scan_store: Callable[..., ScanStore], set_sizes: Callable[..., None]) -> ScanStore:
    set_sizes(chunk_frames=4, shard_frames=16)
    return make_scan_store(n_frames=60)


@pytest.fixture
def url(store: ScanStore, folder_server: FolderServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PTYZARR_ATTEMPTS", "2")
    monkeypatch.setenv("PTYZARR_TIMEOUT_S", "30")
    return f"{folder_server.url}/scan.zarr"


def test_a_copy_is_the_store(url: str, store: ScanStore, tmp_path: Path) -> None:
    report = stage(url, tmp_path / "copy.zarr")
    assert report.n_bytes == store.bytes_stored
    assert report.n_bytes_copied == sum(entry["size"] for entry in store.files.values())
    assert report.digest == verify(report.path).digest
    assert not (tmp_path / "copy.zarr.staging").exists()
    for key in (*store.files, "zarr.json"):
        copied = (tmp_path / "copy.zarr" / key).read_bytes()
        assert copied == (tmp_path / "scan.zarr" / key).read_bytes()


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        pytest.param("scan.zarr", "scan", id="folder"),
        pytest.param("v1/scan/zarr", "scan", id="service"),
    ],
)
def test_a_slash_at_the_end_means_into(
    url: str, folder_server: FolderServer, tmp_path: Path, prefix: str, name: str
) -> None:
    (tmp_path / "v1/scan").mkdir(parents=True)
    (tmp_path / "v1/scan/zarr").symlink_to(tmp_path / "scan.zarr")
    report = stage(f"{folder_server.url}/{prefix}", f"{tmp_path}/disk/")
    assert report.path == str(tmp_path / "disk" / f"{name}.zarr")


def test_a_folder_and_a_bucket_are_copied_too(
    store: ScanStore, bucket: str, tmp_path: Path
) -> None:
    staging = IngestConfig(staging=str(tmp_path / "staging"))
    ingest(tmp_path / "scan.npz", f"{bucket}/scan.zarr", staging).close()
    for source, name in ((store.path, "a"), (f"{bucket}/scan.zarr", "b")):
        report = stage(source, tmp_path / name)
        assert verify(report.path).digest == store.digest


def test_a_copy_that_is_there_is_left_alone(url: str, tmp_path: Path) -> None:
    stage(url, tmp_path / "copy.zarr")
    before = (tmp_path / "copy.zarr/zarr.json").stat().st_mtime_ns
    assert stage(url, tmp_path / "copy.zarr").n_bytes_copied == 0
    assert (tmp_path / "copy.zarr/zarr.json").stat().st_mtime_ns == before


def test_something_else_at_the_destination_is_refused(url: str, tmp_path: Path) -> None:
    (tmp_path / "copy.zarr").mkdir()
    (tmp_path / "copy.zarr/notes.txt").write_text("mine")
    with pytest.raises(ScanExistsError, match="is not this store"):
        stage(url, tmp_path / "copy.zarr")
    plan_parts(tmp_path / "scan.npz", tmp_path / "other.zarr")
    with pytest.raises(ScanExistsError, match="unfinished ingest"):
        stage(url, tmp_path / "other.zarr")


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        pytest.param(KeyboardInterrupt(), InterruptedIngestError, id="interrupt"),
        pytest.param(StorageError("no network"), StorageError, id="network"),
    ],
)
def test_an_interrupted_copy_goes_on(
    url: str,
    tmp_path: Path,
    folder_server: FolderServer,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    raised: type[Exception],
) -> None:
    monkeypatch.setattr("ptyzarr.ingestion.copying._FILES_AT_ONCE", 1)
    with monkeypatch.context() as patch:
        stream, calls = RemoteFiles.stream, iter(range(1000))

        def fail(self: RemoteFiles, key: str) -> Iterator[bytes]:
            if next(calls) == 5:
                raise error
            return stream(self, key)

        patch.setattr(RemoteFiles, "stream", fail)
        with pytest.raises(raised):
            stage(url, tmp_path / "copy.zarr")
    assert not (tmp_path / "copy.zarr").exists()
    # What is there is digested again.
    staged = tmp_path / "copy.zarr.staging/store"
    copied = sorted(path for path in staged.rglob("*") if path.is_file())
    assert len(copied) == 5
    copied[0].write_bytes(bytes(copied[0].stat().st_size))
    (staged / "stray").touch()
    before = len(folder_server.log)
    report = stage(url, tmp_path / "copy.zarr")
    verify(report.path)
    assert len(folder_server.log) - before == report.n_files - 4
    assert not (tmp_path / "copy.zarr/stray").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_copy_that_a_signal_ended_goes_on(
    url: str, tmp_path: Path, folder_server: FolderServer, number: signal.Signals
) -> None:
    last = "scan.zarr/diffraction/c/3/0/0"
    folder_server.always[last] = "stall"
    copy = tmp_path / "copy.zarr"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    environment |= {"PTYZARR_TIMEOUT_S": "3", "PTYZARR_ATTEMPTS": "1"}
    command = [sys.executable, "-m", "ptyzarr", "stage", url, str(copy)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            staged = tmp_path / "copy.zarr.staging/store"
            n_files = len(open_store(tmp_path / "scan.zarr").files)
            while sum(path.is_file() for path in staged.rglob("*")) < n_files - 1:
                assert process.poll() is None
            process.send_signal(number)
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == (-number if number == signal.SIGKILL else 75)
    if number != signal.SIGKILL:
        assert "run the same command to go on" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not copy.exists()
    folder_server.always.clear()
    report = stage(url, copy)
    verify(report.path)
    assert report.n_bytes_copied == (tmp_path / last).stat().st_size
    assert not (tmp_path / "copy.zarr.staging").exists()


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        pytest.param("flip", "other content than its digest", id="flip"),
        pytest.param("cut", "3068 bytes", id="cut"),
        pytest.param("missing", "0 bytes", id="missing"),
    ],
)
def test_a_file_that_is_damaged_at_the_source_is_an_error(
    url: str, tmp_path: Path, damage: str, what: str
) -> None:
    path = tmp_path / "scan.zarr/diffraction/c/1/0/0"
    raw = bytearray(path.read_bytes())
    raw[3] ^= 1
    path.write_bytes(raw[:-1] if damage == "cut" else raw)
    if damage == "missing":
        path.unlink()
    with pytest.raises(DamagedStoreError, match=f"came with {what}; .*fetched .* is at fault"):
        stage(url, tmp_path / "copy.zarr")
    assert not (tmp_path / "copy.zarr").exists()


def test_failures_on_the_way_are_tried_again(
    url: str, tmp_path: Path, folder_server: FolderServer
) -> None:
    for fault, key in ((503, "positions/c/0/0"), ("cut", "diffraction/c/0/0/0")):
        folder_server.faults[f"scan.zarr/{key}"].append(fault)
    verify(stage(url, tmp_path / "copy.zarr").path)


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    url: str, tmp_path: Path, folder_server: FolderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        free = 100

    monkeypatch.setattr("shutil.disk_usage", lambda _: Full)
    with pytest.raises(StorageError, match="has 100 B free"):
        stage(url, tmp_path / "copy.zarr")
    assert folder_server.requests("diffraction") == []


def test_no_store_at_the_source_is_told(url: str, tmp_path: Path) -> None:
    for source in (f"{url}x", str(tmp_path / "none")):
        with pytest.raises(ScanNotFoundError):
            stage(source, tmp_path / "copy.zarr")


def test_the_copy_serves_the_loader(url: str, tmp_path: Path, store: ScanStore) -> None:
    copy = open_store(stage(url, tmp_path / "copy.zarr").path)
    assert np.array_equal(copy.amplitude(np.arange(60)), store.amplitude(np.arange(60)))


def test_a_link_to_an_empty_folder_is_refused_before_anything_is_copied(
    url: str, tmp_path: Path, folder_server: FolderServer
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "copy.zarr").symlink_to("empty")
    with pytest.raises(ScanExistsError, match="a link to the empty folder"):
        stage(url, tmp_path / "copy.zarr")
    assert [key for _, key, _ in folder_server.log if not key.endswith("zarr.json")] == []
    assert not (tmp_path / "copy.zarr.staging").exists()
