"""Random damage and forgery of zip directories, npy headers and deflate streams.

Whatever the bytes, a reader either refuses with one line, or gives what NumPy gives. A longer form
runs with more examples: ``PTYZARR_FUZZ_EXAMPLES=5000 pytest tests/sources/test_fuzz.py``.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ptyzarr.errors import BudgetError, PtyzarrError, SourceError
from ptyzarr.scan import Scan
from ptyzarr.sources import NpyHeader, open_source, parse_header

from .contracts import read_everything
from .npzfiles import (
    Packed,
    deflated,
    make_arrays,
    npy_bytes,
    npy_with_header,
    packed_member,
    write_npz,
    write_zip,
)

_EXAMPLES = int(os.environ.get("PTYZARR_FUZZ_EXAMPLES", "0"))


def fuzzed(short: int) -> Any:
    """Return settings of a fuzz test; what takes half a minute for small files is a hang."""
    return settings(
        deadline=timedelta(seconds=30),
        max_examples=_EXAMPLES or short,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "scan.npz"


@contextlib.contextmanager
def bounded_memory(nbytes: int) -> Iterator[None]:
    """Fail if Python and NumPy hold more than this at once."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < nbytes


def check_message(error: PtyzarrError, name: str) -> None:
    """A message is one line that names the file and says what was found and expected."""
    text = str(error)
    assert text.isprintable()
    assert len(text) < 1500
    assert text.startswith(f"{name}: ")
    assert "; expected " in text


def read_or_refuse(path: Path) -> tuple[Scan, dict[str, Any]] | None:
    """Return a scan and all its values, or None where it was refused as it should be."""
    try:
        scan = open_source(path, max_resident=2**24)
        return scan, read_everything(scan)
    except PtyzarrError as error:
        check_message(error, path.name)
        return None


def check_against_numpy(path: Path) -> bool:
    """Return whether a file was accepted, after comparing with what NumPy reads of it.

    NumPy comes second: it may crash, or allocate whatever a header says, where we refuse.
    """
    accepted = read_or_refuse(path)
    if accepted is None:
        return False
    scan, values = accepted
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None  # every checksum holds in another implementation too
        infos = archive.infolist()
        assert [(m.name, m.size, m.crc32) for m in scan.members] == [
            (info.orig_filename, info.file_size, info.CRC) for info in infos
        ]
    assert same(values["frames"], numpy_array(path, next(iter(scan.lengths))))
    assert same(values["probe_guess"], numpy_array(path, "probeGuess"))
    for axis, key in enumerate(("xcoords", "ycoords")):
        assert np.array_equal(values["positions"][:, axis], numpy_array(path, key))
    return True


def numpy_array(path: Path, key: str) -> np.ndarray:
    """Return a member as NumPy reads it; `numpy.load` itself wants a zip file's first byte."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as stream:
        return np.ascontiguousarray(np.lib.format.read_array(stream, allow_pickle=False))


def same(one: Any, other: Any) -> bool:
    """Return whether two arrays, or lists of them, have the same values bit for bit."""
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if one is None or other is None:
        return one is other
    other = other.astype(one.dtype) if one.dtype == other.dtype.newbyteorder("=") else other
    return (one.dtype, one.shape) == (other.dtype, other.shape) and (
        one.tobytes() == other.tobytes()
    )


def scan_arrays() -> dict[str, Any]:
    return make_arrays(n=5, size=3) | {
        "objectGuess": np.asfortranarray(np.arange(6.0).reshape(2, 3) + 1j),
        "scan_index": np.arange(5, dtype=">i4"),
        "table": np.asfortranarray(np.arange(12, dtype=">u2").reshape(3, 4)),
        "_metadata": np.array('{"k": 1}'),
        "note.txt": b"text",
    }


# Zip files in all the forms that writers give them


class Unseekable(io.RawIOBase):
    """A pipe: a zip writer puts sizes and checksum behind the data."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += data
        return len(data)


def zip_bytes(form: str) -> bytes:
    """Return a scan as a zip file: stored, deflated, zip64, streamed, commented or prefixed."""
    method = zipfile.ZIP_STORED if form in ("stored", "zip64") else zipfile.ZIP_DEFLATED
    pipe, file = Unseekable(), io.BytesIO()
    file.write(b"#!/bin/sh\nexit 1\n" if form == "prefixed" else b"")
    target: Any = pipe if form == "streamed" else file
    with zipfile.ZipFile(target, "a" if form == "prefixed" else "w", method) as archive:
        archive.comment = b"PK\x05 is no end record" if form == "commented" else b""
        for key, array in scan_arrays().items():
            info = zipfile.ZipInfo(key if "." in key else f"{key}.npy")
            info.compress_type = method
            info.comment = b"of a member" if form == "commented" else b""
            with archive.open(info, "w", force_zip64=form == "zip64") as member:
                member.write(npy_bytes(array))
    data = bytes(pipe.data) or file.getvalue()
    return with_zip64_end(data) if form == "zip64" else data


def with_zip64_end(data: bytes) -> bytes:
    """Return a zip file with a zip64 end record and its locator before the plain one."""
    at = data.rfind(b"PK\x05\x06")
    _, _, _, n, _, length, start, _ = struct.unpack("<4s4H2LH", data[at:])
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, n, n, length, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    full = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    return data[:at] + end64 + locator + full


FORMS = ("stored", "deflated", "zip64", "streamed", "commented", "prefixed")
WHOLE = {form: zip_bytes(form) for form in FORMS}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_zip_file_is_read_as_numpy_reads_it(path, form):
    path.write_bytes(WHOLE[form])
    assert check_against_numpy(path)


# Offset and width of every field behind each signature (PKWARE APPNOTE 6.3, section 4.3).
_LOCAL = ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2))
_CENTRAL = (
    *((4, 2), (6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2)),
    *((34, 2), (36, 2), (38, 4), (42, 4)),
)
FIELDS = {
    b"PK\x03\x04": _LOCAL,
    b"PK\x01\x02": _CENTRAL,
    b"PK\x05\x06": ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
    b"PK\x06\x06": ((4, 8), (12, 2), (16, 4), (20, 4), (24, 8), (32, 8), (40, 8), (48, 8)),
    b"PK\x06\x07": ((4, 4), (8, 8), (16, 4)),
    b"PK\x07\x08": ((4, 4), (8, 4), (12, 4)),
}


def places_of(data: bytes) -> list[tuple[int, int]]:
    """Return offset and width of every field of every record in a zip file."""
    places = []
    for signature, fields in FIELDS.items():
        at = data.find(signature)
        while at >= 0:
            places += [(at + offset, width) for offset, width in fields]
            places.append((at, 4))
            at = data.find(signature, at + 1)
    return [(at, width) for at, width in places if at + width <= len(data)]


def odd_number(draw: Any, old: int, width: int, size: int) -> int:
    most = 256**width - 1
    near = (old + 1, old - 1, old * 2, old ^ 0x8000, size, size - 1)
    picks = st.sampled_from((*near, 0, 1, most, most - 1, most // 2))
    return int(draw(picks | st.integers(0, most))) & most


@fuzzed(150)
@given(data=st.data(), form=st.sampled_from(FORMS))
def test_forged_zip_records_are_refused_or_read_as_numpy_reads_them(path, data, form):
    forged = bytearray(WHOLE[form])
    places = places_of(bytes(forged))
    for _ in range(data.draw(st.integers(1, 3), "fields")):
        at, width = data.draw(st.sampled_from(places), "place")
        old = int.from_bytes(forged[at : at + width], "little")
        new = odd_number(data.draw, old, width, len(forged))
        forged[at : at + width] = new.to_bytes(width, "little")
    path.write_bytes(forged)
    with bounded_memory(2**24):
        check_against_numpy(path)


@fuzzed(80)
@given(data=st.data(), form=st.sampled_from(FORMS))
def test_cut_doubled_or_moved_pieces_are_refused_or_read_as_numpy_reads_them(path, data, form):
    whole = WHOLE[form]
    # Pieces mostly start at a record, so that whole entries go missing, come twice or move.
    starts = [at for at, width in places_of(whole) if width == 4] + [len(whole)]
    place = st.sampled_from(starts) | st.integers(0, len(whole))
    first, last = sorted((data.draw(place, "from"), data.draw(place, "to")))
    target = data.draw(place, "target")
    piece = whole[first:last]
    rest = data.draw(st.sampled_from((whole, whole[:first] + whole[last:])), "doubled or moved")
    change = data.draw(st.sampled_from(("cut", "put", "append", "only")), "change")
    forged = {
        "cut": whole[:first] + whole[last:],
        "put": rest[:target] + piece + rest[target:],
        "append": whole + piece,
        "only": piece,
    }[change]
    path.write_bytes(forged)
    with bounded_memory(2**24):
        check_against_numpy(path)


@pytest.fixture(scope="module", params=FORMS)
def base(request, path) -> tuple[Path, bytes, dict[str, Any]]:
    path.write_bytes(WHOLE[request.param])
    return path, WHOLE[request.param], read_everything(open_source(path))


def check_harmless(path: Path, damaged: bytes, expected: dict[str, Any]) -> None:
    """Damage that no checksum was forged for is refused, or changes no value."""
    path.write_bytes(damaged)
    accepted = read_or_refuse(path)
    if accepted is not None:
        _, got = accepted
        assert got.keys() == expected.keys()
        assert all(same(got[key], expected[key]) for key in expected)


@fuzzed(40)
@given(seed=st.integers(0, 2**32 - 1), n_flips=st.integers(1, 3))
def test_flipped_bits_are_refused_or_change_nothing(base, seed, n_flips):
    path, data, expected = base
    choose = random.Random(seed)
    damaged = bytearray(data)
    for _ in range(n_flips):
        damaged[choose.randrange(len(damaged))] ^= 1 << choose.randrange(8)
    check_harmless(path, bytes(damaged), expected)


@fuzzed(40)
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 40), put=st.binary(max_size=20))
def test_replaced_inserted_or_missing_bytes_are_refused_or_change_nothing(base, seed, length, put):
    path, data, expected = base
    at = random.Random(seed).randrange(len(data))
    check_harmless(path, data[:at] + put + data[at + length :], expected)


@fuzzed(40)
@given(seed=st.integers(0, 2**32 - 1))
def test_overwritten_directory_bytes_are_refused_or_change_nothing(base, seed):
    path, data, expected = base
    choose = random.Random(seed)
    damaged = bytearray(data)
    damaged[choose.randrange(data.find(b"PK\x01\x02"), len(data))] = choose.randrange(256)
    check_harmless(path, bytes(damaged), expected)


# npy headers

WORDS = st.sampled_from(
    (
        *("<f4", ">f8", "|b1", "?1", "<i16", "<c32", "<U536870911", "<U0", "|S2147483648", "|V0"),
        *("O", "|O8", "<M8[s]", "<M8[s/0]", "<m8[h/256]", "<M8[0s]", "<M8[99999999999s]"),
        *("<M8[-1s]", "f", "4", "<", "", "f4,f4", "(2,)f4", "float32", "object", "<f\u0664"),
    )
)
# NumPy divides by what follows a slash, without a look at it.
TIMES = st.from_regex(
    r"[<>][mM]8(\[[0-9]{0,11}(s|ms|D|Y|x|generic)(/[0-9]{1,11})?\])?", fullmatch=True
)
NUMBERS = st.sampled_from(
    (0, 1, 2, 3, -1, -(2**31), 2**31, 2**32 + 1, 2**62, 2**63, 2**64 + 2, 10**40)
) | st.integers(-5, 2**70)
LITERALS = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=6) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.tuples(st.text("ab", max_size=2), inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)
RECORDS = st.recursive(
    WORDS,
    lambda inner: st.lists(
        st.tuples(st.text("ab\u00b5\n'\\", max_size=2), inner)
        | st.tuples(st.text("cd", max_size=1), inner, LITERALS),
        max_size=3,
    ),
    max_leaves=5,
)
SHAPES = st.lists(st.integers(0, 4) | NUMBERS, max_size=4).map(tuple) | st.sampled_from(
    ((), (2,), (1,) * 33)
)


def deep(opening: str, closing: str) -> st.SearchStrategy[str]:
    return st.integers(1, 5000).map(lambda n: opening * n + closing * n)


NESTED = st.one_of(
    deep("(", ")"), deep("[", "]"), deep("{", "}"), deep("-", ""), deep("{1:", "}"),
    deep("('a',", ")"), deep("1-", "1"), deep("'a'", ""), deep("(", ""), deep("L", ""),
)  # fmt: skip


ODD = LITERALS.map(repr) | NESTED
DESCRS = st.one_of(WORDS.map(repr), TIMES.map(repr), RECORDS.map(repr))
ORDERS = st.sampled_from(("True", "False", "0", "None", "[[]]", "'" + "x" * 9000 + "'"))


@st.composite
def header_texts(draw: Any) -> str:
    """Return the text of a header: a dictionary with up to one odd part, or anything."""
    odd = draw(st.sampled_from(("no",) * 6 + ("descr", "shape", "order", "spelling", "all")), "odd")
    descr = draw(ODD if odd == "descr" else DESCRS, "descr")
    shape = draw(ODD if odd == "shape" else SHAPES.map(repr), "shape")
    order = draw(ORDERS if odd == "order" else st.sampled_from(("True", "False")), "order")
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"
    if odd == "spelling":
        return draw(
            st.sampled_from((text.replace(",", "L,"), text + text, text[:-2], "\xa0" + text))
        )
    return draw(st.text(max_size=60) | ODD, "text") if odd == "all" else text


VERSIONS = st.sampled_from((*((1, 0), (2, 0), (3, 0)) * 4, (1, 1), (0, 0), (255, 255)))


@fuzzed(250)
@given(data=st.data(), text=header_texts(), version=VERSIONS)
def test_any_header_text_is_refused_or_understood_as_numpy_does(data, text, version):
    encoded = text.encode("utf-8" if version == (3, 0) else "latin1", errors="replace")
    more = data.draw(st.sampled_from((0,) * 8 + (-1, 1, 9000)), "more stated")
    width = 2 if version == (1, 0) else 4
    assume(0 <= len(encoded) + more < 2**16)
    stated = (len(encoded) + more).to_bytes(width, "little")
    head = b"\x93NUMPY" + bytes(version) + stated + encoded
    header = parse_or_refuse(head, data.draw(st.integers(0, 2**64), "bytes behind"))
    if header is not None:
        shape, is_fortran, dtype = header_by_numpy(header.raw)
        assert (header.shape, header.is_fortran, header.dtype) == (shape, is_fortran, dtype)


def parse_or_refuse(head: bytes, follow: int) -> NpyHeader | None:
    """Return a header of a member that ends where the header says, or None if it is refused."""
    try:
        with bounded_memory(2**24):
            return parse_header(head[:10_012], len(head) + follow, "scan.npz: member 'x.npy'")
    except SourceError as error:
        check_message(error, "scan.npz")
        wanted = re.search(r" items, (\d+) bytes; expected the (\d+) bytes", str(error))
    if wanted is None or int(wanted[1]) == int(wanted[2]):
        return None
    return parse_or_refuse(head, int(wanted[1]) - int(wanted[2]) + follow)


def header_by_numpy(raw: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return what NumPy's public readers make of a header; they know the versions 1.0 and 2.0."""
    start = 10 if raw[6] == 1 else 12
    latin = raw[start:].decode("latin1" if raw[6] < 3 else "utf-8").encode("latin1", "replace")
    assume(raw[6] < 3 or b"?" not in latin)
    stream = io.BytesIO(len(latin).to_bytes(4, "little") + latin)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about integers as Python 2 wrote them
        return np.lib.format.read_array_header_2_0(stream)


@fuzzed(150)
@given(
    key=st.sampled_from(("diff3d", "xcoords", "probeGuess", "scan_index", "other")),
    descr=st.sampled_from(("<f4", ">f8", "<f2", "|u1", "<c8", "<U1", "|b1", "<i8", "<M8[s]", "V0")),
    shape=st.sampled_from(((5, 3, 3), (5,), (3, 3), (), (0,), (3, 3, 5), (5, 3, 3, 1)))
    | st.lists(st.integers(0, 6), max_size=4).map(tuple),
    fortran=st.booleans(),
    surplus=st.sampled_from((0, 0, 0, 0, -1, 1, 8)),
    is_deflated=st.booleans(),
    data=st.data(),
)  # fmt: skip
def test_any_array_under_any_key_is_refused_or_read_as_numpy_reads_it(
    path, key, descr, shape, fortran, surplus, is_deflated, data
):
    nbytes = int(np.prod(shape)) * np.dtype(descr).itemsize
    surplus = max(surplus, -nbytes)
    seed = data.draw(st.integers(0, 2**32), "seed")
    values = random.Random(seed).randbytes(nbytes + surplus)
    text = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n"
    arrays = scan_arrays()
    arrays.pop(key, None)
    arrays[f"{key}.npy"] = npy_with_header(text, values)
    write_npz(path, arrays, is_deflated=is_deflated)
    accepted = check_against_numpy_bits(path, key)
    assert not (accepted and surplus)


def check_against_numpy_bits(path: Path, key: str) -> bool:
    """Return whether a file was accepted; the member under `key` equals NumPy's, NaNs included."""
    accepted = read_or_refuse(path)
    if accepted is None:
        return False
    scan, values = accepted
    expected = numpy_array(path, key)
    if key == "diff3d":
        stack = expected[..., 0] if expected.ndim == 4 else expected
        stack = np.ascontiguousarray(stack.transpose(2, 0, 1)) if scan.axes == "yxn" else stack
        assert same(values["frames"], stack)
    elif key == "xcoords":
        assert np.array_equal(values["positions"][:, 0], expected)
    elif key in ("probeGuess", "scan_index"):
        assert same(values[{"probeGuess": "probe_guess"}.get(key, key)], expected)
    elif not scan.extra[key].is_raw and expected.size:
        blocks = values[f"extra/{key}"]
        got = np.concatenate(blocks) if loaded_dims(scan, key) else blocks[0]
        assert got.tobytes() == expected.astype(got.dtype).tobytes()
    return True


def loaded_dims(scan: Scan, key: str) -> int:
    return len(scan.extra[key].shape)


# Deflate streams


def with_frames(path: Path, frames: Packed) -> Path:
    """Write a scan whose frames are one member as given."""
    rest = {key: npy_bytes(array) for key, array in make_arrays(n=40, size=8).items()}
    others = [packed_member(f"{key}.npy", rest[key]) for key in rest if key != "diff3d"]
    return write_zip(path, [frames, *others])


FRAMES = make_arrays(n=40, size=8)["diff3d"]
CONTENT = npy_bytes(FRAMES)


def inflate(packed: bytes) -> bytes | None:
    """Return what zlib makes of a stream; None unless it is one whole stream and nothing more."""
    engine = zlib.decompressobj(-15)
    try:
        data = engine.decompress(packed)
    except zlib.error:
        return None
    return data if engine.eof and not engine.unused_data else None


@st.composite
def streams(draw: Any) -> bytes:
    """Return a deflate stream of the frames in any of the ways to write one."""
    level, strategy = draw(st.integers(0, 9)), draw(st.integers(0, 4))
    window, memory = draw(st.integers(9, 15)), draw(st.integers(1, 9))
    engine = zlib.compressobj(level, zlib.DEFLATED, -window, memory, strategy)
    packed, at = b"", 0
    for end in sorted(draw(st.lists(st.integers(0, len(CONTENT)), max_size=4))):
        packed += engine.compress(CONTENT[at:end])
        packed += engine.flush(draw(st.sampled_from((zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH))))
        at = end
    return packed + engine.compress(CONTENT[at:]) + engine.flush()


@fuzzed(80)
@given(packed=streams())
def test_every_way_to_write_a_stream_is_read(path, packed):
    with_frames(path, packed_member("diff3d.npy", CONTENT, packed=packed))
    assert check_against_numpy(path)


@fuzzed(100)
@given(packed=streams(), data=st.data())
def test_damaged_streams_are_refused_or_give_the_same_frames(path, packed, data):
    change = data.draw(st.sampled_from(("cut", "flip", "append", "put", "drop")), "change")
    at = data.draw(st.integers(0, len(packed) - 1) | st.integers(0, min(40, len(packed) - 1)), "at")
    some = data.draw(st.binary(min_size=1, max_size=8) | st.just(b"\0\0\0\xff\xff"), "bytes")
    flipped = bytearray(packed)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7), "bit")
    damaged = {
        "cut": packed[:at],
        "flip": bytes(flipped),
        "append": packed + some,
        "put": packed[:at] + some + packed[at:],
        "drop": packed[:at] + packed[at + len(some) :],
    }[change]
    with_frames(path, packed_member("diff3d.npy", CONTENT, packed=damaged))
    with bounded_memory(2**24):
        accepted = check_against_numpy(path)
    assert accepted == (inflate(damaged) == CONTENT)


@fuzzed(80)
@given(
    size=st.integers(0, 2**32 - 2) | st.integers(-3, 3).map(lambda change: len(CONTENT) + change),
    crc32=st.just(zlib.crc32(CONTENT)) | st.integers(0, 2**32 - 1),
)
def test_wrong_sizes_and_checksums_are_refused(path, size, crc32):
    with_frames(path, packed_member("diff3d.npy", CONTENT, size=size, crc32=crc32))
    with bounded_memory(2**24):
        accepted = check_against_numpy(path)
    assert accepted == ((size, crc32) == (len(CONTENT), zlib.crc32(CONTENT)))


@pytest.mark.parametrize("key", ["diff3d", "xcoords", "probeGuess", "objectGuess", "other"])
def test_stream_that_inflates_to_more_than_declared_is_stopped_there(path, key):
    # 32 MiB of zeros behind what the directory knows of.
    arrays = make_arrays(n=40, size=8)
    arrays |= {"objectGuess": np.ones((9, 9), complex), "other": np.ones(9)}
    content = {name: npy_bytes(array) for name, array in arrays.items()}
    bomb = deflated(content[key] + bytes(2**25))
    lies = {name: {"packed": bomb} if name == key else {} for name in content}
    write_zip(path, [packed_member(f"{name}.npy", content[name], **lies[name]) for name in content])
    with bounded_memory(2**23):
        assert read_or_refuse(path) is None


@pytest.mark.parametrize("key", ["xcoords", "probeGuess", "objectGuess", "scan_index"])
def test_declared_size_beyond_the_limit_is_refused_before_it_is_allocated(path, key):
    # An honest bomb: 32 MiB for 32 KiB; the limit is half of that.
    shape = (2**22,) if key in ("xcoords", "scan_index") else (2**11, 2**11)
    head = npy_with_header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n")
    packed = deflated(head + bytes(2**25))
    rest = {name: npy_bytes(array) for name, array in make_arrays().items() if name != key}
    lying = Packed(name=f"{key}.npy".encode(), packed=packed, size=len(head) + 2**25, crc32=0)
    write_zip(path, [lying, *(packed_member(f"{name}.npy", rest[name]) for name in rest)])
    with bounded_memory(2**23), pytest.raises(BudgetError, match=f"for '{key}'; expected at most"):
        open_source(path, incomplete="truncate", max_resident=2**24)
