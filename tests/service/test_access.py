from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from service.webclient import Client

from ptyzarr.config import ServiceConfig
from ptyzarr.errors import ConfigError, StorageError
from ptyzarr.service import create_app, serve_background
from ptyzarr.service.access import Keys, read_keys


@pytest.mark.parametrize(
    ("header", "is_admitted"),
    [
        pytest.param("Bearer right", True, id="right"),
        pytest.param("bearer right", True, id="scheme in lower case"),
        pytest.param("Bearer other", True, id="second key"),
        pytest.param("Bearer wrong", False, id="wrong"),
        pytest.param("Bearer right2", False, id="longer"),
        pytest.param("Bearer righ", False, id="shorter"),
        pytest.param("Bearer ", False, id="empty"),
        pytest.param("right", False, id="no scheme"),
        pytest.param("Basic right", False, id="other scheme"),
        pytest.param("Bearer right right", False, id="twice"),
        pytest.param("Bearer r\udcffght", False, id="no text"),
        pytest.param("", False, id="nothing"),
        pytest.param(None, False, id="no header"),
    ],
)
def test_only_a_key_of_the_list_is_admitted(header: str | None, is_admitted: bool) -> None:
    assert Keys(["right", "other"]).admit(header) is is_admitted


def test_keys_are_held_as_digests_only() -> None:
    assert "right" not in repr(vars(Keys(["right-and-secret"])))


def test_a_random_key_is_new_every_time(root: Path) -> None:
    with serve_background(root) as one, serve_background(root) as other:
        assert one.key is not None
        assert len(one.key) >= 32
        assert one.key != other.key
        assert Client(other.url, one.key).ask("/v1/scans").status == 401


def test_the_key_is_never_logged(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        client.ask("/v1/scans")
        client.ask("/v1/scans", key="a-wrong-key-of-somebody")
        client.ask("/nowhere")
    assert client.key is not None
    assert client.key not in caplog.text
    assert "a-wrong-key" not in caplog.text


def test_a_key_in_the_url_is_no_key(client: Client) -> None:
    for name in ("key", "token", "access_token"):
        assert client.ask(f"/v1/scans?{name}={client.key}", key=None).status == 401


def test_unknown_paths_need_the_key_too(client: Client) -> None:
    for path in ("/nowhere", "/v1", "/v1/scans/none", "/page/none.js", "//", "/v1/scans/", "/."):
        assert client.ask(path, key=None).status == 401
        assert client.ask(path).status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/page/../v1/scans",
        "/page/..%2fv1%2fscans",
        "/page/%2e%2e/v1/scans",
        "//v1/scans",
        "/healthz/../v1/scans",
        "/healthz%00",
        "/version/",
        "/V1/scans",
        "/v1//scans",
    ],
)
def test_no_spelling_of_a_path_gets_around_the_key(client: Client, path: str) -> None:
    assert client.ask(path, key=None).status == 401
    assert client.ask(path).status == 404


def test_a_key_file_names_the_keys(
    root: Path, tmp_path: Path, start: Callable[..., Client]
) -> None:
    path = tmp_path / "keys"
    path.write_text("# of the group\nalpha-key\n\n  beta-key  \n")
    assert read_keys(str(path)) == ["alpha-key", "beta-key"]
    client = start(root, key_file=str(path))
    assert client.key is None
    assert client.ask("/v1/scans", key="beta-key").status == 200
    assert client.ask("/v1/scans", key="# of the group").status == 401
    assert client.ask("/v1/scans", key=None).status == 401


@pytest.mark.parametrize(
    "content", [pytest.param("\n# none\n", id="none"), pytest.param("two words\n", id="blank")]
)
def test_a_key_file_without_a_usable_key_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(ConfigError, match="expected") as caught:
        read_keys(str(path))
    assert "two words" not in str(caught.value)


def test_a_key_file_that_cannot_be_read_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        serve_background(root, ServiceConfig(port=0, key_file=str(tmp_path / "none")))


def test_without_keys_everyone_on_this_machine_may_ask(
    root: Path, start: Callable[..., Client]
) -> None:
    client = start(root, no_key=True)
    assert client.key is None
    assert client.ask("/v1/scans").status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "beamline.example", ""])
def test_no_key_is_for_loopback_only(host: str) -> None:
    with pytest.raises(ConfigError):
        ServiceConfig(host=host, no_key=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_no_key_is_allowed_on_loopback(host: str) -> None:
    assert ServiceConfig(host=host, no_key=True).is_loopback


@pytest.mark.parametrize(
    ("host", "status"),
    [
        pytest.param("localhost", 200, id="localhost"),
        pytest.param("localhost:8000", 200, id="with port"),
        pytest.param("LOCALHOST", 200, id="capitals"),
        pytest.param("localhost.", 200, id="dot at the end"),
        pytest.param("Data.Example.:80", 200, id="allowed, dot and port"),
        pytest.param("127.0.0.1:9", 200, id="address"),
        pytest.param("[::1]:8000", 200, id="address of six"),
        pytest.param("[::1]", 200, id="address of six without port"),
        pytest.param(socket.gethostname(), 200, id="this machine"),
        pytest.param("data.example", 200, id="allowed"),
        pytest.param("evil.example", 400, id="foreign"),
        pytest.param("evil.example:8000", 400, id="foreign with port"),
        pytest.param("localhost.evil.example", 400, id="ours as a prefix"),
        pytest.param("localhost..", 400, id="two dots"),
        pytest.param("localhost:evil", 400, id="no port"),
        pytest.param("evil.example#localhost", 400, id="fragment"),
        pytest.param("user@localhost", 400, id="user"),
        pytest.param("", 400, id="empty"),
    ],
)
def test_the_service_answers_to_its_own_names_only(
    root: Path, start: Callable[..., Client], host: str, status: int
) -> None:
    client = start(root, allowed_hosts=("data.example",))
    for path in ("/v1/scans", "/", "/healthz"):
        answer = client.ask(path, Host=host)
        assert answer.status == status
    if status == 400:
        assert client.ask("/v1/scans", Host=host).json["code"] == "host"


@pytest.mark.parametrize(
    "origin",
    ["*", "https://lab.example", "http://localhost:8080", "http://[::1]:3000", "http://10.0.0.7"],
)
def test_origins_are_named_as_browsers_do(origin: str) -> None:
    assert ServiceConfig(cors_origins=(origin,)).cors_origins == (origin,)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        pytest.param("http://localhost/v1/scans", 200, id="ours"),
        pytest.param("HTTP://127.0.0.1:8000/v1/scans?limit=1", 200, id="address and query"),
        pytest.param("http://localhost", 200, id="no path"),
        pytest.param("http://evil.example/v1/scans", 400, id="foreign"),
        pytest.param("http://user@localhost/v1/scans", 400, id="user"),
        pytest.param("http://localhost/v1/%2e%2e/v1/scans", 404, id="hidden dots"),
        pytest.param("ftp://localhost/v1/scans", 404, id="other scheme"),
    ],
)
def test_a_whole_url_as_target_is_taken_if_it_is_ours(
    client: Client, target: str, status: int
) -> None:
    assert client.ask(target, Host="localhost").status == status
    assert client.ask(target, Host="localhost", key=None).status in (401, 400) or "v1" not in target


def test_pages_of_other_sites_may_not_ask(client: Client) -> None:
    answer = client.ask("/v1/scans", Origin="https://lab.example")
    assert "access-control-allow-origin" not in answer.headers
    assert client.ask("/v1/scans", "OPTIONS", key=None).status == 401


def test_pages_of_named_sites_may_ask(root: Path, start: Callable[..., Client]) -> None:
    client = start(root, cors_origins=("https://lab.example",))
    asked = {"Origin": "https://lab.example", "Access_Control_Request_Method": "GET"}
    allowed = client.ask(
        "/v1/scans", "OPTIONS", key=None, Access_Control_Request_Headers="authorization", **asked
    )
    assert allowed.status == 200
    answer = client.ask("/v1/scans", Origin="https://lab.example")
    assert answer.headers["access-control-allow-origin"] == "https://lab.example"
    assert "Content-Range" in answer.headers["access-control-expose-headers"]
    assert client.ask("/v1/scans", Origin="https://lab.example", key=None).status == 401
    other = client.ask("/v1/scans", Origin="https://evil.example")
    assert "access-control-allow-origin" not in other.headers


def test_every_answer_forbids_what_no_page_of_ours_needs(client: Client) -> None:
    for path, key in (("/", None), ("/v1/scans", client.key), ("/v1/scans", None), ("/x", None)):
        headers = client.ask(path, key=key).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers


def test_a_body_that_is_too_large_is_refused(root: Path, start: Callable[..., Client]) -> None:
    client = start(root, max_request_size="1KiB")
    answer = client.ask("/v1/scans/first/batch", "POST", b" " * 1025)
    assert (answer.status, answer.json["code"]) == (413, "too_large")
    with socket.create_connection(tuple(client.address.split(":"))) as connection:
        head = (
            "POST /v1/scans/first/batch HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {client.key}\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        connection.sendall(head.encode())
        connection.sendall(b"401\r\n" + b" " * 1025 + b"\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "POST", "TRACE", "PROPFIND"])
def test_nothing_can_be_written(client: Client, method: str) -> None:
    for path in ("/v1/scans/first/zarr/zarr.json", "/v1/scans/first", "/v1/scans"):
        answer = client.ask(path, method)
        assert (answer.status, answer.json["code"]) == (405, "method")


def test_an_app_of_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        create_app(tmp_path / "none", keys=["k"])


def test_an_address_that_is_taken_is_refused(root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = ServiceConfig(port=taken.getsockname()[1])
        with pytest.raises(ConfigError, match="choose another --host or --port"):
            serve_background(root, config)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"port": 65536}, id="port"),
        pytest.param({"port": -1}, id="negative port"),
        pytest.param({"cors_origins": "https://lab.example"}, id="origins as one text"),
        pytest.param({"cors_origins": ("x y",)}, id="no origin"),
        pytest.param({"cors_origins": ("lab.example",)}, id="origin without scheme"),
        pytest.param({"cors_origins": ("https://lab.example/",)}, id="origin with path"),
        pytest.param({"cors_origins": ("https://Lab.example",)}, id="origin in capitals"),
        pytest.param({"allowed_hosts": ("",)}, id="empty name"),
        pytest.param({"timeout_s": 0}, id="no time"),
        pytest.param({"timeout_s": float("nan")}, id="no number"),
        pytest.param({"shutdown_timeout_s": True}, id="no seconds"),
        pytest.param({"max_requests": 0}, id="no requests"),
        pytest.param({"max_batch_size": "much"}, id="no size"),
        pytest.param({"key_file": 3}, id="no path"),
        pytest.param({"key_file": "keys", "no_key": True}, id="keys and none"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"expected|exclude"):
        ServiceConfig(**options)
