"""What commands print: one JSON object, or lines for people."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
from collections.abc import Iterator
from typing import Any

import click

json_flag = click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")


def print_json(facts: Any) -> None:
    """Print one JSON object; what is no finite number becomes null."""
    click.echo(json.dumps(_finite(facts), default=str, allow_nan=False))


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a command tell what is done: a signal comes too late to stop it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def printable(text: str) -> str:
    """Return text with control characters spelled out: a source names its members as it likes."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
