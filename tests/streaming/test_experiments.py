import numpy as np
import pytest

from ptyzarr.config import GroupingConfig
from ptyzarr.errors import ConfigError
from ptyzarr.grouping import group_coords, group_table, normalization_factor
from ptyzarr.streaming.experiments import Experiments, StreamableScan

from .fakes import FakeScan

PAIRS = GroupingConfig(gridsize=2, n_neighbors=6)


def test_the_fake_scan_is_one_that_can_be_streamed():
    assert isinstance(FakeScan(), StreamableScan)


@pytest.mark.parametrize("gridsize", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
def test_coordinates_of_any_batch_have_the_bits_of_all_at_once(gridsize, dtype):
    scan = FakeScan(position_dtype=dtype)
    grouping = GroupingConfig(gridsize=gridsize, n_neighbors=12)
    table = group_table(scan, grouping)
    nn, offsets, relative = group_coords(scan.positions, table.nn_indices)
    experiments = Experiments([scan], grouping)
    for groups in (np.array([7]), np.array([3, 199, 0]), np.arange(200)):
        fields = experiments.describe(groups)
        for name, expected in [
            ("nn_indices", table.nn_indices),
            ("coords_nn", nn),
            ("coords_offsets", offsets),
            ("coords_relative", relative),
        ]:
            assert fields[name].dtype == expected.dtype
            assert fields[name].tobytes() == expected[groups].tobytes()


def test_several_scans_keep_their_own_coordinates_and_numbers():
    scans = [FakeScan(60, seed=1), FakeScan(90, seed=2, position_dtype=np.float32)]
    experiments = Experiments(scans, PAIRS)
    groups = np.array([149, 0, 60, 59])
    fields = experiments.describe(groups)
    assert fields["experiment_id"].tolist() == [1, 0, 1, 0]
    assert fields["experiment_id"].dtype == np.int32
    assert fields["scale"].tolist() == experiments.scales[[1, 0, 1, 0]].tolist()
    second = group_table(scans[1], PAIRS).nn_indices
    assert fields["nn_indices"][2].tolist() == second[0].tolist()
    _, offsets, _ = group_coords(scans[1].positions, second[[89, 0]])
    assert fields["coords_offsets"][[0, 2]].tolist() == offsets.tolist()
    # A batch of one scan alone has the dtypes of the mixed ones.
    assert experiments.describe(np.array([70]))["coords_nn"].dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
def test_several_scans_have_the_coordinates_of_each_alone(dtype):
    scans = [FakeScan(n, seed=n, position_dtype=dtype) for n in (60, 90, 75)]
    together = Experiments(scans, PAIRS)
    groups = np.random.default_rng(0).permutation(225)
    fields = together.describe(groups)
    for number, scan in enumerate(scans):
        mine = fields["experiment_id"] == number
        alone = Experiments([scan], PAIRS).describe(groups[mine] - [0, 60, 150][number])
        for name in ("nn_indices", "coords_nn", "coords_offsets", "coords_relative", "scale"):
            assert fields[name].dtype == alone[name].dtype
            assert fields[name][mine].tobytes() == alone[name].tobytes()


def test_scales_are_those_of_each_whole_selection():
    scans = [FakeScan(60, seed=1), FakeScan(90, seed=2)]
    expected = [
        normalization_factor(scan.frame_power, group_table(scan, PAIRS).nn_indices, 8)
        for scan in scans
    ]
    assert Experiments(scans, PAIRS).scales.tolist() == expected
    assert Experiments(scans, PAIRS, 0.5).scales.tolist() == [0.5, 0.5]
    assert Experiments(scans, PAIRS, [0.5, 2]).scales.tolist() == [0.5, 2]


def test_probes_with_and_without_modes_are_stacked():
    scans = [FakeScan(seed=1), FakeScan(seed=2, n_modes=3), FakeScan(seed=3, n_modes=2)]
    probe = Experiments(scans, PAIRS).probe
    assert probe.shape == (3, 3, 8, 8)
    assert probe.dtype == np.complex64
    assert (probe[0, 0] == scans[0].probe_guess).all()
    assert not probe[0, 1:].any()
    assert (probe[1] == scans[1].probe_guess).all()
    assert not probe[2, 2].any()


def test_probes_without_modes_have_no_mode_axis():
    scans = [FakeScan(seed=1), FakeScan(seed=2)]
    assert Experiments(scans, PAIRS).probe.shape == (2, 8, 8)


def with_probe(shape):
    scan = FakeScan(seed=2)
    scan.probe_guess = np.zeros(shape, np.complex64)
    return scan


@pytest.mark.parametrize(
    ("scans", "scale", "message"),
    [
        pytest.param([], None, "no stores", id="no-stores"),
        pytest.param([FakeScan(), FakeScan(frame_size=10)], None, "10 pixels", id="frame-size"),
        pytest.param([FakeScan(), with_probe((9, 8))], None, r"\(9, 8\)", id="probe-size"),
        pytest.param([with_probe((8,))], None, r"\(8,\)", id="probe-1d"),
        pytest.param([FakeScan()], [1, 2], "each of 1", id="too-many-scales"),
        pytest.param([FakeScan()], 0.0, "positive", id="zero-scale"),
        pytest.param([FakeScan()], float("nan"), "positive", id="nan-scale"),
    ],
)
def test_what_does_not_fit_together_is_refused(scans, scale, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Experiments(scans, PAIRS, scale)
    assert caught.value.code == "config"


def test_objects_are_in_all_scans_or_in_none():
    with_object, without = FakeScan(seed=1), FakeScan(seed=2, with_object=False)
    assert Experiments([with_object], PAIRS).has_patches()
    assert not Experiments([without], PAIRS).has_patches()
    with pytest.raises(ConfigError, match="no object"):
        Experiments([with_object, without], PAIRS).has_patches()
