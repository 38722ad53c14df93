from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ptyzarr.errors import ScanExistsError, StorageError
from ptyzarr.ingestion import export, new_folder


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


FILL = """
import sys
from pathlib import Path
from ptyzarr.ingestion import new_folder

with new_folder(sys.argv[1]) as folder:
    (folder / "a").write_text("x")
    print(folder.name, flush=True)
    sys.stdin.read()
"""


def start_filling(target: Path) -> tuple[subprocess.Popen[str], Path]:
    """Return a process in the middle of filling a folder, and that folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", FILL, os.fspath(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, target.with_name(process.stdout.readline().strip())


def test_what_a_killed_process_left_is_removed_and_that_of_a_living_one_kept(tmp_path):
    target = tmp_path / "new"
    process, aside = start_filling(target)
    with process:
        try:
            with new_folder(tmp_path / "ne"):
                pass
            with pytest.raises(KeyError), new_folder(target):
                raise KeyError
            assert (aside / "a").is_file(), "its process lives"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert (aside / "a").is_file(), "nobody was there to remove it"
        with new_folder(tmp_path / "other"):
            pass
        assert (aside / "a").is_file(), "it is of another destination"
        with new_folder(target) as folder:
            assert not aside.exists()
            assert folder.is_dir()
        assert sorted(os.listdir(tmp_path)) == ["ne", "new", "other"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(".new.01234567.partial", id="no owner"),
        pytest.param(".new.01234567.00000000-999999999-1.partial", id="another machine"),
        pytest.param(".new.partial", id="short"),
        pytest.param(".new.01234567.x-1-1.partial", id="junk"),
    ],
)
def test_what_cannot_be_told_to_be_abandoned_stays(tmp_path, name):
    (tmp_path / name).mkdir()
    with new_folder(tmp_path / "new"):
        pass
    assert (tmp_path / name).is_dir()


def test_a_file_that_a_dead_export_left_is_removed(tmp_path, make_scan_store, monkeypatch):
    store = make_scan_store(n_frames=4, N=8)
    link, names = os.link, []

    def note(one: Any, other: Any) -> None:
        names.append(Path(one).name)
        link(one, other)

    monkeypatch.setattr(os, "link", note)
    target = export(store, tmp_path / "again.npz")
    target.unlink()
    dead = tmp_path / names[0].replace(f"-{os.getpid()}-", "-999999999-")
    living = tmp_path / names[0]
    dead.touch()
    living.touch()
    export(store, target)
    assert target.is_file()
    assert not dead.exists()
    assert living.exists()
