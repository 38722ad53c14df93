"""Groups by number as a torch dataset: with samplers, in workers, pickled, resumed."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.errors import ConfigError, DeviceError, DtypeError, GroupIndexError
from ptyzarr.streaming import GroupLoader
from ptyzarr.tensors import GroupDataset, GroupMapDataset, TorchSink

GROUPING = GroupingConfig(gridsize=2, n_neighbors=5)
CONFIG = LoaderConfig(batch_size=8)
OWN = {"X", "coords_offsets", "coords_relative", "coords_nn", "nn_indices", "scale"}


@pytest.fixture
def stores(make_scan_store):
    return [make_scan_store("a"), make_scan_store("b", n_frames=30, seed=1)]


@pytest.fixture
def dataset(stores):
    made = GroupMapDataset(stores, GROUPING, CONFIG)
    yield made
    made.close()


@pytest.fixture
def whole(stores):
    """All groups in canonical order."""
    config = LoaderConfig(batch_size=70, shuffle=False)
    with GroupLoader(stores, GROUPING, config) as loader:
        (batch,) = loader
    return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}


def assert_rows(item, whole, rows):
    for name in OWN | {"experiment_id"}:
        want = whole[name][rows]
        assert item[name].dtype == want.dtype
        assert torch.equal(item[name], want), name


def test_an_item_is_one_group(dataset, whole):
    assert len(dataset) == 70
    for number in (0, 39, 40, 69, -1, np.int64(3), torch.tensor(5)):
        item = dataset[number]
        assert set(item) == OWN | {"experiment_id"}
        assert item["X"].shape == (16, 16, 4)
        assert_rows(item, whole, int(number))
    assert torch.equal(dataset.probe, whole["probe"])


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        pytest.param([3, 65, 3, -1], [3, 65, 3, 69], id="list"),
        pytest.param(np.array([41]), [41], id="array"),
        pytest.param(torch.tensor([2, 1]), [2, 1], id="tensor"),
        pytest.param(slice(36, 44), list(range(36, 44)), id="slice"),
    ],
)
def test_several_numbers_are_a_batch(dataset, whole, index, rows):
    batch = dataset[index]
    assert set(batch) == OWN | {"experiment_id", "probe", "Y"}
    assert batch["Y"] is None
    assert_rows(batch, whole, rows)
    assert batch["probe"] is dataset.probe


def test_iterating_gives_every_group_once(dataset, whole):
    items = list(dataset)
    assert len(items) == 70
    assert_rows(items[64], whole, 64)


def test_items_carry_patches_where_there_are_objects(stores):
    dataset = GroupMapDataset(stores, GROUPING, dataclasses.replace(CONFIG, patches=True))
    assert dataset[3]["Y"].shape == (16, 16, 4)
    (batch,) = DataLoader(Subset(dataset, [3, 4]), batch_size=2)
    assert torch.equal(batch["Y"], dataset[[3, 4]]["Y"])
    dataset.close()


def test_groups_by_number_carry_details_where_they_are_asked_for(stores):
    options = dataclasses.replace(CONFIG, details=True)
    dataset = GroupMapDataset(stores, GROUPING, options)
    canonical = dataclasses.replace(options, shuffle=False, batch_size=70)
    loader = GroupDataset(stores, GROUPING, canonical)
    (whole,) = loader
    batch = dataset[[3, 65]]
    assert set(batch) == set(whole) >= {"seed_indices", "coords_start_nn"}
    for name in set(batch) - {"probe", "Y"}:
        assert torch.equal(batch[name], whole[name][[3, 65]])
    dataset.close()
    loader.close()


def samplers(dataset):
    generator = torch.Generator().manual_seed(4)
    weights = torch.arange(70) % 3
    return {
        "random": RandomSampler(dataset, generator=generator),
        "sequential": SequentialSampler(dataset),
        "weighted": WeightedRandomSampler(weights, 50, generator=generator),
        "subset": SubsetRandomSampler(range(20, 60), generator=generator),
        "distributed": DistributedSampler(dataset, num_replicas=3, rank=1),
    }


@pytest.mark.parametrize("kind", ["random", "sequential", "weighted", "subset", "distributed"])
@pytest.mark.parametrize("by_item", [True, False], ids=["items", "batches"])
def test_samplers_decide_what_comes_when(dataset, whole, kind, by_item):
    rows = list(samplers(dataset)[kind])
    sampler = samplers(dataset)[kind]
    if by_item:
        loader = DataLoader(dataset, batch_size=8, sampler=sampler)
    else:
        loader = DataLoader(dataset, sampler=BatchSampler(sampler, 8, False), batch_size=None)
    batches = list(loader)
    assert len(batches) == len(loader) == -(-len(rows) // 8)
    for first, batch in zip(range(0, len(rows), 8), batches, strict=True):
        assert_rows(batch, whole, rows[first : first + 8])


def test_shuffling_delivers_every_group_once(dataset, whole):
    batches = list(DataLoader(dataset, batch_size=8, shuffle=True))
    keys = [(int(e), *m) for b in batches for e, m in zip(*pair(b), strict=True)]
    assert len(keys) == len(set(keys)) == 70
    assert set(keys) == {(int(e), *m) for e, m in zip(*pair(whole), strict=True)}


def pair(batch):
    return batch["experiment_id"], batch["nn_indices"].tolist()


def test_the_ranks_of_a_sampler_share_the_groups(dataset):
    rows = [list(DistributedSampler(dataset, num_replicas=2, rank=rank)) for rank in range(2)]
    assert sorted(rows[0] + rows[1]) == list(range(70))


def test_a_pickled_dataset_is_the_same(dataset, whole):
    dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    assert_rows(copy[[5, 50]], whole, [5, 50])
    copy.close()


@pytest.mark.slow
@pytest.mark.parametrize("by_item", [True, False], ids=["items", "batches"])
def test_spawned_workers_deliver_the_same(dataset, whole, by_item):
    rows = list(SubsetRandomSampler(range(70), torch.Generator().manual_seed(1)))
    workers = {"num_workers": 2, "multiprocessing_context": "spawn"}
    if by_item:
        loader = DataLoader(dataset, batch_size=8, sampler=rows, **workers)
    else:
        batches = [rows[first : first + 8] for first in range(0, 70, 8)]
        loader = DataLoader(dataset, sampler=batches, batch_size=None, **workers)
    for first, batch in zip(range(0, 70, 8), loader, strict=True):
        assert_rows(batch, whole, rows[first : first + 8])


@pytest.mark.parametrize(
    ("index", "error", "match"),
    [
        pytest.param(70, GroupIndexError, "no group 70; expected 0 to 69", id="beyond"),
        pytest.param([0, -71], GroupIndexError, "no group -71", id="before"),
        pytest.param([], ConfigError, "0 groups are asked for", id="none"),
        pytest.param(list(range(9)), ConfigError, "9 groups .* expected 1 to 8", id="many"),
        pytest.param([True, False], DtypeError, "bool .*flatnonzero", id="mask"),
        pytest.param(1.5, DtypeError, "float64", id="float"),
        pytest.param("3", DtypeError, "expected an integer", id="text"),
        pytest.param([[1, 2]], DtypeError, r"shape \(1, 2\)", id="two-dimensions"),
    ],
)
def test_numbers_that_are_none_are_refused(dataset, index, error, match):
    with pytest.raises(error, match=match):
        dataset[index]


def test_a_batch_beyond_the_options_says_what_to_set(dataset):
    with pytest.raises(ConfigError, match=r"expected 1 to 8, the batch_size of LoaderConfig"):
        next(iter(DataLoader(dataset, batch_size=16)))


def test_a_state_is_that_of_the_same_groups(dataset, stores):
    state = json.loads(json.dumps(dataset.state_dict()))
    GroupMapDataset(stores, GROUPING).load_state_dict(state)
    other = GroupMapDataset(stores, GroupingConfig(gridsize=2, n_neighbors=4))
    with pytest.raises(ConfigError, match="make the dataset as it was"):
        other.load_state_dict(state)
    with pytest.raises(ConfigError, match="the state is None"):
        other.load_state_dict(None)


def test_a_device_that_is_not_there_is_refused(stores, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    dataset = GroupMapDataset(stores, GROUPING, LoaderConfig(device="cuda"))
    with pytest.raises(DeviceError, match=r"'cuda'.*no CUDA device.*device='cpu'"):
        dataset[0]


class Worker:
    id, num_workers = 0, 2


def be_worker(monkeypatch):
    for module in ("dataset", "mapstyle", "sinks"):
        monkeypatch.setattr(f"ptyzarr.tensors.{module}.get_worker_info", Worker)


def test_a_worker_refuses_a_cuda_device(stores, monkeypatch):
    be_worker(monkeypatch)
    dataset = GroupMapDataset(stores, GROUPING, LoaderConfig(device="cuda"))
    with pytest.raises(ConfigError, match=r"'cuda' in a worker process"):
        dataset[0]


def test_a_forked_worker_refuses_the_device_of_its_parent(stores, monkeypatch):
    monkeypatch.setattr("ptyzarr.streaming.lookup.make_sink", TorchSink)
    dataset = GroupMapDataset(stores, GROUPING, LoaderConfig(device="cuda"))
    assert len(dataset[[1, 2]]["X"]) == 2
    be_worker(monkeypatch)
    with pytest.raises(ConfigError, match=r"'cuda' in a worker process"):
        dataset[0]


def test_workers_refuse_groups_without_a_seed(stores, monkeypatch):
    dataset = GroupMapDataset(stores, GroupingConfig(gridsize=2, n_neighbors=5, seed=None))
    assert len(dataset) == 70
    be_worker(monkeypatch)
    with pytest.raises(ConfigError, match="None with 2 processes"):
        pickle.loads(pickle.dumps(dataset))[0]


def test_ranks_refuse_groups_without_a_seed(stores, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    dataset = GroupMapDataset(stores, GroupingConfig(gridsize=2, n_neighbors=5, seed=None))
    with pytest.raises(ConfigError, match="None with 3 processes"):
        len(dataset)
    with pytest.raises(ConfigError, match="None with 3 processes"):
        pickle.dumps(dataset)
