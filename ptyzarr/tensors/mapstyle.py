"""`GroupMapDataset`: groups by number, for samplers that decide what comes when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, get_worker_info

from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.errors import ConfigError, DtypeError
from ptyzarr.streaming import Batch, GroupLookup, StreamableScan, check_seed, fill_rank
from ptyzarr.tensors.dataset import batch_as_dict, config_here

_DEFAULT: Final = LoaderConfig()
_STATE_VERSION: Final = 1
_SHARED: Final = ("probe", "bad_pixels")


class GroupMapDataset(Dataset[dict[str, Any]]):
    """Canonical groups by number, for samplers that exist already.

    ``dataset[i]`` is group i, scan after scan: the fields of `Batch` without the batch axis, in a
    dict. It leaves out what is not the group's own: `probe` and `bad_pixels`, attributes of the
    dataset, to be indexed by `experiment_id`; and ``Y`` where there is none, which torch cannot
    collate.
    ``dataset[[i, j, ...]]``, also of an array or a slice, is a whole batch as `GroupDataset` gives
    it, in the order asked for. Two ways to make batches:

        DataLoader(dataset, sampler=BatchSampler(sampler, 64, drop_last=False), batch_size=None)
        DataLoader(dataset, batch_size=64, shuffle=True)

    The first gives whole batches; the second copies them once more, out of the items.

    This is the slower twin of `GroupDataset`: nothing is read ahead, and a call decodes in the
    thread that makes it. An epoch takes 1.2 times the processor time of a uniform shuffle by
    `GroupDataset`, on one core instead of all of them; made of items, 2 times (the rows ``map`` and
    ``map-items`` of ``benchmarks/epoch.py``). The window shuffle has no twin here: it decodes each
    chunk about once where an order without locality decodes it for every few groups. Worker
    processes (start method ``spawn``) read ahead, each within ``config.memory``.

    Parameters
    ----------
    stores, grouping, scale
        As for `GroupLoader`; stores must be picklable where there are workers.
    config
        As for `GroupLookup`: `batch_size` is the most groups asked for at once; `shuffle`, `seed`,
        `drop_last` and `n_threads` do not matter; ranks share the groups out by their sampler.
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
        self._lookup: GroupLookup | None = None

    def __len__(self) -> int:
        """Return the number of groups of all stores."""
        return len(self.lookup)

    def __getitem__(self, index: Any) -> dict[str, Any]:
        """Return one group, or a batch of several.

        Raises
        ------
        GroupIndexError
            If there is no such group.
        ConfigError
            If no groups are asked for, or more than ``config.batch_size``.
        DtypeError
            If the numbers are no integers (a mask, say).
        """
        numbers = _as_numbers(index, len(self))
        if numbers.ndim == 1:
            return batch_as_dict(self.lookup.fetch(numbers))
        (item,) = _split(self.lookup.fetch(numbers.reshape(1)), 1)
        return item

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return several groups, decoded together; what torch's loader calls for a batch."""
        numbers = _as_numbers(indices, len(self))
        return _split(self.lookup.fetch(numbers), len(numbers))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the lookup: each process has its own."""
        check_seed(self._grouping, fill_rank(self._config).world_size or 1)
        return {**self.__dict__, "_lookup": None}

    @property
    def lookup(self) -> GroupLookup:
        """The lookup of this process, made when it is first needed.

        Raises
        ------
        ConfigError
            If a CUDA device is asked for in a worker process, or groups without a seed.
        BudgetError, DeviceError, GroupingError
            As `GroupLookup` raises them.
        """
        if get_worker_info() is not None:
            # A forked worker has its parent's lookup, which may be one for a device.
            config_here(self._config, self._grouping)
        if self._lookup is None:
            self._lookup = GroupLookup(
                self._stores, self._grouping, self._config, scale=self._scale
            )
        return self._lookup

    @property
    def probe(self) -> Any:
        """(n_stores, [mode,] N, N) complex64 probes, to be indexed by `experiment_id`."""
        return self.lookup.probe

    @property
    def bad_pixels(self) -> Any:
        """(n_stores, N, N) bool masks, to be indexed by `experiment_id`; None without any."""
        return self.lookup.bad_pixels

    def state_dict(self) -> dict[str, Any]:
        """Return what the numbers of the groups stand for, as plain JSON.

        Where an epoch is, its sampler knows; this lets a resumed one make sure that it is over
        the same groups.
        """
        return {"version": _STATE_VERSION, "groups": self.lookup.identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that a saved state is of the same groups.

        Raises
        ------
        ConfigError
            If it is not.
        """
        if not isinstance(state, Mapping) or dict(state) != self.state_dict():
            raise ConfigError(
                f"the state is {state!r}; expected {self.state_dict()!r}, that of these stores and "
                "this grouping; make the dataset as it was"
            )

    def close(self) -> None:
        """Give this process's memory back; a later access takes it anew."""
        if self._lookup is not None:
            self._lookup.close()
            self._lookup = None


def _as_numbers(index: Any, n_groups: int) -> NDArray[np.integer[Any]]:
    """Return a number, several, or a slice as a () or (B,) integer array."""
    if isinstance(index, slice):
        return np.arange(*index.indices(n_groups))
    try:
        numbers = np.asarray(index)
    except ValueError as error:
        raise DtypeError(
            f"groups are asked for by {index!r}; expected an integer, or integers in one dimension"
        ) from error
    if numbers.ndim > 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise DtypeError(
            f"groups are asked for by {numbers.dtype} of shape {numbers.shape}; expected an "
            "integer, or integers in one dimension; turn a mask into numbers by numpy.flatnonzero"
        )
    return numbers


def _split(batch: Batch, n_groups: int) -> list[dict[str, Any]]:
    """Return the groups of a batch, each as views of it."""
    fields = batch_as_dict(batch)
    own = {name: x for name, x in fields.items() if name not in _SHARED and x is not None}
    return [{name: value[row] for name, value in own.items()} for row in range(n_groups)]
