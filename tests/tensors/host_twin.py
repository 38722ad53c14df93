"""A device in host memory that is as late, and as careless with slots, as a device may be."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch

POISON = 0xA5


class TwinTransfer:
    """Copies when somebody waits for it, computes when it is received; not a moment before."""

    def __init__(self, sources: Sequence[torch.Tensor], work: Any) -> None:
        self._sources, self._work = sources, work
        self._as_submitted = [source.clone() for source in sources]
        self._copies: list[torch.Tensor] | None = None
        self._lock = threading.Lock()

    @property
    def is_copied(self) -> bool:
        return self._copies is not None

    def wait_copied(self) -> None:
        with self._lock:
            if self._copies is not None:
                return
            self._copies = [source.clone() for source in self._sources]
            for source, before in zip(self._sources, self._as_submitted, strict=True):
                assert torch.equal(source, before), "a slot was rewritten before it was copied"
                # Whoever reads it after its copy, before writing it again, sees nonsense.
                source.fill_(POISON)

    def receive(self) -> dict[str, Any]:
        self.wait_copied()
        work, self._work = self._work, None
        return work(self._copies)


class HostTwin:
    """A `Device` in host memory."""

    def __init__(self) -> None:
        self.slots: list[torch.Tensor] = []
        self.transfers: list[TwinTransfer] = []

    def staging_nbytes(self, nbytes: int) -> int:
        return nbytes

    def allocate(self, nbytes: int) -> torch.Tensor:
        self.slots.append(torch.full((nbytes,), POISON, dtype=torch.uint8))
        return self.slots[-1]

    def upload(self, array: Any) -> torch.Tensor:
        return torch.from_numpy(array.copy())

    def submit(self, sources: Sequence[torch.Tensor], work: Any) -> TwinTransfer:
        self.transfers.append(TwinTransfer(sources, work))
        return self.transfers[-1]

    def synchronize(self) -> None:
        for transfer in self.transfers:
            transfer.wait_copied()
