import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ptyzarr.errors import (
    BudgetError,
    ConfigError,
    MissingFieldError,
    ScanNotFoundError,
    ShapeError,
    SourceError,
)
from ptyzarr.sources import member_keys, open_source

from .contracts import ReaderContract
from .npzfiles import join, make_arrays, npy_bytes, npy_with_header, write_npz


def _members(frames: np.ndarray, positions: np.ndarray) -> dict:
    return {
        "diff3d": frames,
        "xcoords": positions[:, 0],
        "ycoords": positions[:, 1],
        "probeGuess": np.ones(frames.shape[1:], np.complex64),
        "_metadata": np.array('{"a": 1}'),
    }


class TestStoredNpz(ReaderContract):
    suffix = ".npz"

    def write(self, path, frames, positions):
        write_npz(path, _members(frames, positions))


class TestDeflatedNpz(ReaderContract):
    suffix = ".npz"

    def write(self, path, frames, positions):
        write_npz(path, _members(frames, positions), is_deflated=True)


class TestNumpySavez(ReaderContract):
    suffix = ".npz"

    def write(self, path, frames, positions):
        np.savez(path, **_members(frames, positions))


class TestFortranNpz(ReaderContract):
    suffix = ".npz"

    def write(self, path, frames, positions):
        write_npz(path, _members(np.asfortranarray(frames), positions))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan.npz"


def test_missing_file_of_unknown_kind_is_not_found(tmp_path):
    with pytest.raises(ScanNotFoundError):
        open_source(tmp_path / "scan.h5")


def test_unknown_suffix_names_the_known_ones(tmp_path):
    (tmp_path / "scan.h5").touch()
    with pytest.raises(SourceError, match=r"\.npz"):
        open_source(tmp_path / "scan.h5")


def test_suffix_in_capitals_is_known(tmp_path):
    assert open_source(write_npz(tmp_path / "SCAN.NPZ", make_arrays())).n_frames == 7


@pytest.mark.parametrize(
    "option",
    [{"prefer": "frames"}, {"quantity": "intensity"}, {"incomplete": "guess"}],
    ids=["prefer", "quantity", "incomplete"],
)
def test_unknown_option_value_is_refused(path, option):
    write_npz(path, make_arrays())
    with pytest.raises(ConfigError, match=next(iter(option))):
        open_source(path, **option)


# Fields


@pytest.mark.parametrize("key", ["xcoords", "ycoords", "probeGuess"])
def test_missing_required_field_is_a_key_error(path, key):
    arrays = make_arrays()
    del arrays[key]
    with pytest.raises(MissingFieldError, match=key) as caught:
        open_source(write_npz(path, arrays))
    assert isinstance(caught.value, KeyError)
    assert caught.value.code == "missing_field"


def test_missing_frames_names_both_keys(path):
    arrays = make_arrays()
    del arrays["diff3d"]
    with pytest.raises(MissingFieldError, match="'diff3d' nor 'diffraction'"):
        open_source(write_npz(path, arrays))


def test_optional_fields_are_absent_without_their_members(path):
    scan = open_source(write_npz(path, make_arrays()))
    assert scan.positions_start is None
    assert scan.scan_index is None
    assert scan.object_guess is None
    assert dict(scan.extra) == {}
    assert scan.axes == "nyx"


def test_all_fields_are_filled_and_the_rest_is_extra(path):
    arrays = make_arrays() | {
        "xcoords_start": np.arange(7, dtype=">f4"),
        "ycoords_start": np.arange(7, dtype="<f8") + 0.5,
        "scan_index": np.arange(7, dtype=">i4"),
        "objectGuess": np.asfortranarray(np.arange(12.0).reshape(3, 4) + 1j),
        "fourier_error": np.array(0.25),
    }
    scan = open_source(write_npz(path, arrays))
    assert scan.positions_start.dtype == np.float64
    assert np.array_equal(scan.positions_start[:, 1], arrays["ycoords_start"])
    assert scan.scan_index.dtype == np.dtype("int32")
    assert np.array_equal(scan.scan_index, np.arange(7))
    assert scan.object_guess.flags.c_contiguous
    assert np.array_equal(scan.object_guess, arrays["objectGuess"])
    assert list(scan.extra) == ["fourier_error"]
    assert join(scan.extra["fourier_error"].blocks(100)) == 0.25


def test_members_are_listed_in_file_order_with_their_place_header_and_checksum(path):
    arrays = make_arrays() | {"note.txt": b"hello", "scan_index": np.zeros(7, int)}
    write_npz(path, arrays)
    scan = open_source(path)
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    assert [(m.name, m.size, m.crc32) for m in scan.members] == [
        (info.filename, info.file_size, info.CRC) for info in infos
    ]
    places = {m.name: (m.node, m.column) for m in scan.members}
    assert places["diff3d.npy"] == ("diffraction", None)
    assert places["xcoords.npy"] == ("positions", 0)
    assert places["ycoords.npy"] == ("positions", 1)
    assert places["probeGuess.npy"] == ("probe_guess", None)
    assert places["scan_index.npy"] == ("scan_index", None)
    assert places["note.txt"][0].startswith("extra/x-")
    by_name = {m.name: m for m in scan.members}
    whole = npy_bytes(arrays["diff3d"])
    assert by_name["diff3d.npy"].header == whole[: -arrays["diff3d"].nbytes]
    assert by_name["note.txt"].header == b""


def test_one_start_coordinate_alone_goes_to_extra(path):
    arrays = make_arrays() | {"xcoords_start": np.arange(7.0)}
    scan = open_source(write_npz(path, arrays))
    assert scan.positions_start is None
    assert np.array_equal(join(scan.extra["xcoords_start"].blocks(10**6)), np.arange(7.0))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("objectGuess", np.zeros((2, 3, 3), complex), id="object 3-D"),
        pytest.param("scan_index", np.zeros((7, 1), int), id="scan_index 2-D"),
        pytest.param("scan_index", np.zeros(6, int), id="scan_index short"),
        pytest.param("xcoords", np.zeros((7, 1)), id="positions 2-D"),
        pytest.param("probeGuess", np.zeros((4, 5), complex), id="probe not square"),
        pytest.param("probeGuess", np.zeros(4, complex), id="probe 1-D"),
        pytest.param("probeGuess", np.zeros((0, 4, 4), complex), id="probe without modes"),
    ],
)
def test_field_of_impossible_shape_is_refused(path, key, value):
    with pytest.raises(ShapeError, match=key) as caught:
        open_source(write_npz(path, make_arrays() | {key: value}))
    assert caught.value.code == "shape"
    assert isinstance(caught.value, AssertionError)


@pytest.mark.parametrize("dtype", [">c8", "<c16", "<f8"])
def test_probe_modes_keep_their_dtype_in_native_order(path, dtype):
    probe = np.arange(50).reshape(2, 5, 5).astype(dtype)
    scan = open_source(write_npz(path, make_arrays() | {"probeGuess": probe}))
    assert np.array_equal(scan.probe_guess, probe)
    assert scan.probe_guess.dtype == np.dtype(dtype).newbyteorder("=")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("probeGuess", np.zeros((4, 4), np.clongdouble), id="probe"),
        pytest.param("objectGuess", np.zeros((4, 4), np.longdouble), id="object"),
        pytest.param("scan_index", np.zeros(7, complex), id="complex scan_index"),
        pytest.param("scan_index", np.full(7, "a"), id="text scan_index"),
        pytest.param("diff3d", np.zeros((7, 4, 4), complex), id="complex frames"),
        pytest.param("diff3d", np.zeros((7, 4, 4), np.longdouble), id="longdouble frames"),
        pytest.param("xcoords", np.zeros(7, complex), id="complex positions"),
        pytest.param("xcoords", np.zeros(7, bool), id="bool positions"),
        pytest.param("xcoords", np.full(7, "1"), id="text positions"),
    ],
)
def test_field_of_impossible_dtype_is_refused(path, key, value):
    with pytest.raises(SourceError, match=f"{key}.*dtype"):
        open_source(write_npz(path, make_arrays() | {key: value}))


def test_small_arrays_beyond_the_limit_are_refused_before_they_are_read(path):
    write_npz(path, make_arrays() | {"probeGuess": np.zeros((100, 100), complex)})
    with pytest.raises(BudgetError, match="probeGuess"):
        open_source(path, max_resident=100_000)
    assert open_source(path, max_resident=200_000).probe_guess.shape == (100, 100)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("is_deflated", [False, True])
def test_object_is_looked_through_but_not_held(path, order, is_deflated):
    rng = np.random.default_rng(3)
    guess = np.asarray(rng.normal(size=(990, 2020)).view(complex), order=order)
    write_npz(path, make_arrays() | {"objectGuess": guess}, is_deflated=is_deflated)
    tracemalloc.start()
    scan = open_source(path, max_resident=100_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22 < guess.nbytes
    assert scan.object_guess.flags.c_contiguous
    assert np.array_equal(scan.object_guess, guess)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("objectGuess.npy").header_offset + 500_000
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(SourceError, match="objectGuess"):
        open_source(path)


@pytest.mark.parametrize(
    ("overrides", "need"),
    [
        pytest.param(
            {"probeGuess": np.zeros((999, 999), complex, "F")}, 2 * 15_968_016, id="turned"
        ),
        pytest.param({"probeGuess": np.zeros((999, 999), complex)}, 15_968_016, id="as it is"),
        pytest.param({"xcoords": np.zeros(200_000)}, 3 * 1_600_000, id="column"),
        pytest.param({"scan_index": np.zeros(200_000, int)}, 3 * 1_600_000, id="scan index"),
    ],
)
def test_copies_made_while_small_arrays_are_read_count_towards_the_limit(path, overrides, need):
    write_npz(path, make_arrays() | overrides)
    options = {"incomplete": "truncate"}
    tracemalloc.start()
    with pytest.raises(BudgetError, match="while they are read"):
        open_source(path, max_resident=need, **options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**19
    tracemalloc.start()
    scan = open_source(path, max_resident=need + 1000, **options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert scan.n_frames == 7
    assert peak < need + 2**19


def test_headers_that_are_too_long_together_are_refused(path):
    # Each is within NumPy's limit, and deflated blanks cost next to nothing in the file.
    text = "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }" + " " * 9_900 + "\n"
    forged = {f"m{number}": npy_with_header(text, bytes(8)) for number in range(1700)}
    members = {f"{key}.npy": data for key, data in forged.items()}
    write_npz(path, make_arrays() | members, is_deflated=True)
    assert path.stat().st_size < 2**19
    with pytest.raises(SourceError, match="headers have more than 16777216 bytes together"):
        open_source(path)


# Positions


@pytest.mark.parametrize(
    ("x", "y", "result"),
    [
        ("<f4", "<f4", "f4"),
        (">f8", "<f4", "f8"),
        ("<i4", "<i4", "i4"),
        ("<i2", "<f4", "f4"),
        ("<u2", "<i2", "i4"),
        ("<f2", "<f2", "f2"),
        ("<i8", "<f8", "f8"),
    ],
)
def test_positions_take_the_result_type_of_their_columns(path, x, y, result):
    arrays = make_arrays() | {
        "xcoords": np.arange(7).astype(x),
        "ycoords": np.arange(7, 14).astype(y),
    }
    scan = open_source(write_npz(path, arrays))
    assert scan.positions.dtype == np.dtype(result)
    assert np.array_equal(scan.positions, np.stack([np.arange(7), np.arange(7, 14)], axis=1))
    assert not scan.extra


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(np.arange(7) + 2**53, id="int64 beyond float64"),
        pytest.param(np.full(7, 2**63 - 1), id="largest int64"),
        pytest.param(np.full(7, 2**64 - 1, np.uint64), id="largest uint64"),
        pytest.param(np.arange(7).astype(np.longdouble) / 3, id="longdouble"),
    ],
)
def test_column_that_cannot_be_given_back_keeps_its_original(path, x):
    write_npz(path, make_arrays() | {"xcoords": x})
    scan = open_source(path)
    assert scan.positions.dtype == np.float64
    assert np.array_equal(scan.positions[:, 0], x.astype(np.float64))
    places = {member.name: (member.node, member.column) for member in scan.members}
    assert places["xcoords.npy"] == ("extra/xcoords", None)
    assert places["ycoords.npy"] == ("positions", 1)
    reader = scan.extra["xcoords"]
    original = join(reader.blocks(10**6))
    expected = np.frombuffer(npy_bytes(x), np.uint8) if reader.is_raw else x
    assert np.array_equal(original, expected)


@pytest.mark.parametrize("key", ["xcoords", "ycoords", "xcoords_start", "ycoords_start"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_position_that_is_not_finite_is_refused_with_its_index(path, key, value):
    arrays = make_arrays()
    arrays |= {"xcoords_start": arrays["xcoords"], "ycoords_start": arrays["ycoords"]}
    arrays[key] = arrays[key].copy()
    arrays[key][5] = value
    with pytest.raises(SourceError, match=rf"{key}\.npy.* at index 5"):
        open_source(write_npz(path, arrays))


def test_longdouble_position_beyond_float64_is_refused(path):
    x = np.ones(7, np.longdouble)
    x[2] = np.longdouble(10) ** 400
    if not np.isfinite(x[2]):
        pytest.skip("extended precision has no wider range here")
    with pytest.raises(SourceError, match="inf at index 2"):
        open_source(write_npz(path, make_arrays() | {"xcoords": x}))


# Which frames


def test_equal_frames_under_both_keys_are_accepted(path):
    arrays = make_arrays()
    arrays["diffraction"] = arrays["diff3d"].copy()
    write_npz(path, arrays)
    for prefer, other in (("diff3d", "diffraction"), ("diffraction", "diff3d")):
        scan = open_source(path, prefer=prefer)
        assert list(scan.extra) == [other]
        assert {m.node: m.name for m in scan.members}["diffraction"] == f"{prefer}.npy"


@pytest.mark.parametrize("change", ["value", "dtype"])
def test_different_frames_under_both_keys_need_a_choice(path, change):
    arrays = make_arrays()
    other = arrays["diff3d"].copy()
    other[0, 0, 0] += 1
    arrays["diffraction"] = other if change == "value" else arrays["diff3d"].astype("<f8")
    write_npz(path, arrays)
    with pytest.raises(SourceError, match="frames_key"):
        open_source(path)
    for key in ("diff3d", "diffraction"):
        scan = open_source(path, frames_key=key)
        assert np.array_equal(join(scan.frames.blocks(4)), arrays[key])
        assert list(scan.extra) == [({"diff3d", "diffraction"} - {key}).pop()]


def test_frames_key_names_any_member(path):
    arrays = make_arrays()
    arrays["patterns"] = arrays["diff3d"] * 2
    scan = open_source(write_npz(path, arrays), frames_key="patterns")
    assert np.array_equal(join(scan.frames.blocks(4)), arrays["patterns"])
    assert list(scan.extra) == ["diff3d"]


def test_absent_frames_key_is_refused_with_what_is_there(path):
    write_npz(path, make_arrays())
    with pytest.raises(MissingFieldError, match=r"'patterns' is missing.*'diff3d'"):
        open_source(path, frames_key="patterns")


def test_keys_of_a_file_are_listed(path):
    write_npz(path, make_arrays() | {"note.txt": b"x"})
    assert member_keys(path) == ("diff3d", "xcoords", "ycoords", "probeGuess", "note.txt")


# Shapes of frames


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((7, 4, 5), id="not square"),
        pytest.param((4, 4), id="one frame"),
        pytest.param((7, 4, 4, 2), id="four axes"),
        pytest.param((0, 4, 4), id="no frames"),
        pytest.param((7, 0, 0), id="no pixels"),
        pytest.param((4, 5, 7), id="frame axis last, not square"),
        pytest.param((4, 4, 6), id="neither axis is the number of positions"),
        pytest.param((), id="scalar"),
    ],
)
def test_shape_that_cannot_be_frames_is_refused(path, shape):
    with pytest.raises(ShapeError, match="diff3d"):
        open_source(write_npz(path, make_arrays() | {"diff3d": np.zeros(shape, np.float32)}))


def test_frame_axis_first_wins_where_both_fit(path):
    frames = np.arange(4 * 4 * 4, dtype=np.float32).reshape(4, 4, 4)
    scan = open_source(write_npz(path, make_arrays(n=4) | {"diff3d": frames}))
    assert scan.axes == "nyx"
    assert np.array_equal(join(scan.frames.blocks(10)), frames)


def test_empty_scan_is_refused(path):
    arrays = make_arrays(n=0)
    with pytest.raises(ShapeError):
        open_source(write_npz(path, arrays))


def test_scan_without_positions_is_refused_even_if_truncated(path):
    arrays = make_arrays() | {"xcoords": np.zeros(0), "ycoords": np.zeros(0)}
    with pytest.raises(ShapeError, match="scan is empty"):
        open_source(write_npz(path, arrays), incomplete="truncate")


def test_array_that_does_not_fit_in_memory_is_a_budget_error(path, monkeypatch):
    write_npz(path, make_arrays())

    def refuse(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(np, "empty", refuse)
    with pytest.raises(BudgetError, match=r"xcoords\.npy.* positions"):
        open_source(path)


# Lengths that differ


@pytest.mark.parametrize("key", ["xcoords", "ycoords", "xcoords_start", "scan_index", "diff3d"])
def test_lengths_that_differ_are_refused_with_the_lengths(path, key):
    arrays = make_arrays() | {
        "xcoords_start": np.arange(7.0),
        "ycoords_start": np.arange(7.0),
        "scan_index": np.arange(7),
    }
    arrays[key] = arrays[key][:5]
    with pytest.raises(ShapeError, match=f"{key} 5"):
        open_source(write_npz(path, arrays))


def test_truncation_keeps_cut_members_in_extra(path):
    arrays = make_arrays() | {"scan_index": np.arange(7)}
    arrays["diff3d"] = arrays["diff3d"][:5]
    arrays["ycoords"] = arrays["ycoords"][:5]
    scan = open_source(write_npz(path, arrays), incomplete="truncate")
    assert scan.frames.shape == (5, 4, 4)
    assert np.array_equal(scan.positions[:, 0], arrays["xcoords"][:5])
    assert np.array_equal(scan.scan_index, np.arange(5))
    assert list(scan.extra) == ["xcoords", "scan_index"]
    assert np.array_equal(join(scan.extra["xcoords"].blocks(8)), arrays["xcoords"])
    places = {member.name: (member.node, member.column) for member in scan.members}
    assert places["xcoords.npy"] == ("extra/xcoords", None)
    assert places["ycoords.npy"] == ("positions", 1)
    assert places["scan_index.npy"] == ("extra/scan_index", None)


@pytest.mark.parametrize("is_deflated", [False, True], ids=["stored", "deflated"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_truncation_keeps_surplus_frames_apart(path, is_deflated, order):
    arrays = make_arrays(n=9)
    arrays["diff3d"] = np.asarray(arrays["diff3d"], order=order)
    whole = arrays["diff3d"]
    arrays |= {"xcoords": arrays["xcoords"][:6], "ycoords": arrays["ycoords"][:6]}
    write_npz(path, arrays, is_deflated=is_deflated)
    scan = open_source(path, incomplete="truncate")
    assert np.array_equal(join(scan.frames.blocks(4)), whole[:6])
    trailing = scan.extra["diff3d__trailing"]
    assert (trailing.shape, trailing.dtype, trailing.is_raw) == ((3, 4, 4), np.float32, False)
    assert np.array_equal(join(trailing.blocks(64)), whole[6:])
    if scan.frames.has_random_access:
        with pytest.raises(SourceError, match="outside the scan"):
            scan.frames.read(np.array([6]))


def test_name_of_the_surplus_frames_cannot_be_taken(path):
    arrays = make_arrays(n=9) | {"diff3d__trailing": np.arange(3)}
    arrays |= {"xcoords": arrays["xcoords"][:6], "ycoords": arrays["ycoords"][:6]}
    with pytest.raises(SourceError, match="surplus"):
        open_source(write_npz(path, arrays), incomplete="truncate")
