from __future__ import annotations

import http.server
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import synthetic

import ptyzarr
from ptyzarr.client import catalog
from ptyzarr.errors import ConfigError, DamagedStoreError, ScanNotFoundError, StorageError
from ptyzarr.ingestion import ingest
from ptyzarr.service import BackgroundService, serve_background
from ptyzarr.store import open_store


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("client")
    source = synthetic.make_npz(folder / "a.npz")
    ingest(source, folder / "served" / "run_2.zarr").close()
    for name in ("run_10", "run 1", "broken"):
        shutil.copytree(folder / "served" / "run_2.zarr", folder / "served" / f"{name}.zarr")
    (folder / "served" / "broken.zarr" / "frame_power" / "c" / "0").unlink()
    return folder / "served"


@pytest.fixture(scope="module")
def service(root: Path) -> Iterator[BackgroundService]:
    with serve_background(root) as running:
        yield running


def test_the_catalogue_is_a_list_of_scans(service: BackgroundService, root: Path) -> None:
    found = ptyzarr.catalog(service.url, key=service.key)
    assert [entry.id for entry in found] == ["broken", "run 1", "run_2", "run_10"]
    store = open_store(root / "run_2.zarr")
    entry = found["run_2"]
    assert entry == found[2]
    assert (entry.n_frames, entry.frame_size) == (40, 16)
    assert (entry.digest, entry.frames_digest) == (store.digest, store.frames_digest)
    assert entry.bytes_stored == store.bytes_stored
    assert entry.url == f"{service.url}/v1/scans/run_2/zarr"
    assert found["run 1"].url.endswith("/v1/scans/run%201/zarr")
    assert len(found[1:3]) == 2
    assert "4 scans: broken, run 1" in repr(found)


def test_an_entry_opens_its_store(service: BackgroundService, root: Path) -> None:
    entry = catalog(service.url, service.key)["run 1"]
    with_url, on_disk = entry.open(), open_store(root / "run 1.zarr")
    assert with_url.digest == on_disk.digest
    indices = np.array([5, 0, 39])
    np.testing.assert_array_equal(with_url.amplitude(indices), on_disk.amplitude(indices))


def test_the_stores_of_a_service_are_opened_by_a_pattern(
    service: BackgroundService, root: Path
) -> None:
    scans = catalog(service.url, service.key)
    whole = [entry.id for entry in scans if entry.error is None]
    found = scans.open_stores(f"{whole[0]}*")
    assert found[0].digest == scans[whole[0]].digest
    assert np.array_equal(found[0].positions, scans[whole[0]].open().positions)
    with pytest.raises(ScanNotFoundError, match="matches 'none_"):
        scans.open_stores("none_*")
    with pytest.raises(DamagedStoreError):
        scans.open_stores()


def test_a_damaged_store_is_named_and_not_opened(service: BackgroundService) -> None:
    entry = catalog(service.url, service.key)["broken"]
    assert entry.n_frames is None
    with pytest.raises(DamagedStoreError, match="frame_power/c/0"):
        entry.open()


def test_the_key_is_not_shown(service: BackgroundService) -> None:
    assert service.key is not None
    found = catalog(service.url, service.key)
    assert service.key not in repr(found)
    assert service.key not in repr(list(found))


def test_the_key_may_come_from_the_environment(
    service: BackgroundService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTYZARR_KEY", service.key or "")
    assert len(catalog(f"{service.url}/")) == 4


def test_all_pages_are_asked_for(
    service: BackgroundService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptyzarr.client.PAGE", 1)
    assert len(catalog(service.url, service.key)) == 4


def test_an_unknown_scan_is_named(service: BackgroundService) -> None:
    with pytest.raises(ScanNotFoundError, match="has no scan 'none'; expected one of broken"):
        catalog(service.url, service.key)["none"]
    with pytest.raises(IndexError):
        catalog(service.url, service.key)[4]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        pytest.param(None, "asks for a key", id="none"),
        pytest.param("wrong", "the key is refused", id="wrong"),
    ],
)
def test_a_refused_key_is_said_to_be_one(
    service: BackgroundService, key: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PTYZARR_KEY", raising=False)
    with pytest.raises(StorageError, match=message) as caught:
        catalog(service.url, key)
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "localhost:8000", "s3://bucket", "http://", "http://h/?a=b"])
def test_what_is_no_url_of_a_service_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="expected a URL such as"):
        catalog(url)


def test_a_key_that_no_header_can_carry_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected printable ASCII") as caught:
        catalog("http://127.0.0.1:1", "kéy\r\nX: y")
    assert "kéy" not in str(caught.value)


def test_a_service_that_is_not_there_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(StorageError, match=r"cannot be reached: .*refused"):
        catalog(f"http://127.0.0.1:{port}")


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    """`answering(status, body, **headers)`: URL of a server that always answers this."""
    servers: list[http.server.HTTPServer] = []

    def start(status: int, body: bytes, **headers: str) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body[: 10 if "Cut" in headers else None])

            def log_message(self, *_: object) -> None:
                pass

        servers.append(http.server.HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,)).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "headers", "message"),
    [
        pytest.param(200, b"<html>", {}, "answers no JSON", id="page"),
        pytest.param(200, b"[]", {}, "not as a ptyzarr service", id="list"),
        pytest.param(200, b'{"scans": [1]}', {}, "not as a ptyzarr service", id="numbers"),
        pytest.param(200, b'{"scans": [{"n": 1}]}', {}, "not as a ptyzarr service", id="no id"),
        pytest.param(404, b"", {}, "answers 404", id="not found"),
        pytest.param(500, b"{}", {}, "answers 500", id="fault"),
        pytest.param(302, b"", {"Location": "/other"}, "answers 302", id="redirect"),
        pytest.param(200, b'{"scans": []}' * 9, {"Cut": "1"}, "cannot be reached", id="cut"),
    ],
)
def test_another_answer_is_an_error_of_one_line(
    answering: Callable[..., str], status: int, body: bytes, headers: dict[str, str], message: str
) -> None:
    with pytest.raises(StorageError, match=message) as caught:
        catalog(answering(status, body, **headers), "key")
    assert "\n" not in str(caught.value)


def test_fields_that_are_new_to_this_version_do_not_matter(answering: Callable[..., str]) -> None:
    body = json.dumps({"scans": [{"id": "a", "n_frames": 3, "colour": "red"}], "next": None})
    (entry,) = catalog(answering(200, body.encode()))
    assert (entry.id, entry.n_frames, entry.digest) == ("a", 3, None)
