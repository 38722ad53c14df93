"""npy headers of any text, and arrays of any kind under any key, beside NumPy's reading."""

from __future__ import annotations

import io
import random
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ptyzarr.errors import SourceError
from ptyzarr.scan import Scan
from ptyzarr.sources import NpyHeader, parse_header

from .fuzzing import (
    bounded_memory,
    check_message,
    fuzzed,
    numpy_array,
    read_or_refuse,
    same,
    scan_arrays,
)
from .npzfiles import (
    npy_with_header,
    write_npz,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "scan.npz"


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
