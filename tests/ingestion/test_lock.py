"""The lock of a staging folder: one holder, whoever dies and however many want it."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from synthetic import make_npz

from ptyzarr.errors import ScanExistsError
from ptyzarr.ingestion import ingest
from ptyzarr.ingestion.lock import lock
from ptyzarr.owners import describe_self, parse_owner, seal_owner


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def leave_lock(path: Path, **owner: Any) -> Path:
    """Leave a lock file as a process would that was killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(owner))
    return path


def test_lock_is_exclusive_and_leaves_nothing(tmp_path):
    folder = tmp_path / "scan.zarr.staging"
    with lock(folder):
        owner = json.loads((folder / "lock").read_text())
        assert (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname())
        with pytest.raises(ScanExistsError, match=f"process {os.getpid()}"), lock(folder):
            raise AssertionError("two holders")
    assert not folder.exists()
    with lock(folder):
        pass


def test_files_of_the_holder_stay(tmp_path):
    with lock(tmp_path / "staging"):
        (tmp_path / "staging" / "journal").mkdir()
    assert os.listdir(tmp_path / "staging") == ["journal"]


def test_lock_of_a_dead_process_is_taken_over(tmp_path):
    leave_lock(tmp_path / "lock", token="a1", host=socket.gethostname(), pid=dead_pid())
    with lock(tmp_path), pytest.raises(ScanExistsError), lock(tmp_path):
        raise AssertionError("two holders")
    assert not tmp_path.exists()


def test_successor_that_died_too_is_taken_over(tmp_path):
    dead = {"host": socket.gethostname(), "pid": dead_pid()}
    leave_lock(tmp_path / "lock", token="a1", **dead)
    leave_lock(tmp_path / "lock-a1", token="b2", **dead)
    with lock(tmp_path):
        assert json.loads((tmp_path / "lock-b2").read_text())["pid"] == os.getpid()
    assert not tmp_path.exists()


def test_successor_that_lives_is_respected(tmp_path):
    here = socket.gethostname()
    leave_lock(tmp_path / "lock", token="a1", host=here, pid=dead_pid())
    leave_lock(tmp_path / "lock-a1", token="b2", host=here, pid=os.getppid())
    with pytest.raises(ScanExistsError, match=f"process {os.getppid()}"), lock(tmp_path):
        raise AssertionError("two holders")


def test_reused_process_number_is_told_apart(tmp_path):
    here = socket.gethostname()
    leave_lock(tmp_path / "lock", token="a1", host=here, pid=os.getppid(), started="1")
    with lock(tmp_path):
        pass


@pytest.mark.parametrize("age_s", [0, 1000])
def test_owner_on_another_machine_is_judged_by_its_heartbeat(tmp_path, monkeypatch, age_s):
    monkeypatch.setattr("ptyzarr.ingestion.lock.HEARTBEAT_S", 0.01)
    path = leave_lock(tmp_path / "lock", token="a1", host="elsewhere", pid=1)
    stamp = path.stat().st_mtime - age_s
    os.utime(path, (stamp, stamp))
    if age_s:
        with lock(tmp_path):
            pass
    else:
        with pytest.raises(ScanExistsError, match="wait for it"), lock(tmp_path):
            raise AssertionError("two holders")


TORN = [
    pytest.param(b"", id="empty"),
    pytest.param(b'{"token": "a1", "ho', id="cut"),
    pytest.param(b"null", id="null"),
    pytest.param(b"[]", id="list"),
    pytest.param(b"\x00\xff", id="binary"),
    pytest.param(b"{}", id="no owner"),
    pytest.param(b"\xff" * 90, id="not text"),
    pytest.param(b"[" * 60_000, id="deep list"),
    pytest.param(b'{"token":' * 60_000, id="deep object"),
    pytest.param(b'{"token": "../x", "host": "elsewhere", "pid": 1}', id="token with a path"),
    pytest.param(b'{"token": 7, "host": "elsewhere", "pid": 1}', id="token no text"),
    pytest.param(
        seal_owner(describe_self()).replace(b'"host": "', b'"host": "x'), id="another machine"
    ),
]


@pytest.mark.parametrize("content", TORN)
def test_torn_lock_keeps_nobody_out(tmp_path, monkeypatch, content):
    monkeypatch.setattr("ptyzarr.ingestion.lock.HEARTBEAT_S", 0.01)
    (tmp_path / "lock").write_bytes(content)
    with lock(tmp_path), pytest.raises(ScanExistsError, match=f"{os.getpid()}"), lock(tmp_path):
        raise AssertionError("two holders")
    assert not tmp_path.exists()


def test_torn_lock_is_waited_for_three_heartbeats(tmp_path, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(time, "monotonic", lambda: sum(slept))
    monkeypatch.setattr(time, "sleep", slept.append)
    (tmp_path / "lock").touch()
    with lock(tmp_path):
        pass
    assert 10 <= sum(slept) <= 20


@pytest.mark.parametrize("sign", ["touched", "written"])
def test_torn_lock_of_the_living_is_respected(tmp_path, monkeypatch, sign):
    """Its owner touches it still, or was about to write it."""
    path, sleep = tmp_path / "lock", time.sleep

    def beat(duration_s: float) -> None:
        if sign == "touched":
            os.utime(path)
        else:
            path.write_bytes(seal_owner(describe_self()))
        sleep(duration_s)

    path.write_bytes(b"{")
    os.utime(path, (1e9, 1e9))
    monkeypatch.setattr("ptyzarr.ingestion.lock.HEARTBEAT_S", 0.05)
    monkeypatch.setattr(time, "sleep", beat)
    whose = "unknown" if sign == "touched" else str(os.getpid())
    with pytest.raises(ScanExistsError, match=f"process {whose}"), lock(tmp_path):
        raise AssertionError("two holders")
    assert os.listdir(tmp_path) == ["lock"]


def test_lock_torn_below_its_living_successor_is_respected(tmp_path):
    (tmp_path / "lock").touch()
    leave_lock(tmp_path / "lock-a1", token="b2", host=socket.gethostname(), pid=os.getppid())
    with pytest.raises(ScanExistsError), lock(tmp_path):
        raise AssertionError("two holders")


@pytest.mark.parametrize("content", [b"", b"null"])
def test_holder_whose_lock_is_torn_releases_it(tmp_path, content):
    with lock(tmp_path / "staging"):
        (tmp_path / "staging" / "lock").write_bytes(content)
    assert not (tmp_path / "staging").exists()


@pytest.mark.parametrize("kind", ["FIFO", "folder", "dangling link", "link"])
def test_lock_that_is_no_file_is_named(tmp_path, kind):
    path = tmp_path / "lock"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        (tmp_path / "there").touch()
        path.symlink_to(tmp_path / ("there" if kind == "link" else "nowhere"))
    refused = pytest.raises(ScanExistsError, match=r"/lock is no regular file; .*; remove it")
    with refused, lock(tmp_path):
        raise AssertionError("a holder")
    assert os.path.lexists(path)


def test_lock_is_whole_when_it_gets_its_name(tmp_path, monkeypatch):
    link, seen = os.link, []

    def look(private: Any, path: Any) -> None:
        seen.append(json.loads(Path(private).read_text())["pid"])
        link(private, path)

    monkeypatch.setattr(os, "link", look)
    with lock(tmp_path / "s"):
        assert os.listdir(tmp_path / "s") == ["lock"]
    assert seen == [os.getpid()]


def test_link_that_reports_failure_after_success_is_a_lock(tmp_path, monkeypatch):
    link = os.link

    def repeat(private: Any, path: Any) -> None:
        link(private, path)
        link(private, path)

    monkeypatch.setattr(os, "link", repeat)
    with lock(tmp_path / "s"), pytest.raises(ScanExistsError), lock(tmp_path / "s"):
        raise AssertionError("two holders")
    assert not (tmp_path / "s").exists()


def test_link_whose_success_nobody_can_see_is_a_lock_all_the_same(tmp_path, monkeypatch):
    """The answer was lost, and the count of links comes from an old view."""
    link = os.link

    def lose_the_answer(private: Any, path: Any) -> None:
        link(private, path)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "link", lose_the_answer)
    with lock(tmp_path / "s"), pytest.raises(ScanExistsError), lock(tmp_path / "s"):
        raise AssertionError("two holders")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("content", [b"", b"{"])
def test_successor_of_a_torn_lock_has_one_name_whatever_its_inode(tmp_path, monkeypatch, content):
    """Two machines may number the same file differently; both must want the same name."""
    monkeypatch.setattr("ptyzarr.ingestion.lock.HEARTBEAT_S", 0.001)
    names = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        (folder / "lock").write_bytes(content)
        with lock(folder):
            names.append(sorted(os.listdir(folder)))
    assert names[0] == names[1]
    assert len(names[0]) == 2


def test_torn_successors_of_a_torn_lock_end(tmp_path, monkeypatch):
    monkeypatch.setattr("ptyzarr.ingestion.lock.HEARTBEAT_S", 0.001)
    (tmp_path / "lock").touch()
    for _ in range(2):
        with lock(tmp_path):
            torn = os.listdir(tmp_path)
        tmp_path.mkdir(exist_ok=True)
        for name in torn:
            (tmp_path / name).touch()
    with lock(tmp_path):
        assert len(os.listdir(tmp_path)) == 4
    assert not tmp_path.exists()


def refuse_links(*_: Any) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_lock_works_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", refuse_links)
    with lock(tmp_path / "s"), pytest.raises(ScanExistsError), lock(tmp_path / "s"):
        raise AssertionError("two holders")
    assert not (tmp_path / "s").exists()


def test_creator_that_stalls_without_hard_links_does_not_hold_with_its_successor(
    tmp_path, monkeypatch
):
    """Its lock was empty for so long that another process took it for a dead one's."""
    fdopen, inner = os.fdopen, []

    def stall(fd: int, *rest: Any, **options: Any) -> Any:
        if (tmp_path / "lock").exists() and not inner:
            inner.append(lock(tmp_path))
            inner[0].__enter__()
        return fdopen(fd, *rest, **options)

    monkeypatch.setattr("ptyzarr.ingestion.lock.HEARTBEAT_S", 0.01)
    monkeypatch.setattr(os, "link", refuse_links)
    monkeypatch.setattr(os, "fdopen", stall)
    with pytest.raises(ScanExistsError, match=f"process {os.getpid()}"), lock(tmp_path):
        raise AssertionError("two holders")
    inner[0].__exit__(None, None, None)
    assert not tmp_path.exists()


@pytest.mark.parametrize("jump_s", [3600, 1e9])
def test_clock_that_jumps_does_not_take_a_lock_from_the_living(tmp_path, monkeypatch, jump_s):
    """The lock looks old at once; its owner on another machine touches it as before."""
    path = leave_lock(tmp_path / "lock", token="a1", host="elsewhere", pid=1)
    now, sleep = time.time, time.sleep

    def beat(duration_s: float) -> None:
        os.utime(path)
        sleep(duration_s)

    monkeypatch.setattr("ptyzarr.ingestion.lock.HEARTBEAT_S", 0.5)
    monkeypatch.setattr(time, "time", lambda: now() + jump_s)
    monkeypatch.setattr(time, "sleep", beat)
    with pytest.raises(ScanExistsError, match="on elsewhere"), lock(tmp_path):
        raise AssertionError("two holders")
    assert os.listdir(tmp_path) == ["lock"]


def test_clock_that_jumps_back_keeps_a_lock_and_says_which(tmp_path, monkeypatch):
    leave_lock(tmp_path / "lock", token="a1", host="elsewhere", pid=1)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with pytest.raises(ScanExistsError, match=r"remove .*/lock if that process"), lock(tmp_path):
        raise AssertionError("two holders")


def test_stale_view_of_a_released_chain_gives_no_lock(tmp_path, monkeypatch):
    """While we look at a dead lock another process takes it over, ends, and a third one begins."""
    here = socket.gethostname()
    leave_lock(tmp_path / "lock", token="a1", host=here, pid=dead_pid())
    link = os.link

    def link_late(private: Any, path: Any) -> None:
        if Path(path).name == "lock-a1":
            (tmp_path / "lock").unlink()
            leave_lock(tmp_path / "lock", token="c3", host=here, pid=os.getppid())
        link(private, path)

    monkeypatch.setattr(os, "link", link_late)
    with pytest.raises(ScanExistsError, match=f"process {os.getppid()}"), lock(tmp_path):
        raise AssertionError("two holders")
    assert os.listdir(tmp_path) == ["lock"]


def test_folder_that_disappears_is_made_again(tmp_path, monkeypatch):
    open_file, gone = os.open, []

    def open_late(path: Any, flags: int, *rest: Any) -> int:
        if Path(path).name.startswith("lock.") and not gone:
            gone.append(path)
            (tmp_path / "staging").rmdir()
        return open_file(path, flags, *rest)

    monkeypatch.setattr(os, "open", open_late)
    with lock(tmp_path / "staging"):
        assert (tmp_path / "staging" / "lock").exists()
    assert gone


def test_lock_that_cannot_be_had_in_peace_is_refused(tmp_path, monkeypatch):
    def never_first(*_: Any) -> int:
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "open", never_first)
    with pytest.raises(ScanExistsError, match="several processes at once"), lock(tmp_path):
        raise AssertionError("two holders")


def test_process_is_not_probed_where_that_would_end_it(tmp_path, monkeypatch):
    def kill(*_: Any) -> None:
        raise AssertionError("the process is gone now")

    monkeypatch.setattr("ptyzarr.owners.CAN_PROBE", False)
    monkeypatch.setattr(os, "kill", kill)
    leave_lock(tmp_path / "lock", token="a1", host=socket.gethostname(), pid=1)
    with pytest.raises(ScanExistsError), lock(tmp_path):
        raise AssertionError("two holders")


def test_heartbeat_touches_the_lock(tmp_path, monkeypatch):
    beaten = threading.Event()
    utime = os.utime

    def note(path: Any, *rest: Any) -> None:
        utime(path, *rest)
        beaten.set()

    monkeypatch.setattr("ptyzarr.ingestion.lock.HEARTBEAT_S", 0.001)
    monkeypatch.setattr(os, "utime", note)
    with lock(tmp_path):
        os.utime(tmp_path / "lock", (1, 1))
        beaten.clear()
        assert beaten.wait(10)
        assert (tmp_path / "lock").stat().st_mtime > 1


def test_lock_removed_by_hand_is_not_missed(tmp_path):
    with lock(tmp_path):
        (tmp_path / "lock").unlink()
        leave_lock(tmp_path / "lock", token="c3", host="elsewhere", pid=1)
    assert json.loads((tmp_path / "lock").read_text())["token"] == "c3"


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("call", ["stat", "open"])
def test_one_call_that_fails_leaves_no_lock(tmp_path, monkeypatch, call, number):
    owner = os if call == "stat" else io
    real, calls = getattr(owner, call), []

    def fail(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == number + 1:
            raise OSError(5, "Input/output error")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, call, fail)
        with contextlib.suppress(OSError), lock(tmp_path / "staging"):
            pass
    with lock(tmp_path / "staging"):
        pass
    assert not (tmp_path / "staging").exists()


@pytest.mark.parametrize("without_links", [False, True])
@pytest.mark.parametrize("n_dead", [0, 1, 2, "torn"])
def test_many_takers_of_one_lock_never_hold_it_together(
    tmp_path, monkeypatch, n_dead, without_links
):
    if without_links:
        monkeypatch.setattr(os, "link", refuse_links)
    if n_dead == "torn":
        monkeypatch.setattr("ptyzarr.ingestion.lock.HEARTBEAT_S", 0.05)
    dead = {"host": socket.gethostname(), "pid": dead_pid()}
    holders, seen, refused, failed = [], [], [], []
    together = threading.Barrier(8)

    def take(number: int) -> None:
        for round_ in range(12):
            folder = tmp_path / str(round_)
            if together.wait() == 0:
                if n_dead == "torn":
                    leave_lock(folder / "lock")
                else:
                    for path, token in [("lock", "a1"), ("lock-a1", "b2")][:n_dead]:
                        leave_lock(folder / path, token=token, **dead)
            together.wait()
            try:
                with lock(folder):
                    holders.append(number)
                    seen.append(len(holders))
                    holders.remove(number)
            except ScanExistsError:
                refused.append(number)

    def run(number: int) -> None:
        try:
            take(number)
        except BaseException as error:  # noqa: BLE001 - asserted below
            failed.append(error)
            together.abort()  # the others would wait for ever

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert set(seen) == {1}
    assert len(seen) + len(refused) == 8 * 12
    assert len(seen) >= 12  # each round had a holder


def test_second_ingest_at_the_same_time_is_refused(tmp_path):
    source = make_npz(tmp_path / "scan.npz")

    class Second:
        refused = 0

        def start(self, stage: str, total: int, unit: str) -> None:
            with pytest.raises(ScanExistsError, match="is being written"):
                ingest(source, tmp_path / "scan.zarr")
            self.refused += 1

        def advance(self, amount: int) -> None: ...

        def finish(self) -> None: ...

    second = Second()
    ingest(source, tmp_path / "scan.zarr", progress=second).close()
    assert second.refused == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_process_that_nobody_has_waited_for_is_gone(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\nfrom pathlib import Path\nfrom ptyzarr.ingestion.lock import lock\n"
            "with lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)",
            str(tmp_path / "s"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ScanExistsError), lock(tmp_path / "s"):
            pass
        holder.kill()
        # Wait for the end without asking for the status, so that it stays a zombie.
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
        with lock(tmp_path / "s"):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_any_flipped_bit_of_an_owner_is_seen():
    owner = describe_self()
    whole = seal_owner(owner)
    assert parse_owner(whole) == owner
    for place in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        assert parse_owner(bytes(flipped)) in ({}, owner)


def test_a_file_where_the_folder_should_be_is_told(tmp_path):
    (tmp_path / "scan.zarr.staging").touch()
    with pytest.raises(FileExistsError, match="staging"), lock(tmp_path / "scan.zarr.staging"):
        pass


def test_a_folder_that_goes_away_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    folder, make, removed = tmp_path / "scan.zarr.staging", os.mkdir, []

    def vanish(path, *rest, **options):
        if not removed and os.fspath(path) == str(folder):
            removed.append(path)
            raise FileExistsError(errno.EEXIST, "exists", path)  # as if it was there until now
        return make(path, *rest, **options)

    monkeypatch.setattr(os, "mkdir", vanish)
    with lock(folder):
        assert removed
        assert (folder / "lock").is_file()
