"""Command-line flags made from the fields of the option dataclasses."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C")


#: Defaults of grouping flags that show groups of more than one frame.
GROUPS = {"gridsize": 2, "n_neighbors": 6}


def config_options(
    config: type[Any],
    *,
    hide: tuple[str, ...] = (),
    only: tuple[str, ...] | None = None,
    defaults: dict[str, Any] | None = None,
    help: dict[str, str] | None = None,
) -> Callable[[F], F]:
    """Return a decorator that adds one flag for each field of a config dataclass.

    Parameters
    ----------
    config
        The dataclass; a flag takes the field's name, type, default and help.
    hide
        Fields without a flag.
    only
        Fields with a flag; None is all.
    defaults, help
        Other defaults and help texts than the field's own.
    """
    hints = typing.get_type_hints(config)
    fields = [
        field
        for field in dataclasses.fields(config)
        if field.name not in hide and (only is None or field.name in only)
    ]

    def decorate(command: F) -> F:
        for field in reversed(fields):
            default = (defaults or {}).get(field.name, field.default)
            text = (help or {}).get(field.name, field.metadata["help"])
            command = _option(field.name, hints[field.name], default, text)(command)
        return command

    return decorate


def config_from(config: type[C], values: dict[str, Any]) -> C:
    """Return the config made of the flags among `values`; raises `ConfigError`."""
    names = {field.name for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    return config(**{name: value for name, value in values.items() if name in names})


def _option(name: str, hint: Any, default: Any, text: str) -> Callable[[F], F]:
    flag = "--" + name.replace("_", "-")
    if hint is bool:
        return click.option(flag, is_flag=True, default=default, help=text)
    options = [option for option in _members(hint) if option is not type(None)]
    if _is_open_ended(options[0]):
        return click.option(flag, type=str, multiple=True, default=default, help=text)
    values = typing.get_args(options[0]) if typing.get_origin(options[0]) is tuple else ()
    return click.option(
        flag,
        type=values[0] if values else _param_type(options),
        nargs=len(values) or 1,
        default=default,
        show_default=default is not None,
        help=text,
    )


def _param_type(options: list[Any]) -> Any:
    if all(not isinstance(option, type) for option in options):
        return _Choice(options)
    return options[0] if options in ([int], [float]) else str


def _is_open_ended(hint: Any) -> bool:
    """Whether a type is a tuple of any length, given by repeating the flag."""
    return typing.get_origin(hint) is tuple and Ellipsis in typing.get_args(hint)


def _members(hint: Any) -> list[Any]:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return list(typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return [member for part in typing.get_args(hint) for member in _members(part)]
    return [hint]


class _Choice(click.Choice):  # type: ignore[type-arg]
    """Choices of which one may be False, written ``false`` on the command line."""

    def __init__(self, values: list[Any]) -> None:
        self._values = {str(value).lower(): value for value in values}
        super().__init__(list(self._values), case_sensitive=False)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the Python value of a choice."""
        return self._values[super().convert(str(value).lower(), param, ctx)]
