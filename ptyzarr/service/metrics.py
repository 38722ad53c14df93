"""What the service has done, in the text form that Prometheus reads."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ptyzarr._version import __version__
from ptyzarr.memory import resident_memory

_BOUNDS_S: Final = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0)


class Metrics:
    """Counts of requests, bytes and seconds since the start; changed in the event loop only."""

    def __init__(self) -> None:
        self._started = time.time()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._bytes: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()
        self._below: Counter[tuple[str, float]] = Counter()
        self.running = 0

    def count(self, route: str, method: str, status: int, nbytes: int, seconds: float) -> None:
        """Add one answered request."""
        self._requests[route, method, status] += 1
        self._bytes[route] += nbytes
        self._seconds[route] += seconds  # type: ignore[assignment]
        for bound in _BOUNDS_S:
            if seconds <= bound:
                self._below[route, bound] += 1

    def text(self, n_scans: int) -> str:
        """Return all metrics; `n_scans` is the number of stores in the folder."""
        memory = resident_memory()
        gauges = {
            "requests_running": ("Requests being answered.", self.running),
            "scans": ("Stores in the served folder.", n_scans),
            "start_time_seconds": ("Start of the service, seconds since 1970.", self._started),
            "resident_memory_bytes": ("Memory of the process.", memory[0] if memory else 0),
        }
        lines = ["# HELP ptyzarr_info Version.", "# TYPE ptyzarr_info gauge"]
        lines.append(f'ptyzarr_info{{version="{__version__}"}} 1')
        for name, (help_text, value) in gauges.items():
            lines += [f"# HELP ptyzarr_{name} {help_text}", f"# TYPE ptyzarr_{name} gauge"]
            lines.append(f"ptyzarr_{name} {value}")
        lines += self._request_lines()
        return "\n".join(lines) + "\n"

    def _request_lines(self) -> list[str]:
        lines = ["# HELP ptyzarr_requests_total Answers.", "# TYPE ptyzarr_requests_total counter"]
        for (route, method, status), n in sorted(self._requests.items()):
            labels = f'route="{route}",method="{method}",status="{status}"'
            lines.append(f"ptyzarr_requests_total{{{labels}}} {n}")
        lines += ["# HELP ptyzarr_sent_bytes_total Bytes of bodies sent."]
        lines += ["# TYPE ptyzarr_sent_bytes_total counter"]
        lines += [
            f'ptyzarr_sent_bytes_total{{route="{route}"}} {n}'
            for route, n in sorted(self._bytes.items())
        ]
        lines += ["# HELP ptyzarr_request_seconds Time from request to last byte."]
        lines += ["# TYPE ptyzarr_request_seconds histogram"]
        for route, seconds in sorted(self._seconds.items()):
            total = sum(n for (name, _, _), n in self._requests.items() if name == route)
            bounds = [(f"{bound:g}", self._below[route, bound]) for bound in _BOUNDS_S]
            for bound, n in [*bounds, ("+Inf", total)]:
                labels = f'route="{route}",le="{bound}"'
                lines.append(f"ptyzarr_request_seconds_bucket{{{labels}}} {n}")
            lines.append(f'ptyzarr_request_seconds_sum{{route="{route}"}} {seconds:.6f}')
            lines.append(f'ptyzarr_request_seconds_count{{route="{route}"}} {total}')
        return lines


class Counted:
    """Counts every answer under its route, of which there are few, not under its path.

    Parameters
    ----------
    app
        What answers.
    metrics
        Where it is counted.
    routes
        Path of the route by its endpoint.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, routes: Mapping[Callable[..., Any], str]
    ) -> None:
        self._app, self._metrics, self._routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer and count."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, nbytes = 0, 0

        async def send_counted(message: Message) -> None:
            nonlocal status, nbytes
            status = message.get("status", status)
            if scope["method"] != "HEAD":
                nbytes += len(message.get("body", b""))
            await send(message)

        began = time.perf_counter()
        self._metrics.running += 1
        try:
            await self._app(scope, receive, send_counted)
        finally:
            self._metrics.running -= 1
            endpoint = scope.get("endpoint")
            route = "none" if endpoint is None else self._routes.get(endpoint, "none")
            seconds = time.perf_counter() - began
            self._metrics.count(route, _method(scope["method"]), status, nbytes, seconds)


def _method(name: str) -> str:
    """Return a method's name; a client may send any word."""
    return name if name in ("GET", "HEAD", "POST", "OPTIONS") else "other"
