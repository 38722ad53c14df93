"""The table of routes: path, handler, and what the description says of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from ptyzarr.service.answers import NPY
from ptyzarr.service.endpoints import Endpoints
from ptyzarr.service.parameters import (
    FRAME_PICTURE,
    GROUPS,
    LISTING,
    PROBE_MODE,
    PROBE_PICTURE,
)
from ptyzarr.service.query import Parameter

Handler = Callable[[Request], Awaitable[Response]]

JSON: Final = "application/json"
PNG: Final = "image/png"
NPZ: Final = "application/x-npz"
BYTES: Final = "application/octet-stream"
_SCAN: Final = "/v1/scans/{id}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One route.

    Attributes
    ----------
    path
        With parameters in braces; ``:path`` takes slashes, too.
    handler
        What answers.
    summary
        One line on the answer.
    types
        Content types of the answer.
    method
        ``GET`` (and ``HEAD``) or ``POST``.
    parameters
        Of the query.
    is_open
        Whether it holds no data and asks for no key.
    is_conditional
        Whether it has an entity tag and answers 304.
    """

    path: str
    handler: Handler
    summary: str
    types: Sequence[str]
    method: str = "GET"
    parameters: Sequence[Parameter] = ()
    is_open: bool = False
    is_conditional: bool = True


def endpoints(calls: Endpoints) -> list[Endpoint]:
    """Return every route of the service."""
    return [*_open_endpoints(calls), *_catalogue_endpoints(calls), *_science_endpoints(calls)]


def _open_endpoints(calls: Endpoints) -> list[Endpoint]:
    return [
        Endpoint(
            path="/", handler=calls.index, summary="The page.", types=["text/html"], is_open=True
        ),
        Endpoint(
            path="/page/{name}", handler=calls.page, summary="A file of the page.",
            types=["text/css", "text/javascript"], is_open=True,
        ),
        Endpoint(
            path="/healthz", handler=calls.healthz, summary="Whether the service is there.",
            types=[JSON], is_open=True, is_conditional=False,
        ),
        Endpoint(
            path="/version", handler=calls.version, summary="Version of the service.",
            types=[JSON], is_open=True, is_conditional=False,
        ),
    ]  # fmt: skip


def _catalogue_endpoints(calls: Endpoints) -> list[Endpoint]:
    return [
        Endpoint(
            path="/openapi.json", handler=calls.openapi, summary="This description.",
            types=[JSON], is_conditional=False,
        ),
        Endpoint(
            path="/metrics", handler=calls.prometheus, summary="Metrics for Prometheus.",
            types=["text/plain"], is_conditional=False,
        ),
        Endpoint(
            path="/v1/scans", handler=calls.scans, parameters=LISTING, types=[JSON],
            summary="One page of the scans, natural order; damaged ones with their error.",
            is_conditional=False,
        ),
        Endpoint(
            path=_SCAN, handler=calls.scan, types=[JSON], is_conditional=False,
            summary="Everything known of a scan but its arrays: shapes, units, provenance.",
        ),
        Endpoint(
            path=f"{_SCAN}/zarr/{{key:path}}", handler=calls.zarr, types=[BYTES],
            summary="A stored file, byte for byte; byte ranges are answered.",
        ),
    ]  # fmt: skip


def _science_endpoints(calls: Endpoints) -> list[Endpoint]:
    return [
        Endpoint(
            path=f"{_SCAN}/map", handler=calls.map, types=[JSON, NPY],
            summary="Positions (n, 2) float64: x, y in object pixels, acquisition order.",
        ),
        Endpoint(
            path=f"{_SCAN}/power", handler=calls.power, types=[JSON, NPY],
            summary="Power (n,) float64 of each frame: its squared amplitudes summed.",
        ),
        Endpoint(
            path=f"{_SCAN}/groups", handler=calls.groups, types=[NPY, JSON], parameters=GROUPS,
            summary="Canonical groups (n_groups, gridsize**2), acquisition indices.",
        ),
        Endpoint(
            path=f"{_SCAN}/frames/{{index}}.npy", handler=calls.frame_npy, types=[NPY],
            summary="Amplitudes (N, N) of a frame.",
        ),
        Endpoint(
            path=f"{_SCAN}/frames/{{index}}.png", handler=calls.frame_png, types=[PNG],
            parameters=FRAME_PICTURE, summary="Intensity of a frame as a picture.",
        ),
        Endpoint(
            path=f"{_SCAN}/mean.npy", handler=calls.mean_npy, types=[NPY],
            summary="Mean intensity (N, N) float64 of all frames.",
        ),
        Endpoint(
            path=f"{_SCAN}/mean.png", handler=calls.mean_png, types=[PNG],
            parameters=FRAME_PICTURE, summary="Mean intensity of all frames as a picture.",
        ),
        Endpoint(
            path=f"{_SCAN}/probe.npy", handler=calls.probe_npy, types=[NPY],
            summary="Probe ([mode,] N, N), complex.",
        ),
        Endpoint(
            path=f"{_SCAN}/probe/{{part}}.png", handler=calls.probe_png, types=[PNG],
            parameters=(*PROBE_PICTURE, PROBE_MODE),
            summary="A mode of the probe as a picture: amplitude, or phase from -pi to pi.",
        ),
        Endpoint(
            path=f"{_SCAN}/object.npy", handler=calls.object_npy, types=[NPY],
            summary="Object (h, w), complex.",
        ),
        Endpoint(
            path=f"{_SCAN}/object/{{part}}.png", handler=calls.object_png, types=[PNG],
            parameters=PROBE_PICTURE,
            summary="The object as a picture: amplitude, or phase from -pi to pi.",
        ),
        Endpoint(
            path=f"{_SCAN}/batch", handler=calls.batch, types=[NPZ], method="POST",
            summary="Frames of a list of acquisition indices, each once, and where they belong.",
            is_conditional=False,
        ),
    ]  # fmt: skip
