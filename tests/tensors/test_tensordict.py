import dataclasses
import pickle
import subprocess
import sys

import numpy as np
import pytest
import synthetic
import torch
from tensordict import TensorDict
from torch.utils.data import DataLoader

from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.errors import ConfigError
from ptyzarr.grouping import RawDataTorch
from ptyzarr.streaming import GroupLoader
from ptyzarr.tensors import GroupDataset, GroupItem, as_tensordict

GROUPING = GroupingConfig(gridsize=2, n_neighbors=5, seed=4)
CONFIG = LoaderConfig(batch_size=16, shuffle=False, channels="first", patches=True, n_threads=1)


@pytest.fixture
def store(make_scan_store):
    return make_scan_store()


def eager(store):
    """The fields by the formulas of the contract, section 10, from the canonical arrays."""
    grouped = RawDataTorch.from_store(store).generate_grouped_data(
        N=16, K=5, nsamples=40, seed=4, gridsize=2
    )
    coords = {
        "coords_global": "coords_nn",
        "coords_center": "coords_offsets",
        "coords_relative": "coords_relative",
        "coords_start_center": "coords_start_offsets",
        "coords_start_relative": "coords_start_relative",
    }
    patches = np.moveaxis(grouped["Y"], -1, 1)
    return {
        "images": np.moveaxis(grouped["X_full"], -1, 1),
        **{
            name: grouped[key].transpose(0, 3, 1, 2).astype(np.float32)
            for name, key in coords.items()
        },
        "nn_indices": grouped["nn_indices"].astype(np.int64),
        "experiment_id": np.zeros(40, np.int32),
        "center_scan_id": np.arange(40),
        "center_scan_id_available": np.ones(40, bool),
        "label_amp": np.abs(patches),
        "label_phase": np.angle(patches),
    }


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_items_have_names_shapes_and_dtypes_of_the_contract(make_scan_store, dtype):
    arrays = synthetic.make_arrays()
    coords = {name: a.astype(dtype) for name, a in arrays.items() if name[1:].startswith("coords")}
    store = make_scan_store(**coords)
    dataset = GroupDataset(store, GROUPING, CONFIG, form="tensordict")
    fields, probe, scale = next(iter(DataLoader(dataset, batch_size=None)))
    B, C, N = 16, 4, 16
    assert isinstance(fields, TensorDict)
    assert fields.batch_size == (B,)
    assert {name: (tuple(t.shape), t.dtype) for name, t in fields.items()} == {
        "images": ((B, C, N, N), torch.float32),
        "coords_global": ((B, C, 1, 2), torch.float32),
        "coords_center": ((B, 1, 1, 2), torch.float32),
        "coords_relative": ((B, C, 1, 2), torch.float32),
        "coords_start_center": ((B, 1, 1, 2), torch.float32),
        "coords_start_relative": ((B, C, 1, 2), torch.float32),
        "nn_indices": ((B, C), torch.int64),
        "experiment_id": ((B,), torch.int32),
        "center_scan_id": ((B,), torch.int64),
        "center_scan_id_available": ((B,), torch.bool),
        "label_amp": ((B, C, N, N), torch.float32),
        "label_phase": ((B, C, N, N), torch.float32),
    }
    assert all(tensor.is_contiguous() for tensor in fields.values())
    assert (tuple(probe.shape), probe.dtype) == ((B, C, 1, N, N), torch.complex64)
    assert (tuple(scale.shape), scale.dtype) == ((B, 1, 1, 1), torch.float32)
    dataset.close()


def test_values_are_those_of_the_eager_arrays(store):
    dataset = GroupDataset(store, GROUPING, CONFIG, form="tensordict")
    items = list(dataset)
    fields = torch.cat([item.fields for item in items])
    want = eager(store)
    assert set(want) == set(fields.keys())
    for name, array in want.items():
        got = fields[name].numpy()
        assert got.dtype == array.dtype, name
        if name.startswith("label"):
            # torch and NumPy round modulus and angle of a complex number differently.
            np.testing.assert_allclose(got, array, rtol=0, atol=4e-7)
        else:
            assert got.tobytes() == np.ascontiguousarray(array).tobytes(), name
    with GroupLoader(store, GROUPING, CONFIG) as loader:
        assert torch.equal(items[0].scale.flatten(), next(iter(loader)).scale)
    dataset.close()


def test_the_probe_of_one_store_is_not_copied(store):
    with GroupLoader(store, GROUPING, CONFIG) as loader:
        batch = next(iter(loader))
        probe = as_tensordict(batch).probe
    assert probe.data_ptr() == batch.probe.data_ptr()
    assert torch.equal(probe[7, 3, 0], torch.from_numpy(store.probe_guess.copy()))


def test_probes_of_several_stores_go_with_their_groups(make_scan_store):
    modes = np.random.default_rng(0).normal(size=(3, 16, 16)).astype(np.complex64)
    stores = [make_scan_store("a"), make_scan_store("b", seed=1, probeGuess=modes)]
    config = dataclasses.replace(CONFIG, shuffle="full")
    dataset = GroupDataset(stores, GROUPING, config, form="tensordict")
    for fields, probe, _ in dataset:
        assert probe.shape[1:] == (4, 3, 16, 16)
        for row, number in enumerate(fields["experiment_id"].tolist()):
            want = torch.from_numpy(np.array(stores[number].probe_guess)).reshape(-1, 16, 16)
            for channel in range(4):
                assert torch.equal(probe[row, channel, : len(want)], want)
                assert not probe[row, channel, len(want) :].any()
    dataset.close()


def test_without_details_there_are_no_starts_and_no_center(store):
    with GroupLoader(store, GROUPING, dataclasses.replace(CONFIG, patches=False)) as loader:
        fields = as_tensordict(next(iter(loader))).fields
    assert not {name for name in fields.keys() if "start" in name or "label" in name}  # noqa: SIM118
    assert fields["center_scan_id"].tolist() == [-1] * 16
    assert not fields["center_scan_id_available"].any()


def test_an_item_is_as_good_as_a_tuple(store):
    dataset = GroupDataset(store, GROUPING, CONFIG, form="tensordict")
    item = next(iter(dataset))
    fields, probe, scale = item
    assert len(item) == 3
    assert item[0] is fields
    assert item[1] is probe
    assert item[-1] is scale
    dataset.close()


def test_an_item_is_moved_without_spreading_its_probe(store, make_scan_store):
    for stores in (store, [store, make_scan_store("b", seed=1)]):
        dataset = GroupDataset(stores, GROUPING, CONFIG, form="tensordict")
        item = next(iter(dataset))
        moved = item.to("meta")
        assert moved.fields.device == torch.device("meta")
        assert moved.probe.shape == item.probe.shape
        assert moved.probe.stride()[:2] == item.probe.stride()[:2]
        assert moved.scale.is_meta
        dataset.close()


@pytest.mark.slow
def test_spawned_workers_deliver_the_items_of_the_main_process(store):
    dataset = GroupDataset(store, GROUPING, CONFIG, form="tensordict")
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    items = list(loader)
    dataset.set_epoch(0)
    for got, want in zip(items, list(dataset), strict=True):
        assert isinstance(got, GroupItem)
        assert got.fields.batch_size == want.fields.batch_size
        assert (got.fields == want.fields).all()
        assert torch.equal(got.probe, want.probe)
        assert torch.equal(got.scale, want.scale)
    dataset.close()


def test_the_form_survives_a_pickle(store):
    dataset = pickle.loads(pickle.dumps(GroupDataset(store, GROUPING, CONFIG, form="tensordict")))
    assert isinstance(next(iter(dataset)), GroupItem)
    dataset.close()


@pytest.mark.parametrize(
    ("changes", "form", "message"),
    [
        pytest.param({"channels": "last"}, "tensordict", r"'last'.*channels 'first'", id="last"),
        pytest.param({"device": "numpy"}, "tensordict", r"'numpy'.*torch device", id="numpy"),
        pytest.param({}, "list", "form is 'list'; expected one of 'dict', 'tensordict'", id="form"),
    ],
)
def test_options_that_do_not_fit_the_form_are_refused(store, changes, form, message):
    with pytest.raises(ConfigError, match=message) as caught:
        GroupDataset(store, GROUPING, dataclasses.replace(CONFIG, **changes), form=form)
    assert caught.value.code == "config"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"channels": "last"}, r"shape \(16, 16, 16, 4\).*channels='first'", id="last"),
        pytest.param({"device": "numpy"}, r"holds ndarray.*device='cpu'", id="numpy"),
    ],
)
def test_batches_that_do_not_fit_are_refused(store, changes, message):
    with (
        GroupLoader(store, GROUPING, dataclasses.replace(CONFIG, **changes)) as loader,
        pytest.raises(ConfigError, match=message),
    ):
        as_tensordict(next(iter(loader)))


WITHOUT_TENSORDICT = """
import sys
sys.modules["tensordict"] = None
import numpy as np, torch
from ptyzarr import Batch, PtyzarrError, as_tensordict
names = Batch.__dataclass_fields__
arrays = dict.fromkeys(names, torch.zeros((1, 1, 2, 2)))
arrays.update(Y=None, nn_indices=torch.zeros((1, 1), dtype=torch.int32), seed_indices=None)
arrays["experiment_id"] = torch.zeros(1, dtype=torch.int32)
try:
    as_tensordict(Batch(**arrays))
except PtyzarrError as error:
    print(error.code, error)
"""


@pytest.mark.slow
def test_without_tensordict_the_form_names_the_extra():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORDICT], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("device a TensorDict needs tensordict, which is not installed")
    assert "ptyzarr[tensordict]" in done.stdout


def test_an_item_is_moved_and_not_converted(make_scan_store):
    dataset = GroupDataset(
        make_scan_store(), GROUPING, dataclasses.replace(CONFIG, shuffle=False), form="tensordict"
    )
    item = next(iter(dataset))
    assert torch.equal(item.to("cpu").probe, item.probe)
    for convert in (lambda: item.to(torch.float64), lambda: item.to("cpu", dtype=torch.float64)):
        with pytest.raises(ConfigError, match="expected a device"):
            convert()
    dataset.close()
