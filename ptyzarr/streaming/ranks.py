"""Which of how many processes this one is, and how many cores are its own."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys

from ptyzarr.compiled import available_cores
from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.errors import ConfigError
from ptyzarr.streaming.sampling import Share


def fill_rank(config: LoaderConfig) -> LoaderConfig:
    """Return the options with rank and world size, those of `torch.distributed` if none are given.

    Options that name them win. Without either, and without an initialised process group, they
    stay None: one process has everything.
    """
    if config.rank is not None:
        return config
    found = _distributed_rank()
    return (
        config if found is None else dataclasses.replace(config, rank=found[0], world_size=found[1])
    )


def check_seed(grouping: GroupingConfig, n_processes: int) -> None:
    """Refuse groups that every process would draw anew.

    Raises
    ------
    ConfigError
        If there are several processes and no seed.
    """
    if n_processes > 1 and grouping.seed is None:
        raise ConfigError(
            f"seed of the grouping is None with {n_processes} processes, each of which would draw "
            "other groups; expected an integer; give GroupingConfig a seed"
        )


def check_rank(share: Share) -> None:
    """Refuse a part of the epoch that is not this rank's: nobody asked for it, it is only old.

    Raises
    ------
    ConfigError
        If an initialised process group says that this process is another rank, or among others.
    """
    found = _distributed_rank()
    if found is not None and found != (share.rank, share.world_size):
        raise ConfigError(
            f"the loader was made for rank {share.rank} of {share.world_size}, and "
            f"torch.distributed now has rank {found[0]} of {found[1]}; expected the same; make "
            "the loader after init_process_group, or give rank and world_size"
        )


def count_threads() -> int:
    """Return the cores of this process for each rank that runs on the machine, at least 1.

    The number of local ranks is ``LOCAL_WORLD_SIZE``, as torchrun sets it. Under SLURM a task has
    ``SLURM_CPUS_PER_TASK`` cores where that is set, else its part of ``SLURM_NTASKS_PER_NODE``.
    What cannot be read as a number of 1 or more is left aside.
    """
    cores = available_cores()
    local_ranks = _read_count("LOCAL_WORLD_SIZE")
    if local_ranks is None:
        tasks, cores_of_task = (
            _read_count("SLURM_NTASKS_PER_NODE"),
            _read_count("SLURM_CPUS_PER_TASK"),
        )
        if tasks is not None and cores_of_task is not None:
            # The affinity is often that of the task already, and would be divided twice.
            return min(cores, cores_of_task)
        local_ranks = tasks
    return max(1, cores // (local_ranks or 1))


def _read_count(name: str) -> int | None:
    """Return an environment variable that is a number of 1 or more, else None."""
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


def _distributed_rank() -> tuple[int, int] | None:
    """Return rank and world size of the initialised process group, if there is one."""
    # Who has not loaded torch has no process group, and need not load it for that.
    if sys.modules.get("torch.distributed") is None:
        return None
    found: tuple[int, int] | None = importlib.import_module("ptyzarr.tensors").find_rank()
    return found
