"""The epoch that every contender delivers: a scan, its canonical groups, and the conditions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptyzarr.config import Channels, GroupingConfig, parse_size
from ptyzarr.grouping import cached_group_table
from ptyzarr.store import ScanStore, open_store

#: What is done with a batch: nothing, or each of its values is read at once by one thread.
Consumer = Literal["drops", "reads"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One epoch of groups under stated conditions; plain values, so that it travels as JSON.

    Attributes
    ----------
    store
        Folder of the scan.
    folder
        Where the files of the other contenders are.
    gridsize, n_neighbors, seed
        Of the canonical groups, one for every position; the seed is also that of the shuffles.
    batch_size
        Groups in a batch.
    channels
        Layout of a batch.
    memory
        Budget of the contenders that have one.
    n_threads
        Threads of the contenders that have them.
    round_s
        Time after which a round ends, in seconds.
    consumer
        What becomes of a batch.
    """

    store: str
    folder: str
    gridsize: int = 2
    n_neighbors: int = 6
    seed: int = 0
    batch_size: int = 64
    channels: Channels = "first"
    memory: str | int = "256MiB"
    n_threads: int = 1
    round_s: float = 1.0
    consumer: Consumer = "drops"

    @property
    def grouping(self) -> GroupingConfig:
        """Options of the groups."""
        return GroupingConfig(gridsize=self.gridsize, n_neighbors=self.n_neighbors, seed=self.seed)

    @property
    def memory_bytes(self) -> int:
        """The budget in bytes."""
        return parse_size(self.memory)

    def open(self) -> ScanStore:
        """Return the scan."""
        return open_store(self.store)

    def members(self) -> NDArray[np.int64]:
        """Return the (G, C) acquisition indices of the groups' frames."""
        return cached_group_table(self.open(), self.grouping).nn_indices.astype(np.int64)

    def path(self, name: str) -> Path:
        """Return the path of a file of another contender."""
        return Path(self.folder) / name

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return dataclasses.asdict(self)

    @property
    def input_path(self) -> Path:
        """What is read where a contender names no files of its own."""
        return Path(self.store)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IngestWork:
    """One source file to take in; plain values, so that it travels as JSON.

    Attributes
    ----------
    source
        The NPZ file.
    folder
        Where stores are written; they are removed again.
    memory
        Budget of the contenders that have one.
    n_threads
        Threads of the contenders that have them.
    """

    source: str
    folder: str
    memory: str | int = "512MiB"
    n_threads: int = 1

    def path(self, name: str) -> Path:
        """Return a path in the folder."""
        return Path(self.folder) / name

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return dataclasses.asdict(self)

    @property
    def input_path(self) -> Path:
        """The source."""
        return Path(self.source)


def shuffled(members: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the groups (G, C) in the uniformly random order of an epoch."""
    return members[np.random.default_rng((seed, epoch)).permutation(len(members))]
