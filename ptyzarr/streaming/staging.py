"""Slots of staging memory for sinks that copy to a device asynchronously; knows no device."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

Slot = TypeVar("Slot")


class SlotRing(Generic[Slot]):
    """Hands a slot out again only after the copy that reads it has completed.

    A slot is *held* from `acquire` until `release`; it is *busy* from then until its copy is
    done. A caller that holds fewer than all slots can always acquire one, after waiting at most
    for a copy that is under way, which completes without help from any other thread.

    Parameters
    ----------
    slots
        The staging memory, e.g. pinned buffers.
    """

    def __init__(self, slots: Iterable[Slot]) -> None:
        self._free: deque[Slot] = deque(slots)
        self._busy: deque[tuple[Slot, Callable[[], None]]] = deque()
        self._lock = threading.Lock()
        self.n_slots = len(self._free)

    def acquire(self) -> Slot | None:
        """Return a slot that may be overwritten, or None if every slot is held.

        Waits for the oldest copy under way where no slot is free.
        """
        with self._lock:
            if self._free:
                return self._free.popleft()
            if not self._busy:
                return None
            slot, wait = self._busy.popleft()
        wait()
        return slot

    def release(self, slot: Slot, wait: Callable[[], None] | None = None) -> None:
        """Give a held slot back.

        Parameters
        ----------
        slot
            What `acquire` returned.
        wait
            Returns once the copy out of the slot has completed (an event's ``synchronize``);
            None where no copy was started.
        """
        with self._lock:
            if wait is None:
                self._free.append(slot)
            else:
                self._busy.append((slot, wait))

    def drain(self) -> None:
        """Wait for every copy under way; all slots that are not held are free then."""
        while True:
            with self._lock:
                if not self._busy:
                    return
                slot, wait = self._busy.popleft()
            wait()
            self.release(slot)
