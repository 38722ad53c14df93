"""A shuffled epoch of a store that is far away, beside the folder, by latency.

    python benchmarks/remote.py --scan small --latency 0 0.02 0.1

A server of this script, in a process of its own, waits before each answer and gives its answers one
after another at `--bandwidth`. It shares the cores with the loader, so only ratios mean something.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from scans import add_arguments, scan_store
from tables import Cell, Table, save_tables

import ptyzarr
from ptyzarr.store import ScanStore

_GROUPS = ptyzarr.GroupingConfig(gridsize=2, n_neighbors=6)


def main(arguments: list[str] | None = None) -> int:
    """Measure, or serve; return the exit status."""
    options = parse(arguments)
    if options.serve is not None:
        serve(options.serve, options.latency[0], options.bandwidth)
        return 0
    run(options)
    return 0


def run(options: argparse.Namespace) -> Table:
    """Measure epochs of the folder, of URLs, with a cold and a warm cache, and of a staged copy."""
    store = scan_store(options.scan, options.cache)
    root = Path(store.path)
    epoch(store, options.memory)  # what is compiled, and the page cache
    folder = max(epoch(store, options.memory) for _ in range(options.rounds))
    rows: list[list[Cell]] = [["folder", folder, 1.0, None, None]]
    for latency in options.latency:
        with served(root.parent, latency, options.bandwidth) as address:
            url, name = f"{address}/{root.name}", f"{1000 * latency:.0f} ms away"
            with tempfile.TemporaryDirectory(dir=options.cache) as cache:
                for label, kept in (("", None), (", cold cache", cache), (", warm cache", cache)):
                    asked = traffic(address)  # starts counting
                    far = ptyzarr.open_store(url, cache=kept)
                    rate = epoch(far, options.memory)
                    asked = traffic(address)
                    far.close()
                    rows.append([name + label, rate, rate / folder, asked[0], asked[1] / 2**20])
    table = Table(
        name="remote",
        title="Epochs of stores that are far away",
        columns=("store", "groups/s", "of the folder", "requests", "MiB fetched"),
        rows=rows,
        conditions={
            "scan": options.scan,
            "frames": store.n_frames,
            "frame_size": store.frame_size,
            "stored_MiB": round(store.bytes_stored / 2**20),
            "memory": options.memory,
            "bandwidth_MB_per_s": options.bandwidth,
        },
    )
    save_tables([table], options.out / "remote.json")
    return table


def epoch(store: ScanStore, memory: str) -> float:
    """Return groups a second of one shuffled epoch, the small arrays included."""
    config = ptyzarr.LoaderConfig(device="numpy", memory=memory)
    with ptyzarr.GroupLoader(store, _GROUPS, config) as loader:
        began = time.perf_counter()
        for batch in loader:
            del batch
        return loader.n_groups / (time.perf_counter() - began)


@contextlib.contextmanager
def served(root: Path, latency_s: float, bandwidth: float) -> Iterator[str]:
    """Run the server in a process of its own; yield its address."""
    command = [
        sys.executable, __file__, "--serve", str(root), "--latency", str(latency_s),
        "--bandwidth", str(bandwidth),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def traffic(address: str) -> tuple[int, int]:
    """Return requests and bytes since the last call."""
    with urllib.request.urlopen(f"{address}/traffic") as answer:
        n_requests, n_bytes = answer.read().split()
    return int(n_requests), int(n_bytes)


def serve(root: Path, latency_s: float, bandwidth: float) -> None:
    """Serve a folder, slowly, until killed; print the port."""
    server = _SlowServer(root, latency_s, bandwidth * 1e6)
    print(server.server_port, flush=True)
    server.serve_forever()


class _SlowServer(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def __init__(self, root: Path, latency_s: float, bytes_per_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.latency_s, self.bytes_per_s = root, latency_s, bytes_per_s
        self.counts = [0, 0]
        self.lock = threading.Lock()
        self.is_free_at = 0.0

    def wait(self, nbytes: int) -> None:
        """Wait as long as the answer would take on its way."""
        time.sleep(self.latency_s)
        with self.lock:
            self.counts[0] += 1
            self.counts[1] += nbytes
            now = time.monotonic()
            self.is_free_at = max(self.is_free_at, now) + nbytes / self.bytes_per_s
            left = self.is_free_at - now
        time.sleep(left)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _SlowServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET(has_body=False)

    def do_GET(self, *, has_body: bool = True) -> None:
        if self.path == "/traffic":
            counts, self.server.counts = self.server.counts, [0, 0]
            self.send({}, "{} {}".format(*counts).encode(), 200)
            return
        try:
            fd = os.open(self.server.root / self.path.lstrip("/"), os.O_RDONLY)
        except OSError:
            self.send({}, b"", 404)
            return
        try:
            self.send_part(fd, has_body=has_body)
        finally:
            os.close(fd)

    def send_part(self, fd: int, *, has_body: bool) -> None:
        status = os.fstat(fd)
        start, stop, code = 0, status.st_size, 200
        headers = {"ETag": f'"{status.st_mtime_ns:x}"'}
        asked = self.headers.get("Range")
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            start, stop, code = int(first), int(last) + 1, 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{status.st_size}"
        body = os.pread(fd, stop - start, start) if has_body else b""
        self.server.wait(len(body))
        self.send(headers, body, code, stop - start)

    def send(
        self, headers: dict[str, str], body: bytes, code: int, length: int | None = None
    ) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--latency", type=float, nargs="+", default=[0.0, 0.02, 0.1], help="s")
    parser.add_argument("--bandwidth", type=float, default=200.0, help="MB/s of all answers")
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--rounds", type=int, default=3, help="of the folder; the best counts")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
