import errno
import gc
import os
import pickle
import threading

import numpy as np
import pytest

from ptyzarr.errors import ConfigError, ScanNotFoundError, SourceError, StorageError
from ptyzarr.sources import open_source
from ptyzarr.sources.fileaccess import SourceFile

from .npzfiles import join, make_arrays, write_npz


@pytest.fixture(params=["positioned reads", "one file position"])
def _platform(request, monkeypatch):
    if request.param == "one file position":
        monkeypatch.delattr(os, "preadv")


@pytest.fixture
def file(tmp_path, _platform) -> SourceFile:
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(range(256)))
    return SourceFile(path)


def test_reads_any_range(file):
    assert file.read(250, 6) == bytes(range(250, 256))
    assert file.read(3, 0) == b""
    assert (file.size, file.name) == (256, "data.bin")


def test_short_read_says_how_much_is_missing(file):
    with pytest.raises(SourceError, match=r"truncated while reading.*byte 256, expected 4 more"):
        file.read(250, 10)


def test_threads_do_not_share_a_position(file):
    failures = []

    def read(start):
        expected = bytes(range(start, start + 8))
        failures.extend(start for _ in range(200) if file.read(start, 8) != expected)

    threads = [threading.Thread(target=read, args=(start,)) for start in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.usefixtures("_platform")
def test_scan_reads_the_same_on_both_platforms(tmp_path):
    arrays = make_arrays()
    scan = open_source(write_npz(tmp_path / "scan.npz", arrays))
    assert np.array_equal(scan.frames.read(np.array([4, 1])), arrays["diff3d"][[4, 1]])
    assert np.array_equal(join(scan.frames.blocks(3)), arrays["diff3d"])


def test_interrupted_reads_are_continued(file, monkeypatch):
    if not hasattr(os, "preadv"):
        pytest.skip("the other platform")
    original = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, bufs, at: original(fd, [bufs[0][:3]], at))
    assert file.read(10, 20) == bytes(range(10, 30))


def test_failing_disk_is_a_storage_error(file, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv" if hasattr(os, "preadv") else "read", refuse)
    with pytest.raises(StorageError, match=r"data\.bin.*Input/output error"):
        file.read(0, 1)


def test_unreadable_file_is_a_storage_error(tmp_path, monkeypatch):
    path = write_npz(tmp_path / "scan.npz", make_arrays())

    def refuse(*args):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match="Permission denied"):
        open_source(path)


def test_path_through_a_file_is_not_found(tmp_path):
    write_npz(tmp_path / "scan.npz", make_arrays())
    with pytest.raises(ScanNotFoundError):
        open_source(tmp_path / "scan.npz" / "inner.npz")


def test_path_with_a_nul_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="NUL"):
        open_source(f"{tmp_path}/a\0b.npz")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(SourceError, match="no regular file"):
        open_source(tmp_path / "pipe.npz")


def test_descriptor_is_closed_with_its_last_user(tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(b"abc")
    file = SourceFile(path)
    closed = []
    original = os.close
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "close", lambda fd: closed.append(fd) or original(fd))
        probe = SourceFile(path)
        del probe
        gc.collect()
    assert len(closed) == 1
    assert file.read(0, 3) == b"abc"


def test_pickle_holds_no_descriptor_and_reads_again(file):
    copy = pickle.loads(pickle.dumps(file))
    assert copy.read(0, 4) == bytes(range(4))
    assert (copy.path, copy.size, copy.mtime_ns) == (file.path, file.size, file.mtime_ns)


def test_forked_process_opens_the_file_for_itself(file, monkeypatch):
    opened = []
    original = os.open
    monkeypatch.setattr(os, "open", lambda *args: opened.append(args) or original(*args))
    file.read(0, 1)
    assert opened == []
    child = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: child)
    assert file.read(1, 1) == b"\x01"
    file.read(0, 1)
    assert len(opened) == 1
