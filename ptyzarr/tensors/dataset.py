"""`GroupDataset`: a loader as a torch dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Literal

from torch.utils.data import IterableDataset, get_worker_info

from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.errors import ConfigError
from ptyzarr.streaming import (
    Batch,
    GroupLoader,
    Groups,
    StreamableScan,
    check_seed,
    count_threads,
    fill_rank,
)
from ptyzarr.tensors.tensordict import as_tensordict

_DEFAULT: Final = LoaderConfig()
Form = Literal["dict", "tensordict"]
_FIELDS: Final = tuple(field.name for field in dataclasses.fields(Batch))
_ADDED: Final = {f.name for f in dataclasses.fields(Batch) if f.default is None}


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Batches of an epoch that a worker has still to deliver: `first` and up to `stop`."""

    epoch: int
    first: int
    stop: int


class GroupDataset(IterableDataset[Any]):
    """Batches of canonical groups for ``DataLoader(dataset, batch_size=None)``.

    Every item is a whole batch: the fields of `Batch` in a dict, or a `GroupItem`, the 3-tuple of
    PtychoPINN's TensorDict loaders. ``num_workers=0`` is the fast way, because the loader reads
    ahead in threads. Worker processes (start method ``spawn``) deliver the same batches, each a
    run of consecutive ones, and each within ``config.memory``.

    Iterating again goes on to the next epoch. Workers that are started for each epoch begin
    where the dataset is in the main process, so call `set_epoch` before each epoch; workers that
    persist go on by themselves, and do not see later calls.

    With an initialised `torch.distributed` and no rank in `config`, each rank delivers its part;
    workers deliver the part of the rank that started them.

    Parameters
    ----------
    stores, grouping, config, scale, groups
        As for `GroupLoader`; stores must be picklable where there are workers.
    form
        ``"dict"`` or ``"tensordict"``, which needs ``channels="first"`` and the extra
        ``tensordict``, and asks for details by itself.

    Raises
    ------
    ConfigError
        If `config` does not fit `form`.
    """

    def __init__(
        self,
        stores: StreamableScan | Sequence[StreamableScan],
        grouping: GroupingConfig,
        config: LoaderConfig = _DEFAULT,
        *,
        scale: float | Sequence[float] | None = None,
        groups: Groups = None,
        form: Form = "dict",
    ) -> None:
        super().__init__()
        config = _config_for(form, config)
        self._as_item = FORMS[form]
        self._stores, self._grouping, self._config, self._scale = stores, grouping, config, scale
        self._groups = groups
        self._state: dict[str, Any] | None = None
        self._epoch: int | None = None
        self._loader: GroupLoader | None = None
        self._part: Part | None = None
        self._is_resumed = False
        # The last batch of an epoch is out and the loop over it has not ended: here, or where the
        # restored state was taken.
        self._is_last_out = self._is_nothing_left = False

    def __len__(self) -> int:
        """Return the number of batches in an epoch, whatever the number of workers."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        self._is_last_out = False
        if get_worker_info() is None:
            return self._deliver_epoch()
        # Settled now, not at the first batch: where the restored epoch turns out to be over,
        # workers get an iterator that is dropped, and then another for the next epoch.
        return self._deliver_part(self._begin_part(self.loader))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the loader, and take its place in the epoch, and this rank, along."""
        state = self.__dict__.copy()
        if self._loader is not None:
            state["_state"], state["_epoch"] = self._loader.state_dict(), None
        state["_loader"], state["_config"] = None, fill_rank(self._config)
        state["_is_last_out"] = False
        return state

    @property
    def loader(self) -> GroupLoader:
        """The loader of this process, made when it is first needed.

        Raises
        ------
        ConfigError
            If a CUDA device is asked for in a worker process, or groups without a seed.
        BudgetError, DeviceError, GroupingError
            As `GroupLoader` raises them.
        """
        config = config_here(self._config, self._grouping)
        if self._loader is not None and self._loader.config != config:
            # A forked worker has inherited the loader of its parent.
            self._state, self._epoch = self._loader.state_dict(), None
            self._loader = None
        if self._loader is None:
            loader = GroupLoader(
                self._stores, self._grouping, config, scale=self._scale, groups=self._groups
            )
            # A refused state stays refused: the loader is kept only where it takes it.
            if self._state is not None:
                loader.load_state_dict(self._state)
            if self._epoch is not None:
                loader.set_epoch(self._epoch)
            self._loader = loader
        return self._loader

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration delivers; see `GroupLoader.set_epoch`.

        Of an epoch that was restored after its last batch nothing is delivered.
        """
        if self._is_nothing_left and epoch == self.loader.state_dict()["epoch"] - 1:
            return
        self._epoch, self._part = epoch, None
        self._is_nothing_left = self._is_last_out = False
        if self._loader is not None:
            self._loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where this process is in its epoch, as plain JSON.

        After the last batch the state is the next epoch's beginning. Until the loop has ended it
        also has ``nothing_left``, so that a resumed loop ends at once, as this one would have.

        The main process sees no progress of its workers: with workers, each has a state of its
        own, which fits the same worker among as many.
        """
        state = self.loader.state_dict()
        if self._part is not None:
            state["epoch"], state["next_batch"] = self._part.epoch, self._part.first
            state["stop_batch"] = self._part.stop
        elif self._is_last_out or self._is_nothing_left:
            state["nothing_left"] = True
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a dataset with the same order was.

        Raises
        ------
        ConfigError
            As `GroupLoader.load_state_dict`, or if the state is a worker's and this is none.
        """
        if not isinstance(state, Mapping):
            raise ConfigError(f"the state is {state!r}; expected what state_dict gave")
        if "stop_batch" in state:
            self._load_part(state)
            return
        self._state, self._epoch, self._part = dict(state), None, None
        self._is_last_out, self._is_nothing_left = False, bool(state.get("nothing_left"))
        if self._loader is not None:
            self._loader.load_state_dict(state)

    def close(self) -> None:
        """Give the memory of this process's loader back; a later iteration makes a new one."""
        if self._loader is not None:
            self._state, self._epoch = self._loader.state_dict(), None
            self._loader.close()
            self._loader = None

    def _deliver_epoch(self) -> Iterator[Any]:
        """Yield what is left of the epoch, in the main process."""
        if self._is_nothing_left:
            self._is_nothing_left = False
            return
        loader = self.loader
        for batch in loader:
            self._is_last_out = loader.state_dict()["next_batch"] == 0
            yield self._as_item(batch)
        self._is_last_out = False

    def _deliver_part(self, part: Part) -> Iterator[Any]:
        """Yield what is left of this worker's part."""
        if part.first == part.stop:
            return
        for batch in islice(self.loader, part.stop - part.first):
            part = self._part = dataclasses.replace(part, first=part.first + 1)
            yield self._as_item(batch)

    def _begin_part(self, loader: GroupLoader) -> Part:
        """Move the loader to this worker's part of the epoch, or what is left of it."""
        part = self._part
        if part is None and self._is_nothing_left:
            part = Part(loader.state_dict()["epoch"] - 1, len(loader), len(loader))
        elif part is None:
            place = loader.state_dict()
            part = _split_epoch(place["epoch"], place["next_batch"], len(loader))
        elif not self._is_resumed:
            part = _split_epoch(part.epoch + 1, 0, len(loader))
        self._part, self._is_resumed, self._is_nothing_left = part, False, False
        if part.first < part.stop:
            place = {"epoch": part.epoch, "next_batch": part.first}
            loader.load_state_dict({**loader.state_dict(), **place})
        return part

    def _load_part(self, state: Mapping[str, Any]) -> None:
        """Go on with the part of a worker."""
        if get_worker_info() is None:
            raise ConfigError(
                "the state is that of a worker process; expected the main process's; load it in "
                "the worker that it was taken from"
            )
        # A part that is over may end with the epoch, where no loader can be.
        self.loader.load_state_dict({**state, "next_batch": 0})
        saved, here = state["order"], self.loader.state_dict()["order"]
        if saved["world_size"] != here["world_size"]:
            raise ConfigError(
                f"the state is of a worker among {saved['world_size']} ranks; expected "
                f"{here['world_size']}; begin that epoch again: set_epoch({state['epoch']}) on "
                "all ranks instead of loading the state"
            )
        self._part = Part(state["epoch"], state["next_batch"], state["stop_batch"])
        self._is_resumed = True


def batch_as_dict(batch: Batch) -> dict[str, Any]:
    """Return the fields of a batch by name, those that an option adds only where it is set."""
    fields = {name: getattr(batch, name) for name in _FIELDS}
    return {name: x for name, x in fields.items() if x is not None or name not in _ADDED}


FORMS: Final[Mapping[Form, Callable[[Batch], Any]]] = {
    "dict": batch_as_dict,
    "tensordict": as_tensordict,
}


def _config_for(form: Form, config: LoaderConfig) -> LoaderConfig:
    """Return the options of a loader whose batches can take a form."""
    if not isinstance(form, str) or form not in FORMS:
        raise ConfigError(f"form is {form!r}; expected one of {', '.join(map(repr, FORMS))}")
    if form == "dict":
        return config
    if config.channels != "first" or config.device == "numpy":
        raise ConfigError(
            f"channels is {config.channels!r} and device {config.device!r} for a TensorDict; "
            "expected channels 'first' and a torch device"
        )
    return dataclasses.replace(config, details=True)


def _split_epoch(epoch: int, first: int, stop: int) -> Part:
    """Return this worker's part of the batches from `first` to `stop`."""
    worker = get_worker_info()
    number, n_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
    n_batches = stop - first
    edges = (first + n_batches * i // n_workers for i in (number, number + 1))
    return Part(epoch, *edges)


def config_here(config: LoaderConfig, grouping: GroupingConfig) -> LoaderConfig:
    """Return the options of this process, its rank filled in.

    Workers share the cores of their rank and have no CUDA device.

    Raises
    ------
    ConfigError
        If a worker process is to have a CUDA device, or would draw groups of its own.
    """
    config, worker = fill_rank(config), get_worker_info()
    if worker is None:
        return config
    if config.device.startswith("cuda"):
        raise ConfigError(
            f"device is {config.device!r} in a worker process of a DataLoader; expected 'cpu' "
            "there; use num_workers=0, which reads ahead in threads"
        )
    check_seed(grouping, worker.num_workers)
    n_threads = config.n_threads or max(1, count_threads() // worker.num_workers)
    return dataclasses.replace(config, n_threads=n_threads)
