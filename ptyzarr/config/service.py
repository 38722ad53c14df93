"""How stores are served."""

from __future__ import annotations

import dataclasses
import ipaddress
import re

from ptyzarr.config.options import (
    check_bools,
    check_int,
    check_seconds,
    check_texts,
    option,
    parse_size,
)
from ptyzarr.errors import ConfigError

#: As browsers name them: a scheme and a host, perhaps a port, and nothing after it.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """How stores are served over HTTP: where, to whom, and within which limits."""

    host: str = option("127.0.0.1", "address to listen on")
    port: int = option(8000, "port to listen on; 0 takes a free one")
    key_file: str | None = option(
        None, "file with one key a line (default: a random key, printed at start)"
    )
    no_key: bool = option(False, "ask for no key; on a loopback address only")
    cors_origins: tuple[str, ...] = option(
        (), "origin whose pages may ask, e.g. https://lab.example; may be repeated"
    )
    allowed_hosts: tuple[str, ...] = option(
        (),
        "further name by which clients may call the service, * for any; may be repeated "
        "(addresses, localhost and this machine's name are always allowed)",
    )
    n_threads: int | None = option(
        None, "threads that decode and draw (default: the cores at hand)"
    )
    max_requests: int = option(256, "requests computed or read at once; more wait")
    max_connections: int = option(4096, "connections open at once, and requests that wait")
    max_request_size: str | int = option("1MiB", "largest body of a request")
    max_batch_frames: int = option(4096, "most indices in a batch")
    max_batch_size: str | int = option("64MiB", "largest batch, decoded")
    max_table_size: str | int = option("1GiB", "most memory that one group table may take")
    max_answers_size: str | int = option(
        "512MiB", "computed answers on their way to clients; beyond it who takes nothing is cut off"
    )
    cache_size: str | int = option("64MiB", "memory for tables and pictures that are kept")
    timeout_s: float = option(60.0, "seconds that an answer may take to compute")
    queue_timeout_s: float = option(60.0, "seconds that a request waits for others at most")
    client_timeout_s: float = option(
        30.0, "seconds to wait for a client that neither sends nor takes anything"
    )
    shutdown_timeout_s: float = option(10.0, "seconds that running requests get at the end")

    def __post_init__(self) -> None:
        """Check every option; raise `ConfigError`."""
        if not isinstance(self.host, str) or not self.host:
            raise ConfigError(f"host is {self.host!r}; expected an address such as 127.0.0.1")
        if not isinstance(self.key_file, str | None):
            raise ConfigError(f"key_file is {self.key_file!r}; expected text or None")
        check_bools(self, "no_key")
        for name in ("cors_origins", "allowed_hosts"):
            check_texts(self, name)
        self._check_origins()
        check_int(self, "port", 0)
        if self.port > 65535:
            raise ConfigError(f"port is {self.port}; expected 0 to 65535")
        check_int(self, "n_threads", 1, optional=True)
        for name in ("max_requests", "max_connections", "max_batch_frames"):
            check_int(self, name, 1)
        sizes = ("max_request_size", "max_batch_size", "max_table_size", "max_answers_size")
        for name in (*sizes, "cache_size"):
            parse_size(getattr(self, name))
        for name in ("timeout_s", "queue_timeout_s", "client_timeout_s", "shutdown_timeout_s"):
            check_seconds(self, name)
        self._check_key()

    def _check_origins(self) -> None:
        for origin in self.cors_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"cors_origins has {origin!r}, which is no origin; expected scheme and host, "
                    "in lower case, and no path, e.g. https://lab.example or http://localhost:8080"
                )

    def _check_key(self) -> None:
        if self.no_key and self.key_file is not None:
            raise ConfigError("no_key and key_file exclude each other; give one of them")
        if self.no_key and not self.is_loopback:
            raise ConfigError(
                f"no_key with host {self.host!r} would show the scans to the network; expected a "
                "loopback address such as 127.0.0.1; leave out --no-key"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
