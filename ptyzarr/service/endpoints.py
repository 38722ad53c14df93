"""The routes: each reads its parameters, makes one call of the library, and answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from ptyzarr._version import __version__
from ptyzarr.config import ServiceConfig
from ptyzarr.errors import PtyzarrError
from ptyzarr.scan import FIELDS
from ptyzarr.service import describing, science
from ptyzarr.service.answers import (
    REVALIDATE,
    PiecesResponse,
    Refusal,
    json_answer,
    not_modified,
    npy_answer,
    without_paths,
)
from ptyzarr.service.catalogue import Catalogue, place_of
from ptyzarr.service.files import stored_answer
from ptyzarr.service.metrics import Metrics
from ptyzarr.service.parameters import (
    FRAME_PICTURE,
    GROUPS,
    LISTING,
    PHASE_PICTURE,
    PROBE_MODE,
    PROBE_PICTURE,
    picture_options,
)
from ptyzarr.service.pictures import Picture, draw
from ptyzarr.service.query import frame_number, read_query
from ptyzarr.service.work import Workers
from ptyzarr.store import ScanStore, Stamp

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
#: npy has no registered type; clients call it what they like.
_NPY_WORDS: Final = ("npy", "numpy", "octet-stream")
_MAX_SUMMARIES: Final = 10_000


def read_page() -> dict[str, tuple[bytes, str]]:
    """Return the files of the page, content and type by name."""
    folder = resources.files("ptyzarr.service") / "page"
    files = {}
    for entry in folder.iterdir():
        suffix = f".{entry.name.rpartition('.')[2]}"
        if entry.is_file() and suffix in _TYPES:
            files[entry.name] = (entry.read_bytes(), _TYPES[suffix])
    return files


class Endpoints:
    """What the routes call.

    Parameters
    ----------
    catalogue
        The stores.
    config
        The limits.
    metrics
        What was counted so far.
    """

    def __init__(self, catalogue: Catalogue, config: ServiceConfig, metrics: Metrics) -> None:
        self.catalogue, self.config, self.metrics = catalogue, config, metrics
        self.page_files = read_page()
        self.description: Mapping[str, Any] = {}
        self._workers = Workers(config)
        self._summaries: dict[str, tuple[Stamp, dict[str, Any]]] = {}

    @property
    def n_busy(self) -> int:
        """Calls in threads that have not come to their end."""
        return self._workers.n_busy

    async def index(self, request: Request) -> Response:
        """Answer with the page."""
        return self._page_file(request, "index.html")

    async def page(self, request: Request) -> Response:
        """Answer with a file of the page."""
        return self._page_file(request, request.path_params["name"])

    async def healthz(self, request: Request) -> Response:
        """Answer that the service is there."""
        return json_answer({"status": "ok"}, {"Cache-Control": "no-store"})

    async def version(self, request: Request) -> Response:
        """Answer with the version."""
        return json_answer({"name": "ptyzarr", "version": __version__, "api": "v1"})

    async def openapi(self, request: Request) -> Response:
        """Answer with the description of the interface."""
        read_query(request, ())
        return json_answer(self.description)

    async def prometheus(self, request: Request) -> Response:
        """Answer with the metrics."""
        read_query(request, ())
        n_scans = len(await self._workers.file(self.catalogue.ids))
        headers = {"Cache-Control": "no-store"}
        text = self.metrics.text(n_scans)
        return Response(text, 200, headers, "text/plain; version=0.0.4; charset=utf-8")

    async def scans(self, request: Request) -> Response:
        """Answer with one page of the catalogue."""
        query = read_query(request, LISTING)
        return json_answer(await self._workers.file(self._listing, query))

    async def scan(self, request: Request) -> Response:
        """Answer with everything known of a scan whose files are all there."""
        read_query(request, ())
        scan_id, store = await self._whole_store(request)
        return json_answer(await self._workers.file(describing.metadata, store, scan_id))

    async def zarr(self, request: Request) -> Response:
        """Answer with a stored file."""
        # No key of a store needs encoding; whoever encodes one wants to be clever.
        if b"%" in request.scope.get("raw_path", b"").partition(b"/zarr/")[2]:
            raise Refusal(404, "not_found", "there is no such file; keys are not percent-encoded")
        parameters = request.path_params
        return await stored_answer(
            request, self.catalogue, self._workers, parameters["id"], parameters["key"]
        )

    async def map(self, request: Request) -> Response:
        """Answer with the positions."""
        read_query(request, ())
        _, store = await self._store(request)
        positions = await self._workers.file(science.scan_map, store)
        return await self._array_or_json(
            request, store, "positions", positions, {"unit": "object pixels"}
        )

    async def power(self, request: Request) -> Response:
        """Answer with the power of each frame."""
        read_query(request, ())
        _, store = await self._store(request)
        power = await self._workers.file(lambda: store.frame_power)
        unit = FIELDS["frame_power"].unit
        return await self._array_or_json(request, store, "power", power, {"unit": unit})

    async def groups(self, request: Request) -> Response:
        """Answer with a group table, or with the groups of one position."""
        query = read_query(request, GROUPS)
        _, store = await self._store(request)
        position = query.pop("position")
        etag = science.digest_of("groups", __version__, store.digest, query, position)
        held = not_modified(request, etag)
        if held is not None:
            return held
        grouping = science.group_config(query, store.n_frames, self.config)
        if position is not None:
            frame_number(str(position), store.n_frames)
        key = ("groups", store.digest, grouping)
        shared = await self._workers.shared(key, science.draw_groups, store, grouping)
        if position is not None:
            found = science.groups_at(shared.table, position)
            return json_answer(found, {"ETag": etag})
        return npy_answer(shared.table.nn_indices, {"ETag": etag})

    async def frame_npy(self, request: Request) -> Response:
        """Answer with one frame of amplitudes."""
        read_query(request, ())
        _, store = await self._store(request)
        index = frame_number(request.path_params["index"], store.n_frames)
        etag = science.digest_of("frame", store.frames_digest, index)
        held = not_modified(request, etag)
        if held is not None:
            return held
        frame = await self._workers.short(science.amplitude_frame, store, index)
        return npy_answer(frame, {"ETag": etag})

    async def frame_png(self, request: Request) -> Response:
        """Answer with a picture of one frame."""
        query = read_query(request, FRAME_PICTURE)
        _, store = await self._store(request)
        index = frame_number(request.path_params["index"], store.n_frames)
        etag = science.digest_of("frame", __version__, store.frames_digest, index, query)
        held = not_modified(request, etag)
        if held is not None:
            return held
        options = picture_options(query)
        picture = await self._workers.short(science.intensity_picture, store, index, options)
        return _picture_answer(picture, etag)

    async def mean_npy(self, request: Request) -> Response:
        """Answer with the mean intensity."""
        read_query(request, ())
        _, store = await self._whole_store(request)
        etag = science.digest_of("mean", store.frames_digest)
        held = not_modified(request, etag)
        return held or npy_answer(await self._mean(store), {"ETag": etag})

    async def mean_png(self, request: Request) -> Response:
        """Answer with a picture of the mean intensity."""
        query = read_query(request, FRAME_PICTURE)
        _, store = await self._whole_store(request)
        etag = science.digest_of("mean", __version__, store.frames_digest, query)
        held = not_modified(request, etag)
        if held is not None:
            return held
        mean = await self._mean(store)
        picture = await self._workers.short(draw, mean, picture_options(query))
        return _picture_answer(picture, etag)

    async def probe_npy(self, request: Request) -> Response:
        """Answer with the probe."""
        read_query(request, ())
        _, store = await self._store(request)
        etag = science.digest_of("probe", store.digest)
        held = not_modified(request, etag)
        if held is not None:
            return held
        return npy_answer(await self._workers.file(lambda: store.probe_guess), {"ETag": etag})

    async def probe_png(self, request: Request) -> Response:
        """Answer with a picture of one mode of the probe."""
        return await self._complex_png(request, "probe")

    async def object_npy(self, request: Request) -> Response:
        """Answer with the object."""
        read_query(request, ())
        _, store = await self._store(request)
        etag = science.digest_of("object", store.digest)
        held = not_modified(request, etag)
        if held is not None:
            return held
        return npy_answer(await self._workers.file(science.object_array, store), {"ETag": etag})

    async def object_png(self, request: Request) -> Response:
        """Answer with a picture of the object."""
        return await self._complex_png(request, "object")

    async def batch(self, request: Request) -> Response:
        """Answer with frames, each once, and their places in what was asked for."""
        read_query(request, ())
        try:
            document = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "request", "the body is no JSON; expected an object") from error
        _, store = await self._store(request)
        indices = science.check_indices(document, store.n_frames, self.config)
        pieces = await self._workers.short(science.batch_pieces, store, indices, self.config)
        return PiecesResponse(pieces, "application/x-npz", {"Cache-Control": "no-store"})

    async def _store(self, request: Request) -> tuple[str, ScanStore]:
        scan_id = request.path_params["id"]
        return scan_id, await self._workers.file(self.catalogue.store, scan_id)

    async def _whole_store(self, request: Request) -> tuple[str, ScanStore]:
        """Return the store after a look for all its files: what is kept of it would not tell."""
        scan_id = request.path_params["id"]
        return scan_id, await self._workers.file(self.catalogue.whole_store, scan_id)

    async def _mean(self, store: ScanStore) -> NDArray[np.float64]:
        key = ("mean", store.frames_digest)
        return await self._workers.shared(key, science.mean_intensity, store)

    async def _complex_png(self, request: Request, what: str) -> Response:
        part = request.path_params["part"]
        is_probe = what == "probe"
        parameters: Sequence[Any] = PHASE_PICTURE if part == "phase" else PROBE_PICTURE
        query = read_query(request, (*parameters, *([PROBE_MODE] if is_probe else [])))
        if part not in ("amplitude", "phase"):
            raise Refusal(404, "not_found", "expected amplitude.png or phase.png")
        _, store = await self._store(request)
        etag = science.digest_of(what, __version__, store.digest, part, query)
        held = not_modified(request, etag)
        if held is not None:
            return held
        mode = query.pop("mode", 0)
        options = picture_options(query, default_cmap="phase" if part == "phase" else "gray")

        def draw_part() -> Picture:
            values = science.probe_mode(store, mode) if is_probe else science.object_array(store)
            return science.array_picture(values, part, options)

        return _picture_answer(await self._workers.short(draw_part), etag)

    async def _array_or_json(
        self,
        request: Request,
        store: ScanStore,
        name: str,
        values: NDArray[Any],
        facts: Mapping[str, Any],
    ) -> Response:
        """Answer with npy where it is accepted by name, else with JSON."""
        accepted = request.headers.get("accept", "")
        as_npy = any(word in accepted for word in _NPY_WORDS)
        etag = science.digest_of(name, store.digest, as_npy)
        headers = {"ETag": etag, "Vary": "Accept"}
        held = not_modified(request, etag)
        if held is not None:
            return held
        if as_npy:
            return npy_answer(values, headers)
        return await self._workers.short(
            lambda: json_answer({"n_frames": len(values), name: values.tolist(), **facts}, headers)
        )

    def _listing(self, query: Mapping[str, Any]) -> dict[str, Any]:
        ids = self.catalogue.ids()
        after, limit = query["cursor"], query["limit"]
        left = ids if after is None else [i for i in ids if place_of(i) > place_of(after)]
        page = left[:limit]
        return {
            "scans": [self._summary(scan_id) for scan_id in page],
            "n_scans": len(ids),
            "next": page[-1] if len(left) > limit else None,
        }

    def _summary(self, scan_id: str) -> dict[str, Any]:
        try:
            published = self.catalogue.published(scan_id)
            self.catalogue.check(published)
            stamp, facts = self._summaries.get(scan_id, (None, {}))
            if stamp == published.stamp:
                return facts
            facts = describing.summary(self.catalogue.store(scan_id), scan_id)
        except PtyzarrError as error:
            message = without_paths(str(error), self.catalogue.root)
            return describing.broken(scan_id, error.code, message)
        if len(self._summaries) >= _MAX_SUMMARIES:
            self._summaries.clear()
        self._summaries[scan_id] = (published.stamp, facts)
        return facts

    def _page_file(self, request: Request, name: str) -> Response:
        read_query(request, ())
        if name not in self.page_files:
            raise Refusal(404, "not_found", "there is no such file of the page")
        content, media_type = self.page_files[name]
        etag = science.digest_of("page", content.hex())
        held = not_modified(request, etag)
        headers = {"ETag": etag, "Cache-Control": REVALIDATE}
        return held or Response(content, 200, headers, media_type)


def _picture_answer(picture: Picture, etag: str) -> Response:
    headers = {
        "ETag": etag,
        "Cache-Control": REVALIDATE,
        "X-Ptyzarr-Vmin": repr(picture.vmin),
        "X-Ptyzarr-Vmax": repr(picture.vmax),
    }
    return Response(picture.png, 200, headers, "image/png")
