import dataclasses
import itertools
import json
import pickle
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.errors import ConfigError, DeviceError
from ptyzarr.streaming import GroupLoader
from ptyzarr.tensors import GroupDataset

GROUPING = GroupingConfig(gridsize=2, n_neighbors=5)
CONFIG = LoaderConfig(batch_size=8, shuffle="full", seed=3)


@pytest.fixture
def store(make_scan_store):
    return make_scan_store()


@pytest.fixture
def dataset(store):
    made = GroupDataset(store, GROUPING, CONFIG)
    yield made
    made.close()


def rows(batches):
    """Return what identifies each group, in order of delivery."""
    return torch.cat([batch["nn_indices"] for batch in batches]).tolist()


def epochs_of(store, n_epochs):
    with GroupLoader(store, GROUPING, CONFIG) as loader:
        return [torch.cat([batch.nn_indices for batch in loader]).tolist() for _ in range(n_epochs)]


def test_items_are_the_batches_of_the_loader(store, dataset):
    loader = DataLoader(dataset, batch_size=None)
    assert len(loader) == len(dataset) == 5
    with GroupLoader(store, GROUPING, CONFIG) as plain:
        for item, batch in zip(loader, plain, strict=True):
            assert torch.equal(item["X"], batch.X)
            assert torch.equal(item["probe"], batch.probe)
            assert item["Y"] is None
            assert set(item) >= {"coords_relative", "coords_offsets", "scale", "experiment_id"}


def test_iterating_again_goes_on_to_the_next_epoch(store, dataset):
    loader = DataLoader(dataset, batch_size=None)
    want = epochs_of(store, 3)
    assert [rows(loader), rows(loader)] == want[:2]
    dataset.set_epoch(2)
    assert rows(loader) == want[2]


def test_an_epoch_may_be_set_before_the_first(store, dataset):
    dataset.set_epoch(2)
    assert rows(DataLoader(dataset, batch_size=None)) == epochs_of(store, 3)[2]


@pytest.mark.parametrize("has_loader", [False, True])
def test_a_state_resumes_in_the_middle_of_an_epoch(store, dataset, has_loader):
    iterator = iter(DataLoader(dataset, batch_size=None))
    delivered = [next(iterator), next(iterator)]
    state = dataset.state_dict()
    resumed = GroupDataset(store, GROUPING, CONFIG)
    if has_loader:
        len(resumed)
    resumed.load_state_dict(state)
    resumed.set_epoch(state["epoch"])
    rest = list(DataLoader(resumed, batch_size=None))
    assert rows([*delivered, *rest]) == epochs_of(store, 1)[0]
    resumed.close()


def test_a_closed_dataset_goes_on_where_it_was(store, dataset):
    iterator = iter(dataset)
    delivered = [next(iterator)]
    iterator.close()
    dataset.close()
    assert rows([*delivered, *dataset]) == epochs_of(store, 1)[0]


def test_a_pickled_dataset_goes_on_with_the_same_epoch(store, dataset):
    list(dataset)
    copy = pickle.loads(pickle.dumps(dataset))
    assert rows(copy) == epochs_of(store, 2)[1]
    copy.close()


class Worker:
    """What torch tells a process about being a worker."""

    def __init__(self, number, num_workers):
        self.id, self.num_workers = number, num_workers


def be_worker(monkeypatch, number, num_workers):
    for module in ("dataset", "sinks"):
        monkeypatch.setattr(
            f"ptyzarr.tensors.{module}.get_worker_info", lambda: Worker(number, num_workers)
        )


def copies_in_workers(dataset, monkeypatch, n_workers):
    """Yield what each worker of an epoch gets, as in its own process."""
    for number in range(n_workers):
        copy = pickle.loads(pickle.dumps(dataset))
        be_worker(monkeypatch, number, n_workers)
        yield copy
        copy.close()
        monkeypatch.undo()


@pytest.mark.parametrize("n_workers", [1, 2, 3, 7])
def test_workers_deliver_the_batches_of_the_main_process(store, dataset, monkeypatch, n_workers):
    want = [batch["nn_indices"].tolist() for batch in dataset]
    dataset.set_epoch(0)
    got = []
    for copy in copies_in_workers(dataset, monkeypatch, n_workers):
        got += [batch["nn_indices"].tolist() for batch in copy]
    assert got == want


def test_a_forked_worker_goes_on_with_the_epoch_of_its_parent(store, dataset, monkeypatch):
    assert rows(dataset) == epochs_of(store, 1)[0]
    be_worker(monkeypatch, 0, 1)
    monkeypatch.setattr("ptyzarr.tensors.dataset.count_threads", lambda: 7)
    assert rows([*dataset]) == epochs_of(store, 2)[1]
    assert dataset.loader.config.n_threads == 7


def test_workers_of_all_ranks_share_the_epoch(store, monkeypatch):
    delivered = []
    for rank in range(2):
        config = LoaderConfig(batch_size=4, shuffle="window", rank=rank, world_size=2)
        dataset = GroupDataset(store, GROUPING, config)
        for copy in copies_in_workers(dataset, monkeypatch, 3):
            delivered += rows([*copy])
    assert sorted(delivered) == sorted(epochs_of(store, 1)[0])


def test_workers_that_persist_go_on_to_the_next_epoch(store, dataset, monkeypatch):
    got = [[], []]
    for copy in copies_in_workers(dataset, monkeypatch, 2):
        got = [[*batches, *copy] for batches in got]
    assert [rows(batches) for batches in got] == epochs_of(store, 2)


def test_workers_share_what_is_left_of_a_resumed_epoch(store, dataset, monkeypatch):
    iterator = iter(dataset)
    got = [next(iterator)]
    for copy in copies_in_workers(dataset, monkeypatch, 2):
        got += copy
    assert rows(got) == epochs_of(store, 1)[0]


@pytest.mark.parametrize("n_delivered", [0, 1, 2, 3])
def test_the_state_of_a_worker_resumes_its_part(store, dataset, monkeypatch, n_delivered):
    got = []
    for copy in copies_in_workers(dataset, monkeypatch, 2):
        iterator = iter(copy)
        got += itertools.islice(iterator, n_delivered)
        state = json.loads(json.dumps(copy.state_dict()))
        resumed = GroupDataset(store, GROUPING, CONFIG)
        resumed.load_state_dict(state)
        got += resumed
        following = rows([*resumed])
        assert following
        resumed.close()
    assert sorted(rows(got)) == sorted(epochs_of(store, 1)[0])


def test_the_state_of_a_worker_is_refused_in_the_main_process(dataset, monkeypatch):
    for copy in copies_in_workers(dataset, monkeypatch, 2):
        next(iter(copy))
        state = copy.state_dict()
    with pytest.raises(ConfigError, match=r"state is that of a worker.*expected the main"):
        dataset.load_state_dict(state)


@pytest.mark.parametrize("n_delivered", [0, 2])
def test_the_state_of_a_worker_is_refused_on_other_ranks(store, monkeypatch, n_delivered):
    config = LoaderConfig(batch_size=4, rank=0, world_size=2)
    dataset = GroupDataset(store, GROUPING, config)
    for copy in copies_in_workers(dataset, monkeypatch, 1):
        list(itertools.islice(iter(copy), n_delivered))
        state = copy.state_dict()
    assert "stop_batch" in state
    be_worker(monkeypatch, 0, 1)
    other = GroupDataset(store, GROUPING, LoaderConfig(batch_size=4))
    with pytest.raises(ConfigError, match=r"2 ranks; expected 1; .*set_epoch\(0\)"):
        other.load_state_dict(state)
    other.close()


def test_a_state_that_is_none_is_refused(dataset):
    with pytest.raises(ConfigError, match="the state is None"):
        dataset.load_state_dict(None)


def be_rank(monkeypatch, rank, world_size):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world_size)


def test_workers_deliver_the_part_of_the_rank_that_made_them(store, monkeypatch):
    config = LoaderConfig(batch_size=4, shuffle="full", seed=3)
    delivered = []
    for rank in range(3):
        be_rank(monkeypatch, rank, 3)
        pickled = pickle.dumps(GroupDataset(store, GROUPING, config))
        monkeypatch.undo()
        for number in range(2):
            copy = pickle.loads(pickled)
            be_worker(monkeypatch, number, 2)
            delivered += rows([*copy])
            copy.close()
            monkeypatch.undo()
    assert sorted(delivered) == sorted(epochs_of(store, 1)[0])


def test_a_dataset_that_is_older_than_its_rank_delivers_its_part(store, monkeypatch):
    dataset = GroupDataset(store, GROUPING, CONFIG)
    assert len(dataset) == 5
    be_rank(monkeypatch, 1, 2)
    assert len(dataset) == 3
    assert len(rows([*dataset])) == 20
    dataset.close()


def test_workers_refuse_groups_without_a_seed(store, monkeypatch):
    dataset = GroupDataset(store, GroupingConfig(gridsize=2, n_neighbors=5, seed=None), CONFIG)
    be_worker(monkeypatch, 1, 2)
    with pytest.raises(ConfigError, match="None with 2 processes"):
        len(dataset)


def test_workers_divide_the_cores(store, monkeypatch):
    monkeypatch.setattr("ptyzarr.tensors.dataset.count_threads", lambda: 8)
    dataset = GroupDataset(store, GROUPING, CONFIG)
    be_worker(monkeypatch, 1, 3)
    assert dataset.loader.config.n_threads == 2
    be_worker(monkeypatch, 1, 10)
    assert dataset.loader.config.n_threads == 1
    dataset.close()


def test_a_worker_refuses_a_cuda_device(store, monkeypatch):
    be_worker(monkeypatch, 0, 2)
    config = LoaderConfig(device="cuda")
    with pytest.raises(ConfigError, match=r"'cuda' in a worker process.*num_workers=0") as caught:
        next(iter(GroupDataset(store, GROUPING, config)))
    assert caught.value.code == "config"
    with pytest.raises(ConfigError, match=r"'cuda' in a worker process"):
        GroupLoader(store, GROUPING, config)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there_is_an_error_at_the_first_use(store, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = LoaderConfig(device=device)
    dataset = GroupDataset(store, GROUPING, config)
    for use in (partial(GroupLoader, store, GROUPING, config), partial(len, dataset)):
        with pytest.raises(DeviceError, match=rf"'{device}'.*no CUDA device.*'cpu'") as caught:
            use()
        assert caught.value.code == "device"


@pytest.mark.slow
def test_spawned_workers_deliver_every_group_once(store):
    dataset = GroupDataset(store, GROUPING, CONFIG)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="spawn")
    dataset.set_epoch(1)
    items = list(loader)
    assert len(items) == len(loader) == len(dataset)
    assert sorted(rows(items)) == sorted(epochs_of(store, 2)[1])
    with GroupLoader(store, GROUPING, CONFIG) as plain:
        plain.set_epoch(1)
        # Workers take turns: the first of the second one's batches comes second.
        n_first = len(dataset) // 2
        order = [0, n_first, 1, n_first + 1, n_first + 2]
        batches = list(plain)
        for item, batch in zip(items, [batches[i] for i in order], strict=True):
            assert torch.equal(item["X"], batch.X)
    dataset.close()


@pytest.mark.slow
def test_a_spawned_worker_refuses_a_cuda_device(store):
    dataset = GroupDataset(store, GROUPING, LoaderConfig(device="cuda"))
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    with pytest.raises(ConfigError, match="in a worker process"):
        next(iter(loader))


def test_a_dataset_of_selected_groups_delivers_them_alone(store):
    numbers = [30, 2, 17, 9]
    dataset = GroupDataset(store, GROUPING, CONFIG, groups=numbers)
    with GroupLoader(store, GROUPING, CONFIG, groups=numbers) as loader:
        want = torch.cat([batch.nn_indices for batch in loader]).tolist()
    assert rows(pickle.loads(pickle.dumps(dataset))) == want
    assert rows(dataset) == want
    assert len(want) == 4
    dataset.close()


def test_items_have_details_where_they_are_asked_for(store):
    found = []
    for has_details in (False, True):
        config = dataclasses.replace(CONFIG, details=has_details)
        dataset = GroupDataset(store, GROUPING, config)
        found.append(set(next(iter(dataset))))
        dataset.close()
    starts = {f"coords_start_{name}" for name in ("nn", "offsets", "relative")}
    assert found[1] - found[0] == {"seed_indices", *starts}


def test_a_refused_state_stays_refused(make_scan_store):
    store, config = make_scan_store("refused"), LoaderConfig(batch_size=8)
    grouping = GroupingConfig(gridsize=2, n_neighbors=5)
    other = GroupDataset(store, grouping, dataclasses.replace(config, seed=9))
    dataset = GroupDataset(store, grouping, config)
    dataset.load_state_dict(other.state_dict())
    for _ in range(2):
        with pytest.raises(ConfigError, match="another seed"):
            next(iter(dataset))
    other.close()


def test_a_device_of_torch_is_a_device():
    assert LoaderConfig(device=torch.device("cpu")) == LoaderConfig(device="cpu")
    assert LoaderConfig(device=torch.device("cuda", 1)).device == "cuda:1"
