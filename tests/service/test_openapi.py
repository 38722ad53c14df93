from __future__ import annotations

import re
from pathlib import Path

import pytest
from service.webclient import Client

from ptyzarr.service import create_app


def described(client: Client) -> dict[str, dict[str, dict]]:
    return client.ask("/openapi.json").json["paths"]


def test_routes_and_description_name_the_same(client: Client, root: Path) -> None:
    routes = {
        (re.sub(r":\w+}", "}", route.path), method.lower())
        for route in create_app(root, keys=["k"]).routes
        for method in route.methods
    }
    paths = described(client)
    assert {(path, method) for path, methods in paths.items() for method in methods} == routes


def test_open_routes_and_no_others_are_described_as_open(client: Client) -> None:
    document = client.ask("/openapi.json").json
    assert document["security"] == [{"key": []}]
    for path, methods in document["paths"].items():
        for operation in methods.values():
            is_open = operation.get("security") == []
            example = re.sub(r"\{name\}", "index.html", re.sub(r"\{(?!name)\w+\}", "0", path))
            assert (client.ask(example, "HEAD", key=None).status != 401) is is_open


def test_every_parameter_that_is_described_is_taken_and_no_other(client: Client) -> None:
    values = {"id": "first", "key": "zarr.json", "index": "0", "part": "phase"}
    for path, methods in described(client).items():
        if "get" not in methods or methods["get"].get("security") == []:
            continue
        example = path
        for name, value in values.items():
            example = example.replace(f"{{{name}}}", value)
        if example.endswith("/zarr/zarr.json"):
            continue
        assert client.ask(f"{example}?no_such_parameter=1").status == 400, path
        for parameter in methods["get"]["parameters"]:
            if parameter["in"] == "query" and parameter["schema"].get("default") is not None:
                value = parameter["schema"]["default"]
                name = parameter["name"]
                url = example.replace("phase", "amplitude")
                assert client.ask(f"{url}?{name}={value}").status == 200, (path, name)


def test_every_operation_has_a_name_of_its_own_and_says_what_it_does(client: Client) -> None:
    operations = [entry for methods in described(client).values() for entry in methods.values()]
    names = [entry["operationId"] for entry in operations]
    assert len(set(names)) == len(names)
    assert all(entry["summary"].endswith(".") for entry in operations)


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v1/scans/{id}/zarr/{key}", "get", {"200", "206", "304", "401", "404", "416", "500"}),
        ("/v1/scans/{id}/batch", "post", {"200", "400", "401", "408", "413"}),
        ("/healthz", "get", {"200"}),
    ],
)
def test_statuses_are_described(client: Client, path: str, method: str, status: set[str]) -> None:
    assert status <= set(described(client)[path][method]["responses"])
