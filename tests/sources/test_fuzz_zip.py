"""Forged and damaged records of zip files of every form, beside what NumPy makes of them."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptyzarr.sources import open_source

from .contracts import read_everything
from .fuzzing import (
    bounded_memory,
    check_against_numpy,
    fuzzed,
    read_or_refuse,
    same,
    scan_arrays,
)
from .npzfiles import (
    npy_bytes,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "scan.npz"


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
