"""How long work reports what it has done: one protocol, silent by default."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the stages of long work; called from one thread at a time."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """Begin a stage of `total` units, e.g. ``("checking", 20000, "frames")``."""
        ...

    def advance(self, amount: int) -> None:
        """Report `amount` more units of the current stage."""
        ...

    def finish(self) -> None:
        """End the current stage."""
        ...


class Silent:
    """Reports nothing."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """Ignore the stage."""

    def advance(self, amount: int) -> None:
        """Ignore the amount."""

    def finish(self) -> None:
        """Ignore the end."""
