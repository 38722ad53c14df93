"""Our map-style dataset as a contender: a sampler of torch decides what comes when."""

from __future__ import annotations

from importlib import import_module

import ptyzarr
from ptyzarr.bench.contender import BatchTrial, Deliveries, Delivery
from ptyzarr.bench.workload import Workload
from ptyzarr.config import LoaderConfig


def make_map_trial(work: Workload, *, by_item: bool = False) -> BatchTrial:
    """Return a trial of `GroupMapDataset` in torch's loader, a uniform shuffle, no workers.

    Parameters
    ----------
    work
        What is delivered.
    by_item
        Whether torch puts the batches together out of single groups.
    """
    torch, data = import_module("torch"), import_module("torch.utils.data")
    store = work.open()
    config = LoaderConfig(
        batch_size=work.batch_size, channels=work.channels, memory=work.memory, device="cpu"
    )
    dataset = ptyzarr.GroupMapDataset(store, work.grouping, config)
    generator = torch.Generator()
    sampler = data.RandomSampler(dataset, generator=generator)
    if by_item:
        loader = data.DataLoader(dataset, batch_size=work.batch_size, sampler=sampler)
    else:
        batches_of = data.BatchSampler(sampler, work.batch_size, drop_last=False)
        loader = data.DataLoader(dataset, batch_size=None, sampler=batches_of)

    def batches(epoch: int) -> Deliveries:
        generator.manual_seed(work.seed + epoch)
        for batch in loader:
            members, scale = batch["nn_indices"].numpy(), batch["scale"].numpy()
            yield Delivery(x=batch["X"], members=members, scale=scale)

    def close() -> None:
        dataset.close()
        store.close()

    return BatchTrial(batches, work, close=close)
