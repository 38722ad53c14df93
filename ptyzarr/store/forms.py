"""Forms of parsed JSON that may come from anybody: what is there, or what is wrong with it."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import Any

_INTEGER_LIMIT = 2**62
_MAX_AXES = 32
_SURROGATES = re.compile("[\ud800-\udfff]")


class UnexpectedFormError(ValueError):
    """A part of a document is not what it must be: found and expected, in one line."""


def expect(holds: bool, name: str, found: object, expected: str) -> None:
    """Raise `UnexpectedFormError` unless `holds`.

    Parameters
    ----------
    holds
        Whether the part is as expected.
    name
        Where it is, for the message.
    found
        The part; its representation is cut short.
    expected
        In words.
    """
    if not holds:
        raise UnexpectedFormError(f"{name[:100]} is {reprlib.repr(found)}; expected {expected}")


def as_mapping(name: str, value: object) -> Mapping[str, Any]:
    """Return `value` if it is a mapping; raises `UnexpectedFormError`."""
    expect(isinstance(value, dict), name, value, "a mapping")
    found: Mapping[str, Any] = value  # type: ignore[assignment]
    return found


def as_list(name: str, value: object) -> list[Any]:
    """Return `value` if it is a list; raises `UnexpectedFormError`."""
    expect(isinstance(value, list), name, value, "a list")
    found: list[Any] = value  # type: ignore[assignment]
    return found


def as_text(name: str, value: object) -> str:
    """Return `value` if it is text that can be written; raises `UnexpectedFormError`."""
    is_text = isinstance(value, str) and _SURROGATES.search(value) is None
    expect(is_text, name, value, "text")
    return str(value)


def as_integer(name: str, value: object, least: int = 0, most: int = _INTEGER_LIMIT) -> int:
    """Return `value` if it is an integer from `least` to `most`; raises `UnexpectedFormError`."""
    holds = type(value) is int and least <= value <= most
    where = f"{least} or more" if most == _INTEGER_LIMIT else f"{least} to {most}"
    expect(holds, name, value, f"an integer, {where}")
    number: int = value  # type: ignore[assignment]
    return number


def as_lengths(name: str, value: object, least: int = 0) -> tuple[int, ...]:
    """Return a list of lengths along axes as a tuple; raises `UnexpectedFormError`."""
    lengths = as_list(name, value)
    expect(len(lengths) <= _MAX_AXES, name, value, f"at most {_MAX_AXES} axes")
    return tuple(as_integer(name, length, least) for length in lengths)


def as_digest(name: str, value: object) -> str:
    """Return `value` if it is a sha256 in hexadecimal; raises `UnexpectedFormError`."""
    holds = isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")
    expect(holds, name, value, "64 hexadecimal digits")
    return str(value)
