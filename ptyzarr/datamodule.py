"""`GroupDataModule`: stores in, Lightning's training, validation, test and prediction out.

A room of its own: it opens stores, which the rooms that know torch may not, and it alone knows
Lightning.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

from lightning.pytorch import LightningDataModule

from ptyzarr.compiled import available_cores
from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.errors import BudgetError, ConfigError
from ptyzarr.grouping import GroupSplit, cached_group_table, split_groups
from ptyzarr.store import ScanStore, open_store
from ptyzarr.streaming import GroupLoader, Groups, count_threads
from ptyzarr.tensors import Form, GroupDataset

Source = str | os.PathLike[str] | ScanStore
"""A store or where it lies."""

_DEFAULT: Final = LoaderConfig()
_VALIDATION: Final = 0.1
# Of the memory, where training and validation share it. The validation loader reads a region of
# the scan, or scans that are read once an epoch: it gains less from a large pool.
_VALIDATION_SHARE: Final = 4
# A thread takes some MiB whatever it does; many of them would leave a small share no pool.
_NBYTES_PER_THREAD: Final = 64 * 1024**2


class EpochBatches:
    """The batches of a dataset as Lightning's loops iterate over them; no torch `DataLoader`.

    Lightning therefore puts no sampler of its own between: the dataset has divided the groups
    among the ranks already. It sets the epoch of whatever a loader calls its sampler, and keeps
    `state_dict` in its checkpoints.

    Parameters
    ----------
    dataset
        What delivers the batches.
    share
        Whose part of which memory it has, for messages; empty if it has all.

    Attributes
    ----------
    batch_sampler
        None: what Lightning also looks for beside a sampler.
    """

    batch_sampler: ClassVar[None] = None

    def __init__(self, dataset: GroupDataset, share: str = "") -> None:
        self._dataset, self._share = dataset, share

    def __len__(self) -> int:
        """Return the number of batches in an epoch, the same on all ranks."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        # Nothing begins before the first batch is asked for: Lightning makes iterators that it
        # drops, and makes the first one before it sets the epoch.
        _ = self.loader
        yield from self._dataset

    @property
    def loader(self) -> GroupLoader:
        """The loader of this process, made when it is first needed.

        Raises
        ------
        BudgetError
            If its share of the memory is too small; the message says whose share it is.
        """
        try:
            return self._dataset.loader
        except BudgetError as error:
            if not self._share:
                raise
            raise BudgetError(f"{error}; {self._share}") from error

    @property
    def sampler(self) -> EpochBatches:
        """What Lightning sets the epoch of: this object."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration delivers; see `GroupLoader.set_epoch`."""
        self._dataset.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where the epoch is, as plain JSON; the state of one rank fits all."""
        return self._dataset.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a loader with the same order was.

        Raises
        ------
        ConfigError
            As `GroupLoader.load_state_dict`.
        """
        self._dataset.load_state_dict(state)

    def close(self) -> None:
        """Give the memory back."""
        self._dataset.close()


class GroupDataModule(LightningDataModule):
    """Canonical groups of stores for a Lightning ``Trainer``, in bounded memory.

    Training delivers `config` with its shuffle, every epoch in another order, set from the
    trainer's; validation, test and prediction deliver in canonical order. Rank and number of
    ranks are the trainer's: each group goes to one rank, all ranks have as many batches, and
    Lightning puts no sampler between. A checkpoint holds the place in the training epoch, so a
    run that goes on from one that was saved in the middle of an epoch gets the batches that were
    left, on any rank of as many ranks.

    Parameters
    ----------
    stores
        Stores, or paths or URLs of stores, one or several.
    grouping
        Which groups are drawn, from each store alone; its seed must be given.
    config
        How they are delivered; `rank` and `world_size` are left to the trainer. ``"cuda"`` is
        the trainer's device. While fitting, validation has a quarter of `memory` and training
        the rest, and validation at most a thread for 64 MiB; whatever is alone has all. The memory
        is that of a rank.
    validation
        Share of each store's frames in regions that are held out for validation by
        `split_groups`; None for no validation.
    validation_stores
        Whole scans to validate on instead; all groups of `stores` are then for training.
    guard, seed, n_regions
        As for `split_groups`.
    test_stores
        What `Trainer.test` and `Trainer.predict` run on; prediction without any takes all groups
        of `stores`.
    form
        What a batch is, as for `GroupDataset`.

    Raises
    ------
    ConfigError
        If options contradict each other; in `setup`, if a store cannot be split, or is for
        training and validation.
    """

    def __init__(
        self,
        stores: Source | Sequence[Source],
        grouping: GroupingConfig,
        config: LoaderConfig = _DEFAULT,
        *,
        validation: float | None = _VALIDATION,
        validation_stores: Source | Sequence[Source] | None = None,
        guard: float | None = None,
        seed: int = 0,
        n_regions: int = 1,
        test_stores: Source | Sequence[Source] | None = None,
        form: Form = "dict",
    ) -> None:
        super().__init__()
        is_given = validation is not None and validation != _VALIDATION
        if validation_stores is not None and is_given:
            raise ConfigError(
                f"validation is {validation!r} and there are validation_stores; expected one of "
                "them: a share of each store, or whole scans"
            )
        if grouping.seed is None:
            raise ConfigError(
                "the seed of the grouping is None; expected a number: ranks, and parts for "
                "training and validation, must agree on the groups"
            )
        self._grouping, self._config, self._form = grouping, config, form
        self._sources = _as_list("stores", stores)
        self._validation_sources = _as_list("validation_stores", validation_stores)
        self._test_sources = _as_list("test_stores", test_stores)
        self._share = None if validation_stores is not None else validation
        self._split_options = {"guard": guard, "seed": seed, "n_regions": n_regions}
        self._opened: list[ScanStore] = []
        self._batches: dict[str, EpochBatches] = {}
        self._splits: list[GroupSplit] = []

    @property
    def splits(self) -> list[GroupSplit]:
        """How the groups of each store are divided, as the last `setup` left it."""
        return self._splits

    def prepare_data(self) -> None:
        """Draw the groups once on each machine; all ranks find them in the cache."""
        for source in [*self._sources, *self._validation_sources, *self._test_sources]:
            store = _open(source)
            try:
                cached_group_table(store, self._grouping)
            finally:
                if store is not source:
                    store.close()

    def setup(self, stage: str | None = None) -> None:
        """Open the stores and divide the groups; Lightning calls it in every process.

        Parameters
        ----------
        stage
            ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.
        """
        self._close()
        self._splits = []
        if stage in {"fit", "validate", None}:
            self._set_up_training(is_alone=stage == "validate")
        if stage in {"test", None} and self._test_sources:
            self._batches["test"] = self._make(self._open_all(self._test_sources))
        if stage in {"predict", None}:
            stores = self._open_all(self._test_sources or self._sources)
            self._batches["predict"] = self._make(stores)

    def train_dataloader(self) -> EpochBatches:
        """Return the shuffled batches for training."""
        return self._get("fit")

    def val_dataloader(self) -> EpochBatches | list[EpochBatches]:
        """Return the batches for validation in canonical order; an empty list without any."""
        if self._share is None and not self._validation_sources:
            return []
        return self._get("validate")

    def test_dataloader(self) -> EpochBatches:
        """Return the batches of the test stores in canonical order."""
        if not self._test_sources:
            raise ConfigError("there are no test stores; expected some; give test_stores")
        return self._get("test")

    def predict_dataloader(self) -> EpochBatches:
        """Return the batches of the test stores, or else of all, in canonical order."""
        return self._get("predict")

    def teardown(self, stage: str | None = None) -> None:
        """End the threads, give the memory back and close what was opened here."""
        del stage
        self._close()

    def _set_up_training(self, *, is_alone: bool) -> None:
        """Make what fitting and validation need."""
        stores, groups = self._open_all(self._sources), None
        held_out: list[ScanStore] = []
        validation_groups = None
        if self._share is not None:
            options = self._split_options
            self._splits = [
                split_groups(store, self._grouping, validation=self._share, **options)  # type: ignore[arg-type]
                for store in stores
            ]
            groups = [split.training for split in self._splits]
            validation_groups = [split.validation for split in self._splits]
            held_out = stores
        elif self._validation_sources:
            held_out = self._open_all(self._validation_sources)
            _check_distinct(stores, held_out)
        part = self._config.memory_bytes // _VALIDATION_SHARE if held_out and not is_alone else 0
        if not is_alone:
            memory = self._config.memory_bytes - part
            self._batches["fit"] = self._make(stores, groups, memory, is_training=True)
        if held_out:
            self._batches["validate"] = self._make(held_out, validation_groups, part or None)

    def _make(
        self,
        stores: list[ScanStore],
        groups: Groups = None,
        memory: int | None = None,
        *,
        is_training: bool = False,
    ) -> EpochBatches:
        """Return the batches of some groups as this rank delivers them."""
        config = self._config_here()
        config = dataclasses.replace(config, memory=memory or config.memory_bytes)
        if not is_training:
            config = dataclasses.replace(
                config,
                shuffle=False,
                drop_last=False,
                n_threads=_limit_threads(config),
            )
        dataset = GroupDataset(stores, self._grouping, config, groups=groups, form=self._form)
        if memory in (None, self._config.memory_bytes):
            return EpochBatches(dataset)
        share = "three quarters" if is_training else "a quarter"
        return EpochBatches(
            dataset,
            f"that is {share} of memory {self._config.memory!r}, which training and validation "
            "share; raise memory",
        )

    def _config_here(self) -> LoaderConfig:
        """Return the options with what the trainer decides: rank, device, share of the cores."""
        config, trainer = self._config, self.trainer
        if trainer is None:
            return dataclasses.replace(config, n_threads=config.n_threads or count_threads())
        place = trainer.global_rank, trainer.world_size
        if config.rank is not None and (config.rank, config.world_size) != place:
            raise ConfigError(
                f"the options are for rank {config.rank} of {config.world_size}, the trainer is "
                f"rank {place[0]} of {place[1]}; leave rank and world_size out"
            )
        device = trainer.strategy.root_device
        name = str(device) if config.device == "cuda" and device.type == "cuda" else config.device
        cores = max(1, available_cores() // trainer.num_devices)
        return dataclasses.replace(
            config,
            rank=place[0],
            world_size=place[1],
            device=name,
            n_threads=config.n_threads or min(count_threads(), cores),
        )

    def _open_all(self, sources: Sequence[Source]) -> list[ScanStore]:
        stores = []
        for source in sources:
            stores.append(_open(source))
            if stores[-1] is not source:
                self._opened.append(stores[-1])
        return stores

    def _get(self, stage: str) -> EpochBatches:
        if stage not in self._batches:
            raise ConfigError(
                f"there are no batches for {stage!r} yet; expected setup({stage!r}) before; a "
                "Trainer calls it"
            )
        return self._batches[stage]

    def _close(self) -> None:
        for batches in self._batches.values():
            batches.close()
        for store in self._opened:
            store.close()
        self._batches, self._opened = {}, []


def _as_list(name: str, sources: Source | Sequence[Source] | None) -> list[Source]:
    """Return what an argument names, none where it is None."""
    if sources is None:
        return []
    is_one = isinstance(sources, str | os.PathLike | ScanStore)
    listed: list[Any] = [sources] if is_one else list(sources)  # type: ignore[arg-type]
    wrong = [entry for entry in listed if not isinstance(entry, str | os.PathLike | ScanStore)]
    if wrong or not listed:
        found = f"an entry of type {type(wrong[0]).__name__}" if wrong else "nothing"
        raise ConfigError(f"{name} has {found}; expected stores, or paths of stores")
    return listed


def _open(source: Source) -> ScanStore:
    return open_store(source) if isinstance(source, str | os.PathLike) else source


def _limit_threads(config: LoaderConfig) -> int:
    """Return the threads of a loader that may have a small share of the memory."""
    affordable = max(1, config.memory_bytes // _NBYTES_PER_THREAD)
    return min(config.n_threads or count_threads(), affordable)


def _check_distinct(training: Sequence[ScanStore], held_out: Sequence[ScanStore]) -> None:
    """Refuse a scan that is for training and for validation."""
    paths = {store.digest: store.path for store in training}
    for store in held_out:
        if store.digest in paths:
            raise ConfigError(
                f"{store.path} for validation is the same scan as {paths[store.digest]} for "
                "training; expected different scans; use validation= to hold out regions of one"
            )
