"""`GroupDataset`: a loader as a torch dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from torch.utils.data import IterableDataset, get_worker_info

from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.errors import ConfigError
from ptyzarr.streaming import Batch, GroupLoader, StreamableScan, count_threads

_DEFAULT: Final = LoaderConfig()


class GroupDataset(IterableDataset[dict[str, Any]]):
    """Batches of canonical groups for ``DataLoader(dataset, batch_size=None)``.

    Every item is a whole batch: the fields of `Batch` in a dict. ``num_workers=0`` is the fast
    way, because the loader reads ahead in threads. In worker processes (start method ``spawn``)
    each worker is a rank of its own: together they deliver every group of the epoch once, each
    within ``config.memory``.

    Iterating again goes on to the next epoch. Workers that are started for each epoch begin with
    the state of the dataset they were made from, so call `set_epoch` before each epoch; workers
    that persist go on by themselves, and do not see later calls.

    Parameters
    ----------
    stores, grouping, config, scale
        As for `GroupLoader`; stores must be picklable where there are workers.
    """

    def __init__(
        self,
        stores: StreamableScan | Sequence[StreamableScan],
        grouping: GroupingConfig,
        config: LoaderConfig = _DEFAULT,
        *,
        scale: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self._stores, self._grouping, self._config, self._scale = stores, grouping, config, scale
        self._state: dict[str, Any] | None = None
        self._epoch: int | None = None
        self._loader: GroupLoader | None = None

    def __len__(self) -> int:
        """Return the number of batches of an epoch in this process.

        Workers round up each for itself, so W of them may deliver up to W - 1 batches more.
        """
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.loader:
            yield {name: getattr(batch, name) for name in _FIELDS}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the loader, and take its place in the epoch along."""
        state = self.__dict__.copy()
        if self._loader is not None:
            place = self._loader.state_dict()
            # Between epochs the number is enough, and fits any number of workers.
            state["_state"] = place if place["next_batch"] else None
            state["_epoch"] = place["epoch"]
        state["_loader"] = None
        return state

    @property
    def loader(self) -> GroupLoader:
        """The loader of this process, made when it is first needed.

        Raises
        ------
        ConfigError
            If a CUDA device is asked for in a worker process.
        BudgetError, DeviceError, GroupingError
            As `GroupLoader` raises them.
        """
        config = _share_of_worker(self._config)
        if self._loader is not None and self._loader.config != config:
            # A forked worker has inherited the loader of its parent.
            self._loader = None
        if self._loader is None:
            self._loader = GroupLoader(self._stores, self._grouping, config, scale=self._scale)
            if self._state is not None:
                self._loader.load_state_dict(self._state)
            if self._epoch is not None:
                self._loader.set_epoch(self._epoch)
        return self._loader

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration delivers; see `GroupLoader.set_epoch`."""
        self._epoch = epoch
        if self._loader is not None:
            self._loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where this process is in its epoch, as plain JSON."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a dataset with the same order was.

        Raises
        ------
        ConfigError
            As `GroupLoader.load_state_dict`; the number of workers is part of the order.
        """
        self._state, self._epoch = dict(state), None
        if self._loader is not None:
            self._loader.load_state_dict(state)

    def close(self) -> None:
        """Give the memory of this process's loader back; a later iteration makes a new one."""
        if self._loader is not None:
            self._state, self._epoch = self._loader.state_dict(), None
            self._loader.close()
            self._loader = None


_FIELDS: Final = tuple(field.name for field in dataclasses.fields(Batch))


def _share_of_worker(config: LoaderConfig) -> LoaderConfig:
    """Return the options of this process: a worker is a rank among all workers of all ranks."""
    worker = get_worker_info()
    if worker is None:
        return config
    if config.device.startswith("cuda"):
        raise ConfigError(
            f"device is {config.device!r} in a worker process of a DataLoader; expected 'cpu' "
            "there; use num_workers=0, which reads ahead in threads"
        )
    n_threads = config.n_threads or max(1, count_threads() // worker.num_workers)
    return dataclasses.replace(
        config,
        rank=(config.rank or 0) * worker.num_workers + worker.id,
        world_size=(config.world_size or 1) * worker.num_workers,
        n_threads=n_threads,
    )
