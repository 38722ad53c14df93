"""Answers: JSON, arrays, and errors that tell nothing of the machine."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
import re
import zipfile
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ptyzarr.errors import PtyzarrError

#: HTTP status by error code; what is not named is a fault of ours or of a store.
STATUS: Final[Mapping[str, int]] = {
    "config": 400,
    "budget": 400,
    "shape": 400,
    "dtype": 400,
    "grouping": 400,
    "not_found": 404,
    "storage": 503,
    "device": 501,
}
#: What may be kept but has to be asked for again: its path may hold another scan tomorrow.
REVALIDATE: Final = "private, no-cache"
NPY: Final = "application/x-npy"
_PIECE_BYTES: Final = 256 * 1024
_ABSOLUTE_PATH = re.compile(r"(?<![\w./:])(?:/[^\s/'\",;:]+)+/?")


class Refusal(PtyzarrError):
    """A request that cannot be answered.

    Parameters
    ----------
    status
        HTTP status.
    code
        Stable word for programs.
    message
        What was found, expected and to do.
    headers
        Further headers of the answer.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code  # type: ignore[misc] # one class for every code of the protocol
        self.headers = dict(headers or {})


def error_answer(error: PtyzarrError, root: Path) -> Response:
    """Return the JSON answer to an error, without paths of this machine."""
    if isinstance(error, Refusal):
        return problem(error.status, error.code, str(error), error.headers)
    return problem(STATUS.get(error.code, 500), error.code, without_paths(str(error), root))


def problem(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return ``{"code": ..., "message": ...}``."""
    body = json.dumps({"code": code, "message": message}).encode()
    return Response(
        body, status, {"Cache-Control": "no-store", **(headers or {})}, "application/json"
    )


def without_paths(message: str, root: Path) -> str:
    """Return a message in which stores are named within the served folder `root`."""
    for folder in {str(root), str(root.resolve())}:
        message = message.replace(f"{folder}/", "").replace(folder, "the served folder")
    return " ".join(_ABSOLUTE_PATH.sub("(a path)", message).split())


def json_answer(facts: Any, headers: Mapping[str, str] | None = None) -> Response:
    """Return JSON; what is no finite number becomes null."""
    body = json.dumps(_finite(facts), allow_nan=False, separators=(",", ":")).encode()
    return Response(body, 200, {"Cache-Control": REVALIDATE, **(headers or {})}, "application/json")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def not_modified(request: Request, etag: str) -> Response | None:
    """Return 304 if the client holds the answer with this entity tag already, else None."""
    held = request.headers.get("if-none-match")
    if held is None or not matches(held, etag):
        return None
    return Response(status_code=304, headers={"ETag": etag, "Cache-Control": REVALIDATE})


def matches(tags: str, etag: str) -> bool:
    """Return whether a list of entity tags of a request names `etag`, weakly compared."""
    if tags.strip() == "*":
        return True
    return etag in (tag.strip().removeprefix("W/") for tag in tags.split(","))


def npy_header(array: NDArray[Any]) -> bytes:
    """Return what stands before the values in an npy file of `array`, C order."""
    header = io.BytesIO()
    fields = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


def npy_answer(array: NDArray[Any], headers: Mapping[str, str] | None = None) -> Response:
    """Return an npy file; the values are sent from the array's own memory."""
    array = np.ascontiguousarray(array)
    pieces: list[bytes | memoryview] = [npy_header(array), _memory(array)]
    return PiecesResponse(pieces, NPY, headers)


def _memory(array: NDArray[Any]) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def npz_pieces(arrays: Mapping[str, NDArray[Any]]) -> list[bytes | memoryview]:
    """Return an uncompressed npz file as pieces; the values stay in the arrays' own memory."""
    pieces = _Pieces()
    with zipfile.ZipFile(pieces, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for name, array in arrays.items():
            # A date of its own would make equal answers differ.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                member.write(npy_header(array))
                member.write(_memory(np.ascontiguousarray(array)))
    return pieces.written


class _Pieces:
    """A file that keeps what is written to it, piece by piece."""

    def __init__(self) -> None:
        self.written: list[bytes | memoryview] = []

    def write(self, piece: bytes | memoryview) -> int:
        self.written.append(piece)
        return len(piece)

    def flush(self) -> None:
        """Do nothing: there is no disk behind it."""


class PiecesResponse(Response):
    """Bytes-like pieces sent one after the other, none of them copied as a whole.

    Parameters
    ----------
    pieces
        Their total length is the length of the answer.
    media_type
        Content type.
    headers
        Further headers.
    """

    def __init__(
        self,
        pieces: Iterable[bytes | memoryview],
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._pieces = [memoryview(piece) for piece in pieces]
        length = sum(piece.nbytes for piece in self._pieces)
        named = {"Cache-Control": REVALIDATE, **(headers or {}), "Content-Length": str(length)}
        super().__init__(None, 200, named, media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces until the client has them or is gone."""
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        if scope["method"] != "HEAD":
            async with until_gone(receive) as is_gone:
                for piece in self._pieces:
                    for start in range(0, piece.nbytes, _PIECE_BYTES):
                        if is_gone():
                            return
                        body = bytes(piece[start : start + _PIECE_BYTES])
                        await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@contextlib.asynccontextmanager
async def until_gone(receive: Receive) -> AsyncIterator[Any]:
    """Yield a function that tells whether the client has hung up."""

    async def wait() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    waiting = asyncio.ensure_future(wait())
    try:
        yield waiting.done
    finally:
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
