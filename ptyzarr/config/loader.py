"""How groups are put into batches and delivered."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal, get_args

from ptyzarr.config.options import check_bools, check_choice, check_int, option, parse_size
from ptyzarr.errors import ConfigError

Shuffle = Literal["window", "full", False]
Channels = Literal["last", "first"]
Dtype = Literal["float32", "bfloat16", "float16"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoaderConfig:
    """How groups are put into batches and delivered."""

    batch_size: int = option(64, "groups in a batch")
    shuffle: Shuffle = option(
        "window",
        "window (random tiles, each chunk decoded about once), "
        "full (uniform) or False (canonical order)",
    )
    seed: int = option(0, "seed of the epoch order")
    device: str = option("cpu", "cpu, cuda, cuda:1, ... (torch tensors) or numpy (arrays)")
    channels: Channels = option("last", "last: (B,N,N,C); first: (B,C,N,N)")
    dtype: Dtype = option("float32", "dtype of X")
    patches: bool = option(False, "deliver Y, the object patches of the groups")
    details: bool = option(
        False, "deliver the position each group was drawn for, and the start positions"
    )
    memory: str | int = option("1GiB", "memory that the loader may add to the process")
    buffer: str | int | None = option(
        None, "part of it for decoded frames and batches read ahead (default: what is left)"
    )
    n_threads: int | None = option(
        None, "threads that decode and gather (default: the cores of this rank)"
    )
    drop_last: bool = option(False, "leave out batches that are not full")
    rank: int | None = option(
        None, "this process among world_size (default: as torch.distributed has it)"
    )
    world_size: int | None = option(None, "processes that share the epoch")

    def __post_init__(self) -> None:
        """Check every option; raise `ConfigError`."""
        check_int(self, "batch_size", 1)
        check_bools(self, "patches", "details", "drop_last")
        check_choice(self, "shuffle", get_args(Shuffle))
        check_int(self, "seed", 0)
        check_choice(self, "channels", get_args(Channels))
        check_choice(self, "dtype", get_args(Dtype))
        # torch.device writes itself that way, too.
        object.__setattr__(self, "device", str(self.device))
        if not re.fullmatch(r"numpy|cpu|cuda(:\d+)?", self.device):
            raise ConfigError(
                f"device is {self.device!r}; expected 'numpy', 'cpu', 'cuda' or 'cuda:N'"
            )
        parse_size(self.memory)
        if self.buffer is not None:
            parse_size(self.buffer)
        check_int(self, "n_threads", 1, optional=True)
        if (self.rank is None) != (self.world_size is None):
            raise ConfigError("rank and world_size belong together; give both or neither")
        check_int(self, "world_size", 1, optional=True)
        check_int(self, "rank", 0, optional=True)
        if self.rank is not None and self.world_size is not None and self.rank >= self.world_size:
            raise ConfigError(
                f"rank is {self.rank}; expected less than world_size {self.world_size}"
            )

    @property
    def memory_bytes(self) -> int:
        """The memory budget in bytes."""
        return parse_size(self.memory)

    @property
    def buffer_bytes(self) -> int | None:
        """The limit of the buffer in bytes; None is what the budget leaves."""
        return None if self.buffer is None else parse_size(self.buffer)
