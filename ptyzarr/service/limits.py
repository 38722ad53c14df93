"""How much is asked at once, how much is sent, and how long a client may take: one layer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ptyzarr.config import ServiceConfig, parse_size
from ptyzarr.service.answers import problem

#: Name in a request's state of what gives back its place; for answers that hold next to nothing.
LEAVE: Final = "leave_place"
_SMALL_BYTES: Final = 256 * 1024
_PIECE_BYTES: Final = 512 * 1024
_STALLED_S: Final = 1.0
_LOOK_S: Final = 0.05


class Limits:
    """Bounds what is worked on at once, what is sent, and how long a client may take for it.

    A request waits for a place until others have theirs answered; each keeps its place while it is
    computed or read, not while a client sends its body or takes the answer.

    Parameters
    ----------
    app
        What answers.
    config
        The limits.
    open_paths
        Paths that need no place.
    routes
        Of the application, so that a refusal is counted under the route that was asked for.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: ServiceConfig,
        open_paths: Collection[str],
        routes: Sequence[BaseRoute],
    ) -> None:
        self._app, self._config, self._routes = app, config, routes
        self._max_body = parse_size(config.max_request_size)
        self._open = frozenset(open_paths)
        self._places = asyncio.Semaphore(config.max_requests)
        self._n_waiting = 0
        self._held = _HeldAnswers(parse_size(config.max_answers_size))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        place = _Place(self._places)
        client = _Client(scope, receive, send, self._config.client_timeout_s, place, self._held)
        if not await self._has_come(client, scope, receive, send):
            return
        is_open = scope["path"] in self._open
        if not is_open and (not await self._wait_for(place) or client.is_gone):
            place.leave()
            self._name_route(scope)
            message = "too many requests are being answered; ask again in a second"
            await problem(503, "busy", message, {"Retry-After": "1"})(scope, receive, client.send)
            return
        scope.setdefault("state", {})[LEAVE] = place.leave
        try:
            with contextlib.suppress(_SlowClientError):
                await self._app(scope, client.receive, client.send)
        finally:
            place.leave()
            client.end()

    async def _has_come(self, client: _Client, scope: Scope, receive: Receive, send: Send) -> bool:
        """Return whether the whole body is there; if not, say why."""
        try:
            await client.read_body(self._max_body)
        except _TooLargeError:
            message = f"the request has more than {self._max_body} bytes; send less"
            answer = problem(413, "too_large", message, {"Connection": "close"})
        except _SlowClientError:
            answer = problem(
                408, "timeout",
                f"the request did not arrive within {self._config.client_timeout_s:g} s; "
                "send it again",
                {"Connection": "close"},
            )  # fmt: skip
        else:
            return True
        self._name_route(scope)
        await answer(scope, receive, send)
        return False

    async def _wait_for(self, place: _Place) -> bool:
        """Return whether there is a place in time."""
        if self._n_waiting >= self._config.max_connections:
            return False
        self._n_waiting += 1
        try:
            async with asyncio.timeout(self._config.queue_timeout_s):
                await place.take()
        except TimeoutError:
            return False
        finally:
            self._n_waiting -= 1
        return True

    def _name_route(self, scope: Scope) -> None:
        for route in self._routes:
            match, found = route.matches(scope)
            if match is not Match.NONE:
                scope["endpoint"] = found["endpoint"]
                return


class _TooLargeError(Exception):
    """A body has more bytes than a request may have."""


class _SlowClientError(Exception):
    """A client sends or takes nothing for too long."""


class _Place:
    """A place among the requests that are worked on, given back once."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        self._is_taken = False

    async def take(self) -> None:
        """Wait for the place, first come, first served."""
        await self._places.acquire()
        self._is_taken = True

    def leave(self) -> None:
        """Give the place to the next."""
        if self._is_taken:
            self._is_taken = False
            self._places.release()


class _Held:
    """A computed answer that stays in memory until its client has taken it."""

    def __init__(self, nbytes: int, abort: Callable[[], None]) -> None:
        self.nbytes, self.abort = nbytes, abort
        self.is_cut = False
        self.touch()

    def touch(self) -> None:
        """Note that the client took something."""
        self.since = asyncio.get_running_loop().time()


class _HeldAnswers:
    """Bounds the memory of computed answers on their way.

    Where room is lacking, who took nothing for a second makes it, longest first.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._answers: set[_Held] = set()

    async def enter(self, answer: _Held) -> None:
        """Wait for room; one answer alone always has it."""
        while self._answers and self._nbytes() + answer.nbytes > self._limit:
            self._cut_off()
            await asyncio.sleep(_LOOK_S)
        answer.touch()
        self._answers.add(answer)

    def leave(self, answer: _Held) -> None:
        """Forget an answer."""
        self._answers.discard(answer)

    def _nbytes(self) -> int:
        return sum(answer.nbytes for answer in self._answers)

    def _cut_off(self) -> None:
        waited = asyncio.get_running_loop().time() - _STALLED_S
        stalled = [held for held in self._answers if not held.is_cut and held.since < waited]
        if stalled:
            slowest = min(stalled, key=lambda held: held.since)
            slowest.is_cut = True
            slowest.abort()


class _Client:
    """The other end of one request, with patience and appetite bounded."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        timeout_s: float,
        place: _Place,
        held_answers: _HeldAnswers,
    ) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._timeout_s, self._place = timeout_s, place
        self._held_answers = held_answers
        self._held: _Held | None = None
        self._body: Message | None = None

    @property
    def is_gone(self) -> bool:
        """Whether the client hung up."""
        is_gone: Any = self._scope.get("state", {}).get("is_gone")
        return is_gone is not None and bool(is_gone())

    async def read_body(self, most: int) -> None:
        """Wait for the whole body, which must come within the time."""
        headers = Headers(scope=self._scope)
        declared = int(headers.get("content-length", "0"))  # the server has read it, too
        if declared > most:
            raise _TooLargeError
        if declared == 0 and "transfer-encoding" not in headers:
            return
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(self._timeout_s):
                while more:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        self._body = message
                        return
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > most:
                        raise _TooLargeError
        except TimeoutError as error:
            raise _SlowClientError from error
        self._body = {"type": "http.request", "body": bytes(body), "more_body": False}

    async def receive(self) -> Message:
        """Return the body, then that the client hangs up."""
        if self._body is None:
            return await self._receive()
        message, self._body = self._body, None
        return message

    async def send(self, message: Message) -> None:
        """Send; who takes nothing for too long is cut off."""
        if message["type"] == "http.response.start":
            await self._start(message)
        for piece in _pieces(message):
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._send(piece)
            except TimeoutError as error:
                self._abort()
                raise _SlowClientError from error
            if self._held is not None:
                self._held.touch()

    def end(self) -> None:
        """Forget the answer."""
        if self._held is not None:
            self._held_answers.leave(self._held)

    async def _start(self, message: Message) -> None:
        """Leave the place: from now on the client is waited for."""
        is_file = LEAVE not in self._scope.get("state", {})
        size = int(Headers(raw=message.get("headers", [])).get("content-length", "0"))
        if not is_file and size > _SMALL_BYTES:
            held = _Held(size, self._abort)
            await self._held_answers.enter(held)
            self._held = held
        self._place.leave()

    def _abort(self) -> None:
        abort: Any = self._scope.get("state", {}).get("abort")
        if abort is not None:
            abort()


def _pieces(message: Message) -> Iterator[Message]:
    """Yield a message in pieces, of which the next waits until the one before is taken."""
    body = message.get("body", b"")
    if len(body) <= _PIECE_BYTES:
        yield message
        return
    for start in range(0, len(body), _PIECE_BYTES):
        stop = start + _PIECE_BYTES
        more = message.get("more_body", False) or stop < len(body)
        yield {**message, "body": body[start:stop], "more_body": more}
