"""Parameters of a request: stated once, for reading them and for describing them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from starlette.requests import Request

from ptyzarr.service.answers import Refusal

Kind = Literal["integer", "number", "string"]

_MOST: Final = 2**63 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of the query.

    Attributes
    ----------
    name, kind, help
        What it is.
    default
        What it is if it is not given; None is nothing.
    minimum, maximum
        Limits, inclusive.
    choices
        Values of a string.
    instead_of
        Name of a parameter that cannot be given as well.
    """

    name: str
    kind: Kind
    help: str
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    choices: Sequence[str] = ()
    instead_of: str | None = None

    def read(self, text: str) -> Any:
        """Return the value that a text stands for; raises `Refusal`."""
        if self.kind == "string":
            if self.choices and text not in self.choices:
                raise self._refusal(text, f"one of {', '.join(self.choices)}")
            return text
        if self.kind == "integer":
            # int() takes more than digits: blanks, underscores, digits of other scripts.
            value: Any = int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text) else None
        else:
            value = _number(text)
        low = -_MOST if self.minimum is None else self.minimum
        high = _MOST if self.maximum is None else self.maximum
        if value is None or not low <= value <= high:
            raise self._refusal(text, f"{self.kind} from {low} to {high}")
        return value

    def _refusal(self, text: str, expected: str) -> Refusal:
        return Refusal(400, "request", f"{self.name} is {text[:40]!r}; expected {expected}")

    def schema(self) -> dict[str, Any]:
        """Return what a description of the interface says of it."""
        facts = {
            "type": self.kind,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "default": self.default,
            "enum": list(self.choices) or None,
        }
        return {key: value for key, value in facts.items() if value is not None}


def read_query(request: Request, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Return the value of every parameter.

    Raises
    ------
    Refusal
        If one is unknown, given twice, given with one that excludes it, or has a value that it
        cannot have.
    """
    given = request.query_params.multi_items()
    known = {parameter.name for parameter in parameters}
    names = [name for name, _ in given]
    for name in names:
        if name not in known:
            raise Refusal(
                400, "request",
                f"there is no parameter {name[:40]!r}; expected "
                f"{', '.join(sorted(known)) or 'none'}",
            )  # fmt: skip
        if names.count(name) > 1:
            raise Refusal(400, "request", f"{name} is given twice; expected it once")
    texts: Mapping[str, str] = dict(given)
    for parameter in parameters:
        if parameter.name in texts and parameter.instead_of in texts:
            raise Refusal(
                400, "request",
                f"{parameter.instead_of} and {parameter.name} exclude each other; expected one",
            )  # fmt: skip
    return {
        parameter.name: parameter.read(texts[parameter.name])
        if parameter.name in texts
        else parameter.default
        for parameter in parameters
    }


def frame_number(text: str, n_frames: int) -> int:
    """Return the acquisition index in a path; raises `Refusal` if the scan has no such frame."""
    if re.fullmatch(r"0|[1-9][0-9]{0,18}", text) and int(text) < n_frames:
        return int(text)
    raise Refusal(
        404, "not_found", f"there is no frame {text[:40]!r}; expected 0 to {n_frames - 1}"
    )


def _number(text: str) -> float | None:
    # float() takes blanks, underscores, nan and infinity, too.
    if not re.fullmatch(
        r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?", text
    ):
        return None
    value = float(text)
    return value if math.isfinite(value) else None
