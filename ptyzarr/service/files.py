"""Stored files, byte for byte: only what a manifest lists, and only if it is whole."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
from collections.abc import Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ptyzarr.errors import DamagedStoreError, PtyzarrError, StorageError
from ptyzarr.service.answers import REVALIDATE, Refusal, matches, until_gone
from ptyzarr.service.catalogue import Catalogue, Published
from ptyzarr.service.limits import LEAVE
from ptyzarr.service.work import Workers
from ptyzarr.store import ROOT_KEY, size_fault

#: Files named by content never change under their key as long as the root stays.
IMMUTABLE: Final = "private, max-age=604800, immutable"
_PIECE_BYTES: Final = 512 * 1024
_LEAST_PIECE_BYTES: Final = 64 * 1024
_PIECES_BYTES: Final = 128 * 1024**2  # of all files on their way, about
_TRIES: Final = 5
_JSON: Final = "application/json"
_BYTES: Final = "application/octet-stream"
_RANGE: Final = re.compile(r"bytes=([0-9]*)-([0-9]*)")
_MAX_DIGITS: Final = 19  # more are beyond any file, and Python refuses to read thousands


@dataclasses.dataclass
class StoredFile:
    """A file that is about to be sent: in memory, or open.

    Attributes
    ----------
    size
        Bytes, as the manifest states.
    etag
        Strong entity tag.
    cache_control
        How long a client may keep it.
    content
        The bytes of the root document, which is held in memory.
    fd
        Descriptor of any other file.
    """

    size: int
    etag: str
    cache_control: str
    content: bytes | None = None
    fd: int | None = None

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop`, fewer at most where the file was cut."""
        if self.fd is None:
            return (self.content or b"")[start:stop]
        # One request has this file for itself, so its place is nobody else's.
        os.lseek(self.fd, start, os.SEEK_SET)
        return os.read(self.fd, stop - start)

    def close(self) -> None:
        """Close the file."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def __del__(self) -> None:
        """Close what a request that was given up had opened."""
        self.close()


def open_stored(catalogue: Catalogue, scan_id: str, key: str) -> StoredFile:
    """Return the file of a store by its key.

    Raises
    ------
    ScanNotFoundError
        If there is no such store.
    Refusal
        If the manifest lists no such key.
    DamagedStoreError, StorageError
        If a listed file is missing, of another size or cannot be read: a client would take a
        404 for a chunk of zeros.
    """
    for _ in range(_TRIES):
        published = catalogue.published(scan_id)
        if key == ROOT_KEY:
            etag = f'"{published.root_sha256}"'
            return StoredFile(len(published.root), etag, REVALIDATE, content=published.root)
        entry = published.files.get(key)
        if entry is None:
            raise Refusal(404, "not_found", f"scan {scan_id!r} lists no such file")
        try:
            fd = _open_inside(published, key)
        except OSError as error:
            if not published.is_current():
                continue
            raise _not_opened(published, key, error) from error
        # The folder may have been replaced between the look at its root and the opening.
        if not published.is_current():
            os.close(fd)
            continue
        return _checked(published, key, fd)
    raise StorageError(f"scan {scan_id!r} changes all the time; expected it at rest; ask again")


def _open_inside(published: Published, key: str) -> int:
    """Open a file of a store without following a link anywhere on the way."""
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    path = published.folder / key
    real = os.path.realpath(published.folder)
    if os.path.realpath(path) != os.path.join(real, *key.split("/")):
        raise OSError(None, "is a link")
    return os.open(path, flags)


def _checked(published: Published, key: str, fd: int) -> StoredFile:
    entry = published.files[key]
    fault = size_fault(os.fstat(fd), entry["size"])
    if fault is not None:
        os.close(fd)
        raise _damage(published, key, fault)
    return StoredFile(int(entry["size"]), f'"{entry["sha256"]}"', IMMUTABLE, fd=fd)


def _not_opened(published: Published, key: str, error: OSError) -> PtyzarrError:
    """Return what it means that a listed file cannot be opened."""
    if error.errno == errno.ENXIO:  # a socket
        return _damage(published, key, "is no file")
    is_link = error.errno in (None, errno.ELOOP)
    if is_link or error.errno in (errno.ENOENT, errno.ENOTDIR):
        return _damage(published, key, "is a link" if is_link else "is missing")
    return StorageError(
        f"scan {published.id!r}: file {key!r} cannot be opened: {error.strerror}; check the file "
        "system"
    )


def _damage(published: Published, key: str, what: str) -> DamagedStoreError:
    return DamagedStoreError(
        f"scan {published.id!r}: file {key!r} {what}; expected {published.files[key]['size']} "
        "bytes; the store is damaged, 'ptyzarr repair' mends it from its source"
    )


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return (start, stop) of a request's single range, None if all is wanted.

    A header that is not understood and one with several ranges are ignored, as the protocol
    allows.

    Raises
    ------
    Refusal
        416 if no byte is in the range.
    """
    match = _RANGE.fullmatch(header.replace(" ", "").lower()) if header else None
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = (_place(digits) for digits in match.groups())
    if first is None and last is not None:
        start, stop = max(0, size - last), size
        is_empty = last == 0 or size == 0
    else:
        start = first or 0
        stop = size if last is None else min(size, last + 1)
        if last is not None and last < start:
            return None
        is_empty = start >= size
    if is_empty:
        raise Refusal(
            416, "range", f"the range holds none of {size} bytes; ask for bytes within them",
            {"Content-Range": f"bytes */{size}"},
        )  # fmt: skip
    return start, stop


def _place(digits: str) -> int | None:
    """Return a place in a file, None if none is named; what is beyond any file stays so."""
    if not digits:
        return None
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _MAX_DIGITS else 10**_MAX_DIGITS


async def stored_answer(
    request: Request, catalogue: Catalogue, workers: Workers, scan_id: str, key: str
) -> Response:
    """Return the answer to a request for a stored file; raises as `open_stored`, `byte_range`."""
    return await workers.file(_prepare, request, catalogue, workers, scan_id, key)


def _prepare(
    request: Request, catalogue: Catalogue, workers: Workers, scan_id: str, key: str
) -> Response:
    """Open the file and read the first piece: most answers have no other."""
    file = open_stored(catalogue, scan_id, key)
    try:
        headers = {
            "ETag": file.etag,
            "Cache-Control": file.cache_control,
            "Accept-Ranges": "bytes",
            "Vary": "Authorization",
            "Content-Type": _JSON if key.endswith(ROOT_KEY) else _BYTES,
        }
        held = request.headers.get("if-none-match")
        if held is not None and matches(held, file.etag):
            file.close()
            return Response(status_code=304, headers=headers)
        span = byte_range(_wanted_range(request.headers, file.etag), file.size)
        start, stop = span or (0, file.size)
        if span is not None:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
        answer = _FileResponse(workers, file, start, stop, 200 if span is None else 206, headers)
        if request.method != "HEAD":
            answer.read_first()
    except BaseException:
        file.close()
        raise
    return answer


def _wanted_range(headers: Mapping[str, str], etag: str) -> str | None:
    """Return the range asked for, unless it was meant for another content."""
    condition = headers.get("if-range")
    return headers.get("range") if condition in (None, etag) else None


class _FileResponse(Response):
    """Bytes of a file, read in a thread while they are sent, in pieces of bounded size."""

    def __init__(
        self,
        workers: Workers,
        file: StoredFile,
        start: int,
        stop: int,
        status: int,
        headers: Mapping[str, str],
    ) -> None:
        self._workers, self._file = workers, file
        self._place, self._stop = start, stop
        self._first = b""
        named = {**headers, "Content-Length": str(stop - start)}
        super().__init__(None, status, named)

    def read_first(self) -> None:
        """Read the first piece; raises `StorageError` if the file was cut."""
        if self._place < self._stop:
            self._first = self._read()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, close it whatever happens."""
        # However long the client takes, there is one piece in memory and nothing to compute.
        scope.get("state", {}).pop(LEAVE, lambda: None)()
        self._workers.n_sending += 1
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            more = scope["method"] != "HEAD" and self._place < self._stop
            first, self._first = self._first, b""
            await send({"type": "http.response.body", "body": first, "more_body": more})
            del first  # it would stay as long as the client takes for the rest
            if more:
                await self._send_rest(receive, send)
        finally:
            self._workers.n_sending -= 1
            self._file.close()

    async def _send_rest(self, receive: Receive, send: Send) -> None:
        async with until_gone(receive) as is_gone:
            while self._place < self._stop and not is_gone():
                # Nothing is read for who has not taken the piece before.
                await send({"type": "http.response.body", "body": b"", "more_body": True})
                piece = await self._workers.file(self._read)
                more = self._place < self._stop
                await send({"type": "http.response.body", "body": piece, "more_body": more})
                del piece

    def _read(self) -> bytes:
        # Many who take nothing hold many pieces.
        share = _PIECES_BYTES // max(1, self._workers.n_sending)
        most = min(_PIECE_BYTES, max(_LEAST_PIECE_BYTES, share))
        piece = self._file.read(self._place, min(self._stop, self._place + most))
        if not piece:
            # Where the length was promised already, a broken connection tells the client.
            raise StorageError("a file was cut while it was being sent; ask again")
        self._place += len(piece)
        return piece
