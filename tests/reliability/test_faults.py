"""The disk is full, calls fail, reads are short, the source changes, the clock jumps."""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from reliability.faults import (
    AFTER,
    CALLS,
    ERRORS,
    OPERATIONS,
    Fault,
    Work,
    check_fault,
    count_calls,
    native_pread,
)
from synthetic import make_arrays, make_npz

from ptyzarr.config import IngestConfig
from ptyzarr.errors import (
    DamagedStoreError,
    PtyzarrError,
    SourceError,
    StorageError,
)
from ptyzarr.ingestion import ingest, verify
from ptyzarr.store import open_store


@pytest.fixture(autouse=True)
def small_shards(set_sizes: Callable[..., None]) -> None:
    set_sizes(2, 8)


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_call_that_fails_is_said_and_gone_on_from(tmp_path: Path, operation: str) -> None:
    """A sample; `benchmarks/reliability.py` lets every call fail."""
    work, chance = Work(tmp_path, operation), random.Random(operation)
    for call in CALLS:
        n_calls = count_calls(work, call)
        assert n_calls or call in ("os.unlink", "os.rename")
        for number in chance.sample(range(n_calls), min(n_calls, 1)):
            assert check_fault(work, Fault(call, chance.choice(list(ERRORS)), number)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("call", ["os.replace", "os.rename"])
def test_move_that_reports_a_failure_after_success(
    tmp_path: Path, operation: str, call: str
) -> None:
    work, chance = Work(tmp_path, operation), random.Random(operation)
    n_calls = count_calls(work, call)
    for number in chance.sample(range(n_calls), min(n_calls, 3)):
        assert check_fault(work, Fault(call, AFTER, number)) == ""


def test_last_rename_that_reports_a_failure_after_success_is_a_success(tmp_path: Path) -> None:
    work = Work(tmp_path, "ingest")
    place = work.reset()
    rename = os.rename

    def lie(source: Path, target: Path) -> None:
        rename(source, target)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", lie)
        work.run(place)
    assert work.look(place) == "new"


@pytest.mark.slow
@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_full_disk_at_any_size_publishes_nothing(
    tmp_path: Path, file_size_limit: Callable[[int], object], compressed: bool
) -> None:
    """The kernel cuts the write that crosses the limit short and refuses the next one."""
    source = make_npz(tmp_path / "scan.npz", compressed=compressed)
    for limit in (0, 1, 100, 400, 700, 1000, 1500, 2500, 4000):
        with file_size_limit(limit), pytest.raises(StorageError, match="nothing was published"):
            ingest(source, tmp_path / "scan.zarr")
        assert not (tmp_path / "scan.zarr").exists()
    ingest(source, tmp_path / "scan.zarr").close()
    verify(tmp_path / "scan.zarr", source)
    assert sorted(os.listdir(tmp_path)) == ["scan.npz", "scan.zarr"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_folder_that_may_not_be_written(tmp_path: Path) -> None:
    source = make_npz(tmp_path / "scan.npz")
    (tmp_path / "out").mkdir(0o555)
    with pytest.raises(StorageError, match="Permission denied"):
        ingest(source, tmp_path / "out/scan.zarr")


@pytest.mark.parametrize("most", [1, 7, 1000])
@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_short_reads_are_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, compressed: bool
) -> None:
    source = make_npz(tmp_path / "scan.npz", 12, 8, compressed=compressed)
    preadv = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:most]], offset)
    )
    with native_pread(lambda fd, nbytes, offset: os.pread(fd, min(nbytes, most), offset)):
        store = ingest(source, tmp_path / "scan.zarr")
        frames = store.amplitude(np.arange(12))
    assert frames.tobytes() == make_arrays(12, 8)["diff3d"].tobytes()
    store.close()


def test_source_that_cannot_be_read_is_a_storage_error_and_is_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_npz(tmp_path / "scan.npz")
    preadv, bad = os.preadv, 5000

    def fail(fd: int, buffers: list[memoryview], offset: int) -> int:
        if offset <= bad < offset + len(buffers[0]):
            raise OSError(errno.EIO, "Input/output error")
        return preadv(fd, buffers, offset)

    def answer(fd: int, nbytes: int, offset: int) -> bytes | None:
        return None if offset <= bad < offset + nbytes else os.pread(fd, nbytes, offset)

    with monkeypatch.context() as patch, native_pread(answer):
        patch.setattr(os, "preadv", fail)
        with pytest.raises(StorageError, match=r"scan\.npz: reading .* Input/output error"):
            ingest(source, tmp_path / "scan.zarr")
    assert not (tmp_path / "scan.zarr").exists()
    ingest(source, tmp_path / "scan.zarr").close()
    verify(tmp_path / "scan.zarr", source)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda fd, nbytes, offset: None, id="error"),
        pytest.param(lambda fd, nbytes, offset: b"", id="end of file"),
    ],
)
def test_shard_that_cannot_be_read_is_an_error_never_zeros(tmp_path: Path, answer: object) -> None:
    store_path = tmp_path / "scan.zarr"
    ingest(make_npz(tmp_path / "scan.npz"), store_path).close()
    with native_pread(answer):
        store = open_store(store_path)
        with pytest.raises(DamagedStoreError, match="ended or failed"):
            store.amplitude(np.arange(8))
        store.close()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def replace(path: Path) -> None:
    os.replace(make_npz(path.with_name("new.npz"), seed=5), path)


def overwrite_in_place(path: Path) -> None:
    status, raw = path.stat(), bytearray(path.read_bytes())
    raw[len(raw) * 3 // 4 : len(raw) * 3 // 4 + 6000] = bytes(6000)
    path.write_bytes(raw)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # nothing but the checksum tells


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
@pytest.mark.parametrize("change", [truncate, replace, overwrite_in_place, os.remove])
def test_source_that_changes_while_it_is_read_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    compressed: bool,
) -> None:
    monkeypatch.setattr("ptyzarr.ingestion.budget._BLOCK_BYTES", 2048)
    frames = make_arrays(100, 64, mean=900.0)["diff3d"]  # more than a reader holds at once
    source = make_npz(tmp_path / "scan.npz", 100, 64, compressed=compressed, diff3d=frames)
    assert source.stat().st_size > 2**19

    class Changing:
        done = False

        def start(self, stage: str, total: int, unit: str) -> None: ...

        def advance(self, amount: int) -> None:
            if not self.done:
                self.done = True
                change(source)

        def finish(self) -> None: ...

    with pytest.raises((SourceError, StorageError)) as caught:
        ingest(source, tmp_path / "scan.zarr", IngestConfig(n_workers=1), progress=Changing())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "scan.zarr").exists()
    make_npz(source, seed=6, compressed=compressed)
    ingest(source, tmp_path / "scan.zarr").close()
    verify(tmp_path / "scan.zarr", source)


def test_clock_that_jumps_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, chance = make_npz(tmp_path / "scan.npz"), random.Random(3)
    monkeypatch.setattr(time, "time", lambda: chance.uniform(-1e9, 1e10))
    ingest(source, tmp_path / "scan.zarr").close()
    verify(tmp_path / "scan.zarr", source)


def test_faults_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: an error of the system that gets through, and a store that stays damaged."""
    work = Work(tmp_path / "a", "ingest")
    monkeypatch.setattr("reliability.faults.PtyzarrError", KeyError)
    assert "StorageError" in check_fault(work, Fault("os.replace", "EIO", 1))
    monkeypatch.setattr("reliability.faults.PtyzarrError", PtyzarrError)
    work = Work(tmp_path / "b", "repair")
    monkeypatch.setattr(work, "allowed", lambda: ())
    assert "is there after" in check_fault(work, Fault("os.replace", "EIO", 1))
