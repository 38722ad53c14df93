"""The description of the interface, made of the table of routes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from ptyzarr._version import __version__
from ptyzarr.service.routes import Endpoint

_PROBLEM: Final = {"$ref": "#/components/schemas/Problem"}
_PATH_HELP: Final = {
    "id": "name of the store's folder without .zarr",
    "key": "key of a file in the store",
    "index": "acquisition index of a frame",
    "part": "amplitude or phase",
    "name": "name of a file",
}
_STATUS_HELP: Final = {
    "304": "The client has it already.",
    "206": "The bytes asked for.",
    "400": "The request cannot be understood.",
    "401": "The key is missing or wrong.",
    "404": "There is no such scan, frame or file.",
    "408": "The request came too slowly.",
    "409": "Two stores have that id.",
    "413": "More is asked for than is allowed.",
    "416": "The file has none of the bytes asked for.",
    "500": "The store is damaged.",
    "503": "Too much is asked at once, the answer takes too long, or the disk fails.",
}


def describe(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of all routes."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(plain_path(endpoint.path), {}).update(_operations(endpoint))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ptyzarr",
            "version": __version__,
            "summary": "Ptychography scans as zarr v3 stores, read-only.",
        },
        "paths": paths,
        "security": [{"key": []}],
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Problem": {
                    "type": "object",
                    "required": ["code", "message"],
                    "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
                }
            },
        },
    }


def plain_path(path: str) -> str:
    """Return the path of a route without how its parameters are read."""
    return re.sub(r"\{(\w+):\w+\}", r"{\1}", path)


def _operations(endpoint: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": endpoint.handler.__name__,
        "parameters": [*_path_parameters(endpoint.path), *_query_parameters(endpoint)],
        "responses": _responses(endpoint),
    }
    if endpoint.is_open:
        operation["security"] = []
    if endpoint.method == "POST":
        operation["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["indices"],
                        "additionalProperties": False,
                        "properties": {
                            "indices": {
                                "type": "array",
                                "items": {"type": "integer", "minimum": 0},
                            }
                        },
                    }
                }
            },
        }
    if endpoint.method != "GET":
        return {endpoint.method.lower(): operation}
    head = {**operation, "operationId": f"{endpoint.handler.__name__}_head"}
    return {"get": operation, "head": head}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_HELP[name],
            "schema": {"type": "string"},
        }
        for name in re.findall(r"\{(\w+)", path)
    ]


def _query_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    return [
        {
            "name": parameter.name,
            "in": "query",
            "description": parameter.help,
            "schema": parameter.schema(),
        }
        for parameter in endpoint.parameters
    ]


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    content: dict[str, Any] = {kind: {} for kind in endpoint.types}
    answers: dict[str, Any] = {"200": {"description": endpoint.summary, "content": content}}
    statuses = [] if endpoint.is_open else ["400", "401", "404", "500", "503"]
    statuses += ["409"] if "{id}" in endpoint.path else []
    statuses += ["304"] if endpoint.is_conditional else []
    statuses += ["206", "416"] if ":path" in endpoint.path else []
    statuses += ["408", "413"] if endpoint.method == "POST" else []
    for status in sorted(statuses):
        answers[status] = {"description": _STATUS_HELP[status]}
        if status >= "400":
            answers[status]["content"] = {"application/json": {"schema": _PROBLEM}}
    return answers
