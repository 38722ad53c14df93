import dataclasses
import json
import threading

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from recording import Recorder

import ptyzarr
from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.datamodule import GroupDataModule
from ptyzarr.errors import BudgetError, ConfigError
from ptyzarr.grouping import group_table
from ptyzarr.streaming import GroupLoader

GROUPING = GroupingConfig(gridsize=2, n_neighbors=5)
CONFIG = LoaderConfig(batch_size=8, shuffle="window", seed=3, n_threads=2)
# Small scans are lit all over: the guard is given.
SPLIT = {"validation": 0.3, "guard": 2.0}

# Lightning 2.6 takes batches apart in a way that torch 2.13 calls deprecated.
pytestmark = pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\). is deprecated")


@pytest.fixture
def store(make_scan_store):
    return make_scan_store(n_frames=120)


def make_trainer(tmp_path, **options):
    quiet = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger")
    defaults = {"accelerator": "cpu", "max_epochs": 2, "default_root_dir": tmp_path}
    return Trainer(**{**dict.fromkeys(quiet, False), **defaults, **options})


def fit(tmp_path, data, model=None, *, ckpt_path=None, **options):
    model = model or Recorder()
    make_trainer(tmp_path, **options).fit(model, datamodule=data, ckpt_path=ckpt_path)
    return model


def groups_by_epoch(batches):
    epochs = {}
    for epoch, rows in batches:
        epochs.setdefault(epoch, []).extend(rows)
    return epochs


def plain(store, n_epochs, groups=None, **changes):
    """What a loader alone delivers: groups, by epoch."""
    config = dataclasses.replace(CONFIG, **changes)
    with GroupLoader(store, GROUPING, config, groups=groups) as loader:
        return [
            [row for batch in loader for row in batch.nn_indices.tolist()] for _ in range(n_epochs)
        ]


def test_training_and_validation_deliver_the_parts_of_the_split(tmp_path, store):
    data = GroupDataModule(store, GROUPING, CONFIG, **SPLIT)
    model = fit(tmp_path, data)
    split = ptyzarr.split_groups(store, GROUPING, **SPLIT)
    assert split.n_dropped > 0
    trained = groups_by_epoch(model.batches["train"])
    assert [trained[0], trained[1]] == plain(store, 2, split.training)
    assert trained[0] != trained[1]
    validated = groups_by_epoch(model.batches["val"])
    members = group_table(store, GROUPING).nn_indices
    assert [validated[0], validated[1]] == [members[split.validation].tolist()] * 2
    assert not {i for row in trained[0] for i in row} & {i for row in validated[0] for i in row}


@pytest.fixture
def our_threads():
    """Return what tells which threads of ours were started since."""
    before = set(threading.enumerate())

    def find() -> list[threading.Thread]:
        started = [thread for thread in threading.enumerate() if thread not in before]
        return [thread for thread in started if thread.name.startswith("ptyzarr-")]

    return find


def test_a_fast_development_run_runs_and_leaves_nothing_behind(tmp_path, store, our_threads):
    data = GroupDataModule(store, GROUPING, CONFIG, **SPLIT)
    model = fit(tmp_path, data, fast_dev_run=True)
    assert [len(model.batches[stage]) for stage in ("train", "val")] == [1, 1]
    assert not our_threads()
    assert len(data.splits) == 1


def test_epochs_that_are_cut_short_follow_the_trainers_epoch(tmp_path, store):
    data = GroupDataModule(store, GROUPING, CONFIG, validation=None)
    # Without a limit of 0 Lightning warns that there is nothing to validate.
    model = fit(tmp_path, data, limit_train_batches=2, limit_val_batches=0, max_epochs=3)
    epochs = groups_by_epoch(model.batches["train"])
    whole = plain(store, 3)
    assert [epochs[epoch] for epoch in range(3)] == [rows[:16] for rows in whole]
    assert model.batches["val"] == []


def test_validation_within_an_epoch_is_whole_each_time(tmp_path, store):
    data = GroupDataModule(store, GROUPING, CONFIG, **SPLIT)
    model = fit(tmp_path, data, max_epochs=1, val_check_interval=2)
    members = group_table(store, GROUPING).nn_indices
    held_out = members[ptyzarr.split_groups(store, GROUPING, **SPLIT).validation].tolist()
    validated = groups_by_epoch(model.batches["val"])[0]
    n_times = len(model.batches["train"]) // 2
    assert n_times > 1
    assert validated == held_out * n_times


class StopAfter(Callback):
    """Saves a checkpoint and stops after some batches of an epoch."""

    def __init__(self, path, epoch, n_batches):
        self.path, self.place = path, (epoch, n_batches)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx + 1) == self.place:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


@pytest.mark.parametrize(
    ("epoch", "n_batches"),
    [
        pytest.param(0, 2, id="first-epoch"),
        pytest.param(1, 3, id="second-epoch"),
        pytest.param(1, None, id="last-batch"),
    ],
)
def test_a_checkpoint_in_the_middle_of_an_epoch_gives_the_batches_that_were_left(
    tmp_path, store, epoch, n_batches
):
    data = GroupDataModule(store, GROUPING, CONFIG, **SPLIT)
    whole = fit(tmp_path, data, max_epochs=3).batches["train"]
    if n_batches is None:
        n_batches = len([entry for entry in whole if entry[0] == epoch])
    path = tmp_path / "middle.ckpt"
    stopped = fit(
        tmp_path, data, max_epochs=3, callbacks=[StopAfter(path, epoch, n_batches)]
    ).batches["train"]
    n_done = len([entry for entry in whole if entry[0] < epoch]) + n_batches
    assert stopped[:n_done] == whole[:n_done]
    fresh = GroupDataModule(store, GROUPING, CONFIG, **SPLIT)
    resumed = fit(tmp_path, fresh, max_epochs=3, ckpt_path=path).batches["train"]
    assert resumed == whole[n_done:]


class SaveEachEpoch(Callback):
    """Saves a checkpoint at the end of every training epoch."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_end(self, trainer, module):
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


def test_a_checkpoint_at_the_end_of_an_epoch_goes_on_with_the_next(tmp_path, store):
    data = GroupDataModule(store, GROUPING, CONFIG, **SPLIT)
    whole = fit(tmp_path, data, max_epochs=3, callbacks=[SaveEachEpoch(tmp_path)]).batches["train"]
    resumed = fit(tmp_path, data, max_epochs=3, ckpt_path=tmp_path / "1.ckpt").batches["train"]
    assert resumed == [entry for entry in whole if entry[0] == 2]


# The run that goes on saves where the first one did.
@pytest.mark.filterwarnings(r"ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_goes_on_from_lightnings_own_checkpoint(tmp_path, store):
    data = GroupDataModule(store, GROUPING, CONFIG, **SPLIT)
    whole = fit(tmp_path, data, max_epochs=3).batches["train"]
    # Saved after validation, before the epoch counts as done.
    saver = ModelCheckpoint(tmp_path / "saved", save_last=True)
    options = {"enable_checkpointing": True, "callbacks": [saver]}
    first = fit(tmp_path, data, max_epochs=2, **options).batches["train"]
    options["ckpt_path"] = saver.last_model_path
    rest = fit(tmp_path, data, max_epochs=3, **options).batches["train"]
    assert first + rest == whole


def test_batches_may_be_tensordicts(tmp_path, store):
    config = dataclasses.replace(CONFIG, channels="first")
    data = GroupDataModule(store, GROUPING, config, form="tensordict", **SPLIT)
    model = fit(tmp_path, data, max_epochs=1)
    split = ptyzarr.split_groups(store, GROUPING, **SPLIT)
    assert groups_by_epoch(model.batches["train"])[0] == plain(store, 1, split.training)[0]


def test_a_checkpoint_of_other_data_is_refused(tmp_path, store):
    data = GroupDataModule(store, GROUPING, CONFIG, **SPLIT)
    path = tmp_path / "middle.ckpt"
    fit(tmp_path, data, callbacks=[StopAfter(path, 0, 1)])
    other = GroupDataModule(store, GROUPING, CONFIG, validation=None)
    with pytest.raises(ConfigError, match="the state is of a loader with another"):
        fit(tmp_path, other, ckpt_path=path)


def test_whole_scans_validate_and_test(tmp_path, make_scan_store, our_threads):
    stores = [make_scan_store(f"scan{n}", n_frames=40, seed=n) for n in range(3)]
    data = GroupDataModule(
        stores[0], GROUPING, CONFIG, validation_stores=[stores[1]], test_stores=stores[2].path
    )
    trainer, model = make_trainer(tmp_path, max_epochs=1), Recorder()
    trainer.fit(model, datamodule=data)
    trainer.validate(model, datamodule=data)
    trainer.test(model, datamodule=data)
    trainer.predict(model, datamodule=data)
    got = {stage: [r for _, rows in model.batches[stage] for r in rows] for stage in model.batches}
    members = [group_table(store, GROUPING).nn_indices.tolist() for store in stores]
    assert sorted(got["train"]) == sorted(members[0])
    assert got["val"] == members[1] * 2
    assert got["test"] == got["predict"] == members[2]
    assert not our_threads()


def test_prediction_without_test_stores_takes_all_groups(tmp_path, store):
    data = GroupDataModule([store.path], GROUPING, CONFIG, **SPLIT)
    model = Recorder()
    predicted = make_trainer(tmp_path).predict(model, datamodule=data)
    assert sum(predicted) == 120
    got = [row for _, rows in model.batches["predict"] for row in rows]
    assert got == group_table(store, GROUPING).nn_indices.tolist()


def test_training_and_validation_share_the_memory(store):
    config = dataclasses.replace(CONFIG, memory="2GiB")
    data = GroupDataModule(store, GROUPING, config, **SPLIT)
    budgets = {}
    for stage in ("fit", "validate"):
        data.setup(stage)
        budgets[stage] = memory_of(data.val_dataloader())
        if stage == "fit":
            assert memory_of(data.train_dataloader()) + budgets["fit"] == 2 * 1024**3
            assert budgets["fit"] == 512 * 1024**2
        data.teardown(stage)
    assert budgets["validate"] == 2 * 1024**3


def test_both_loaders_keep_within_the_memory_on_many_cores(store, monkeypatch):
    monkeypatch.setattr("ptyzarr.datamodule.count_threads", lambda: 64)
    config = dataclasses.replace(CONFIG, n_threads=None, memory="1GiB")
    data = GroupDataModule(store, GROUPING, config, **SPLIT)
    data.setup("fit")
    training, validation = data.train_dataloader().loader, data.val_dataloader().loader
    assert (training.config.n_threads, validation.config.n_threads) == (64, 4)
    assert training.projected_memory + validation.projected_memory <= 1024**3
    data.teardown()


def memory_of(batches):
    return batches.loader.config.memory_bytes


def test_a_share_of_the_cores_is_for_each_local_rank(store, monkeypatch, tmp_path):
    monkeypatch.setattr("ptyzarr.datamodule.available_cores", lambda: 12)
    monkeypatch.setattr("ptyzarr.datamodule.count_threads", lambda: 12)
    config = dataclasses.replace(CONFIG, n_threads=None)
    data = GroupDataModule(store, GROUPING, config, validation=None)
    data.trainer = make_trainer(tmp_path, devices=3, strategy="ddp_spawn")
    data.setup("fit")
    assert data.train_dataloader().loader.config.n_threads == 4
    data.teardown()


def test_groups_are_drawn_before_the_ranks_ask(store, monkeypatch):
    data = GroupDataModule(store.path, GROUPING, CONFIG, **SPLIT)
    data.prepare_data()
    monkeypatch.setattr("ptyzarr.grouping.cache.group_table", None)
    data.setup("fit")
    assert len(data.train_dataloader()) > 0
    data.teardown()


@pytest.mark.parametrize(
    ("grouping", "options", "message"),
    [
        pytest.param(
            {}, {"validation": 0.2, "validation_stores": "scan.zarr"}, "one of them", id="both"
        ),
        pytest.param({"seed": None}, {}, "seed of the grouping is None", id="unseeded"),
        pytest.param({}, {"test_stores": []}, "test_stores has nothing", id="empty"),
        pytest.param(
            {}, {"validation_stores": [3]}, "validation_stores has an entry of type int", id="type"
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(store, grouping, options, message):
    with pytest.raises(ConfigError, match=message):
        GroupDataModule(store, dataclasses.replace(GROUPING, **grouping), **options)


def test_a_scan_cannot_be_for_training_and_validation(store, make_scan_store):
    copy = make_scan_store("copy", n_frames=120)
    data = GroupDataModule(store, GROUPING, CONFIG, validation_stores=copy)
    with pytest.raises(ConfigError, match=r"copy.zarr for validation is the same scan as .*scan"):
        data.setup("fit")


def test_loaders_are_asked_for_after_setup(store):
    data = GroupDataModule(store, GROUPING, CONFIG)
    with pytest.raises(ConfigError, match=r"no batches for 'fit'.*setup\('fit'\) before"):
        data.train_dataloader()
    with pytest.raises(ConfigError, match="give test_stores"):
        data.test_dataloader()


def test_ranks_of_the_options_must_be_the_trainers(tmp_path, store):
    config = dataclasses.replace(CONFIG, rank=1, world_size=2)
    data = GroupDataModule(store, GROUPING, config, validation=None)
    with pytest.raises(ConfigError, match=r"rank 1 of 2, the trainer is rank 0 of 1"):
        fit(tmp_path, data)


@pytest.mark.slow
def test_two_processes_share_each_epoch(tmp_path, store):
    # Batches of 7: the ranks' last batches differ in size, and still are as many.
    config = dataclasses.replace(CONFIG, batch_size=7, n_threads=1)
    data = GroupDataModule(store, GROUPING, config, **SPLIT)
    options = {"strategy": "ddp_spawn", "devices": 2, "max_epochs": 2}
    make_trainer(tmp_path, **options).fit(Recorder(tmp_path), datamodule=data)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    split = ptyzarr.split_groups(store, GROUPING, **SPLIT)
    members = group_table(store, GROUPING).nn_indices
    for stage, groups in (("train", split.training), ("val", split.validation)):
        first, second = (groups_by_epoch(rank[stage]) for rank in ranks)
        assert len(ranks[0][stage]) == len(ranks[1][stage])
        for epoch in (0, 1):
            assert sorted(first[epoch] + second[epoch]) == sorted(members[groups].tolist())
    assert groups_by_epoch(ranks[0]["train"])[0] != groups_by_epoch(ranks[0]["train"])[1]


def test_too_little_memory_is_told_with_whose_share_it_is(tmp_path, store):
    config = dataclasses.replace(CONFIG, memory="300MiB")
    data = GroupDataModule(store, GROUPING, config, **SPLIT)
    with pytest.raises(BudgetError, match="a quarter of memory '300MiB', which training and"):
        fit(tmp_path, data)
