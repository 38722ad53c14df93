"""Ranks from torch.distributed, threads of a rank, what a restart on other ranks does."""

import json

import pytest
import torch.distributed

from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.errors import ConfigError
from ptyzarr.streaming import GroupLoader, count_threads, fill_rank

from .fakes import FakeScan

PAIRS = GroupingConfig(gridsize=2, n_neighbors=6)


def make_loader(grouping=PAIRS, **changes):
    options = {"device": "numpy", "batch_size": 16, "n_threads": 2, **changes}
    return GroupLoader(FakeScan(), grouping, LoaderConfig(**options))


def members(loader):
    return [row for batch in loader for row in batch.nn_indices.tolist()]


@pytest.fixture
def process_group(monkeypatch):
    """`process_group(rank, world_size)`: what torch.distributed says from now on."""

    def become(rank, world_size):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world_size)

    return become


def test_without_a_process_group_one_process_has_everything():
    assert fill_rank(LoaderConfig()).rank is None
    assert len(members(make_loader())) == 200


def test_a_torch_without_distributed_is_no_process_group(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    monkeypatch.delattr(torch.distributed, "is_initialized")
    assert fill_rank(LoaderConfig()).rank is None


def test_rank_and_world_size_come_from_the_process_group(process_group):
    parts = []
    for rank in range(3):
        process_group(rank, 3)
        with make_loader() as loader:
            assert (loader.config.rank, loader.config.world_size) == (rank, 3)
            parts.append(members(loader))
    assert sorted(map(len, parts)) == [66, 67, 67]
    with make_loader(rank=1, world_size=3) as loader:
        assert members(loader) == parts[1]


def test_options_win_over_the_process_group(process_group):
    process_group(1, 2)
    with make_loader(rank=0, world_size=1) as loader:
        assert len(members(loader)) == 200


@pytest.mark.parametrize(
    ("rank", "world_size"), [pytest.param(1, 2, id="among-others"), pytest.param(0, 2, id="first")]
)
def test_a_loader_that_is_older_than_its_rank_delivers_nothing(process_group, rank, world_size):
    with make_loader() as loader:
        process_group(rank, world_size)
        with pytest.raises(ConfigError, match=r"rank 0 of 1.*after init_process_group") as caught:
            iter(loader)
    assert caught.value.code == "config"


def test_a_process_group_of_one_changes_nothing(process_group):
    with make_loader() as loader:
        alone = members(loader)
        process_group(0, 1)
        loader.set_epoch(0)
        assert members(loader) == alone


@pytest.mark.parametrize("known", ["options", "process-group"])
def test_groups_without_a_seed_are_refused_on_several_ranks(process_group, known):
    ranks = {"rank": 0, "world_size": 2} if known == "options" else {}
    process_group(0, 2)
    with pytest.raises(ConfigError, match=r"seed .* is None with 2 processes.*give"):
        make_loader(GroupingConfig(gridsize=2, n_neighbors=6, seed=None), **ranks)


def test_groups_without_a_seed_will_do_for_one_process(process_group):
    process_group(0, 1)
    with make_loader(GroupingConfig(gridsize=2, n_neighbors=6, seed=None)) as loader:
        assert len(members(loader)) == 200


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param({}, 8, id="alone"),
        pytest.param({"LOCAL_WORLD_SIZE": "2"}, 4, id="torchrun"),
        pytest.param({"LOCAL_WORLD_SIZE": "9"}, 1, id="many"),
        pytest.param({"LOCAL_WORLD_SIZE": "x"}, 8, id="nonsense"),
        pytest.param({"LOCAL_WORLD_SIZE": "-2"}, 8, id="negative"),
        pytest.param({"LOCAL_WORLD_SIZE": "٣"}, 8, id="other-digits"),
        pytest.param({"SLURM_NTASKS_PER_NODE": "4"}, 2, id="slurm"),
        pytest.param({"LOCAL_WORLD_SIZE": "2", "SLURM_NTASKS_PER_NODE": "4"}, 4, id="both"),
        pytest.param(
            {"SLURM_NTASKS_PER_NODE": "4", "SLURM_CPUS_PER_TASK": "3"}, 3, id="slurm-cpus"
        ),
        pytest.param(
            {"SLURM_NTASKS_PER_NODE": "4", "SLURM_CPUS_PER_TASK": "8"}, 8, id="slurm-bound"
        ),
        pytest.param({"SLURM_CPUS_PER_TASK": "3"}, 8, id="slurm-cpus-alone"),
    ],
)
def test_threads_of_a_rank(environment, expected, monkeypatch):
    monkeypatch.setattr("ptyzarr.streaming.ranks.available_cores", lambda: 8)
    for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert count_threads() == expected


@pytest.mark.parametrize("policy", ["window", "full", False])
def test_an_epoch_begins_on_any_number_of_ranks(policy):
    with make_loader(shuffle=policy, rank=1, world_size=2) as loader:
        list(loader)
        state = json.loads(json.dumps(loader.state_dict()))
    assert (state["epoch"], state["next_batch"]) == (1, 0)
    delivered = []
    for rank in range(3):
        with make_loader(shuffle=policy, rank=rank, world_size=3) as loader:
            loader.load_state_dict(state)
            part = members(loader)
            assert loader.state_dict()["epoch"] == 2
            delivered += part
    with make_loader(shuffle=policy) as loader:
        loader.set_epoch(1)
        assert sorted(delivered) == sorted(members(loader))


def test_the_middle_of_an_epoch_belongs_to_as_many_ranks():
    with make_loader(rank=0, world_size=2) as loader:
        loader.set_epoch(4)
        next(iter(loader))
        state = loader.state_dict()
    with make_loader(rank=0, world_size=3) as other:
        with pytest.raises(ConfigError, match=r"middle of epoch 4 .*world_size 2.*expected 3.*"):
            other.load_state_dict(state)
        with pytest.raises(ConfigError, match=r"set_epoch\(4\)"):
            other.load_state_dict(state)
        other.set_epoch(4)
        assert len(members(other)) == 67


def test_other_differences_are_told_beside_the_number_of_ranks():
    with make_loader(rank=0, world_size=2, seed=1) as loader:
        state = loader.state_dict()
    with make_loader() as other, pytest.raises(ConfigError, match="another seed, world_size"):
        other.load_state_dict(state)
