"""Rank and world size as `torch.distributed` has them."""

from __future__ import annotations

import torch.distributed


def find_rank() -> tuple[int, int] | None:
    """Return rank and world size of the default process group; None unless it is initialised."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return None
    return torch.distributed.get_rank(), torch.distributed.get_world_size()
