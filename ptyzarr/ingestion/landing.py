"""What an interrupt means: the end of a call before its store is published, nothing afterwards.

Once the store is at its destination, what is left (a folder to tidy, the result to open) takes
less time than to explain that it was interrupted. So the call ends with success, and whoever has
more to do after it asks `Landing.was_interrupted`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from ptyzarr.errors import InterruptedIngestError

Result = TypeVar("Result")


class Landing:
    """Follows one call up to the moment when its store is published.

    Attributes
    ----------
    was_interrupted
        Whether an interrupt came too late to stop the call.
    """

    def __init__(self) -> None:
        self.was_interrupted = False
        self._is_published: Callable[[], bool] | None = None

    def approach(self, is_published: Callable[[], bool]) -> None:
        """Take note, right before publication, of how to tell whether it has happened."""
        self._is_published = is_published

    @contextlib.contextmanager
    def interruptible(
        self, message: str = "ingest was interrupted; run the same command to resume"
    ) -> Iterator[None]:
        """End the call at an interrupt that comes before publication, the block at a later one.

        Raises
        ------
        InterruptedIngestError
            With the message; what was done is kept for the next call.
        """
        try:
            yield
        except KeyboardInterrupt as error:
            if self._is_published is None or not self._is_published():
                raise InterruptedIngestError(message) from error
            self.was_interrupted = True

    def finish(self, step: Callable[[], Result]) -> Result:
        """Return what a step after publication returns; it is taken again where an interrupt came.

        Somebody who interrupts it twice is heard.
        """
        try:
            return step()
        except KeyboardInterrupt:
            self.was_interrupted = True
            return step()
