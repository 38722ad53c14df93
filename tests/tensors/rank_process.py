"""One of several ranks: joins process groups of 3, 2 and 1 and writes what its loaders deliver.

python rank_process.py RANK FOLDER STORE
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

import ptyzarr
from ptyzarr.grouping import cache

BATCH_SIZE = 4
WORLDS = (3, 2, 1)


def members(batches: Any) -> list[Any]:
    return [batch.nn_indices.tolist() for batch in batches]


def deliver(store: Any, grouping: Any) -> dict[str, Any]:
    """Return what this rank is given, in every way."""
    found: dict[str, Any] = {}
    for shuffle in ("window", "full", False):
        for n_threads in (1, 3):
            options = {"batch_size": BATCH_SIZE, "shuffle": shuffle, "n_threads": n_threads}
            config = ptyzarr.LoaderConfig(**options)
            with ptyzarr.GroupLoader(store, grouping, config) as loader:
                loader.set_epoch(1)
                iterator = iter(loader)
                first = members(itertools.islice(iterator, 2))
                state = loader.state_dict()
                found[f"{shuffle} {n_threads}"] = first + members(iterator)
            with ptyzarr.GroupLoader(store, grouping, config) as loader:
                loader.load_state_dict(state)
                found[f"{shuffle} {n_threads} resumed"] = first + members(loader)
    dataset = ptyzarr.GroupDataset(store, grouping, ptyzarr.LoaderConfig(batch_size=BATCH_SIZE))
    dataset.set_epoch(1)
    batches = DataLoader(dataset, batch_size=None)
    found["dataset"] = [batch["nn_indices"].tolist() for batch in batches]
    dataset.close()
    mapped = ptyzarr.GroupMapDataset(store, grouping)
    sampler = BatchSampler(DistributedSampler(mapped, seed=1), BATCH_SIZE, drop_last=False)
    batches = DataLoader(mapped, sampler=sampler, batch_size=None)
    found["mapped"] = [batch["nn_indices"].tolist() for batch in batches]
    mapped.close()
    return found


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    drawn: list[Any] = []
    draw = cache.group_table
    cache.group_table = lambda *args: drawn.append(args) or draw(*args)
    found = {}
    for world_size in WORLDS:
        if rank >= world_size:
            break
        dist.init_process_group(
            "gloo", f"file://{folder}/{world_size}", rank=rank, world_size=world_size
        )
        # Each world needs a table of its own, all of its ranks at once.
        grouping = ptyzarr.GroupingConfig(gridsize=2, n_neighbors=5, seed=world_size)
        drawn.clear()
        store = ptyzarr.open_store(sys.argv[3])
        dist.barrier()
        found[world_size] = deliver(store, grouping)
        store.close()
        found[world_size]["drawn"] = len(drawn)
        dist.barrier()
        dist.destroy_process_group()
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
