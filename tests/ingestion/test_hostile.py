"""Hostile and broken files through the command line: one line, exit code 3, nothing left behind."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import make_arrays, make_npz, member_crcs, npy_bytes, write_npz

from ptyzarr.cli import main
from ptyzarr.config import IngestConfig
from ptyzarr.errors import BudgetError, SourceError
from ptyzarr.ingestion import export, ingest
from ptyzarr.ingestion.runner import source_unchanged
from ptyzarr.store import open_store

ARRAYS = make_arrays()
FRAMES, X = ARRAYS["diff3d"], ARRAYS["xcoords"]
EMPTY = {key: array[:0] for key, array in ARRAYS.items() if len(array) == 40}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process; give exit code, output and errors."""

    def call(*arguments: str | os.PathLike[str]) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([os.fspath(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


class Boom:
    """Fails the test if anybody unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.abort, ()


def pickled(shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '|O', 'fortran_order': False, 'shape': {shape}, }}\n"
    data = np.array([Boom()], dtype=object).dumps()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


def header(shape: str, descr: str = "<f4", blanks: int = 0) -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}{' ' * blanks}\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def with_pixel(value: float) -> np.ndarray:
    frames = FRAMES.copy()
    frames[29, 3, 4] = value
    return frames


def with_position(value: float) -> np.ndarray:
    positions = X.copy()
    positions[17] = value
    return positions


def members(**overrides: Any) -> Callable[[Path], object]:
    """Return a writer of a scan with other or further members; ``diff3d=b"..."`` writes bytes."""

    def write(path: Path) -> None:
        arrays = {**ARRAYS, **overrides}
        named = {
            f"{key}.npy" if isinstance(value, bytes) else key: value
            for key, value in arrays.items()
        }
        write_npz(path, named)

    return write


def edited(edit: Callable[[bytes], bytes], *, compressed: bool = False) -> Callable[[Path], object]:
    """Return a writer of a scan whose bytes are edited afterwards."""

    def write(path: Path) -> None:
        path.write_bytes(edit(make_npz(path, compressed=compressed).read_bytes()))

    return write


def patched(signature: bytes, offset: int, value: bytes) -> Callable[[bytes], bytes]:
    """Return an edit of every record with a signature."""

    def edit(data: bytes) -> bytes:
        forged = bytearray(data)
        at = forged.find(signature)
        while at >= 0:
            forged[at + offset : at + offset + len(value)] = value
            at = forged.find(signature, at + 1)
        return bytes(forged)

    return edit


def beyond_the_ratio(data: bytes) -> bytes:
    size = struct.pack("<L", 2**30)
    return patched(b"PK\x01\x02", 24, size)(patched(b"PK\x03\x04", 22, size)(data))


def flip_last_frame(data: bytes) -> bytes:
    at = data.find(FRAMES[39].tobytes())
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def doubled(path: Path) -> None:
    make_npz(path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("xcoords.npy", npy_bytes(X))


def linked(path: Path) -> None:
    make_npz(path)
    info = zipfile.ZipInfo("link.npy")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "/etc/passwd")


def bzipped(path: Path) -> None:
    make_npz(path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("more.npy", npy_bytes(X))


REFUSED = [
    pytest.param(members(diff3d=pickled((40, 16, 16))), "pickled", id="pickled frames"),
    pytest.param(members(other=pickled((1,))), "never loaded", id="pickled extra"),
    pytest.param(edited(beyond_the_ratio, compressed=True), "declares 1073741824", id="ratio"),
    pytest.param(members(diff3d=header(f"({2**45}, 16, 16)")), "that follow", id="huge shape"),
    pytest.param(members(xcoords=header("(-40,)") + bytes(160)), "0 or more", id="negative"),
    pytest.param(members(xcoords=header("(40,)", blanks=10_000) + bytes(160)), "10000", id="long"),
    pytest.param(members(diff3d=npy_bytes(FRAMES)[:-1]), "that follow", id="short member"),
    pytest.param(members(diff3d=npy_bytes(FRAMES) + b"x"), "that follow", id="trailing bytes"),
    pytest.param(members(diff3d=b"\x89HDF\r\n\x1a\n"), "no npy array", id="no npy"),
    pytest.param(members(other=header("(1,)", "<M8[s/0]") + bytes(8)), "dtype", id="unit over 0"),
    pytest.param(edited(lambda data: data[: len(data) // 2]), "zip directory", id="truncated"),
    pytest.param(edited(lambda data: b""), "empty", id="empty file"),
    pytest.param(edited(flip_last_frame), "CRC-32", id="checksum"),
    pytest.param(doubled, "'xcoords.npy' is there twice", id="duplicate member"),
    pytest.param(linked, "symbolic link", id="symbolic link"),
    pytest.param(bzipped, "compressed by method 12", id="odd compression"),
    pytest.param(edited(patched(b"PK\x01\x02", 8, b"\x01\0")), "encrypted", id="encrypted"),
    pytest.param(members(diff3d=FRAMES + 1j), "complex", id="complex frames"),
    pytest.param(members(diff3d=FRAMES.astype("g")), "64 bits", id="extended precision"),
    pytest.param(members(diff3d=with_pixel(np.nan)), "frame 29 has the value nan", id="NaN pixel"),
    pytest.param(members(diff3d=with_pixel(np.inf)), "row 3, column 4", id="infinite pixel"),
    pytest.param(members(diff3d=with_pixel(-1)), "frame 29 has the value -1.0", id="negative"),
    pytest.param(members(xcoords=with_position(np.nan)), "nan at index 17", id="NaN position"),
    pytest.param(members(ycoords=with_position(-np.inf)), "inf at index 17", id="inf position"),
    pytest.param(members(ycoords=X[:33]), "xcoords 40, ycoords 33", id="lengths differ"),
    pytest.param(members(diff3d=FRAMES[:0]), "at least one", id="zero frames"),
    pytest.param(members(**EMPTY), "at least one", id="zero frames and positions"),
    pytest.param(members(diff3d=FRAMES[:, :, :8]), "(40, 16, 8)", id="not square"),
    pytest.param(members(diff3d=FRAMES[0]), "(16, 16)", id="2-D frames"),
    pytest.param(members(diff3d=FRAMES[..., None].repeat(2, 3)), "16, 16, 2)", id="4-D frames"),
    pytest.param(members(diff3d=FRAMES[:39].transpose(1, 2, 0)), "40 positions", id="(H,W,m)"),
]  # fmt: skip


@pytest.mark.parametrize(("write", "words"), REFUSED)
def test_hostile_file_is_one_line_and_leaves_nothing(
    run: Run, tmp_path: Path, write, words
) -> None:
    write(tmp_path / "scan.npz")
    code, out, err = run("ingest", tmp_path / "scan.npz", tmp_path / "scan.zarr")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert err.startswith("ptyzarr: scan.npz: ")
    assert words in err
    assert "expected" in err
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == ["scan.npz"]


ACCEPTED = [
    pytest.param({"diff3d": FRAMES.astype(">f4")}, id="big-endian"),
    pytest.param({"diff3d": np.asfortranarray(FRAMES)}, id="Fortran order"),
    pytest.param({"diff3d": FRAMES[..., None]}, id="(n,H,W,1)"),
    pytest.param({"diff3d": FRAMES.transpose(1, 2, 0).copy()}, id="(H,W,n)"),
    pytest.param({"diff3d": FRAMES.astype("f2")}, id="float16"),
    pytest.param({"diff3d": FRAMES.astype("f8")}, id="float64"),
    pytest.param({"diff3d": np.rint(FRAMES).astype("i8")}, id="integers"),
    pytest.param({"diff3d": FRAMES > 1}, id="bool"),
    pytest.param({"xcoords": np.ones(40), "ycoords": np.ones(40)}, id="coincident positions"),
    pytest.param({"xcoords": np.linspace(-1, 1, 40) * 1e149}, id="huge extent"),
    pytest.param({"xcoords": np.tile([-(2**63), 2**63 - 1], 20)}, id="int64 extremes"),
    pytest.param({"other": b"\x89HDF"}, id="extra that is no npy"),
    pytest.param({"empty": np.empty((0, 10**6))}, id="empty wide extra"),
    pytest.param({"empty.npy": header(f"({2**40}, 0)")}, id="empty long extra"),
    pytest.param({"empty.npy": header(f"(0, {2**40})")}, id="empty extra of huge rows"),
    pytest.param({"nothing.npy": header(f"({2**62},)", "<U0")}, id="items without bytes"),
]


@pytest.mark.parametrize("overrides", ACCEPTED)
def test_odd_but_whole_file_is_accepted_and_comes_back(run: Run, tmp_path: Path, overrides) -> None:
    source = make_npz(tmp_path / "scan.npz", **overrides)
    code, _, err = run("ingest", source, tmp_path / "scan.zarr")
    assert (code, err) == (0, "")
    assert run("verify", tmp_path / "scan.zarr", "--source", source)[0] == 0
    assert run("export", tmp_path / "scan.zarr", tmp_path / "out.npz")[0] == 0
    assert list(member_crcs(tmp_path / "out.npz").items()) == list(member_crcs(source).items())


def test_masking_is_a_choice(run: Run, tmp_path: Path) -> None:
    source = make_npz(tmp_path / "scan.npz", diff3d=with_pixel(np.nan))
    assert run("ingest", source, tmp_path / "scan.zarr")[0] == 3
    assert run("ingest", source, tmp_path / "scan.zarr", "--nonfinite", "mask")[0] == 0


def test_fewer_frames_than_a_group_has_is_said_when_grouping(run: Run, tmp_path: Path) -> None:
    few = {key: ARRAYS[key][:3] for key in ARRAYS if len(ARRAYS[key]) == 40}
    source = make_npz(tmp_path / "scan.npz", **few)
    assert run("ingest", source, tmp_path / "scan.zarr")[0] == 0
    code, _, err = run("group", tmp_path / "scan.zarr", "--gridsize", "2")
    assert (code, err.count("\n")) == (3, 1)
    assert "3" in err


def test_source_that_changes_is_refused(run: Run, tmp_path: Path, monkeypatch) -> None:
    source = make_npz(tmp_path / "scan.npz")

    def touch_first(scan: Any) -> None:
        os.utime(source, ns=(1, 1))
        source_unchanged(scan)

    monkeypatch.setattr("ptyzarr.ingestion.runner.source_unchanged", touch_first)
    code, _, err = run("ingest", source, tmp_path / "scan.zarr")
    assert (code, err.count("\n")) == (3, 1)
    assert "changed" in err
    assert os.listdir(tmp_path) == ["scan.npz"]


# Names are keys, never paths

NAMES = [
    "../up", "../../etc/passwd", "/etc/passwd", "..\\up", "C:\\x", "\\\\host\\share", ".", "..", "",
    "a/b/../../../c", "zarr.json", "c", "c/0/0", "__hidden", "\x1b[31mred\n\r\x07", "\u202egpj",
    "n" * 60_000, "e\u0301", "\u00e9", "Note", "note", "NOTE", "x-" + "0" * 16, "con", "%2e%2e%2f",
    "positions", "extra", "masked/index", "frame_hash", " ", "folder/",
]  # fmt: skip


def test_no_name_of_a_member_reaches_a_path(run: Run, tmp_path: Path) -> None:
    source = make_npz(
        tmp_path / "scan.npz",
        **{name: np.full(2, number, float) for number, name in enumerate(NAMES)},
    )
    folder = tmp_path / "deep" / "deeper"
    folder.mkdir(parents=True)
    assert run("ingest", source, folder / "scan.zarr")[0] == 0
    assert os.listdir(folder) == ["scan.zarr"]
    assert sorted(os.listdir(tmp_path)) == ["deep", "scan.npz"]
    plain = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
    found = [path.relative_to(folder / "scan.zarr") for path in folder.rglob("*")][1:]
    assert all(set(part) <= plain for path in found for part in path.parts)
    lowered = [str(path).lower() for path in found]
    assert len(set(lowered)) == len(lowered)
    with closing(open_store(folder / "scan.zarr")) as store:
        for number, name in enumerate(NAMES):
            assert np.array_equal(store.extra[name][...], [number, number])
    assert run("export", folder / "scan.zarr", folder / "out.npz")[0] == 0
    assert list(member_crcs(folder / "out.npz").items()) == list(member_crcs(source).items())
    _, out, _ = run("info", folder / "scan.zarr")
    assert all(char.isprintable() or char == "\n" for char in out)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param(b"abc\0d.npy", "NUL", id="NUL"),
        pytest.param(b"abc\xff\xfe.npy", "", id="bytes that are no UTF-8"),
    ],
)
def test_name_that_is_no_text_is_refused_or_kept_as_it_is(run: Run, tmp_path, name, words) -> None:
    stand_in = b"q" * (len(name) - 4) + b".npy"
    source = make_npz(tmp_path / "scan.npz", **{stand_in.decode()[:-4]: np.ones(2)})
    source.write_bytes(source.read_bytes().replace(stand_in, name))
    code, _, err = run("ingest", source, tmp_path / "scan.zarr")
    if words:
        assert (code, err.count("\n"), words in err) == (3, 1, True)
    else:
        assert code == 0
        out = export(tmp_path / "scan.zarr", tmp_path / "out.npz")
        assert list(member_crcs(out).items()) == list(member_crcs(source).items())


def test_message_about_a_hostile_name_is_one_short_line(run: Run, tmp_path: Path) -> None:
    name = "\x1b]0;title\x07\n" + "n" * 60_000
    source = make_npz(tmp_path / "scan.npz", **{f"{name}.npy": pickled((1,))})
    code, _, err = run("ingest", source, tmp_path / "scan.zarr")
    assert (code, err.count("\n")) == (3, 1)
    assert len(err) < 500
    assert err.rstrip("\n").isprintable()


@pytest.mark.parametrize("key", ["probeGuess", "xcoords", "scan_index", "objectGuess"])
def test_another_field_cannot_be_taken_for_the_frames(tmp_path, key):
    source = make_npz(tmp_path / "scan.npz", **{key: FRAMES})
    with pytest.raises(SourceError, match=f"{key}.npy' is asked for as the frames"):
        ingest(source, tmp_path / "scan.zarr", IngestConfig(frames_key=key))


# Memory


def test_many_members_count_towards_the_budget(tmp_path: Path) -> None:
    source = make_npz(tmp_path / "scan.npz", **{f"m{n}": b"" for n in range(3000)})
    with pytest.raises(BudgetError, match=r"expected at least 1\d\dMiB"):
        ingest(source, tmp_path / "scan.zarr", IngestConfig(memory="128MiB", n_workers=1))


_WITHIN = """
import resource, sys
from pathlib import Path
from ptyzarr.cli import main
lines = Path("/proc/self/status").read_text().splitlines()
used = int(next(line for line in lines if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 128 * 2**20,) * 2)
for source in sys.argv[2:]:
    try:
        main(["ingest", source, sys.argv[1], "--memory", "128MiB", "--n-workers", "1"])
    except SystemExit as error:
        print(error.code)
"""


def sparse_directory(path: Path) -> Path:
    """Write an end record of a directory of 3 GiB that is there, as a hole in the file."""
    length = 3 * 2**30
    with path.open("wb") as file:
        file.seek(length)
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, length, 0, 0))
    return path


def declared(path: Path, key: str, shape: str, descr: str, nbytes: int, *, blanks: int = 0) -> Path:
    """Write a scan one member of which inflates to more than memory, from a thousandth of it."""
    kept = {name: array for name, array in ARRAYS.items() if name != key}
    write_npz(path, kept)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(f"{key}.npy", "w") as member,
    ):
        member.write(header(shape, descr, blanks))
        for _ in range(nbytes >> 20):
            member.write(bytes(1 << 20))
    return path


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_what_is_declared_is_never_allocated_beyond_the_budget(tmp_path: Path) -> None:
    mib = 2**20
    sources = [
        sparse_directory(tmp_path / "directory.npz"),
        declared(tmp_path / "object.npz", "objectGuess", f"(1, {24 * mib})", "<c8", 192 * mib),
        declared(tmp_path / "probe.npz", "probeGuess", "(5120, 5120)", "<c8", 200 * mib),
        declared(tmp_path / "x.npz", "xcoords", f"({12 * mib},)", "<f8", 96 * mib),
        declared(tmp_path / "frames.npz", "diff3d", "(40, 2560, 2560)", "|u1", 250 * mib),
        declared(tmp_path / "row.npz", "other", f"(1, {24 * mib})", "<f8", 192 * mib),
    ]
    command = [sys.executable, "-c", _WITHIN, tmp_path / "scan.zarr", *sources]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["3"] * len(sources), done.stderr
    assert done.stderr.count("\n") == len(sources)
    assert sorted(os.listdir(tmp_path)) == sorted(source.name for source in sources)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_object_larger_than_the_budget_is_stored(tmp_path: Path) -> None:
    source = declared(tmp_path / "scan.npz", "objectGuess", "(8192, 6144)", "<c8", 384 * 2**20)
    within = _WITHIN.replace("128", "256")  # stacks of threads count, too
    command = [sys.executable, "-c", within, tmp_path / "scan.zarr", source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with closing(open_store(tmp_path / "scan.zarr")) as store:
        assert store.array("object_guess").shape == (8192, 6144)
