"""A plain HTTP client of a service."""

from __future__ import annotations

import http.client
import io
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np


@dataclass(frozen=True)
class Answer:
    """Status, headers (lower-case names) and body of one answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)

    @property
    def npy(self) -> np.ndarray:
        assert self.headers["content-type"] == "application/x-npy"
        return np.load(io.BytesIO(self.body), allow_pickle=False)


class Client:
    """Asks a service, with its key unless told otherwise; paths are sent as they are."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url, self.key = url, key
        self.address = urlsplit(url).netloc

    def ask(
        self,
        path: str,
        method: str = "GET",
        body: Any = None,
        key: str | None = "",
        **headers: str,
    ) -> Answer:
        key = self.key if key == "" else key
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            named["Authorization"] = f"Bearer {key}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            connection.request(method, path, body=body, headers=named)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()


def connect(client: Client, receive_bytes: int | None = None) -> socket.socket:
    host, port = client.address.split(":")
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(30)
    connection.connect((host, int(port)))
    return connection


def head(client: Client, path: str, method: str = "GET", more: str = "") -> bytes:
    key = f"Authorization: Bearer {client.key}\r\n"
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{key}{more}\r\n".encode()
