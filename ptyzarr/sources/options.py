"""What a reader may be asked, in one value, so that every reader has the same signature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ptyzarr.errors import ConfigError
from ptyzarr.scan import Quantity, Scan

Incomplete = Literal["refuse", "truncate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How a source is read.

    Attributes
    ----------
    frames_key
        Member that holds the frames, whatever it is called; None finds it.
    prefer
        Which of two equal members holds the frames, ``"diff3d"`` or ``"diffraction"``.
    quantity
        What the frame values are.
    incomplete
        Frames and positions differ in number: refuse, or keep the common beginning.
    spool_dir
        Directory for temporary files; None is the system's.
    max_resident
        Bytes that positions, probe and object may take together; None is no limit.

    Raises
    ------
    ConfigError
        If a value is not one of these.
    """

    frames_key: str | None = None
    prefer: str = "diff3d"
    quantity: Quantity = "amplitude"
    incomplete: Incomplete = "refuse"
    spool_dir: str | None = None
    max_resident: int | None = None

    def __post_init__(self) -> None:
        """Check every option; raise `ConfigError`."""
        for name, choices in (
            ("prefer", ("diff3d", "diffraction")),
            ("quantity", ("amplitude", "counts")),
            ("incomplete", ("refuse", "truncate")),
        ):
            if getattr(self, name) not in choices:
                listed = " or ".join(repr(choice) for choice in choices)
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {listed}")


Reader = Callable[[str, ReadOptions], Scan]
"""A format: a path and options become a `Scan`."""
