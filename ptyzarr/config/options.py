"""Options: sizes as text, fields with a help text, and checks that name what is wrong."""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
from typing import Any

from ptyzarr.errors import ConfigError

_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _UNITS[f"{_letter}ib"] = 1024**_power
    _UNITS[f"{_letter}b"] = 1000**_power


def parse_size(text: str | int) -> int:
    """Return bytes for a size such as ``"512MiB"``, ``"1.5 GB"`` or a plain number.

    Raises
    ------
    ConfigError
        If the text is not a positive size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(text))
    unit = _UNITS.get(match.group(2).lower()) if match else None
    size = int(float(match.group(1)) * unit) if match and unit else 0
    if size <= 0:
        raise ConfigError(
            f"memory size {text!r} is not understood; expected a number with a unit such as "
            "'512MiB' or '2GB'"
        )
    return size


def format_size(nbytes: float) -> str:
    """Return `nbytes` for people, e.g. ``"1.5 GiB"``."""
    value, unit = float(nbytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def option(default: Any, help: str) -> Any:
    """Return a dataclass field with the help text that the command line shows."""
    return dataclasses.field(default=default, metadata={"help": help})


def check_choice(config: Any, name: str, choices: tuple[Any, ...]) -> None:
    """Refuse an option that is none of the choices."""
    value = getattr(config, name)
    if value not in choices or (value is not False and value == 0):
        listed = ", ".join(repr(choice) for choice in choices)
        raise ConfigError(f"{name} is {value!r}; expected one of {listed}")


def check_int(config: Any, name: str, minimum: int, *, optional: bool = False) -> None:
    """Refuse an option that is no integer of `minimum` or more."""
    value = getattr(config, name)
    if value is None and optional:
        return
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ConfigError(f"{name} is {value!r}; expected an integer")
    if int(value) < minimum:
        raise ConfigError(f"{name} is {value}; expected {minimum} or more")


def check_distance(config: Any, name: str, *, optional: bool = False) -> None:
    """Refuse an option that is no distance in pixels; make it a float."""
    value = getattr(config, name)
    if value is None and optional:
        return
    if not _is_real(value) or not value >= 0 or value == float("inf"):
        raise ConfigError(f"{name} is {value!r}; expected pixels, 0 or more")
    object.__setattr__(config, name, float(value))


def check_bounds(config: Any, name: str) -> None:
    """Refuse an option that is no pair of fractions, low and high; make it a tuple of floats."""
    value = getattr(config, name)
    if value is None:
        return
    is_pair = isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_real, value))
    if not is_pair or not 0 <= value[0] < value[1] <= 1:
        raise ConfigError(
            f"{name} is {value!r}; expected two fractions of the scan's extent, (low, high) with "
            "0 <= low < high <= 1"
        )
    # A list, as in a JSON file, would not be hashable.
    object.__setattr__(config, name, (float(value[0]), float(value[1])))


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_texts(config: Any, name: str) -> None:
    """Refuse an option that is no tuple of texts."""
    value = getattr(config, name)
    if not isinstance(value, tuple) or not all(isinstance(text, str) and text for text in value):
        raise ConfigError(f"{name} is {value!r}; expected a tuple of texts")


def check_seconds(config: Any, name: str) -> None:
    """Refuse an option that is no time in seconds."""
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name} is {value!r}; expected seconds")
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"{name} is {value}; expected more than 0 seconds")


def check_bools(config: Any, *names: str) -> None:
    """Refuse options that are neither True nor False."""
    for name in names:
        if not isinstance(getattr(config, name), bool):
            raise ConfigError(f"{name} is {getattr(config, name)!r}; expected True or False")
