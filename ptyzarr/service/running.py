"""The service as a process, or in the background of one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import resource
import signal
import socket
import threading
import types
from collections.abc import Callable, Iterator
from typing import Final

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ptyzarr.config import ServiceConfig
from ptyzarr.errors import ConfigError, StorageError
from ptyzarr.service.access import new_key, read_keys
from ptyzarr.service.app import create_app

_START_S: Final = 30.0
#: A connection takes one file handle, and one more while a file is sent over it.
_FILES_PER_CONNECTION: Final = 2
_OTHER_FILES: Final = 256


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a service listens and what it asks for.

    Attributes
    ----------
    url
        Its root, without a slash at the end.
    key
        The random key that it made, else None.
    """

    url: str
    key: str | None


def serve(
    root: str | os.PathLike[str],
    config: ServiceConfig | None = None,
    *,
    on_start: Callable[[Address], None] | None = None,
) -> bool:
    """Serve a folder of stores until SIGINT or SIGTERM; requests that run then are finished.

    Parameters
    ----------
    root
        Folder whose stores are served, or one store.
    config
        Where, to whom, within which limits.
    on_start
        Called when clients can connect, with address and key.

    Returns
    -------
    bool
        Whether every thread has come to its end. If not, one hangs, as in a file system that does
        not answer, and may keep the process from ending unless it uses `os._exit`.

    Raises
    ------
    ConfigError
        If the address cannot be listened on, or the key file holds no key.
    ScanNotFoundError
        If there is no such folder.
    StorageError
        If the key file cannot be read.
    """
    config = config or ServiceConfig()
    _allow_files(_FILES_PER_CONNECTION * config.max_connections + _OTHER_FILES)
    service = _Service(root, config)
    with service.listening() as (listener, address):
        service.run(listener, lambda: on_start(address) if on_start else None)
    return service.is_at_rest


class BackgroundService:
    """A service in a thread of this process, for tests and notebooks; a context manager.

    Attributes
    ----------
    url
        Its root, without a slash at the end.
    key
        The key to ask with; None if it asks for none or for one of a file.
    """

    def __init__(self, root: str | os.PathLike[str], config: ServiceConfig) -> None:
        self._service = _Service(root, config)
        self._listening = self._service.listening()
        listener, address = self._listening.__enter__()
        self.url, self.key = address.url, address.key
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._service.run, args=(listener, started.set), name="ptyzarr-service"
        )
        self._thread.start()
        if not started.wait(_START_S):
            self.close()
            raise StorageError(f"the service at {self.url} does not start within {_START_S:g} s")

    def close(self) -> None:
        """Stop; requests that run are finished within the limit of the configuration."""
        self._service.stop()
        self._thread.join()
        self._listening.__exit__(None, None, None)

    def __enter__(self) -> BackgroundService:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve_background(
    root: str | os.PathLike[str], config: ServiceConfig | None = None
) -> BackgroundService:
    """Return a running service of a folder of stores; by default on a free port.

    Raises
    ------
    ConfigError, ScanNotFoundError, StorageError
        As `serve`.
    """
    return BackgroundService(root, config or ServiceConfig(port=0))


class _Service:
    """An application, its key and the server that runs it."""

    def __init__(self, root: str | os.PathLike[str], config: ServiceConfig) -> None:
        self._config = config
        self._key = new_key() if config.key_file is None and not config.no_key else None
        keys = (
            [] if config.no_key else [self._key] if self._key else read_keys(config.key_file or "")
        )
        self._app: Starlette = create_app(root, config, keys=keys)
        self._server = _Server(_server_config(self._app, config), config.shutdown_timeout_s)

    @contextlib.contextmanager
    def listening(self) -> Iterator[tuple[socket.socket, Address]]:
        """Listen; clients can connect from now on."""
        listener = _listen(self._config.host, self._config.port)
        try:
            host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
            url = f"http://{host}:{listener.getsockname()[1]}"
            yield listener, Address(url, self._key)
        finally:
            listener.close()
            self._app.state.catalogue.close()

    def run(self, listener: socket.socket, on_start: Callable[[], None]) -> None:
        """Answer until it is stopped."""
        self._server.on_start = on_start
        asyncio.run(self._server.serve([listener]))

    @property
    def is_at_rest(self) -> bool:
        """Whether no thread is at work any more."""
        return bool(self._app.state.calls.n_busy == 0)

    def stop(self) -> None:
        """Let `run` come to its end."""
        self._server.should_exit = True


def _server_config(app: Starlette, config: ServiceConfig) -> uvicorn.Config:
    async def until_cut_off(scope: Scope, receive: Receive, send: Send) -> None:
        # Requests are cancelled when the server ends without them; that is no fault to log.
        with contextlib.suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return uvicorn.Config(
        until_cut_off,
        http=_protocol_class(config),
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=max(5, round(config.client_timeout_s)),
        # Connections are cut off before; this is for what is still being computed then.
        timeout_graceful_shutdown=round(config.shutdown_timeout_s) + 1,
    )


def _allow_files(wanted: int) -> None:
    """Let this process open that many files, or as many as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _connections_at_hand() -> int:
    """Return for how many connections this process has file handles."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 2**31
    return max(16, (soft - _OTHER_FILES) // _FILES_PER_CONNECTION)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small packets at once only where the protocol is named; otherwise each answer
    # waits 40 ms for the client to acknowledge its head.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except (OSError, UnicodeError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{host} port {port} cannot be listened on: {reason}; choose another --host or --port"
        ) from error
    return listener


class _Server(uvicorn.Server):
    """A server that says when it has started, and for which a signal is a normal end."""

    on_start: Callable[[], None]

    def __init__(self, config: uvicorn.Config, shutdown_timeout_s: float) -> None:
        super().__init__(config)
        self._shutdown_timeout_s = shutdown_timeout_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        late = loop.call_later(self._shutdown_timeout_s, self._cut_off)
        try:
            await super().shutdown(sockets)
        finally:
            late.cancel()
            self._cut_off()
            # The loop must still see that these connections are gone.
            await asyncio.sleep(0)

    def _cut_off(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
        # A second signal does not wait any longer.
        self.force_exit = self.should_exit
        self.should_exit = True


def _protocol_class(config: ServiceConfig) -> type[H11Protocol]:
    """Return a protocol whose connections are bounded in number and in patience."""

    class BoundedProtocol(_BoundedProtocol):
        max_connections = min(config.max_connections, _connections_at_hand())
        timeout_s = config.client_timeout_s

    return BoundedProtocol


class _BoundedProtocol(H11Protocol):
    """Closes connections on which no request comes in time, and answers errors with JSON."""

    max_connections: int
    timeout_s: float
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Each request gets a copy of this, and with it the means to cut off who takes nothing, and
        # to see who hung up while the request waited.
        means = {"abort": transport.abort, "is_gone": transport.is_closing}
        self.app_state = {**self.app_state, **means}
        if len(self.connections) > self.max_connections:
            self._refuse(503, "busy", "too many connections are open; try again later")
        else:
            self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        self._wait_for_request()
        super().on_response_complete()
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "request", "the bytes are no HTTP request")

    def _wait_for_request(self) -> None:
        """Give the client some time for the whole head of a request, however it trickles in."""
        self._stop_waiting()
        self._waiting = self.loop.call_later(self.timeout_s, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"code": code, "message": message}).encode()
        phrase = {400: "Bad Request", 503: "Service Unavailable"}[status]
        head = (
            f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
