"""Requests that are tried again, streams that go on, processes that may not ask."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from farstores import FolderServer

from ptyzarr.errors import DeviceError, StorageError
from ptyzarr.store.access import RemoteAccess
from ptyzarr.store.remote import RemoteFolder, check_process

SIZE = 3_000_000


@pytest.fixture
def folder(folder_server: FolderServer, tmp_path: Path) -> RemoteFolder:
    body = np.random.default_rng(0).bytes(SIZE)
    (tmp_path / "big").write_bytes(body)
    return RemoteFolder(folder_server.url, RemoteAccess(attempts=2, timeout_s=30))


def digest(folder: RemoteFolder) -> str:
    state = hashlib.sha256()
    for block in folder.stream("big", SIZE):
        state.update(block)
    return state.hexdigest()


@pytest.mark.parametrize("gives_ranges", [True, False], ids=["ranges", "no-ranges"])
def test_a_stream_goes_on_as_long_as_requests_bring_something(
    folder: RemoteFolder, folder_server: FolderServer, tmp_path: Path, gives_ranges: bool
) -> None:
    folder_server.gives_ranges = gives_ranges
    # Half of what is left comes each time, where parts are given.
    folder_server.faults["big"].extend(["cut", "cut"] if gives_ranges else ["cut"])
    assert digest(folder) == hashlib.sha256((tmp_path / "big").read_bytes()).hexdigest()
    ranges = [asked for _, _, asked in folder_server.log]
    assert ranges[0] is None
    assert all(asked is not None for asked in ranges[1:-1])


def test_a_stream_that_brings_nothing_ends_with_an_error(
    folder: RemoteFolder, folder_server: FolderServer
) -> None:
    folder_server.always["big"] = 500
    with pytest.raises(StorageError, match=r"answered 500.*attempt 2 of 2"):
        digest(folder)


def test_a_file_that_changes_in_the_middle_of_a_stream_is_an_error(
    folder: RemoteFolder, folder_server: FolderServer, tmp_path: Path
) -> None:
    stream = folder.stream("big", SIZE)
    folder_server.faults["big"].extend(["cut"])
    next(stream)
    (tmp_path / "other").write_bytes(np.random.default_rng(1).bytes(SIZE))
    (tmp_path / "other").replace(tmp_path / "big")
    with pytest.raises(StorageError, match="changed while it was read"):
        list(stream)


def test_a_process_forked_from_one_that_used_the_network_is_told(folder: RemoteFolder) -> None:
    folder.look("big")
    child = os.fork()
    if child == 0:
        try:
            check_process()
        except StorageError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_without_obstore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    with pytest.raises(DeviceError, match=r"install 'ptyzarr\[remote\]'"):
        RemoteFolder("http://127.0.0.1:9", RemoteAccess())
