from __future__ import annotations

import sys
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pytest
import zarr

from ptyzarr.config import GroupingConfig
from ptyzarr.errors import DtypeError, GroupingError, MissingFieldError, ShapeError, SourceError
from ptyzarr.grouping import (
    RawDataTorch,
    group_coords,
    group_table,
    normalization_factor,
    object_patches,
)

from .golden_cases import ACCEPTED_HERE, CASES, DRAWN, REFUSED, check_grouped
from .memory_scan import MemoryScan, compute, make_object, make_raw, make_scan

KEYS = [
    "diffraction", "Y", "coords_offsets", "coords_relative", "coords_start_offsets",
    "coords_start_relative", "coords_nn", "coords_start_nn", "nn_indices", "objectGuess", "X_full",
]  # fmt: skip


def as_zarr(frames):
    array = zarr.create_array({}, shape=frames.shape, dtype=frames.dtype, chunks=(7, 16, 16))
    array[:] = frames
    return array


def from_arrays(scan, convert=lambda frames: frames):
    start = {key: scan[key] for key in ("xcoords_start", "ycoords_start") if key in scan}
    return RawDataTorch(
        scan["xcoords"], scan["ycoords"], convert(scan["diff3d"]), scan["probeGuess"],
        scan.get("scan_index"), scan.get("objectGuess"), **start,
    )  # fmt: skip


def from_numpy(case):
    return from_arrays(case.load_scan())


def from_dask(case):
    return from_arrays(case.load_scan(), lambda frames: da.from_array(frames, chunks=(11, 16, 9)))


def from_zarr(case):
    return from_arrays(case.load_scan(), as_zarr)


def from_store(case):
    scan, start = case.load_scan(), None
    if "xcoords_start" in scan:
        start = np.stack([scan["xcoords_start"], scan["ycoords_start"]], axis=1)
    return RawDataTorch.from_store(
        MemoryScan(
            frames=scan["diff3d"],
            positions=np.stack([scan["xcoords"], scan["ycoords"]], axis=1),
            positions_start=start,
            probe_guess=scan["probeGuess"],
            object_guess=scan.get("objectGuess"),
        )
    )


def from_npz(case):
    return RawDataTorch.from_npz(case.scan_path)


ROUTES = [from_numpy, from_dask, from_zarr, from_store, from_npz]


def route_cases(cases, step=1):
    """Pair cases with every route, each route with every `step`-th case in turn.

    A file cannot be read as the other entries cast it.
    """
    return [
        pytest.param(route, case, id=f"{route.__name__}-{case.id}")
        for turn, case in enumerate(cases)
        for number, route in enumerate(ROUTES)
        if (turn + number) % step == 0
        and (route is not from_npz or case.entry == "RawData.from_file")
    ]


@pytest.mark.parametrize(("route", "case"), route_cases(DRAWN))
def test_golden_arrays_on_every_route(route, case):
    stream = case.legacy_stream()
    grouped = route(case).generate_grouped_data(**case.params | {"seed": stream})
    assert list(grouped) == KEYS
    check_grouped(grouped, case)
    assert list(stream.random_sample(2)) == case.next_random_sample


@pytest.mark.parametrize(
    ("route", "case"), route_cases([case for case in DRAWN if case.params["seed"] is not None], 3)
)
def test_golden_arrays_computed_lazily(route, case):
    grouped = route(case).generate_grouped_data(**case.params, lazy=True)
    assert list(grouped) == KEYS
    for key in ("diffraction", "X_full", "Y"):
        assert grouped[key] is None or isinstance(grouped[key], da.Array), key
    check_grouped(compute(grouped), case)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(("route", "case"), route_cases(REFUSED))
def test_golden_refusals(route, case, lazy):
    with pytest.raises(case.error_type):
        route(case).generate_grouped_data(**case.params, lazy=lazy)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.id) for case in CASES if case.id[:3] in ACCEPTED_HERE]
)
def test_scans_that_the_reference_cannot_read_are_accepted(case):
    scan = case.load_scan()
    grouped = RawDataTorch.from_npz(case.scan_path).generate_grouped_data(**case.params)
    assert grouped["nn_indices"].shape == (case.params["nsamples"], 4)
    assert (grouped["Y"] is None) == ("objectGuess" not in scan)


# The constructor.


def arguments(**changes):
    scan = make_scan(12)
    given = {
        "xcoords": scan.positions[:, 0], "ycoords": scan.positions[:, 1], "diff3d": scan.frames,
        "probeGuess": scan.probe_guess, "scan_index": np.arange(12),
        "objectGuess": scan.object_guess,
    }  # fmt: skip
    return given | changes


def test_properties_give_back_what_was_given():
    given = arguments(xcoords_start=np.arange(12.0), ycoords_start=np.arange(12.0) * 2)
    raw = RawDataTorch(**given)
    for name, value in given.items():
        np.testing.assert_array_equal(getattr(raw, name), value, err_msg=name)
    assert raw.diff3d is given["diff3d"]


def test_start_positions_and_scan_numbers_have_defaults():
    given = arguments(scan_index=None)
    raw = RawDataTorch(**given)
    np.testing.assert_array_equal(raw.xcoords_start, given["xcoords"])
    np.testing.assert_array_equal(raw.ycoords_start, given["ycoords"])
    np.testing.assert_array_equal(raw.scan_index, np.zeros(12, np.int64), strict=True)


@pytest.mark.parametrize("convert", [lambda a: da.from_array(a, chunks=5), list])
def test_small_arrays_may_be_of_any_kind(convert):
    given = arguments()
    wanted = RawDataTorch(**given).generate_grouped_data(8, nsamples=6, seed=1)
    changed = {
        key: convert(given[key]) for key in ("xcoords", "ycoords", "probeGuess", "objectGuess")
    }
    got = RawDataTorch(**given | changed).generate_grouped_data(8, nsamples=6, seed=1)
    for key in KEYS:
        np.testing.assert_array_equal(got[key], wanted[key], err_msg=key)


def test_frames_may_be_a_list():
    given = arguments()
    raw = RawDataTorch(**given | {"diff3d": list(given["diff3d"])})
    np.testing.assert_array_equal(raw.diff3d, given["diff3d"])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        pytest.param({"ycoords": np.zeros(11)}, ShapeError, r"'ycoords' has shape \(11,\)", id="y"),
        pytest.param({"xcoords_start": np.zeros(3)}, ShapeError, "'xcoords_start'", id="start"),
        pytest.param(
            {"xcoords": np.zeros((12, 1)), "ycoords": np.zeros((12, 1))},
            ShapeError, r"'xcoords' has shape \(12, 1\)", id="two-dimensional",
        ),
        pytest.param({"xcoords": np.zeros(12, complex)}, DtypeError, "complex128", id="complex-x"),
        pytest.param({"diff3d": np.zeros((12, 8))}, ShapeError, r"\(12, 8\)", id="frames-2d"),
        pytest.param({"diff3d": np.zeros((12, 8, 9))}, ShapeError, r"\(12, 8, 9\)", id="oblong"),
        pytest.param({"diff3d": np.zeros((11, 8, 8))}, ShapeError, "11 frames for 12", id="fewer"),
        pytest.param({"diff3d": np.zeros((13, 8, 8))}, ShapeError, "13 frames for 12", id="more"),
        pytest.param({"diff3d": np.zeros((12, 8, 8), complex)}, DtypeError, "real", id="complex"),
        pytest.param({"probeGuess": np.zeros(8)}, ShapeError, "'probeGuess'", id="probe-1d"),
        pytest.param({"probeGuess": np.zeros((2, 8, 8))}, ShapeError, "'probeGuess'", id="modes"),
        pytest.param({"objectGuess": np.zeros(8)}, ShapeError, "'objectGuess'", id="object-1d"),
    ],
)  # fmt: skip
def test_arrays_that_make_no_scan_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        RawDataTorch(**arguments(**changes))


def test_shape_errors_are_both_builtins_that_the_reference_raises():
    with pytest.raises(ValueError, match="ycoords"):
        RawDataTorch(**arguments(ycoords=np.zeros(11)))
    with pytest.raises(AssertionError, match="probeGuess"):
        RawDataTorch(**arguments(probeGuess=np.zeros(8)))


@pytest.mark.parametrize(
    ("config", "gridsize", "group_size"),
    [
        pytest.param(None, None, 4, id="default-is-two"),
        pytest.param(GroupingConfig(gridsize=1), None, 1, id="ours"),
        pytest.param(SimpleNamespace(model=SimpleNamespace(gridsize=1)), None, 1, id="upstream"),
        pytest.param(SimpleNamespace(), None, 4, id="config-without-gridsize"),
        pytest.param(GroupingConfig(gridsize=1), 2, 4, id="argument-wins"),
    ],
)
def test_group_size_comes_from_the_argument_then_the_config(config, gridsize, group_size):
    scan = make_scan(12)
    for raw in (
        RawDataTorch(**arguments(config=config)),
        RawDataTorch.from_store(scan, config=config),
    ):
        grouped = raw.generate_grouped_data(8, nsamples=6, seed=1, gridsize=gridsize)
        assert grouped["nn_indices"].shape == (6, group_size)


def test_other_options_of_a_config_are_no_defaults():
    config = GroupingConfig(gridsize=2, n_neighbors=9, n_samples=11, enable_oversampling=True)
    raw = RawDataTorch(**arguments(config=config))
    wanted = RawDataTorch(**arguments()).generate_grouped_data(8, seed=5)
    got = raw.generate_grouped_data(8, seed=5)
    np.testing.assert_array_equal(got["nn_indices"], wanted["nn_indices"])
    with pytest.raises(GroupingError, match="enable_oversampling"):
        raw.generate_grouped_data(8, nsamples=13, seed=5)


@pytest.mark.parametrize(
    ("width", "error"),
    [pytest.param(0, GroupingError, id="0"), pytest.param(8.5, DtypeError, id="float")],
)
def test_a_width_that_is_none_is_refused(width, error):
    with pytest.raises(error, match="N is"):
        RawDataTorch(**arguments()).generate_grouped_data(width)


def test_a_store_may_have_a_probe_with_modes():
    scan = make_scan(12, probe_guess=np.ones((3, 8, 8), np.complex64))
    assert RawDataTorch.from_store(scan).probeGuess.shape == (3, 8, 8)


def test_frames_of_a_store_are_a_lazy_array_in_acquisition_order():
    scan = make_scan(12)
    diff3d = RawDataTorch.from_store(scan).diff3d
    assert scan.reads == []
    assert diff3d.dtype == np.float32
    np.testing.assert_array_equal(diff3d[3:5].compute(), scan.frames[3:5])
    np.testing.assert_array_equal(np.concatenate(scan.reads), [3, 4])


def write_npz(path, save, **changes):
    scan = make_scan(12)
    members = {
        "xcoords": scan.positions[:, 0], "ycoords": scan.positions[:, 1], "diff3d": scan.frames,
        "probeGuess": scan.probe_guess, "objectGuess": scan.object_guess,
    }  # fmt: skip
    members = {key: value for key, value in (members | changes).items() if value is not None}
    save(path, **members)
    return scan


@pytest.mark.parametrize(
    ("save", "kind"),
    [
        pytest.param(np.savez, da.Array, id="stored-is-lazy"),
        pytest.param(np.savez_compressed, np.ndarray, id="deflated-is-read"),
    ],
)
def test_a_file_gives_the_groups_of_its_arrays(tmp_path, save, kind):
    scan = write_npz(tmp_path / "scan.npz", save)
    raw = RawDataTorch.from_npz(tmp_path / "scan.npz")
    assert isinstance(raw.diff3d, kind)
    np.testing.assert_array_equal(raw.diff3d, scan.frames)
    for lazy in (False, True):
        got = compute(raw.generate_grouped_data(8, K=5, nsamples=9, seed=1, lazy=lazy))
        wanted = RawDataTorch.from_store(scan).generate_grouped_data(8, K=5, nsamples=9, seed=1)
        for key in KEYS:
            np.testing.assert_array_equal(got[key], wanted[key], err_msg=key, strict=True)


def test_of_two_frame_members_diff3d_is_taken(tmp_path):
    scan = write_npz(tmp_path / "scan.npz", np.savez, diffraction=make_scan(12).frames)
    np.testing.assert_array_equal(RawDataTorch.from_npz(tmp_path / "scan.npz").diff3d, scan.frames)


def test_a_file_without_a_probe_is_refused(tmp_path):
    write_npz(tmp_path / "scan.npz", np.savez, probeGuess=None)
    with pytest.raises(MissingFieldError, match="probeGuess"):
        RawDataTorch.from_npz(tmp_path / "scan.npz")


def test_a_file_of_counts_is_refused(tmp_path, monkeypatch):
    rawdata = sys.modules[RawDataTorch.__module__]
    write_npz(tmp_path / "scan.npz", np.savez)
    as_counts = rawdata.open_source
    monkeypatch.setattr(
        rawdata, "open_source", lambda path, **options: as_counts(path, quantity="counts")
    )
    with pytest.raises(SourceError, match="counts"):
        RawDataTorch.from_npz(tmp_path / "scan.npz")


def test_objects_of_double_precision_give_single_precision_patches():
    rng = np.random.default_rng(0)
    raw = RawDataTorch(**arguments(objectGuess=make_object(rng, (30, 30)).astype(np.complex128)))
    for lazy in (False, True):
        grouped = raw.generate_grouped_data(8, nsamples=3, seed=0, lazy=lazy)
        assert grouped["Y"].dtype == np.complex64
        assert grouped["objectGuess"].dtype == np.complex128


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
@pytest.mark.parametrize("source", ["store", "numpy", "dask"])
@pytest.mark.parametrize("strategy", ["canonical", "nearest", "band", "quadrant"])
def test_groups_of_every_strategy_make_the_published_arrays(strategy, source, lazy):
    config = GroupingConfig(strategy=strategy, gridsize=2, n_neighbors=20, seed=5)
    scan = make_scan(60)
    grouped = make_raw(scan, source).draw_grouped_data(config, lazy=lazy)
    assert isinstance(grouped["X_full"], da.Array if lazy else np.ndarray)
    indices = group_table(scan, config).nn_indices
    nn, offsets, relative = group_coords(scan.positions, indices)
    factor = normalization_factor(scan.frame_power, indices, 8)
    wanted = {
        "nn_indices": indices,
        "coords_nn": nn,
        "coords_offsets": offsets,
        "coords_relative": relative,
        "diffraction": scan.frames[indices].transpose(0, 2, 3, 1),
        "X_full": factor * scan.frames[indices].transpose(0, 2, 3, 1),
        "Y": object_patches(scan.object_guess, offsets, relative, 8),
    }
    found = compute(grouped)
    for key, values in wanted.items():
        np.testing.assert_array_equal(found[key], values, err_msg=key, strict=True)


def test_canonical_groups_by_config_are_those_by_arguments():
    raw = make_raw(make_scan(60), "numpy")
    config = GroupingConfig(gridsize=2, n_neighbors=5, n_samples=12, seed=5)
    one = raw.draw_grouped_data(config, N=16)
    other = raw.generate_grouped_data(16, K=5, nsamples=12, seed=5, gridsize=2)
    for key, values in other.items():
        np.testing.assert_array_equal(one[key], values, err_msg=key, strict=True)
