from __future__ import annotations

from pathlib import Path

import pytest
from service.webclient import Client

from ptyzarr.service import create_app

OPEN = {"/", "/page/{name}", "/healthz", "/version"}


def example(path: str) -> str:
    values = {"id": "first", "key:path": "zarr.json", "index": "0", "part": "phase"}
    for name, value in {**values, "name": "index.html"}.items():
        path = path.replace(f"{{{name}}}", value)
    return path


def routes(root: Path) -> list[tuple[str, str]]:
    return [
        (method, route.path)
        for route in create_app(root, keys=["k"]).routes
        for method in sorted(route.methods)
    ]


@pytest.mark.parametrize("key", [pytest.param(None, id="none"), pytest.param("wrong", id="wrong")])
def test_every_route_but_the_open_ones_refuses_without_the_key(
    client: Client, root: Path, key: str | None
) -> None:
    closed = [(method, path) for method, path in routes(root) if path not in OPEN]
    assert len(closed) > 20
    for method, path in closed:
        answer = client.ask(example(path), method, key=key)
        assert answer.status == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
        if method != "HEAD":
            assert answer.json["code"] == "key"


def test_every_route_answers_with_the_key(client: Client, root: Path) -> None:
    for method, path in routes(root):
        body = {"indices": [0]} if method == "POST" else None
        assert client.ask(example(path), method, body).status == 200, path


@pytest.mark.parametrize("path", sorted(OPEN))
def test_open_routes_need_no_key(client: Client, path: str) -> None:
    assert client.ask(example(path), key=None).status == 200
