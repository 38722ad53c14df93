from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from ptyzarr.errors import ScanExistsError, StorageError
from ptyzarr.ingestion import new_folder


def test_folder_appears_when_it_is_whole(tmp_path):
    target = tmp_path / "new"
    with new_folder(target) as folder:
        (folder / "a").mkdir()
        (folder / "a" / "b").write_text("x")
        assert not target.exists()
    assert (target / "a" / "b").read_text() == "x"
    assert os.listdir(tmp_path) == ["new"]


def test_nothing_is_left_after_an_error(tmp_path):
    with pytest.raises(KeyError), new_folder(tmp_path / "new") as folder:
        raise KeyError(folder.name)
    assert os.listdir(tmp_path) == []


def test_system_error_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="nothing is left"), new_folder(tmp_path / "no" / "new"):
        pass


@pytest.mark.parametrize("occupy", [lambda path: path.mkdir(), lambda path: path.touch()])
def test_what_appears_meanwhile_is_not_replaced(tmp_path, occupy):
    target = tmp_path / "new"
    with pytest.raises(ScanExistsError, match="exists"), new_folder(target):
        occupy(target)
    assert os.listdir(tmp_path) == ["new"]


def test_rename_that_reports_failure_after_success_is_success(tmp_path, monkeypatch):
    rename = os.rename

    def lie(one: Any, other: Any) -> None:
        rename(one, other)
        raise OSError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(os, "rename", lie)
    with new_folder(tmp_path / "new") as folder:
        (folder / "b").write_text("x")
    assert (tmp_path / "new" / "b").read_text() == "x"


def test_rename_that_fails_is_an_error(tmp_path, monkeypatch):
    def fail(one: Any, other: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(StorageError, match="Input/output"), new_folder(tmp_path / "new"):
        pass
    assert os.listdir(tmp_path) == []


def test_another_folder_that_wins_the_race_stays(tmp_path, monkeypatch):
    target = tmp_path / "new"

    def lose(one: Any, other: Any) -> None:
        target.mkdir()
        (target / "theirs").touch()
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(os, "rename", lose)
    with pytest.raises(ScanExistsError), new_folder(target):
        pass
    assert os.listdir(target) == ["theirs"]
