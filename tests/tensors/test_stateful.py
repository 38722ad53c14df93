"""The contract of torchdata's StatefulDataLoader, kept with the real one."""

import itertools
import json

import pytest

from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.errors import ConfigError
from ptyzarr.tensors import GroupDataset, GroupMapDataset

torchdata = pytest.importorskip("torchdata.stateful_dataloader")
# torchdata 0.11 calls what torch 2.13 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

GROUPING = GroupingConfig(gridsize=2, n_neighbors=5)
CONFIG = LoaderConfig(batch_size=8, shuffle="full", seed=3)
N_BATCHES = 5


@pytest.fixture
def store(make_scan_store):
    return make_scan_store()


def rows(batches):
    return [batch["nn_indices"].tolist() for batch in batches]


def make_streamed(store, **workers):
    dataset = GroupDataset(store, GROUPING, CONFIG)
    return dataset, torchdata.StatefulDataLoader(dataset, batch_size=None, **workers)


def make_mapped(store, **workers):
    dataset = GroupMapDataset(store, GROUPING, CONFIG)
    return dataset, torchdata.StatefulDataLoader(dataset, batch_size=8, shuffle=True, **workers)


def train(loader, n_epochs):
    """Return the batches of each epoch and the state after each batch and after each epoch."""
    epochs, states = [], []
    for _ in range(n_epochs):
        epochs.append([])
        for batch in loader:
            epochs[-1] += rows([batch])
            states.append((len(epochs) - 1, len(epochs[-1]), loader.state_dict()))
        states.append((len(epochs), 0, loader.state_dict()))
    return epochs, states


MAKERS = [pytest.param(make_streamed, id="streamed"), pytest.param(make_mapped, id="mapped")]


@pytest.mark.parametrize("make", MAKERS)
def test_every_state_resumes_where_it_was_taken(store, make):
    dataset, loader = make(store)
    epochs, states = train(loader, 3)
    assert [len(epoch) for epoch in epochs] == [N_BATCHES] * 3
    assert len({str(epoch) for epoch in epochs}) == 3
    dataset.close()
    for epoch, n_delivered, state in states[:-1]:
        dataset, loader = make(store)
        loader.load_state_dict(state)
        rest = [rows(loader) for _ in range(3 - epoch)]
        assert rest == [epochs[epoch][n_delivered:], *epochs[epoch + 1 :]]
        dataset.close()


def test_the_state_of_a_stream_is_plain_json(store):
    dataset, loader = make_streamed(store)
    _, states = train(loader, 1)
    for _, _, state in states:
        assert json.loads(json.dumps(state["fetcher_state"])) == state["fetcher_state"]
        assert json.loads(json.dumps(state["dataset_state"])) == state["dataset_state"]
    dataset.close()


@pytest.mark.parametrize("n_delivered", [0, 2, N_BATCHES])
def test_setting_the_epoch_of_the_training_loop_resumes_it(store, n_delivered):
    dataset, loader = make_streamed(store)
    epochs = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        epochs.append(rows(loader))
    dataset.set_epoch(1)
    iterator = iter(loader)
    assert rows(itertools.islice(iterator, n_delivered)) == epochs[1][:n_delivered]
    state = loader.state_dict()
    dataset.close()

    resumed, loader = make_streamed(store)
    loader.load_state_dict(state)
    got = []
    for epoch in (1, 2):
        resumed.set_epoch(epoch)
        got.append(rows(loader))
    assert got == [epochs[1][n_delivered:], epochs[2]]
    resumed.close()


def test_a_state_taken_before_the_first_batch_is_the_beginning(store):
    dataset, loader = make_streamed(store)
    state = loader.state_dict()
    wanted = rows(loader)
    assert len(wanted) == N_BATCHES
    dataset.close()
    dataset, loader = make_streamed(store)
    loader.load_state_dict(state)
    assert rows(loader) == wanted
    dataset.close()


def test_an_epoch_that_was_left_at_its_last_batch_is_not_missed(store):
    dataset, loader = make_streamed(store)
    for _ in zip(range(N_BATCHES), loader, strict=False):
        pass
    iterator = iter(loader)
    state = loader.state_dict()
    second = rows(iterator)
    assert len(second) == N_BATCHES
    dataset.close()
    dataset, loader = make_streamed(store)
    loader.load_state_dict(state)
    assert rows(loader) == second
    dataset.close()


def test_a_state_after_the_last_batch_leaves_nothing_to_workers(store, monkeypatch):
    dataset, loader = make_streamed(store)
    iterator = iter(loader)
    rows(itertools.islice(iterator, N_BATCHES))
    state = dataset.state_dict()
    assert (state["epoch"], state["next_batch"], state["nothing_left"]) == (1, 0, True)
    want = [[], rows(loader)]
    dataset.close()
    resumed = GroupDataset(store, GROUPING, CONFIG)
    resumed.load_state_dict(state)

    class Worker:
        id, num_workers = 0, 1

    monkeypatch.setattr("ptyzarr.tensors.dataset.get_worker_info", Worker)
    assert [rows(resumed), rows(resumed)] == want
    resumed.close()


@pytest.mark.slow
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("method", "places"),
    [
        # Each place costs two processes, which take seconds to spawn.
        pytest.param("spawn", [(0, 2)], id="spawn"),
        pytest.param("fork", [(0, 1), (0, N_BATCHES), (1, 0), (1, 2)], id="fork"),
    ],
)
def test_states_of_workers_resume_where_they_were_taken(store, make, method, places):
    workers = {"num_workers": 2, "multiprocessing_context": method, "persistent_workers": True}
    dataset, loader = make(store, **workers)
    epochs, states = train(loader, 2)
    assert [len(epoch) for epoch in epochs] == [N_BATCHES] * 2
    taken = {(epoch, batch): state for epoch, batch, state in states}
    for place in places:
        epoch, n_delivered = place
        _, loader = make(store, **workers)
        loader.load_state_dict(taken[place])
        rest = [rows(loader) for _ in range(2 - epoch)]
        assert rest == [epochs[epoch][n_delivered:], *epochs[epoch + 1 :]], place
        del loader
    dataset.close()


@pytest.mark.parametrize("n_delivered", [0, 2, N_BATCHES, "over"])
def test_workers_made_anew_for_each_epoch_go_by_its_number(store, n_delivered):
    workers = {"num_workers": 2, "multiprocessing_context": "fork"}
    dataset, loader = make_streamed(store, **workers)
    epochs = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        epochs.append(rows(loader))
    dataset.set_epoch(1)
    iterator = iter(loader)
    if n_delivered == "over":
        rows(iterator)
        rest = epochs[2:]
    else:
        rows(itertools.islice(iterator, n_delivered))
        rest = [epochs[1][n_delivered:], epochs[2]]
    state = loader.state_dict()
    dataset.close()
    resumed, loader = make_streamed(store, **workers)
    loader.load_state_dict(state)
    got = []
    for epoch in range(3 - len(rest), 3):
        resumed.set_epoch(epoch)
        got.append(rows(loader))
    assert got == rest
    resumed.close()


def test_a_state_of_other_groups_is_refused(store):
    dataset, loader = make_mapped(store)
    next(iter(loader))
    state = loader.state_dict()
    other = GroupMapDataset(store, GroupingConfig(gridsize=2, n_neighbors=4), CONFIG)
    loader = torchdata.StatefulDataLoader(other, batch_size=8, shuffle=True)
    loader.load_state_dict(state)
    with pytest.raises(ConfigError, match="make the dataset as it was"):
        iter(loader)
    dataset.close()
