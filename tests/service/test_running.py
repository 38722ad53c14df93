from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from service.webclient import Answer, Client, connect, head

from ptyzarr.config import ServiceConfig
from ptyzarr.ingestion import ingest
from ptyzarr.service import science, serve_background

FRAME = "/v1/scans/first/frames/0.npy"
RUNNING = re.compile(rb"^ptyzarr_requests_running (\d+)$", re.MULTILINE)


class Gate:
    """Holds what a route computes until it is opened."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def hold(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def held(*arguments: Any) -> Any:
            self.entered.set()
            assert self.opened.wait(30)
            return call(*arguments)

        return held


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Frames as npy and group tables wait for this gate."""
    gate = Gate()
    for name in ("amplitude_frame", "draw_groups"):
        monkeypatch.setattr(science, name, gate.hold(getattr(science, name)))
    yield gate
    gate.opened.set()


class Asking(threading.Thread):
    """One request in a thread."""

    def __init__(self, client: Client, path: str) -> None:
        super().__init__()
        self._client, self._path = client, path
        self.answer: Answer | None = None
        self.start()

    def run(self) -> None:
        self.answer = self._client.ask(self._path)

    def result(self) -> Answer:
        self.join(30)
        assert self.answer is not None
        return self.answer


def read_all(connection: socket.socket) -> bytes:
    received = b""
    try:
        while piece := connection.recv(2**16):
            received += piece
    except ConnectionResetError:
        pass
    return received


def wait_until_alone(client: Client) -> None:
    while True:
        match = RUNNING.search(client.ask("/metrics").body)
        if match is not None and match.group(1) == b"1":
            return


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET / HT", id="half a line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", id="half a head"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", id="nothing after one"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET", id="half after one"),
    ],
)
def test_who_sends_no_whole_request_is_cut_off(
    root: Path, start: Callable[..., Client], sent: bytes
) -> None:
    client = start(root, client_timeout_s=0.3)
    with connect(client) as connection:
        connection.sendall(sent)
        received = read_all(connection)
    assert received.startswith(b"HTTP/1.1 200") or (b"healthz" not in sent and not received)
    assert client.ask("/healthz").status == 200


def test_a_body_that_does_not_come_is_not_waited_for(
    root: Path, start: Callable[..., Client]
) -> None:
    client = start(root, client_timeout_s=0.3)
    with connect(client) as connection:
        path = "/v1/scans/first/batch"
        connection.sendall(head(client, path, "POST", "Content-Length: 100\r\n") + b"{")
        received = read_all(connection)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["code"] == "timeout"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one file that no socket's buffers hold."""
    folder = tmp_path_factory.mktemp("large")
    noise = np.random.default_rng(0).integers(0, 256, 24 * 1024**2, np.uint8)
    source = synthetic.make_npz(folder / "a.npz", noise=noise)
    ingest(source, folder / "served" / "first.zarr").close()
    return folder / "served"


LARGE = "/v1/scans/first/zarr/extra/noise/c/0"


def test_who_takes_nothing_is_cut_off_and_holds_nobody(
    large: Path, start: Callable[..., Client]
) -> None:
    client = start(large, client_timeout_s=0.5)
    sleepers = [connect(client, 4096) for _ in range(20)]
    for sleeper in sleepers:
        sleeper.sendall(head(client, LARGE))
    for _ in range(3):
        assert client.ask(FRAME).status == 200
    assert client.ask(LARGE).status == 200
    wait_until_alone(client)
    for sleeper in sleepers:
        sleeper.close()


def test_who_hangs_up_in_the_middle_leaves_no_open_file(
    large: Path, start: Callable[..., Client]
) -> None:
    client = start(large)
    with connect(client) as connection:
        connection.sendall(head(client, LARGE))
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    wait_until_alone(client)
    paths = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert not [path for path in paths if path.startswith(str(large)) and "noise" in path]


def test_a_file_that_is_cut_while_it_is_sent_ends_in_a_broken_connection(
    large: Path, tmp_path: Path, start: Callable[..., Client]
) -> None:
    shutil.copytree(large / "first.zarr", tmp_path / "first.zarr")
    path = tmp_path / "first.zarr" / "extra" / "noise" / "c" / "0"
    client = start(tmp_path)
    with connect(client, 4096) as connection:
        connection.sendall(head(client, LARGE))
        first = connection.recv(1000)
        os.truncate(path, 1000)
        received = first + read_all(connection)
    body = received.partition(b"\r\n\r\n")[2]
    assert 0 < len(body) < 24 * 1024**2
    assert client.ask("/healthz").status == 200


def test_small_answers_are_sent_at_once(client: Client) -> None:
    with connect(client) as connection:
        connection.sendall(head(client, "/healthz"))
        assert connection.recv(1000)
        ours = connection.getsockname()
        sockets = [found for found in gc.get_objects() if type(found) is socket.socket]
        (accepted,) = [found for found in sockets if is_connected_to(found, ours)]
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def is_connected_to(candidate: socket.socket, address: object) -> bool:
    try:
        return candidate.getpeername() == address
    except OSError:
        return False


def test_a_request_beyond_the_limit_is_told_to_come_again_after_some_time(
    root: Path, start: Callable[..., Client], gate: Gate
) -> None:
    client = start(root, max_requests=1, queue_timeout_s=0.1)
    first = Asking(client, FRAME)
    assert gate.entered.wait(30)
    refused = client.ask("/v1/scans")
    assert (refused.status, refused.json["code"]) == (503, "busy")
    assert refused.headers["retry-after"] == "1"
    assert client.ask("/healthz").status == 200
    gate.opened.set()
    assert first.result().status == 200
    counted = 'route="/v1/scans",method="GET",status="503"'
    assert f"ptyzarr_requests_total{{{counted}}} 1\n" in client.ask("/metrics").body.decode()


def test_a_request_beyond_the_limit_waits_for_those_before_it(
    root: Path, start: Callable[..., Client], gate: Gate
) -> None:
    client = start(root, max_requests=1)
    asked = [Asking(client, FRAME)]
    assert gate.entered.wait(30)
    asked += [
        Asking(client, path) for path in (FRAME, "/v1/scans", "/v1/scans/first/zarr/zarr.json")
    ]
    gate.opened.set()
    assert [asking.result().status for asking in asked] == [200] * 4


def test_more_connections_than_allowed_are_refused(
    root: Path, start: Callable[..., Client]
) -> None:
    client = start(root, max_connections=2)
    with connect(client) as one, connect(client) as two:
        for connection in (one, two):
            connection.sendall(head(client, "/healthz"))
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        answer = client.ask("/healthz")
        assert (answer.status, answer.json["code"]) == (503, "busy")


def test_an_answer_that_takes_too_long_is_given_up_and_found_later(
    root: Path, start: Callable[..., Client], gate: Gate
) -> None:
    client = start(root, timeout_s=0.2)
    path = "/v1/scans/first/groups?gridsize=2&n_neighbors=7"
    answer = client.ask(path)
    assert (answer.status, answer.json["code"]) == (503, "timeout")
    assert answer.headers["retry-after"] == "5"
    gate.opened.set()
    while client.ask(path).status == 503:
        pass
    assert client.ask(path).npy.shape == (40, 4)


def test_long_work_does_not_hold_up_frames(
    root: Path, start: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    monkeypatch.setattr(science, "draw_groups", gate.hold(science.draw_groups))
    client = start(root, n_threads=1)
    waiting = [Asking(client, f"/v1/scans/first/groups?seed={seed}") for seed in range(4)]
    assert gate.entered.wait(30)
    assert client.ask(FRAME).status == 200
    assert client.ask("/v1/scans/first/zarr/zarr.json").status == 200
    gate.opened.set()
    assert [asking.result().status for asking in waiting] == [200] * 4


def test_a_request_that_runs_is_finished_at_the_end(root: Path, gate: Gate) -> None:
    service = serve_background(root)
    asking = Asking(Client(service.url, service.key), FRAME)
    assert gate.entered.wait(30)
    closing = threading.Thread(target=service.close)
    closing.start()
    while True:
        try:
            socket.create_connection(("127.0.0.1", int(service.url.rsplit(":", 1)[1]))).close()
        except ConnectionRefusedError:
            break
    gate.opened.set()
    assert asking.result().status == 200
    closing.join(30)
    assert not closing.is_alive()


def test_the_end_does_not_wait_for_who_takes_nothing(large: Path) -> None:
    service = serve_background(large, ServiceConfig(port=0, shutdown_timeout_s=0.5))
    client = Client(service.url, service.key)
    with connect(client, 4096) as sleeper:
        sleeper.sendall(head(client, LARGE))
        assert sleeper.recv(10)
        service.close()
        assert len(read_all(sleeper)) < 24 * 1024**2


def test_a_fault_is_logged_and_told_without_its_reasons(
    root: Path,
    start: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("the reason")

    monkeypatch.setattr(science, "amplitude_frame", fail)
    client = start(root)
    with caplog.at_level(logging.ERROR):
        answer = client.ask(FRAME)
    assert (answer.status, answer.json["code"]) == (500, "fault")
    assert "reason" not in answer.body.decode()
    assert "content-security-policy" in answer.headers
    while "the reason" not in caplog.text:
        pass  # it is logged after the answer
    assert client.ask("/v1/scans").status == 200


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run Python with arguments; yield the process, which is killed at the end if it still runs."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_a_signal(root: Path, number: signal.Signals) -> None:
    with started("-m", "ptyzarr", "serve", str(root), "--port", "0", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        facts = json.loads(process.stdout.readline())
        assert f"at {facts['url']}" in process.stderr.readline()
        key = process.stderr.readline().split()[-1]
        client = Client(facts["url"], key)
        assert client.ask("/v1/scans").json["n_scans"] == 2
        assert client.ask("/v1/scans", key=None).status == 401
        process.send_signal(number)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


#: A service in which some call waits for a pipe that nobody writes to, as a dead mount would.
HANGING = """
import sys
from concurrent.futures import ThreadPoolExecutor
root, pipe, where = sys.argv[1:]
from ptyzarr.cli import main
from ptyzarr.service import catalogue, science

def hang(*_):
    print("hangs", flush=True)
    open(pipe, "rb").read()

def hang_inside(*_):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(hang).result()

if where == "listing":
    catalogue.Catalogue.ids = hang
elif where == "file":
    catalogue.check_sizes = hang
else:
    science.draw_groups = hang_inside
flags = ["--port", "0", "--no-key", "--json", "--shutdown-timeout-s", "0.5"]
sys.exit(main(["serve", root, *flags]))
"""


@pytest.mark.parametrize(
    ("where", "path"),
    [
        pytest.param("listing", "/v1/scans", id="listing"),
        pytest.param("file", "/v1/scans/first", id="file"),
        pytest.param("pool", "/v1/scans/first/groups", id="threads of a library"),
    ],
)
def test_a_file_system_that_does_not_answer_does_not_keep_the_command_from_ending(
    root: Path, tmp_path: Path, where: str, path: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with started("-c", HANGING, str(root), str(tmp_path / "pipe"), where) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        client = Client(json.loads(process.stdout.readline())["url"], None)
        with connect(client) as connection:
            connection.sendall(head(client, path))
            assert process.stdout.readline() == "hangs\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
        assert len(process.stderr.read().splitlines()) == 1
