"""The staging folder: journal, atomic documents, publication."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ptyzarr.errors import ConfigError, ScanNotFoundError, StorageError
from ptyzarr.ingestion.staging import Staging, replace_file, storage_errors, sync_folder
from ptyzarr.store import file_checksum


@pytest.fixture
def staging(tmp_path):
    staging = Staging.beside(tmp_path / "scan.zarr")
    staging.root.mkdir()
    staging.prepare()
    return staging


def commit(staging: Staging, shard: int, data: bytes) -> Path:
    files = []
    for content in (data, data + b" known"):
        path = staging.scratch()
        path.write_bytes(content)
        files.append((path, file_checksum(path)))
    staging.commit_shard(shard, "plan", *files)
    assert not any(path.exists() for path, _ in files)
    return staging.store / f"diffraction/c/{shard}/0/0"


def test_staging_is_beside_its_destination(tmp_path):
    assert Staging.beside(tmp_path / "a.zarr").root == tmp_path / "a.zarr.staging"
    with pytest.raises(ConfigError, match="cannot hold a store"):
        Staging.beside(Path("/"))


def test_committed_shard_is_finished(staging):
    path = commit(staging, 3, b"frames")
    assert path.read_bytes() == b"frames"
    assert staging.records(3).read_bytes() == b"frames known"
    assert staging.finished(3, "plan")
    assert not staging.finished(2, "plan")


def test_shard_of_another_plan_is_not_finished(staging):
    commit(staging, 3, b"frames")
    assert not staging.finished(3, "plan of another kind")
    assert not staging.has_records(3, "plan of another kind")


def test_shard_whose_records_are_damaged_is_not_finished(staging):
    commit(staging, 3, b"frames")
    assert staging.has_records(3, "plan")
    os.truncate(staging.records(3), 2)
    assert not staging.has_records(3, "plan")
    assert not staging.finished(3, "plan")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path, _: path.unlink(), id="shard missing"),
        pytest.param(lambda path, _: os.truncate(path, 0), id="shard empty"),
        pytest.param(lambda path, _: path.write_bytes(b"frame!"), id="shard changed"),
        pytest.param(lambda path, _: (path.unlink(), path.mkdir()), id="shard is a folder"),
        pytest.param(lambda _, journal: journal.unlink(), id="no journal"),
        pytest.param(lambda _, journal: journal.write_text("{"), id="journal cut off"),
        pytest.param(lambda _, journal: journal.write_text("{}"), id="journal empty"),
    ],
)
def test_damaged_shard_is_not_finished(staging, damage):
    path = commit(staging, 0, b"frames")
    damage(path, staging.journal(0))
    assert not staging.finished(0, "plan")


def test_shard_may_be_committed_again(staging):
    commit(staging, 0, b"old")
    assert commit(staging, 0, b"new").read_bytes() == b"new"
    assert staging.finished(0, "plan")


def test_document_is_old_or_new_never_half(staging, monkeypatch):
    staging.write_json(staging.plan, {"a": 1})

    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="Input"):
        staging.write_json(staging.plan, {"a": 2})
    assert json.loads(staging.plan.read_text()) == {"a": 1}


def test_rename_that_reports_a_missing_file_after_success_is_success(staging, monkeypatch):
    """A network file system repeats a request whose answer was lost, and finds nothing to move."""
    replace = os.replace

    def lie(scratch, target):
        replace(scratch, target)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(scratch))

    monkeypatch.setattr(os, "replace", lie)
    commit(staging, 3, b"frames")
    assert staging.finished(3, "plan")
    staging.write_json(staging.plan, {"a": 1})
    assert json.loads(staging.plan.read_text()) == {"a": 1}


@pytest.mark.parametrize("was_there", [False, True])
def test_rename_of_a_file_that_somebody_removed_is_an_error(tmp_path, monkeypatch, was_there):
    scratch, target = tmp_path / "scratch", tmp_path / "target"
    scratch.write_text("new")
    if was_there:
        target.write_text("old")

    def vanish(scratch, target):
        scratch.unlink()
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(scratch))

    monkeypatch.setattr(os, "replace", vanish)
    with pytest.raises(FileNotFoundError):
        replace_file(scratch, target)


def test_prepared_folder_is_empty_but_for_the_lock(staging):
    commit(staging, 0, b"frames")
    (staging.root / "lock").write_text("{}")
    (staging.root / "replaced-1").symlink_to("nowhere")
    staging.plan.write_text("{}")
    staging.prepare()
    assert not staging.finished(0, "plan")
    assert sorted(os.listdir(staging.root)) == [
        "journal", "lock", "needs", "parts", "plan", "records", "scratch", "spool", "store",
    ]  # fmt: skip


def test_discarding_follows_no_link(staging, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("x")
    (staging.root / "replaced-1").symlink_to(precious)
    staging.discard()
    assert (precious / "data").read_text() == "x"
    assert os.listdir(staging.root) == []


def test_folders_are_flushed_where_that_is_possible(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    sync_folder(tmp_path)
    assert len(flushed) == 1


@pytest.mark.parametrize("function", ["open", "fsync"])
def test_platform_that_cannot_flush_folders_does_without(tmp_path, monkeypatch, function):
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, refuse)
        sync_folder(tmp_path)


def test_system_errors_become_one_line():
    with pytest.raises(StorageError) as caught, storage_errors("writing shard 3"):
        raise OSError(28, "No space left on device", "/data/x")
    assert str(caught.value) == (
        "writing shard 3 failed: No space left on device (/data/x); nothing was published; "
        "remove the cause and run the same command to resume"
    )
    assert caught.value.code == "storage"


def test_own_errors_pass_unchanged():
    with pytest.raises(ScanNotFoundError), storage_errors("reading"):
        raise ScanNotFoundError("not there")
