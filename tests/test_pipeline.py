"""From an NPZ file to batches: every room in one line, on the golden scans and on measured ones."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest

import ptyzarr
from ptyzarr import GroupingConfig, GroupLoader, LoaderConfig, RawDataTorch

from .grouping.golden_cases import CASES, FOLDER, check_grouped

CANONICAL = [case for case in CASES if case.entry == "RawData.from_file" and not case.is_error]
#: Measured scans: the one that ships, and others where the reference material lies beside the
#: checkout.
MEASURED = [
    Path(str(resources.files("ptyzarr"))) / "demo_data" / "siemens_star_516.npz",
    *sorted((Path(__file__).parents[2] / "shared" / "data").glob("*.npz")),
]
KEYS = ("X_full", "coords_offsets", "coords_relative", "coords_nn", "nn_indices")
FIELDS = ("X", *KEYS[1:])


@pytest.fixture(scope="module")
def golden_stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ptyzarr.ScanStore]:
    folder = tmp_path_factory.mktemp("golden")
    return {
        path.name: ptyzarr.ingest(path, folder / f"{path.stem}.zarr")
        for path in sorted((FOLDER / "scans").glob("*.npz"))
    }


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CANONICAL])
def test_a_store_gives_the_reference_arrays(case, golden_stores) -> None:
    raw = RawDataTorch.from_store(golden_stores[case.scan_path.name])
    check_grouped(raw.generate_grouped_data(**case.params), case)


def test_every_golden_scan_is_exported_bit_for_bit(golden_stores, tmp_path: Path) -> None:
    for name, store in golden_stores.items():
        out = ptyzarr.export(store, tmp_path / name)
        with np.load(FOLDER / "scans" / name) as one, np.load(out) as other:
            assert one.files == other.files
            for key in one.files:
                assert one[key].dtype.str == other[key].dtype.str
                assert one[key].flags.f_contiguous == other[key].flags.f_contiguous
                assert one[key].tobytes("A") == other[key].tobytes("A")


@pytest.mark.parametrize("shuffle", [False, "full", "window"])
@pytest.mark.parametrize("path", MEASURED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_measured_scan_goes_all_the_way_and_back(path: Path, shuffle, tmp_path: Path) -> None:
    store = ptyzarr.ingest(path, tmp_path / "scan.zarr")
    assert ptyzarr.verify(store.path, path).n_frames == store.n_frames
    grouping = GroupingConfig(gridsize=2, n_neighbors=6, seed=7)
    eager = RawDataTorch.from_npz(path).generate_grouped_data(
        store.frame_size, K=6, nsamples=store.n_frames, seed=7, gridsize=2
    )
    config = LoaderConfig(device="cpu", shuffle=shuffle, batch_size=16, patches=True)
    with GroupLoader(store, grouping, config) as loader:
        batches = list(loader)
    got = {
        name: np.concatenate([np.asarray(getattr(batch, name)) for batch in batches])
        for name in (*FIELDS, "Y")
    }
    order = np.arange(store.n_frames)
    if shuffle:
        # Seeds are distinct, and so are groups: put both sides into one order.
        order = np.lexsort(eager["nn_indices"].T)
        shuffled = np.lexsort(got["nn_indices"].T)
        got = {name: values[shuffled] for name, values in got.items()}
    for key, name in zip(KEYS, FIELDS, strict=True):
        np.testing.assert_array_equal(got[name], eager[key][order], err_msg=key)
    # Patches of a batch repeat the float32 roundings of the eager ones.
    np.testing.assert_allclose(got["Y"], eager["Y"][order], rtol=0, atol=3e-7)
    out = ptyzarr.export(store, tmp_path / "out.npz")
    with np.load(path) as one, np.load(out) as other:
        assert one.files == other.files
        assert all(one[key].tobytes() == other[key].tobytes() for key in one.files)


def test_building_lazy_groups_reads_no_frame_and_a_slice_only_its_chunks(
    make_npz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_npz(tmp_path / "scan.npz", n_frames=600, N=32, seed=3)
    store = ptyzarr.ingest(path, tmp_path / "scan.zarr")
    reader = store.chunks
    read: list[int] = []
    original = reader.read_chunks

    def count(chunks, slots, out):
        read.extend(chunks.tolist())
        return original(chunks, slots, out)

    monkeypatch.setattr(reader, "read_chunks", count)
    raw = RawDataTorch.from_store(store)
    lazy = raw.generate_grouped_data(32, K=6, nsamples=600, seed=1, gridsize=2, lazy=True)
    assert read == []
    for key in ("diffraction", "X_full"):
        read.clear()
        part = lazy[key][33:43].compute(scheduler="synchronous")
        rows = store.rows[lazy["nn_indices"][33:43]]
        assert set(read) == set((rows // reader.chunk_frames).reshape(-1).tolist())
        assert len(set(read)) < reader.n_chunks
        assert part.shape == (10, 32, 32, 4)
    read.clear()
    assert ptyzarr.neighbors(store, 6)[:5].compute().shape == (5, 7)
    assert read == []


def test_orders_and_layouts_do_not_change_what_a_store_means(make_npz, tmp_path: Path) -> None:
    path = make_npz(tmp_path / "scan.npz", n_frames=90, N=16, seed=5)
    stores = [
        ptyzarr.ingest(path, tmp_path / f"{layout}.zarr", ptyzarr.IngestConfig(layout=layout))
        for layout in ("hilbert", "acquisition")
    ]
    one, two = stores
    assert (one.digest, one.frames_digest) == (two.digest, two.frames_digest)
    assert not np.array_equal(one.frame_index, two.frame_index)
    grouped = [
        RawDataTorch.from_store(store).generate_grouped_data(16, 6, 40, seed=2, gridsize=2)
        for store in stores
    ]
    for key in KEYS:
        np.testing.assert_array_equal(grouped[0][key], grouped[1][key])
