"""A process ends when the other end of its standard input is closed, whatever it is doing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

START = "import os, sys\n"
READY = "print(os.getpid(), flush=True)\n"
BUSY = f"def main():\n    {READY}    while True:\n        pass\n"
WITH_CHILD = """
import multiprocessing
def work(pipe):
    pipe.send(os.getpid())
    while True:
        pass
def main():
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=work, args=(theirs,))
    child.start()
    print(ours.recv(), flush=True)
    child.join()
"""
ANSWERS = f"def main():\n    {READY}    while True:\n        print('x' * 4096, flush=True)\n"


def start(folder: Path, program: str) -> subprocess.Popen[str]:
    (folder / "program.py").write_text(START + program)
    here = str(Path(__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-m", "ptyzarr.lifeline", "program"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), here])},
    )


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(BUSY, id="working"),
        pytest.param(f"{READY}while True:\n    pass\n", id="importing"),
        pytest.param("import time\n" + BUSY.replace("pass", "time.sleep(9)"), id="waiting"),
        pytest.param(WITH_CHILD, id="with-a-process-of-its-own"),
    ],
)
def test_a_process_ends_quietly_when_its_input_is_closed(program: str, tmp_path: Path) -> None:
    process = start(tmp_path, program)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert is_alive(pid)
    # What nobody reads any more does not keep it.
    output, errors = process.communicate("a command\n", timeout=60)
    assert (process.returncode, output, errors) == (0, "", "")
    while is_alive(pid):  # a child belongs to the system from now on
        os.sched_yield()


def test_a_process_whose_answers_nobody_takes_ends_quietly(tmp_path: Path) -> None:
    process = start(tmp_path, ANSWERS)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.close()
    assert process.stderr.read() == ""
    process.stderr.close()
