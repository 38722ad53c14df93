from __future__ import annotations

import os
import re
import shutil
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pytest

import ptyzarr
from ptyzarr import ptychopinn
from ptyzarr.config import GroupingConfig
from ptyzarr.errors import ScanNotFoundError
from ptyzarr.ptychopinn import MemmapDatasetBridge, RawDataTorch

from .grouping.golden_cases import CASES, check_grouped

BRIDGE_CASES = [
    case
    for case in CASES
    if case.entry == "MemmapDatasetBridge" and case.id[:3] not in ("052", "079")
]
GROUPING = {"N": 16, "K": 6, "nsamples": 12, "gridsize": 2, "seed": 42}


def call(case, bridge: MemmapDatasetBridge, **options):
    names = ("N", "K", "nsamples", "gridsize", "seed")
    return bridge.get_grouped_data(**{name: case.params[name] for name in names}, **options)


def snapshot(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def install_ptychopinn(monkeypatch: pytest.MonkeyPatch, update: object) -> None:
    """Put modules in the place of PtychoPINN's; no `update`, no `update_legacy_dict`."""
    config = types.ModuleType("ptycho.config.config")
    if update is not None:
        config.update_legacy_dict = update  # type: ignore[attr-defined]
    params = types.ModuleType("ptycho.params")
    params.cfg = {"N": 64}  # type: ignore[attr-defined]
    for name in ("ptycho", "ptycho.config"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "ptycho.config.config", config)
    monkeypatch.setitem(sys.modules, "ptycho.params", params)


@pytest.fixture
def scan(make_npz, tmp_path: Path) -> Path:
    return make_npz(tmp_path / "scan.npz", n_frames=40, N=16, seed=1)


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in BRIDGE_CASES])
def test_the_bridge_gives_the_reference_arrays(case, lazy: bool, tmp_path: Path) -> None:
    bridge = MemmapDatasetBridge(case.scan_path, memmap_dir=tmp_path)
    if case.is_error:
        with pytest.raises(case.error_type):
            call(case, bridge, lazy=lazy)
        return
    grouped = dict(call(case, bridge, lazy=lazy))
    assert isinstance(grouped["X_full"], da.Array if lazy else np.ndarray)
    for key in ("diffraction", "X_full", "Y"):
        grouped[key] = None if grouped[key] is None else np.asarray(grouped[key])
    check_grouped(grouped, case)


def test_a_scan_without_object_is_accepted(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.id.startswith("052"))
    bridge = MemmapDatasetBridge(case.scan_path, memmap_dir=tmp_path)
    assert call(case, bridge)["Y"] is None


def test_a_second_construction_reads_no_frame_and_writes_nothing(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = MemmapDatasetBridge(scan, memmap_dir=tmp_path / "m").get_grouped_data(**GROUPING)
    before = snapshot(tmp_path / "m")
    os.utime(scan)  # a touched file is the same file

    def refuse(*_: object) -> None:
        raise AssertionError("a frame was read")

    with monkeypatch.context() as patched:
        patched.setattr("ptyzarr.sources.frames.StackedFrames.blocks", refuse)
        patched.setattr("ptyzarr.sources.frames.StackedFrames.read", refuse)
        patched.setattr("ptyzarr.store.ScanStore.amplitude", refuse)
        patched.setattr("ptyzarr.ingestion.runner.check_digests", refuse)
        again = MemmapDatasetBridge(scan, memmap_dir=tmp_path / "m")
    assert snapshot(tmp_path / "m") == before
    second = again.get_grouped_data(**GROUPING)
    np.testing.assert_array_equal(first["X_full"], second["X_full"])


def test_group_tables_come_from_the_cache(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = MemmapDatasetBridge(scan, memmap_dir=tmp_path / "m").get_grouped_data(**GROUPING)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("groups were drawn again")

    monkeypatch.setattr("ptyzarr.grouping.select.draw_ranks", refuse)
    second = MemmapDatasetBridge(scan, memmap_dir=tmp_path / "m").get_grouped_data(**GROUPING)
    np.testing.assert_array_equal(first["nn_indices"], second["nn_indices"])
    with pytest.raises(AssertionError, match="drawn again"):
        MemmapDatasetBridge(scan, memmap_dir=tmp_path / "m").get_grouped_data(
            **{**GROUPING, "seed": 43}
        )


def test_a_damaged_cache_is_rebuilt(scan: Path, tmp_path: Path) -> None:
    bridge = MemmapDatasetBridge(scan, memmap_dir=tmp_path / "m")
    first = bridge.get_grouped_data(**GROUPING)
    cached = [path for path in (tmp_path / "m" / ".ptyzarr-cache").rglob("*") if path.is_file()]
    assert cached
    for path in cached:
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    second = bridge.get_grouped_data(**GROUPING)
    np.testing.assert_array_equal(first["nn_indices"], second["nn_indices"])


def test_a_changed_source_is_ingested_again(make_npz, scan: Path, tmp_path: Path) -> None:
    old = MemmapDatasetBridge(scan, memmap_dir=tmp_path / "m").get_grouped_data(**GROUPING)
    make_npz(scan, n_frames=40, N=16, seed=2)
    bridge = MemmapDatasetBridge(scan, memmap_dir=tmp_path / "m")
    new = bridge.get_grouped_data(**GROUPING)
    assert not np.array_equal(old["diffraction"], new["diffraction"])
    with np.load(scan) as file:
        np.testing.assert_array_equal(bridge.store.amplitude(np.arange(40)), file["diff3d"])


def test_two_sources_of_one_name_live_in_one_folder(make_npz, tmp_path: Path) -> None:
    bridges = []
    for seed, folder in enumerate(("one", "two")):
        (tmp_path / folder).mkdir()
        path = make_npz(tmp_path / folder / "scan.npz", n_frames=30, N=16, seed=seed)
        bridges.append(MemmapDatasetBridge(path, memmap_dir=tmp_path / "m"))
    one, two = (bridge.store.digest for bridge in bridges)
    assert one != two


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_store_is_replaced(damage: str, scan: Path, tmp_path: Path) -> None:
    first = MemmapDatasetBridge(scan, memmap_dir=tmp_path / "m")
    expected = first.get_grouped_data(**GROUPING)["X_full"]
    shard = Path(first.store.path) / "diffraction/c/0/0/0"
    raw = bytearray(shard.read_bytes())
    if damage == "flip":
        raw[20] ^= 1
        shard.write_bytes(raw)
    elif damage == "truncate":
        shard.write_bytes(raw[:-1])
    else:
        shard.unlink()
    again = MemmapDatasetBridge(scan, memmap_dir=tmp_path / "m")
    np.testing.assert_array_equal(again.get_grouped_data(**GROUPING)["X_full"], expected)


def test_an_unfinished_store_is_finished(scan: Path, tmp_path: Path) -> None:
    path = Path(MemmapDatasetBridge(scan, memmap_dir=tmp_path / "m").store.path)
    (path / "zarr.json").unlink()
    bridge = MemmapDatasetBridge(scan, memmap_dir=tmp_path / "m")
    assert bridge.store.n_frames == 40


def test_an_empty_folder_in_the_place_of_the_store_is_used(scan: Path, tmp_path: Path) -> None:
    path = Path(MemmapDatasetBridge(scan, memmap_dir=tmp_path / "m").store.path)
    shutil.rmtree(path)
    path.mkdir()
    assert MemmapDatasetBridge(scan, memmap_dir=tmp_path / "m").store.n_frames == 40


def test_diffraction_is_preferred_where_both_keys_differ(make_npz, tmp_path: Path) -> None:
    path = make_npz(tmp_path / "scan.npz", n_frames=20, N=16, seed=1)
    with np.load(path) as file:
        members = dict(file)
    members["diffraction"] = members["diff3d"] + 1
    np.savez(path, **members)
    bridge = MemmapDatasetBridge(path, memmap_dir=tmp_path / "m")
    np.testing.assert_array_equal(bridge.store.amplitude([3])[0], members["diffraction"][3])


def test_casts_are_those_of_the_reference(make_npz, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.random((20, 16, 16))
    path = make_npz(
        tmp_path / "scan.npz",
        n_frames=20,
        N=16,
        seed=1,
        diff3d=frames,
        xcoords=rng.random(20).astype(np.float32),
        probeGuess=rng.random((16, 16)) + 0j,
    )
    bridge = MemmapDatasetBridge(path, memmap_dir=tmp_path / "m")
    raw = bridge.raw_data_torch
    assert (raw.xcoords.dtype, raw.probeGuess.dtype) == (np.float64, np.complex64)
    assert raw.scan_index.dtype == np.int32
    grouped = bridge.get_grouped_data(**GROUPING)
    cast = RawDataTorch(
        raw.xcoords, raw.ycoords, frames.astype(np.float32), raw.probeGuess, None, raw.objectGuess
    )
    expected = cast.generate_grouped_data(**GROUPING)
    for key in ("diffraction", "X_full", "nn_indices"):
        np.testing.assert_array_equal(grouped[key], expected[key], strict=True)


def test_oversampling_and_sequential_sampling_are_reachable(scan: Path, tmp_path: Path) -> None:
    bridge = MemmapDatasetBridge(scan, memmap_dir=tmp_path / "m")
    many = bridge.get_grouped_data(
        16, 7, 90, 2, seed=1, enable_oversampling=True, neighbor_pool_size=7
    )
    assert many["nn_indices"].shape == (90, 4)
    one = bridge.get_grouped_data(16, 6, 9, 2, seed=1, sequential_sampling=True)
    two = bridge.get_grouped_data(16, 6, 9, 2, seed=2, sequential_sampling=True)
    np.testing.assert_array_equal(one["nn_indices"], two["nn_indices"])


def test_the_gridsize_defaults_to_that_of_the_config(scan: Path, tmp_path: Path) -> None:
    config = SimpleNamespace(model=SimpleNamespace(gridsize=1, N=16), neighbor_count=4)
    bridge = MemmapDatasetBridge(scan, config, tmp_path / "m")
    assert bridge.get_grouped_data(16, 4, 9)["nn_indices"].shape == (9, 1)


def test_the_parameter_dictionary_of_an_installed_ptychopinn_is_updated(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    install_ptychopinn(monkeypatch, lambda cfg, config: calls.append((cfg, config)))
    config = SimpleNamespace(model=SimpleNamespace(gridsize=2))
    MemmapDatasetBridge(scan, config, tmp_path / "m")
    assert calls == [({"N": 64}, config)]


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(None, id="none"),
        pytest.param(GroupingConfig(gridsize=2), id="ours"),
        pytest.param(SimpleNamespace(gridsize=2), id="no-model"),
    ],
)
def test_other_configs_leave_the_parameter_dictionary_alone(
    config: object, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the dictionary was updated")

    install_ptychopinn(monkeypatch, refuse)
    bridge = MemmapDatasetBridge(scan, config, tmp_path / "m")
    # Upstream's default group size where no config was given.
    assert bridge.get_grouped_data(16, 6, 5)["nn_indices"].shape == (5, 4)


def test_another_package_of_the_same_name_is_no_error(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_ptychopinn(monkeypatch, None)
    config = SimpleNamespace(model=SimpleNamespace(gridsize=2))
    assert MemmapDatasetBridge(scan, config, tmp_path / "m").store.n_frames == 40


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScanNotFoundError, match=r"nothing\.npz"):
        MemmapDatasetBridge(tmp_path / "nothing.npz", memmap_dir=tmp_path / "m")


def test_stores_can_be_copied_and_used_elsewhere(scan: Path, tmp_path: Path) -> None:
    bridge = MemmapDatasetBridge(scan, memmap_dir=tmp_path / "m")
    shutil.copytree(bridge.store.path, tmp_path / "copy.zarr")
    copy = RawDataTorch.from_store(type(bridge.store)(tmp_path / "copy.zarr"))
    np.testing.assert_array_equal(
        copy.generate_grouped_data(**GROUPING)["X_full"],
        bridge.get_grouped_data(**GROUPING)["X_full"],
    )


# What the reference's own tests of its data pipeline ask of these classes.


@pytest.fixture(params=["diff3d", "diffraction"])
def small_scan(request: pytest.FixtureRequest, make_npz, tmp_path: Path) -> Path:
    """A file of 20 frames under either key; the frames are float64 there."""
    path = make_npz(tmp_path / "small.npz", n_frames=20, N=16, seed=4)
    with np.load(path) as file:
        members = dict(file)
    members[request.param] = members.pop("diff3d").astype(np.float64)
    np.savez(path, **members)
    return path


def test_the_bridge_equals_raw_data_of_the_same_file(small_scan: Path, tmp_path: Path) -> None:
    with np.load(small_scan) as file:
        members = dict(file)
    key = "diffraction" if "diffraction" in members else "diff3d"
    raw = RawDataTorch(
        members["xcoords"], members["ycoords"], members[key].astype(np.float32),
        members["probeGuess"], members["scan_index"], members["objectGuess"],
    )  # fmt: skip
    bridge = MemmapDatasetBridge(small_scan, memmap_dir=tmp_path / "m")
    options = {"N": 16, "K": 4, "nsamples": 10, "gridsize": 2, "seed": 42}
    found, wanted = bridge.get_grouped_data(**options), raw.generate_grouped_data(**options)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name, strict=True)


def test_frames_under_either_key_are_float32(small_scan: Path, tmp_path: Path) -> None:
    bridge = MemmapDatasetBridge(small_scan, memmap_dir=tmp_path / "m")
    grouped = bridge.get_grouped_data(16, 4, 10, gridsize=2, seed=1)
    assert bridge.raw_data_torch.diff3d.dtype == np.float32
    assert (grouped["diffraction"].dtype, grouped["X_full"].dtype) == (np.float32, np.float32)
    assert grouped["Y"].dtype == np.complex64


def test_a_seed_decides_the_groups_of_every_construction(small_scan: Path, tmp_path: Path) -> None:
    def indices(seed: int, folder: str) -> np.ndarray:
        bridge = MemmapDatasetBridge(small_scan, memmap_dir=tmp_path / folder)
        return bridge.get_grouped_data(16, 6, 10, gridsize=2, seed=seed)["nn_indices"]

    np.testing.assert_array_equal(indices(42, "one"), indices(42, "one"))
    np.testing.assert_array_equal(indices(42, "one"), indices(42, "two"))
    assert (indices(42, "one") != indices(43, "one")).any()


def test_the_container_has_the_dtypes_and_shapes_of_the_reference(
    small_scan: Path, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    bridge = MemmapDatasetBridge(small_scan, memmap_dir=tmp_path / "m")
    grouped = bridge.get_grouped_data(16, 4, 10, gridsize=2, seed=1)
    container = ptychopinn.PtychoDataContainerTorch(grouped, bridge.raw_data_torch.probeGuess)
    images = (10, 16, 16, 4)
    wanted = {
        "X": (images, torch.float32),
        "Y": (images, torch.complex64),
        "Y_I": (images, torch.float32),
        "Y_phi": (images, torch.float32),
        "probe": ((16, 16), torch.complex64),
        "coords_nominal": ((10, 1, 2, 4), torch.float32),
        "coords_true": ((10, 1, 2, 4), torch.float32),
        "local_offsets": ((10, 1, 2, 4), torch.float64),
        "global_offsets": ((10, 1, 2, 1), torch.float64),
        "nn_indices": ((10, 4), torch.int32),
    }
    for name, (shape, dtype) in wanted.items():
        found = getattr(container, name)
        assert (tuple(found.shape), found.dtype) == (shape, dtype), name


def test_a_scan_without_object_has_patches_of_ones(make_npz, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = make_npz(tmp_path / "small.npz", n_frames=20, N=16, seed=4, objectGuess=None)
    bridge = MemmapDatasetBridge(path, memmap_dir=tmp_path / "m")
    grouped = bridge.get_grouped_data(16, 4, 10, gridsize=2, seed=1)
    container = ptychopinn.PtychoDataContainerTorch(grouped, bridge.raw_data_torch.probeGuess)
    assert container.Y.dtype == torch.complex64
    assert bool((container.Y == 1).all())


def test_the_bridge_draws_by_a_config_of_the_torch_loader(small_scan: Path, tmp_path: Path) -> None:
    data_config = SimpleNamespace(neighbor_function="Nearest", K=6, C=4, n_subsample=7)
    grouping = GroupingConfig.from_ptychopinn(data_config, seed=1)
    bridge = MemmapDatasetBridge(small_scan, memmap_dir=tmp_path / "m")
    grouped = bridge.raw_data_torch.draw_grouped_data(grouping)
    assert grouped["X_full"].shape == (140, 16, 16, 4)


def test_the_code_of_the_migration_page_runs(
    make_npz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    text = (Path(__file__).parent.parent / "docs" / "ptychopinn.md").read_text()
    monkeypatch.chdir(tmp_path)
    make_npz(tmp_path / "scan.npz", n_frames=1000, N=16, seed=4)
    changes = [
        "\n".join(line[1:] for line in block.splitlines() if line.startswith("+"))
        for block in re.findall(r"```diff\n(.*?)```", text, re.DOTALL)
    ]
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {
        "ptyzarr": ptyzarr,
        "config": SimpleNamespace(model=SimpleNamespace(gridsize=2)),
        "data_config": SimpleNamespace(neighbor_function="Nearest", n_subsample=7),
    }
    for code in (changes[0], blocks[0], changes[1], "stores = bridge.store", blocks[1]):
        exec(code, names)
    assert names["container"].X.shape == (1000, 16, 16, 4)
    assert names["batch"].X.shape[1:] == (16, 16, 4)
    loader = names["loader"]
    assert len(loader) == -(-7000 // 64)
    loader.close()
