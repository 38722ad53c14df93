"""`export` gives the source back: every member with its name, order and bits."""

from __future__ import annotations

import errno
import importlib
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from synthetic import make_arrays, make_npz, member_crcs, npy_bytes, write_npz

from ptyzarr.config import IngestConfig
from ptyzarr.errors import ScanExistsError, StorageError, VerificationError
from ptyzarr.ingestion import export, ingest
from ptyzarr.store import open_store

MASK = IngestConfig(nonfinite="mask")
TRUNCATE = IngestConfig(incomplete="truncate")
COUNTS = IngestConfig(quantity="counts")


def fortran(array: np.ndarray) -> np.ndarray:
    return np.asfortranarray(array)


def with_nans(frames: np.ndarray) -> np.ndarray:
    bits = frames.view(np.uint32)
    bits[0, 0, 0], bits[5, 2, 3], bits[39, 15, 15] = 0x7FC00000, 0xFFC12345, 0x7F800001
    frames[7] = np.inf
    return frames


FRAMES = make_arrays()["diff3d"]
MANY = make_arrays(52)


def check_round_trip(tmp_path: Any, source: Any, config: IngestConfig | None = None) -> None:
    store = ingest(source, tmp_path / "scan.zarr", config)
    out = export(store, tmp_path / "out.npz")
    assert list(member_crcs(out).items()) == list(member_crcs(source).items())
    store.close()
    assert not [name for name in os.listdir(tmp_path) if "partial" in name]


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
@pytest.mark.parametrize(
    ("overrides", "config"),
    [
        pytest.param({}, None, id="counts behind amplitudes"),
        pytest.param({}, IngestConfig(layout="acquisition"), id="acquisition order"),
        pytest.param({"diff3d": FRAMES + np.float32(0.1)}, None, id="amplitudes"),
        pytest.param({"diff3d": FRAMES.astype(">f4")}, None, id="big-endian frames"),
        pytest.param({"diff3d": fortran(FRAMES)}, None, id="fortran frames"),
        pytest.param({"diff3d": fortran(FRAMES.astype(">f8"))}, None, id="fortran big-endian"),
        pytest.param({"diff3d": FRAMES[..., None]}, None, id="(n,H,W,1)"),
        pytest.param({"diff3d": fortran(FRAMES[..., None])}, None, id="(n,H,W,1) fortran"),
        pytest.param({"diff3d": FRAMES.transpose(1, 2, 0).copy()}, None, id="(H,W,n)"),
        pytest.param({"diff3d": fortran(FRAMES.transpose(1, 2, 0))}, None, id="(H,W,n) fortran"),
        pytest.param({"diff3d": np.square(FRAMES).astype("<i4")}, COUNTS, id="counts int32"),
        pytest.param({"diff3d": np.square(FRAMES).astype(">u2")}, COUNTS, id="counts >u2"),
        pytest.param({"diff3d": np.rint(np.square(FRAMES))}, COUNTS, id="counts float32"),
        pytest.param({"diff3d": FRAMES.astype("f2")}, None, id="float16"),
        pytest.param({"diff3d": FRAMES > 1}, None, id="bool"),
        pytest.param({"diff3d": with_nans(FRAMES.copy())}, MASK, id="masked counts"),
        pytest.param(
            {"diff3d": with_nans((FRAMES + np.float32(0.1)).astype("f4"))}, MASK, id="masked"
        ),
        pytest.param(
            {"diff3d": fortran(with_nans(FRAMES.copy()).astype(">f4"))}, MASK, id="masked fortran"
        ),
        pytest.param({"diff3d": MANY["diff3d"]}, TRUNCATE, id="surplus frames"),
        pytest.param({"diff3d": fortran(MANY["diff3d"])}, TRUNCATE, id="surplus fortran frames"),
        pytest.param({"xcoords": MANY["xcoords"]}, TRUNCATE, id="surplus positions"),
        pytest.param(
            {
                key: MANY[key]
                for key in ("xcoords", "ycoords", "xcoords_start", "ycoords_start", "scan_index")
            },
            TRUNCATE,
            id="surplus of all but frames",
        ),
        pytest.param({"diffraction": FRAMES}, None, id="both frame keys"),
        pytest.param(
            {"diff3d": None, "diffraction": FRAMES, "xcoords_start": None}, None, id="diffraction"
        ),
        pytest.param({"probeGuess": np.ones((3, 16, 16), ">c16")}, None, id="modes, big-endian"),
        pytest.param({"objectGuess": fortran(np.ones((9, 5), "c8"))}, None, id="fortran object"),
        pytest.param({"xcoords": np.arange(40, dtype="f4")}, None, id="mixed positions"),
        pytest.param({"xcoords": np.arange(40, dtype="i8") + 2**60}, None, id="huge positions"),
        pytest.param({"xcoords": np.arange(40, dtype=">i2")}, None, id="integer positions"),
        pytest.param({"ycoords": np.arange(40, dtype="g")}, None, id="long double positions"),
        pytest.param({"scan_index": np.zeros(40, ">i4")}, None, id="big-endian scan index"),
        pytest.param({"scan_index": np.zeros(40, "?")}, None, id="bool scan index"),
    ],
)
def test_members_come_back_bit_for_bit(tmp_path, overrides, config, compressed):
    source = make_npz(tmp_path / "scan.npz", compressed=compressed, **overrides)
    check_round_trip(tmp_path, source, config)


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_every_kind_of_extra_member_comes_back(tmp_path, compressed):
    rng = np.random.default_rng(0)
    extra = {
        "scalar": np.array(3.5),
        "big": np.array(7, ">i8"),
        "empty": np.empty((0, 3)),
        "none": np.empty((4, 0), "f4"),
        "text": np.array(["a", "bc", "Å"]),
        "_metadata": np.array('{"key": 1}'),
        "raw": np.array([b"ab", b"c"]),
        "times": np.array(["2024-01-01", "NaT"], "M8[s]"),
        "spans": np.array([1, 2], "m8[ms]"),
        "records": np.array([(1, 2.5)], [("a", "<i4"), ("b", ">f8")]),
        "long_double": np.arange(3, dtype="g"),
        "fortran": fortran(rng.normal(size=(5, 6, 7))),
        "fortran_big": fortran(rng.integers(0, 9, (5, 6)).astype(">u2")),
        "complex": rng.normal(size=(3, 3)).astype(">c8"),
        "half": rng.normal(size=9).astype("f2"),
        "nan": np.array([np.nan, -0.0, np.inf]),
        "bools": np.array([True, False]),
        "deep": np.zeros((1,) * 20 + (2,)),
        "a/b": np.ones(2),
        "../up": np.ones(2),
        "/root": np.ones(2),
        "back\\slash": np.ones(2),
        "__hidden": np.ones(2),
        "Note": np.ones(2),
        "note": np.ones(3),
        "%20": np.ones(2),
        "ünï😀": np.ones(2),
        "": np.ones(2),
        "x" * 200: np.ones(2),
        "zarr.json": np.ones(2),
        "notes.txt": b"no array\x00\xff",
        "nothing": b"",
        "folder/": b"",
        "frame": np.ones(2),
        "index": np.ones(5),
    }
    source = make_npz(tmp_path / "scan.npz", compressed=compressed, **extra)
    check_round_trip(tmp_path, source)


core_arrays = hnp.arrays(
    dtype=st.one_of(
        hnp.boolean_dtypes(),
        hnp.integer_dtypes(),
        hnp.floating_dtypes(),
        hnp.complex_number_dtypes(),
    ),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(array=core_arrays, is_fortran=st.booleans(), name=st.text(max_size=12))
def test_any_array_under_any_name_comes_back(tmp_path_factory, array, is_fortran, name):
    folder = tmp_path_factory.mktemp("any")
    arrays = make_arrays(3, 2)
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    name = name.replace("\0", "")
    if name in arrays or name == "diffraction":
        return
    arrays[name] = fortran(array) if is_fortran else array
    check_round_trip(folder, write_npz(folder / "scan.npz", arrays))


def test_export_can_be_ingested_to_the_same_store(make_scan_store, tmp_path):
    store = make_scan_store(compressed=True)
    out = export(tmp_path / "scan.zarr", tmp_path / "out.npz")
    again = ingest(out, tmp_path / "scan.zarr")
    assert again.digest == store.digest
    with np.load(out) as file:
        assert np.array_equal(file["diff3d"], make_arrays()["diff3d"])


def test_frames_of_large_blocks_are_exported_in_order(tmp_path, monkeypatch):
    module = importlib.import_module("ptyzarr.ingestion.export")  # the room's function has its name
    monkeypatch.setattr(module, "BLOCK_BYTES", 3000)
    for number, frames in enumerate([FRAMES, FRAMES.transpose(1, 2, 0).copy(), fortran(FRAMES)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        table = np.arange(3000.0).reshape(30, 100)
        source = make_npz(folder / "s.npz", diff3d=frames, t=table, f=fortran(table))
        check_round_trip(folder, source)


@pytest.mark.parametrize(
    "occupy",
    [
        pytest.param(lambda path: path.write_text("mine"), id="file"),
        pytest.param(lambda path: path.mkdir(), id="folder"),
        pytest.param(lambda path: path.symlink_to("nowhere"), id="broken link"),
    ],
)
def test_existing_file_is_not_replaced(make_scan_store, tmp_path, occupy):
    store = make_scan_store()
    occupy(tmp_path / "out.npz")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ScanExistsError, match=r"out\.npz exists"):
        export(store, tmp_path / "out.npz")
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("has_links", [True, False], ids=["links", "no links"])
def test_file_that_appears_meanwhile_is_not_replaced(
    make_scan_store, tmp_path, monkeypatch, has_links
):
    store = make_scan_store()
    without_links(monkeypatch, has_links)

    class Occupy:
        def start(self, stage: str, total: int, unit: str) -> None:
            (tmp_path / "out.npz").write_text("mine")

        def advance(self, amount: int) -> None: ...

        def finish(self) -> None: ...

    with pytest.raises(ScanExistsError, match="appeared"):
        export(store, tmp_path / "out.npz", progress=Occupy())
    assert (tmp_path / "out.npz").read_text() == "mine"
    assert not [name for name in os.listdir(tmp_path) if "partial" in name]


def without_links(monkeypatch: pytest.MonkeyPatch, has_links: bool) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)


def test_file_systems_without_hard_links_export_too(make_scan_store, tmp_path, monkeypatch):
    store = make_scan_store()
    without_links(monkeypatch, has_links=False)
    out = export(store, tmp_path / "out.npz")
    assert member_crcs(out) == member_crcs(tmp_path / "scan.npz")
    assert not [name for name in os.listdir(tmp_path) if "partial" in name]


def test_full_disk_leaves_nothing(make_scan_store, tmp_path, file_size_limit):
    store = make_scan_store()
    before = sorted(os.listdir(tmp_path))
    with file_size_limit(20_000), pytest.raises(StorageError, match="File too large") as caught:
        export(store, tmp_path / "out.npz")
    assert "out.npz" in str(caught.value)
    assert "resume" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before


def test_missing_folder_is_a_storage_error(make_scan_store, tmp_path):
    with pytest.raises(StorageError, match="No such file"):
        export(make_scan_store(), tmp_path / "none" / "out.npz")


def test_member_that_does_not_come_out_right_is_not_exported(
    make_scan_store, tmp_path, monkeypatch
):
    store = make_scan_store()
    monkeypatch.setattr(type(store), "scan_index", np.ones(40, np.int64))
    with pytest.raises(VerificationError, match=r"'scan_index\.npy'.*nothing was exported"):
        export(store, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_damaged_store_is_not_exported(make_scan_store, tmp_path):
    make_scan_store().close()
    shard = tmp_path / "scan.zarr/diffraction/c/0/0/0"
    raw = bytearray(shard.read_bytes())
    raw[100] ^= 1
    shard.write_bytes(raw)
    store = open_store(tmp_path / "scan.zarr")
    with pytest.raises(ValueError, match="damaged"):
        export(store, tmp_path / "out.npz")
    assert sorted(os.listdir(tmp_path)) == ["scan.npz", "scan.zarr"]


def test_progress_of_export_adds_up(make_scan_store, tmp_path):
    store = make_scan_store(note=b"text")
    seen = {"total": 0, "done": 0}

    class Recorder:
        def start(self, stage: str, total: int, unit: str) -> None:
            assert (stage, unit) == ("exporting", "bytes")
            seen["total"] = total

        def advance(self, amount: int) -> None:
            seen["done"] += amount

        def finish(self) -> None: ...

    export(store, tmp_path / "out.npz", progress=Recorder())
    assert (
        seen["total"]
        == seen["done"]
        == sum(s for s, _ in member_crcs(tmp_path / "out.npz").values())
    )


def test_header_bytes_are_kept_exactly(tmp_path):
    """Another writer's header, with other spacing and version, comes back as it was."""
    text = b"{'descr':'<f4','fortran_order':False,'shape':(40,16,16)}\n"
    frames = b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text + FRAMES.tobytes()
    arrays = make_arrays()
    del arrays["diff3d"]
    members = {f"{key}.npy": npy_bytes(value) for key, value in arrays.items()}
    source = write_npz(tmp_path / "scan.npz", {"diff3d.npy": frames, **members})
    check_round_trip(tmp_path, source)
