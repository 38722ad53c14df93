"""Whatever is sent, the service lives; its errors are JSON and tell nothing of the machine."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from urllib.parse import quote

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service.webclient import Client

STATUSES = {200, 206, 304, 400, 401, 404, 405, 408, 413, 416}

segments = st.one_of(
    st.sampled_from(
        [
            "v1", "scans", "first", "second", "zarr", "zarr.json", "diffraction", "c", "0", "map",
            "groups", "frames", "0.npy", "0.png", "-1.npy", "nan.png", "mean.png", "probe",
            "phase.png", "object.npy", "batch", "page", "metrics", "openapi.json", "..", ".", "",
            "%2e%2e", "%2f", "%5c", "%00", "first.zarr", ".ptyzarr-cache", "00", "+0", "%D9%A0",
        ]
    ),
    st.text(max_size=20).map(lambda text: quote(text, safe="")),
    st.binary(max_size=8).map(lambda raw: "".join(f"%{byte:02X}" for byte in raw)),
)  # fmt: skip
names = st.sampled_from(
    ["cursor", "limit", "gridsize", "n_neighbors", "n_samples", "seed", "position", "scale", "vmin",
     "vmax", "pmin", "pmax", "cmap", "size", "mode", "key"]
)  # fmt: skip
values = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["log", "linear", "gray", "phase", "nan", "inf", "1e3", "0x1", "", "٣", "-0"]),
    st.text(max_size=10),
)
paths = st.builds(
    lambda parts, query: "/" + "/".join(parts) + ("?" if query else "") + query,
    st.lists(segments, max_size=7),
    st.lists(st.tuples(names, values), max_size=3).map(
        lambda pairs: "&".join(f"{name}={quote(value, safe='')}" for name, value in pairs)
    ),
)
scan_paths = paths.map(lambda path: f"/v1/scans/first{path}")
ranges = st.one_of(
    st.builds("bytes={}-{}".format, st.integers(0, 10**5), st.integers(0, 10**5)),
    st.builds("bytes=-{}".format, st.integers(0, 10**30)),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
)
methods = st.sampled_from(["GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "X"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
bodies = st.one_of(
    st.binary(max_size=50),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.lists(st.integers(-5, 50)).map(lambda found: json.dumps({"indices": found}).encode()),
    json_values.map(lambda value: json.dumps({"indices": value}).encode()),
)
quickly = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check_problem(body: bytes, root: Path) -> None:
    problem = json.loads(body)
    assert set(problem) == {"code", "message"}
    assert str(root) not in problem["message"]
    assert "Traceback" not in problem["message"]
    assert "\n" not in problem["message"]
    assert len(problem["message"]) < 400


@quickly
@given(method=methods, path=st.one_of(paths, scan_paths), span=ranges, has_key=st.booleans())
def test_any_path_and_query_get_a_fitting_answer(
    client: Client, root: Path, method: str, path: str, span: str, has_key: bool
) -> None:
    answer = client.ask(path, method, key=client.key if has_key else None, Range=span)
    assert answer.status in STATUSES
    if answer.status >= 400 and method != "HEAD":
        check_problem(answer.body, root)
    if not has_key and answer.status < 400:
        assert path.partition("?")[0] in ("/", "/page/index.html", "/healthz", "/version")


@quickly
@given(body=bodies)
def test_any_batch_gets_a_fitting_answer(client: Client, root: Path, body: bytes) -> None:
    answer = client.ask("/v1/scans/first/batch", "POST", body)
    assert answer.status in (200, 400, 413)
    if answer.status != 200:
        check_problem(answer.body, root)


@quickly
@given(
    name=names, value=values, route=st.sampled_from(["groups", "frames/1.png", "probe/phase.png"])
)
def test_any_parameter_gets_a_fitting_answer(
    client: Client, root: Path, name: str, value: str, route: str
) -> None:
    answer = client.ask(f"/v1/scans/first/{route}?{name}={quote(value, safe='')}")
    assert answer.status in (200, 400, 404, 413)
    if answer.status != 200:
        check_problem(answer.body, root)


def exchange(address: str, sent: bytes, half_close: bool = True) -> bytes:
    """Return what comes back for bytes that may be no HTTP, until the connection is closed."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        received = b""
        try:
            connection.sendall(sent)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(2**16):
                received += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
    return received


LINES = [
    b"GET / HTTP/1.1", b"GET / HTTP/1.0", b"GET / HTTP/9.9", b"GET /", b"OPTIONS * HTTP/1.1",
    b"GET http://evil.example/v1/scans HTTP/1.1", b"CONNECT evil.example:443 HTTP/1.1",
    b"GET /%FF%FE HTTP/1.1", b"GET /\xff HTTP/1.1", b"PRI * HTTP/2.0", b"GET \x00 HTTP/1.1",
]  # fmt: skip
HEADERS = [
    b"Host: localhost", b"Host: localhost\r\nHost: localhost", b"Host: evil.example",
    b"Content-Length: -1", b"Content-Length: 5", b"Content-Length: 99999999999999",
    b"Content-Length: 1\r\nContent-Length: 2", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip", b"Authorization: Bearer \xff", b"Connection: upgrade",
    b"Upgrade: websocket", b"Expect: 100-continue",
]  # fmt: skip
heads = st.builds(
    lambda line, headers: b"\r\n".join([line, *headers, b"", b""]),
    st.binary(max_size=40) | st.sampled_from(LINES),
    st.lists(st.binary(max_size=30) | st.sampled_from(HEADERS), max_size=4),
)


@quickly
@given(sent=st.one_of(st.binary(max_size=200), heads, st.tuples(heads, heads).map(b"".join)))
def test_any_bytes_leave_the_service_alive(client: Client, root: Path, sent: bytes) -> None:
    received = exchange(client.address, sent)
    if received:
        head, _, body = received.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        assert status in STATUSES
        length = re.search(rb"\r\ncontent-length: (\d+)", head.lower())
        if status >= 400 and length and not sent.startswith(b"HEAD"):
            check_problem(body[: int(length.group(1))], root)
    assert client.ask("/healthz").status == 200


def test_a_head_without_end_is_refused(client: Client, root: Path) -> None:
    received = exchange(client.address, b"GET / HTTP/1.1\r\nX: " + b"y" * 60_000)
    assert received.startswith(b"HTTP/1.1 400 ")
    check_problem(received.partition(b"\r\n\r\n")[2], root)


def test_requests_in_one_go_are_answered_in_order(client: Client) -> None:
    head = f"Host: localhost\r\nAuthorization: Bearer {client.key}\r\n"
    asked = [
        f"GET /v1/scans/first/zarr/{key} HTTP/1.1\r\n{head}"
        for key in ("zarr.json", "diffraction/zarr.json", "nothing")
    ]
    sent = "\r\n".join(asked) + "Connection: close\r\n\r\n"
    received = exchange(client.address, sent.encode(), half_close=False)
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", received)]
    assert statuses == [200, 200, 404]
