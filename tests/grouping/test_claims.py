"""One process draws a table, the others wait; nobody waits for the dead, and nothing can fail."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptyzarr.config import GroupingConfig
from ptyzarr.errors import GroupingError
from ptyzarr.grouping import cache, cached_group_table, group_table
from ptyzarr.grouping.claims import HEARTBEAT_S, PATIENCE_S, STALE_S

from .memory_scan import make_scan

CONFIG = GroupingConfig(gridsize=2, n_neighbors=6, seed=3)

# Draws as told over the pipe, says what it does.
PROCESS = """
import sys
import ptyzarr.grouping.cache as cache
from memory_scan import make_scan
from ptyzarr.config import GroupingConfig

draw = cache.group_table

def draw_when_told(store, config):
    print("drawing", flush=True)
    sys.stdin.readline()
    return draw(store, config)

cache.group_table = draw_when_told
scan = make_scan(40, path=sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
table = cache.cached_group_table(scan, GroupingConfig(gridsize=2, n_neighbors=6, seed=3))
print(table.nn_indices.tolist(), flush=True)
"""


class Drawer:
    """A process that wants the table of one scan."""

    def __init__(self, path: str) -> None:
        here = str(Path(__file__).parent)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([here, *filter(None, sys.path)])},
        )

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def user_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "user" / "ptyzarr"


@pytest.fixture
def scan(tmp_path, user_cache):
    (tmp_path / "stores").mkdir()
    return make_scan(40, path=str(tmp_path / "stores" / "scan.zarr"))


@pytest.fixture
def beside(tmp_path):
    return tmp_path / "stores" / ".ptyzarr-cache"


@pytest.fixture
def drawers(scan) -> Iterator[list[Drawer]]:
    made = [Drawer(scan.path) for _ in range(3)]
    try:
        assert [drawer.hear() for drawer in made] == ["ready"] * 3
        yield made
    finally:
        for drawer in made:
            drawer.end()


@pytest.mark.slow
def test_one_process_draws_and_the_dead_are_replaced(scan, beside, drawers):
    first, *others = drawers
    first.tell("go")
    assert first.hear() == "drawing"
    (claim,) = beside.iterdir()
    owner = json.loads(claim.read_text())
    assert (owner["pid"], owner["host"]) == (first.process.pid, socket.gethostname())
    for drawer in others:
        drawer.tell("go")
    first.process.kill()
    first.process.wait()
    # One of the two waiting takes over; it fails to say anything but its table if it only waited.
    heard: dict[str, Drawer] = {}
    threads = [
        threading.Thread(target=lambda d=drawer: heard.__setitem__(d.hear(), d))
        for drawer in others
    ]
    for thread in threads:
        thread.start()
    while "drawing" not in heard:
        assert any(thread.is_alive() for thread in threads)
        threads[0].join(0.01)
    heard["drawing"].tell("draw")
    for thread in threads:
        thread.join()
    wanted = str(group_table(scan, CONFIG).nn_indices.tolist())
    assert heard["drawing"].hear() == wanted
    assert set(heard) == {"drawing", wanted}, "both of them drew"
    assert [path.suffix for path in beside.iterdir()] == [".groups"]


def leave_claim(beside: Path, scan: Any, **owner: Any) -> Path:
    """Leave a claim as a process would that is drawing, or was killed."""
    cached_group_table(scan, CONFIG)
    (table,) = beside.glob("*.groups")
    table.unlink()
    claim = table.with_suffix(".claim")
    claim.write_text(json.dumps(owner) if owner else "")
    return claim


class Clock:
    """Stands in for the module `time` where claims are watched: sleeping takes no time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.on_sleep: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s
        self.on_sleep()


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("ptyzarr.grouping.claims.time", made)
    return made


def draw_in_thread(scan: Any) -> tuple[threading.Thread, list[Any]]:
    tables: list[Any] = []
    thread = threading.Thread(target=lambda: tables.append(cached_group_table(scan, CONFIG)))
    thread.start()
    return thread, tables


@pytest.fixture
def drawn(monkeypatch):
    """Count the tables that are drawn."""
    calls = []

    def draw(*args):
        calls.append(args)
        return group_table(*args)

    monkeypatch.setattr("ptyzarr.grouping.cache.group_table", draw)
    return calls


DEAD = {"token": "a", "host": socket.gethostname(), "pid": 2**22 + 1}
ELSEWHERE = {"token": "a", "host": "elsewhere.example", "pid": 1}


def test_the_claim_of_a_dead_process_is_taken_over_at_once(scan, beside, drawn):
    claim = leave_claim(beside, scan, **DEAD)
    drawn.clear()
    cached_group_table(scan, CONFIG)
    assert len(drawn) == 1
    assert not claim.exists()


@pytest.mark.parametrize(
    "owner", [pytest.param(ELSEWHERE, id="another-machine"), pytest.param({}, id="not-yet-filled")]
)
def test_a_claim_without_a_heartbeat_is_taken_over(scan, beside, drawn, clock, owner):
    claim = leave_claim(beside, scan, **owner)
    drawn.clear()
    cached_group_table(scan, CONFIG)
    assert len(drawn) == 1
    assert not claim.exists()
    assert STALE_S < clock.now_s < STALE_S + 2


def test_a_claim_with_a_heartbeat_is_waited_for(scan, beside, drawn, clock):
    claim = leave_claim(beside, scan, **ELSEWHERE)
    content = cached_table_bytes(scan, beside, claim)

    def live_and_finish():
        beat(claim, clock)
        if clock.now_s > 3 * STALE_S:
            claim.with_suffix(".groups").write_bytes(content)

    clock.on_sleep = live_and_finish
    drawn.clear()
    table = cached_group_table(scan, CONFIG)
    assert drawn == []
    np.testing.assert_array_equal(table.nn_indices, group_table(scan, CONFIG).nn_indices)
    assert claim.exists(), "the claim of another is its own to remove"


def beat(claim: Path, clock: Clock) -> None:
    """Touch a claim as its owner does, by the clock of the test."""
    number = int(clock.now_s / HEARTBEAT_S)
    os.utime(claim, (number, number))


def cached_table_bytes(scan: Any, beside: Path, claim: Path) -> bytes:
    """Return what the owner of the claim will write."""
    kept = claim.read_bytes()
    claim.unlink()
    cached_group_table(scan, CONFIG)
    table = claim.with_suffix(".groups")
    content = table.read_bytes()
    table.unlink()
    claim.write_bytes(kept)
    return content


def test_who_gave_up_is_not_waited_for(scan, beside, drawn, clock):
    claim = leave_claim(beside, scan, **ELSEWHERE)
    clock.on_sleep = lambda: claim.unlink(missing_ok=True)
    drawn.clear()
    cached_group_table(scan, CONFIG)
    assert len(drawn) == 1
    assert 0 < clock.now_s < 1


def test_nobody_waits_for_ever(scan, beside, drawn, clock):
    owner = {**ELSEWHERE, "host": socket.gethostname(), "pid": os.getpid()}
    claim = leave_claim(beside, scan, **owner)
    clock.on_sleep = lambda: beat(claim, clock)
    drawn.clear()
    cached_group_table(scan, CONFIG)
    assert len(drawn) == 1
    assert PATIENCE_S < clock.now_s < PATIENCE_S + 2


def test_an_owner_shows_that_it_lives(scan, beside, monkeypatch):
    monkeypatch.setattr("ptyzarr.grouping.claims.HEARTBEAT_S", 0.001)
    beaten = threading.Event()
    utime = os.utime

    def note(path, *rest):
        utime(path, *rest)
        beaten.set()

    def draw(*args):
        monkeypatch.setattr(os, "utime", note)
        assert beaten.wait(60)
        return group_table(*args)

    monkeypatch.setattr("ptyzarr.grouping.cache.group_table", draw)
    cached_group_table(scan, CONFIG)
    assert not [thread for thread in threading.enumerate() if "claim" in thread.name]


def test_a_claim_that_another_took_over_is_left_to_it(scan, beside, monkeypatch):
    def draw(*args):
        (claim,) = beside.glob("*.claim")
        claim.write_text(json.dumps(ELSEWHERE))
        return group_table(*args)

    monkeypatch.setattr("ptyzarr.grouping.cache.group_table", draw)
    cached_group_table(scan, CONFIG)
    (claim,) = beside.glob("*.claim")
    assert json.loads(claim.read_text()) == ELSEWHERE


def test_a_failure_to_draw_leaves_no_claim(scan, beside, monkeypatch):
    def fail(*args):
        raise GroupingError("no groups today")

    monkeypatch.setattr("ptyzarr.grouping.cache.group_table", fail)
    with pytest.raises(GroupingError, match="no groups today"):
        cached_group_table(scan, CONFIG)
    assert not beside.exists()


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(PermissionError(13, "Permission denied"), id="not-allowed"),
        pytest.param(FileNotFoundError(2, "No such file or directory"), id="always-gone"),
    ],
)
def test_where_no_claim_can_be_made_everybody_draws(scan, beside, drawn, monkeypatch, error):
    real = os.open

    def refuse(path, flags, *rest):
        if str(path).endswith(".claim"):
            raise error
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    cached_group_table(scan, CONFIG)
    assert len(drawn) == 1
    # Tables can be written all the same.
    assert [path.suffix for path in beside.iterdir()] == [".groups"]


@pytest.mark.usefixtures("clock")
def test_a_claim_that_is_none_is_left_alone(scan, beside, drawn):
    claim = leave_claim(beside, scan, **ELSEWHERE)
    claim.unlink()
    claim.mkdir()
    drawn.clear()
    cached_group_table(scan, CONFIG)
    assert len(drawn) == 1
    assert claim.is_dir()


def test_a_new_claim_is_not_taken_for_the_dead_one_that_it_replaced(
    scan, beside, drawn, clock, monkeypatch
):
    claim = leave_claim(beside, scan, **DEAD)
    judged = []

    def replace_once(owner):
        judged.append(owner["token"])
        if len(judged) == 1:
            # Another waiter was faster.
            claim.write_text(json.dumps({**ELSEWHERE, "token": "b"}))
            return True
        assert claim.exists()
        return None

    monkeypatch.setattr("ptyzarr.grouping.claims.is_dead", replace_once)
    drawn.clear()
    cached_group_table(scan, CONFIG)
    assert len(drawn) == 1
    assert judged[:2] == ["a", "b"]
    assert clock.now_s > STALE_S, "the new claim was given no time"


def test_a_claim_that_cannot_be_filled_is_no_error(scan, beside, drawn, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ptyzarr.grouping.claims.seal_owner", fail)
    cached_group_table(scan, CONFIG)
    assert len(drawn) == 1
    assert not list(beside.glob("*.claim"))


def test_a_claim_whose_folder_disappears_is_made_again(scan, beside, drawn, monkeypatch):
    real, gone = os.open, []

    def open_late(path, flags, *rest):
        if str(path).endswith(".claim") and not gone:
            gone.append(path)
            beside.rmdir()
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", open_late)
    cached_group_table(scan, CONFIG)
    assert gone
    assert [path.suffix for path in beside.iterdir()] == [".groups"]


def test_a_damaged_table_is_drawn_by_one(scan, beside, drawn, monkeypatch):
    cached_group_table(scan, CONFIG)
    (table,) = beside.iterdir()
    table.write_bytes(table.read_bytes()[:-1])
    drawn.clear()
    draw, sleep = cache.group_table, time.sleep
    waiting, all_wait = set(), threading.Event()

    def note(duration_s):
        waiting.add(threading.get_ident())
        if len(waiting) == 3:
            all_wait.set()
        sleep(duration_s)

    def draw_late(*args):
        assert all_wait.wait(60)
        return draw(*args)

    monkeypatch.setattr(time, "sleep", note)
    monkeypatch.setattr("ptyzarr.grouping.cache.group_table", draw_late)
    started = [draw_in_thread(scan) for _ in range(4)]
    for thread, _ in started:
        thread.join()
    assert len(drawn) == 1
    assert all(len(tables) == 1 for _, tables in started)
    assert [path.suffix for path in beside.iterdir()] == [".groups"]
