"""Who may ask, and by which name: the layers around every route."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ptyzarr.config import ServiceConfig
from ptyzarr.errors import ConfigError, StorageError
from ptyzarr.service.answers import problem

#: What a page of this service may do: talk to this service, with its own script and style.
CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_KEY_BYTES: Final = 24
_URL: Final = re.compile(rb"https?://([^/]*)", re.IGNORECASE)
_HIDDEN: Final = re.compile(rb"%(2e|2f|5c|00)", re.IGNORECASE)


def new_key() -> str:
    """Return a random key."""
    return secrets.token_urlsafe(_KEY_BYTES)


def read_keys(path: str) -> list[str]:
    """Return the keys of a file, one a line; empty lines and lines after ``#`` do not count.

    Raises
    ------
    StorageError
        If the file cannot be read.
    ConfigError
        If it holds no key, or one that cannot be sent in a header.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"key file {path} cannot be read: {error}") from error
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise ConfigError(f"key file {path} holds no key; expected one a line")
    for number, key in enumerate(keys, start=1):
        # The message must not repeat the key.
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(
                f"key {number} of {path} has blanks or characters that a header cannot carry; "
                "expected printable ASCII"
            )
    return keys


class Keys:
    """Keys of which only digests are held; without any, everyone may ask."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def admit(self, authorization: str | None) -> bool:
        """Return whether a header names one of the keys; the time taken does not tell which."""
        if not self._digests:
            return True
        scheme, _, key = (authorization or "").partition(" ")
        given = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        found = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == "bearer" and any(found)


class SecureHeaders:
    """Adds to every answer what a browser must not do with it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, send_secured)


class HostCheck:
    """Answers only who calls the service by one of its names.

    A page of a foreign site may get its own name to point at this machine; its requests carry
    that name.
    """

    def __init__(self, app: ASGIApp, config: ServiceConfig) -> None:
        self._app = app
        names = {"localhost", config.host, socket.gethostname(), *config.allowed_hosts}
        self._names = {_plain_name(name) for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] == "http" and not self._is_ours(_named_host(scope)):
            answer = problem(
                400, "host",
                "the Host header names another service; expected an address or name of this one; "
                "the flag --allowed-hosts adds names",
            )  # fmt: skip
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        if not name:
            name = host
        elif port and not (port.isascii() and port.isdigit()):
            return False
        name = _plain_name(name)
        return name in self._names or "*" in self._names or _is_address(name)


def _named_host(scope: Scope) -> str:
    """Return by which name the service is called.

    A target that is a whole URL, as clients send it to proxies, goes before the header; only its
    path is left in the scope.
    """
    match = _URL.match(scope.get("raw_path") or b"")
    if match is None:
        return Headers(scope=scope).get("host", "")
    scope["raw_path"] = scope["raw_path"][match.end() :] or b"/"
    scope["path"] = unquote(scope["raw_path"].decode("ascii"))
    return match.group(1).decode("ascii")


def _plain_name(name: str) -> str:
    """Return a name as others are compared with it; a dot at its end only says that it is whole."""
    return name.lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


class KeyCheck:
    """Asks for a key on every path but the open ones, known or not."""

    def __init__(self, app: ASGIApp, keys: Keys, open_paths: Collection[str]) -> None:
        self._app, self._keys = app, keys
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] == "http" and scope["path"] not in self._open:
            given = Headers(scope=scope).getlist("authorization")
            if not self._keys.admit(given[0] if len(given) == 1 else None):
                answer = problem(
                    401, "key",
                    "this needs a key; expected the header 'Authorization: Bearer KEY' with the "
                    "key that the service printed at its start",
                    {"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


class PlainPaths:
    """Knows no path in which dots, slashes, backslashes or NUL are hidden by encoding them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] == "http" and _HIDDEN.search(scope.get("raw_path") or b""):
            message = "there is no such path; dots and slashes are not encoded in ours"
            await problem(404, "not_found", message)(scope, receive, send)
            return
        await self._app(scope, receive, send)
