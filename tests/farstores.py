"""Servers for tests of far-away stores: a folder over HTTP that fails on demand, and S3."""

from __future__ import annotations

import contextlib
import http.client
import threading
import urllib.request
from collections import defaultdict, deque
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class FolderServer:
    """Serves a folder over HTTP, byte for byte, and does what a test asks for once or always.

    Attributes
    ----------
    faults
        By key (the path below the folder), what the next requests for it meet, one after another:
        a status code, a pair of one and a body, "stall", "cut", "close", "wrong range", "short",
        "wrong size", "flip".
    always
        The same for every request for a key; "*" is every key.
    key
        If set, requests without ``Authorization: Bearer KEY`` get 401.
    gives_ranges, tells_version
        Whether ranges are answered, and files have an ETag and a time of modification.
    log : list of (method, key, range or None)
    n_sent : bytes of bodies sent
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.faults: dict[str, deque[Any]] = defaultdict(deque)
        self.always: dict[str, Any] = {}
        self.key: str | None = None
        self.gives_ranges = self.tells_version = True
        self.log: list[tuple[str, str, str | None]] = []
        self.n_sent = 0
        self.latency_s = 0.0
        self.released = threading.Event()
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def requests(self, part: str = "") -> list[tuple[str, str, str | None]]:
        """Return the requests so far for keys that hold `part`."""
        return [entry for entry in self.log if part in entry[1]]

    def close(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # header and body leave together
    disable_nagle_algorithm = True
    owner: FolderServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def _answer(self, *, has_body: bool) -> None:
        owner = self.owner
        key = self.path.lstrip("/")
        asked = self.headers.get("Range")
        with owner.lock:
            owner.log.append((self.command, key, asked))
            queue = owner.faults[key]
            fault = queue.popleft() if queue else owner.always.get(key, owner.always.get("*"))
        if owner.latency_s:
            owner.released.wait(owner.latency_s)
        if owner.key is not None and self.headers.get("Authorization") != f"Bearer {owner.key}":
            fault = 401
        path = owner.root / key
        if isinstance(fault, tuple):  # a status and the body that comes with it
            self._send(fault[0], {}, fault[1] if has_body else b"", len(fault[1]))
            return
        if isinstance(fault, int) or not path.is_file():
            said = b"no" if has_body and fault != 204 else b""
            self._send(fault if isinstance(fault, int) else 404, {}, said)
            return
        if fault == "close":
            self.close_connection = True
            return
        if fault == "stall":
            owner.released.wait(30)
            self.close_connection = True
            return
        self._send_file(path, asked if owner.gives_ranges else None, fault, has_body=has_body)

    def _send_file(self, path: Path, asked: str | None, fault: Any, *, has_body: bool) -> None:
        headers: dict[str, str] = {}
        status = path.stat()
        size = status.st_size
        if self.owner.tells_version:
            headers["ETag"] = f'"{status.st_mtime_ns:x}-{status.st_ino:x}-{size:x}"'
            headers["Last-Modified"] = formatdate(status.st_mtime, usegmt=True)
        start, stop, code = 0, size, 200
        if asked is not None:
            start, stop = _parse_range(asked, size)
            if start >= size:
                self._send(416, {"Content-Range": f"bytes */{size}"}, b"")
                return
            if fault == "wrong range":
                start, stop = start + 1, stop + 1
            total = size + (1 if fault == "wrong size" else 0)
            headers["Content-Range"], code = f"bytes {start}-{stop - 1}/{total}", 206
        with path.open("rb") as file:
            file.seek(start)
            body = file.read(stop - start)
        if asked is None and fault == "wrong size":
            body += b"!"
        if fault == "flip" and body:
            place = len(body) // 2
            body = body[:place] + bytes([body[place] ^ 4]) + body[place + 1 :]
        if fault == "short":
            body = body[:-1]
        self._send(code, headers, body if has_body else b"", len(body), is_cut=fault == "cut")

    def _send(
        self,
        code: int,
        headers: dict[str, str],
        body: bytes,
        length: int | None = None,
        *,
        is_cut: bool = False,
    ) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        sent = body[: len(body) // 2] if is_cut else body
        with contextlib.suppress(OSError):
            self.wfile.write(sent)
            self.wfile.flush()
        self.close_connection = self.close_connection or is_cut
        with self.owner.lock:
            self.owner.n_sent += len(sent)


def _parse_range(text: str, size: int) -> tuple[int, int]:
    first, last = text.removeprefix("bytes=").split("-")
    if not first:
        return size - int(last), size
    return int(first), min(int(last) + 1, size) if last else size


@contextlib.contextmanager
def serve_folder(root: Path) -> Iterator[FolderServer]:
    server = FolderServer(root)
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def serve_s3() -> Iterator[str]:
    """Run moto's S3 server; yield its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


class _Careless(BaseHTTPRequestHandler):
    """Hands everything on to an S3 server but the condition of a creation."""

    protocol_version = "HTTP/1.1"
    behind = ""
    refuses = False

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        headers = {k: v for k, v in self.headers.items() if k.lower() != "if-none-match"}
        if self.refuses and len(headers) < len(self.headers):
            self.rfile.read(length)
            self.send_response(501)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        connection = http.client.HTTPConnection(self.behind.removeprefix("http://"), timeout=30)
        connection.request(self.command, self.path, self.rfile.read(length), headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        if answer.getheader("Content-Length") is None:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET


@contextlib.contextmanager
def serve_careless_s3(behind: str, *, refuses: bool = False) -> Iterator[str]:
    """Run an S3 server that takes every creation, or none, whatever `If-None-Match` says."""
    handler = type("Handler", (_Careless,), {"behind": behind, "refuses": refuses})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_bucket(address: str, name: str) -> None:
    request = urllib.request.Request(f"{address}/{name}", method="PUT")
    urllib.request.urlopen(request).close()
