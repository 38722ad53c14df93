"""What a failed request means, read from obstore's error: status, reason, the server's words."""

from __future__ import annotations

import json
import re
from typing import Final

_BODY_CHARACTERS: Final = 4096
_SHOWN: Final = 400


class CutAnswer(Exception):
    """An answer with another number of bytes than it announced or was asked for."""

    def __init__(self, found: int, expected: int) -> None:
        super().__init__(f"the answer has {found} bytes instead of {expected}")


def describe_failure(error: Exception, timeout_s: float) -> str:
    """Return in a few words why a request failed, with the server's reason if it gave one."""
    text = str(error)
    status = re.search(r"status code: (\d{3}[ A-Za-z-]*)", text)
    if status:
        said = server_words(error)[1]
        return f"the server answered {status[1].strip()}" + (f" ({said})" if said else "")
    if isinstance(error, CutAnswer):
        return text
    for pattern, reason in (
        (r"kind: Timeout|TimedOut", f"no byte came for {timeout_s:g} s"),
        (r"dns error", "the name of the host is not known"),
        (r"kind: Connect|tcp connect error", "no connection could be made"),
        (r"IncompleteBody|UnexpectedEof", "the answer was cut"),
        (r"IncompleteMessage|ConnectionReset", "the connection was closed before the answer"),
    ):
        if re.search(pattern, text):
            return reason
    return first_line(error)


def server_words(error: Exception) -> tuple[str, str]:
    """Return code and reason that the body of an answer states; empty where it states none.

    Understood are the JSON of our service, ``{"code": ..., "message": ...}``, and the XML of S3.
    """
    body = _body(error)
    try:
        said = json.loads(body)
    except ValueError:
        code = re.search(r"<Code>(\w{1,80})</Code>", body)
        return (code[1], code[1]) if code else ("", "")
    if not isinstance(said, dict):
        return "", ""
    code, message = said.get("code"), said.get("message")
    if not isinstance(code, str) or not isinstance(message, str):
        return "", ""
    # Whoever answers may be anybody: no line ends, nothing that moves a terminal's cursor.
    shown = "".join(c for c in " ".join(message.split()) if c.isprintable())
    return code, shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def status_of(error: Exception) -> int | None:
    """Return the status of the answer; None if there was none."""
    found = re.search(r"status code: (\d{3})", str(error))
    return int(found[1]) if found else None


def is_of_ranges(error: Exception) -> bool:
    """Return whether a server could not give the part of a file that was asked for."""
    text = str(error)
    return "UnexpectedRange" in text or "InvalidRangeRequest" in text or status_of(error) == 416


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _body(error: Exception) -> str:
    """Return the body of an error answer as far as it is looked at."""
    text = str(error).split("\n\nDebug source:", maxsplit=1)[0]
    found = re.search(r"status code: \d{3}[^:]*: ", text)
    return "" if found is None else text[found.end() :][:_BODY_CHARACTERS].strip()
