"""`group --frames`: arrays for programs without our loader, equal to the reference's."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from ptyzarr.config import GroupingConfig
from ptyzarr.grouping import RawDataTorch
from ptyzarr.store import open_store

OPTIONS = {"nsamples": 30, "K": 6, "seed": 3, "gridsize": 2}
FLAGS = ["--n-samples", "30", "--n-neighbors", "6", "--seed", "3", "--gridsize", "2"]


@pytest.fixture
def store(make_scan_store, tmp_path, monkeypatch):
    # Seven groups to a chunk.
    monkeypatch.setattr("ptyzarr.grouping.grouped.BLOCK_NBYTES", 7 * 4 * 16 * 16 * 4)
    make_scan_store()
    return tmp_path / "scan.zarr"


def reference(store):
    raw = RawDataTorch.from_store(open_store(store))
    return raw, raw.generate_grouped_data(16, **OPTIONS)


def test_a_plain_reader_gets_the_arrays_of_the_reference(run, store, tmp_path):
    out = tmp_path / "groups.zarr"
    facts = run("group", store, *FLAGS, "--frames", "--patches", "-o", out, "--json").json
    assert (facts["n_groups"], facts["out"]) == (30, str(out))
    group = zarr.open_group(str(out), mode="r")
    raw, expected = reference(store)
    expected["X"] = expected.pop("X_full")
    expected.pop("diffraction")
    expected["probeGuess"] = raw.probeGuess
    assert set(group.array_keys()) == {*expected, "norm_factor"}
    for key, values in expected.items():
        np.testing.assert_array_equal(group[key][...], values, err_msg=key, strict=True)
    assert group["norm_factor"][...] == facts["norm_factor"]
    assert group["X"].chunks == (7, 16, 16, 4)
    assert group.metadata.consolidated_metadata is not None
    attributes = group.attrs["ptyzarr_groups"]
    assert attributes["digest"] == open_store(store).digest
    assert attributes["grouping"]["seed"] == 3


def test_each_dimension_name_has_one_size(run, store, tmp_path):
    run("group", store, *FLAGS, "--frames", "--patches", "-o", tmp_path / "groups.zarr")
    sizes: dict[str, set[int]] = {}
    for _, array in zarr.open_group(str(tmp_path / "groups.zarr"), mode="r").arrays():
        names = array.metadata.dimension_names or ()
        assert len(set(names)) == len(names)
        for name, size in zip(names, array.shape, strict=True):
            sizes.setdefault(name, set()).add(size)
    assert all(len(found) == 1 for found in sizes.values())


def test_patches_are_left_out_unless_asked_for(run, store, tmp_path):
    run("group", store, *FLAGS, "--frames", "-o", tmp_path / "groups.zarr")
    assert "Y" not in zarr.open_group(str(tmp_path / "groups.zarr"), mode="r")


def test_new_groups_without_a_seed_are_those_that_are_told(run, store, tmp_path, monkeypatch):
    """Without a seed each draw is another one; table and frames must be of the same."""
    drawn = []
    draw = open_store(store).n_frames

    def table(opened, config):
        drawn.append(np.random.default_rng(len(drawn)).permutation(draw)[:12].reshape(3, 4))
        return type("Table", (), {"nn_indices": drawn[-1]})

    monkeypatch.setattr("ptyzarr.cli.groups.cached_group_table", table)
    run("group", store, "--frames", "-o", tmp_path / "groups.zarr")
    assert len(drawn) == 1
    group = zarr.open_group(str(tmp_path / "groups.zarr"), mode="r")
    np.testing.assert_array_equal(group["nn_indices"][...], drawn[0])


def test_no_groups_make_empty_arrays(run, store, tmp_path):
    result = run("group", store, "--n-samples", "0", "--frames", "-o", tmp_path / "groups.zarr")
    assert result.code == 0
    assert zarr.open_group(str(tmp_path / "groups.zarr"), mode="r")["X"].shape == (0, 16, 16, 4)


@pytest.mark.parametrize(
    "occupy",
    [
        pytest.param(lambda path: path.write_text("mine"), id="file"),
        pytest.param(lambda path: path.mkdir(), id="folder"),
        pytest.param(lambda path: path.symlink_to("nowhere"), id="broken link"),
    ],
)
def test_nothing_is_overwritten(run, store, tmp_path, occupy):
    out = tmp_path / "groups.zarr"
    occupy(out)
    before = sorted(tmp_path.iterdir())
    result = run("group", store, "--frames", "-o", out)
    assert (result.code, len(result.err.splitlines())) == (3, 1)
    assert "exists; expected nothing there" in result.err
    assert [path for path in sorted(tmp_path.iterdir()) if path.name[0] != "."] == before


@pytest.mark.parametrize(
    "flags",
    [pytest.param(["--frames"], id="no output"), pytest.param(["--patches"], id="no frames")],
)
def test_flags_that_belong_together(run, store, flags):
    result = run("group", store, *flags)
    assert (result.code, len(result.err.splitlines())) == (2, 1)


def test_patches_of_a_scan_without_object_are_refused(run, make_scan_store, tmp_path):
    make_scan_store("bare", objectGuess=None)
    result = run(
        "group", tmp_path / "bare.zarr", "--frames", "--patches", "-o", tmp_path / "groups.zarr"
    )
    assert result.code == 3
    assert "has no object" in result.err
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".ptyzarr-cache")}
    assert left == {"bare.npz", "bare.zarr"}


def test_a_full_disk_leaves_nothing(run, store, tmp_path, file_size_limit):
    run("group", store, *FLAGS)  # the table is cached
    with file_size_limit(4000):
        result = run("group", store, *FLAGS, "--frames", "-o", tmp_path / "groups.zarr")
    assert (result.code, len(result.err.splitlines())) == (3, 1)
    assert not [path for path in tmp_path.iterdir() if "groups.zarr" in path.name]


def test_groups_of_another_strategy_are_written_as_the_library_gives_them(run, store, tmp_path):
    config = GroupingConfig(
        strategy="band", gridsize=2, n_neighbors=8, n_subsample=2, seed=3,
        min_neighbor_distance=1.0, max_neighbor_distance=6.5, x_bounds=(0, 0.9),
    )  # fmt: skip
    flags = [
        "--strategy", "band", "--gridsize", "2", "--n-neighbors", "8", "--n-subsample", "2",
        "--seed", "3", "--min-neighbor-distance", "1", "--max-neighbor-distance", "6.5",
        "--x-bounds", "0", "0.9",
    ]  # fmt: skip
    out = tmp_path / "groups.zarr"
    run("group", store, *flags, "--frames", "--patches", "-o", out)
    wanted = RawDataTorch.from_store(open_store(store)).draw_grouped_data(config)
    group = zarr.open_group(str(out), mode="r")
    for key in ("nn_indices", "coords_nn", "coords_relative", "Y"):
        np.testing.assert_array_equal(group[key][...], wanted[key], err_msg=key, strict=True)
    np.testing.assert_array_equal(group["X"][...], wanted["X_full"], strict=True)
    assert group.attrs["ptyzarr_groups"]["grouping"]["x_bounds"] == [0.0, 0.9]
    facts = run("stream", store, *flags, "--device", "numpy", "--json").json
    assert facts["groups"] == len(wanted["nn_indices"])


def test_flags_of_another_strategy_are_a_wrong_usage(run, store):
    result = run("group", store, "--n-subsample", "7")
    assert result.code == 2
    assert "n_subsample is 7 with strategy 'canonical'" in result.err
    assert run("group", store, "--strategy", "nearest", "--x-bounds", "0.1").code == 2
