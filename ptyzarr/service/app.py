"""The application: routes within the layers that guard them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ptyzarr.config import ServiceConfig
from ptyzarr.errors import PtyzarrError
from ptyzarr.service.access import (
    SECURITY_HEADERS,
    HostCheck,
    KeyCheck,
    Keys,
    PlainPaths,
    SecureHeaders,
)
from ptyzarr.service.answers import error_answer, problem
from ptyzarr.service.catalogue import Catalogue
from ptyzarr.service.endpoints import Endpoints
from ptyzarr.service.limits import Limits
from ptyzarr.service.metrics import Counted, Metrics
from ptyzarr.service.openapi import describe
from ptyzarr.service.routes import Endpoint, endpoints

_EXPOSED: Final = (
    "ETag", "Accept-Ranges", "Content-Range", "Content-Length", "Retry-After",
    "X-Ptyzarr-Vmin", "X-Ptyzarr-Vmax",
)  # fmt: skip


def create_app(
    root: str | os.PathLike[str], config: ServiceConfig | None = None, *, keys: Sequence[str]
) -> Starlette:
    """Return the service of a folder of stores as an ASGI application.

    Parameters
    ----------
    root
        Folder whose stores are served, or one store.
    config
        Limits and names; where to listen is up to the server that runs it.
    keys
        Keys that are admitted; none means that everyone is.

    Raises
    ------
    ScanNotFoundError
        If there is no such folder.
    """
    config = config or ServiceConfig()
    catalogue, metrics = Catalogue(root), Metrics()
    calls = Endpoints(catalogue, config, metrics)
    table = endpoints(calls)
    calls.description = describe(table)
    open_paths = _open_paths(table, calls)
    routes = [Route(entry.path, entry.handler, methods=[entry.method]) for entry in table]
    layers = [
        Middleware(Counted, metrics, {entry.handler: entry.path for entry in table}),
        Middleware(SecureHeaders),
        Middleware(HostCheck, config),
        *_cors(config),
        Middleware(KeyCheck, Keys(keys), open_paths),
        Middleware(PlainPaths),
        Middleware(Limits, config, open_paths, routes),
    ]

    async def on_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, PtyzarrError)
        return error_answer(error, catalogue.root)

    app = Starlette(
        routes=routes,
        middleware=layers,
        exception_handlers={
            PtyzarrError: on_error,
            HTTPException: _on_http_error,
            ClientDisconnect: _on_disconnect,
            Exception: _on_fault,
        },
    )
    app.router.redirect_slashes = False
    app.state.catalogue = catalogue
    app.state.calls = calls
    return app


def _open_paths(table: Sequence[Endpoint], calls: Endpoints) -> set[str]:
    """Return the paths that need no key, each in full."""
    paths = {entry.path for entry in table if entry.is_open and "{" not in entry.path}
    return paths | {f"/page/{name}" for name in calls.page_files}


def _cors(config: ServiceConfig) -> list[Middleware]:
    if not config.cors_origins:
        return []
    layer = Middleware(
        CORSMiddleware,
        allow_origins=config.cors_origins,
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["Authorization", "Content-Type", "Range", "If-None-Match", "If-Range"],
        expose_headers=_EXPOSED,
    )
    return [layer]


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return problem(405, "method", "this path does not take that method", error.headers)
    if error.status_code == 404:
        return problem(404, "not_found", "there is no such path; GET /openapi.json lists them all")
    return problem(error.status_code, "request", "the request is not understood", error.headers)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return problem(400, "request", "the client hung up")


async def _on_fault(request: Request, error: Exception) -> Response:
    """Answer to what should not happen; the error itself goes to the log."""
    message = "the service failed; its log says why"
    return problem(500, "fault", message, SECURITY_HEADERS)
