"""Many clients at once: every answer is compared, the service's memory is watched."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from ptyzarr.config import GroupingConfig
from ptyzarr.grouping import group_table
from ptyzarr.store import ScanStore, open_store, shard_key

_MIB = 1024**2


@dataclasses.dataclass(frozen=True)
class Question:
    """A request and what must come back: the body ends in `content`."""

    path: str
    headers: dict[str, str]
    content: bytes


@dataclasses.dataclass
class LoadReport:
    """What many clients saw.

    Attributes
    ----------
    n_requests, n_bytes
        Right answers and the bytes of their bodies.
    problems
        Everything else, one line each.
    memory_bytes
        Resident memory of the service, once each tenth of the time.
    seconds
        Time taken.
    """

    n_requests: int = 0
    n_bytes: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)
    memory_bytes: list[int] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    @property
    def growth_bytes(self) -> int:
        """Most memory of the second half above the most of the first."""
        half = len(self.memory_bytes) // 2
        return max(self.memory_bytes[half:]) - max(self.memory_bytes[:half])

    def __str__(self) -> str:
        memory = ", ".join(f"{size / _MIB:.0f}" for size in self.memory_bytes)
        lines = [
            f"{self.n_requests} requests, {self.n_bytes / _MIB:.0f} MiB in {self.seconds:.1f} s",
            f"memory of the service over time, MiB: {memory}",
            f"{len(self.problems)} problems",
            *self.problems[:10],
        ]
        return "\n".join(lines)


@contextlib.contextmanager
def served(root: Path, *flags: str) -> Iterator[tuple[str, str]]:
    """Serve `root` in a process of its own; yield (URL, key)."""
    command = [sys.executable, "-m", "ptyzarr", "serve", str(root), "--port", "0", "--json", *flags]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            url = json.loads(process.stdout.readline())["url"]
            key = re.search(r"key (\S+)\n", process.stderr.readline() + process.stderr.readline())
            assert key is not None
            yield url, key.group(1)
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()
            process.stderr.close()


def make_questions(store: ScanStore, scan_id: str) -> list[Question]:
    """Return requests for chunks, frames and groups of a store, and their answers."""
    base = f"/v1/scans/{scan_id}"
    shard = (Path(store.path) / shard_key(0)).read_bytes()
    rng = random.Random(0)
    questions = [Question(f"{base}/zarr/{shard_key(0)}", {}, shard)]
    for _ in range(20):
        start = rng.randrange(len(shard) - 1)
        stop = rng.randrange(start + 1, len(shard))
        span = {"Range": f"bytes={start}-{stop - 1}"}
        questions.append(Question(f"{base}/zarr/{shard_key(0)}", span, shard[start:stop]))
    for index in rng.sample(range(store.n_frames), min(20, store.n_frames)):
        frame = store.amplitude(np.array([index]))[0].tobytes()
        questions.append(Question(f"{base}/frames/{index}.npy", {}, frame))
    for seed in range(4):
        table = group_table(store, GroupingConfig(gridsize=2, n_neighbors=6, seed=seed))
        query = f"gridsize=2&n_neighbors=6&seed={seed}"
        questions.append(Question(f"{base}/groups?{query}", {}, table.nn_indices.tobytes()))
    return questions


class Load:
    """Clients in threads, each with one connection that it keeps."""

    def __init__(self, url: str, key: str, questions: list[Question]) -> None:
        self._address = urlsplit(url).netloc
        self._key = key
        self._questions = questions
        self._lock = threading.Lock()
        self._report = LoadReport()

    def run(self, seconds: float, n_clients: int = 64) -> LoadReport:
        """Ask for `seconds`; return what came back."""
        began = time.perf_counter()
        until = began + seconds
        threads = [
            threading.Thread(target=self._ask_until, args=(until, number))
            for number in range(n_clients)
        ]
        for thread in threads:
            thread.start()
        alive = threading.Event()
        for tick in range(1, 11):
            alive.wait(max(0.0, began + tick * seconds / 10 - time.perf_counter()))
            self._report.memory_bytes.append(self._memory())
        for thread in threads:
            thread.join()
        self._report.seconds = time.perf_counter() - began
        return self._report

    def _ask_until(self, until: float, number: int) -> None:
        rng = random.Random(number)
        connection = http.client.HTTPConnection(self._address, timeout=60)
        try:
            while time.perf_counter() < until:
                self._ask(connection, rng.choice(self._questions))
        except (OSError, http.client.HTTPException) as error:
            with self._lock:
                self._report.problems.append(f"client {number}: {error!r}")
        finally:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection, question: Question) -> None:
        headers = {"Authorization": f"Bearer {self._key}", **question.headers}
        connection.request("GET", question.path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        is_right = answer.status in (200, 206) and body.endswith(question.content)
        with self._lock:
            if is_right:
                self._report.n_requests += 1
                self._report.n_bytes += len(body)
            else:
                what = f"{question.path} {question.headers}: {answer.status} {body[:200]!r}"
                self._report.problems.append(what)

    def _memory(self) -> int:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        try:
            connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {self._key}"})
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        found = re.search(r"^ptyzarr_resident_memory_bytes (\d+)$", text, re.MULTILINE)
        assert found is not None
        return int(found.group(1))


def run_load(root: Path, scan_id: str, seconds: float, n_clients: int = 64) -> LoadReport:
    """Serve a folder in a process of its own and let many clients read one scan of it."""
    questions = make_questions(open_store(root / f"{scan_id}.zarr"), scan_id)
    with served(root) as (url, key):
        return Load(url, key, questions).run(seconds, n_clients)
