"""Signals to a bench: the processes of the contenders end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ptyzarr.bench import Workload, epoch_entries
from ptyzarr.bench.processes import Worker, stop_all

_N_CONTENDERS = 3


@pytest.fixture
def bench(work: Workload, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A bench whose contenders have been started."""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("needs /proc to find processes")
    arguments = ["bench", work.store, "-o", str(tmp_path / "out"), "--memory", "320MiB"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ptyzarr", *arguments, "--rounds", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.wait()
    if process.stderr is not None:
        process.stderr.close()


def children(pid: int) -> set[int]:
    try:
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return set()


def is_worker(pid: int) -> bool:
    try:
        return b"ptyzarr.lifeline" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_a_bench_with_all_its_processes(
    number: signal.Signals, bench: subprocess.Popen[str]
) -> None:
    workers: set[int] = set()

    def have_started() -> bool:
        workers.update(filter(is_worker, children(bench.pid)))
        return len(workers) >= _N_CONTENDERS

    wait_until(have_started)
    bench.send_signal(number)
    _, errors = bench.communicate(timeout=60)
    assert bench.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 75)
    if number != signal.SIGKILL:
        assert errors.splitlines()[-1] == "ptyzarr: interrupted"
        assert not any(map(is_worker, workers))
    assert "Traceback" not in errors
    wait_until(lambda: not any(map(is_worker, workers)))


def test_a_process_that_has_just_been_started_is_ended_quietly(
    work: Workload, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = Worker(epoch_entries(work, ["window"])[0])
    stop_all([worker])
    assert capfd.readouterr().err == ""
