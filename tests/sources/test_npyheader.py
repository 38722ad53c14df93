import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptyzarr.errors import SourceError
from ptyzarr.sources.npyheader import HEADER_LIMIT, parse_header

from .npzfiles import npy_bytes, npy_with_header

_WHAT = "scan.npz: member 'a.npy'"


def _parse(data: bytes):
    return parse_header(data, len(data), _WHAT)


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.array(1.5), id="scalar"),
        pytest.param(np.zeros((3, 4), ">c16"), id="big-endian complex"),
        pytest.param(np.asfortranarray(np.zeros((3, 4), "<u2")), id="Fortran"),
        pytest.param(np.zeros((0, 3)), id="empty"),
        pytest.param(np.array(["ab"]), id="text"),
        pytest.param(np.zeros(2, [("a", "<f4"), ("b", "<i2", (2, 3))]), id="records"),
        pytest.param(np.zeros(2, [("a", [("b", "<f4")])]), id="nested records"),
        pytest.param(np.zeros(2, [("µ", "<f4")]), id="Latin names"),
        pytest.param(np.zeros(2, [("a'\\\n", "<f4")]), id="escaped names"),
        pytest.param(np.zeros(2, "M8[25s]"), id="times"),
        pytest.param(np.zeros(2, np.longdouble), id="extended precision"),
    ],
)
def test_header_that_numpy_writes_is_understood(array):
    data = npy_bytes(array)
    header = _parse(data)
    assert header.dtype == array.dtype
    assert header.shape == array.shape
    assert header.is_fortran == (array.flags.f_contiguous and not array.flags.c_contiguous)
    assert header.raw + array.tobytes("F" if header.is_fortran else "C") == data
    assert header.length == len(header.raw)


@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_version_3_with_names_beyond_latin_is_read():
    array = np.zeros(2, [("λ", "<f4")])
    data = npy_bytes(array)
    assert data[6] == 3
    assert _parse(data).dtype.names == ("λ",)


@given(
    st.lists(st.integers(0, 4), max_size=5),
    st.sampled_from(["<f4", ">f8", "|u1", ">c8", "<i2", "|b1", "<U3"]),
    st.sampled_from("CF"),
)
def test_any_header_round_trips(shape, dtype, order):
    array = np.zeros(shape, dtype, order=order)
    header = _parse(npy_bytes(array))
    assert (header.dtype, header.shape) == (array.dtype, array.shape)


def test_version_2_and_long_integers_of_old_writers_are_read():
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 1L), }\n"
    header = _parse(npy_with_header(text, bytes(8), version=(2, 0)))
    assert header.shape == (2, 1)


def _text(descr="'<f4'", fortran="False", shape="(2,)", more=""):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}{more}}}\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(_text(shape="(3,)"), "12 bytes; expected the 8 bytes", id="too long"),
        pytest.param(_text(shape="(1,)"), "4 bytes; expected the 8 bytes", id="trailing bytes"),
        pytest.param(_text(shape="(-2,)"), "0 or more", id="negative"),
        pytest.param(_text(shape="(-1, -2)"), "0 or more", id="negative with right product"),
        pytest.param(_text(shape="(2**62,)"), "literals", id="expression"),
        pytest.param(_text(shape=f"({2**45},)"), "bytes that follow", id="huge"),
        pytest.param(_text(shape=f"({2**62},)"), "an array can have", id="more than addresses"),
        pytest.param(_text(shape=f"({2**62}, 0)"), "an array can have", id="huge and empty"),
        pytest.param(_text(shape=f"({2**64 + 2},)"), "an array can have", id="overflow to fit"),
        pytest.param(_text(shape=f"(0, {2**70})"), "an array can have", id="huge beside zero"),
        pytest.param(_text(shape=f"({'9' * 5000},)"), "literals", id="number too long to parse"),
        pytest.param(_text(shape="(True, 2)"), "integers", id="bool length"),
        pytest.param(_text(shape="[2]"), "tuple", id="list"),
        pytest.param(_text(shape="2"), "tuple", id="number"),
        pytest.param(_text(shape=f"({'1,' * 40} 2)"), "at most 32", id="too many axes"),
        pytest.param(_text(fortran="0"), "True or False", id="order is a number"),
        pytest.param(_text(descr="'f4,f4'"), "dtype", id="comma string"),
        pytest.param(_text(descr="'<f5'"), "dtype", id="unknown dtype"),
        pytest.param(_text(descr="'float32'"), "dtype", id="alias"),
        pytest.param(_text(descr="[('a', '<f4'), ('a', '<f4')]"), "dtype", id="same name twice"),
        pytest.param(_text(descr="[('a',)]"), "dtype", id="field without type"),
        pytest.param(_text(descr="None"), "dtype", id="no dtype"),
        pytest.param(_text(descr="'<M8[xs]'"), "dtype", id="unknown unit"),
        pytest.param(_text(descr="'<M8[s/0]'"), "dtype", id="unit divided by zero"),
        pytest.param(_text(descr="[('a', '<m8[h/4294967296]')]"), "dtype", id="divisor wraps to 0"),
        pytest.param(_text(descr="'|O'"), "pickled", id="objects"),
        pytest.param(_text(descr="[('a', '|O')]"), "pickled", id="objects in records"),
        pytest.param(_text(more=", 'x': 1"), "dictionary with", id="surplus key"),
        pytest.param("{'descr': '<f4', 'shape': (2,)}\n", "dictionary with", id="missing key"),
        pytest.param("(1, 2)\n", "dictionary with", id="no dictionary"),
        pytest.param("{[]: 1}\n", "literals", id="unhashable key"),
        pytest.param("__import__('os')\n", "literals", id="call"),
        pytest.param("{'\\d': 1}\n", "literals", id="odd escape"),
        pytest.param("{'a: 1}\n", "literals", id="open string"),
        pytest.param("(" * 5000 + "\n", "literals", id="deep nesting"),
        pytest.param("", "literals", id="empty"),
    ],
)
def test_header_that_lies_is_refused(text, reason):
    with pytest.raises(SourceError, match=reason) as caught:
        _parse(npy_with_header(text, bytes(8)))
    assert _WHAT in str(caught.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"\x93NUMPY", "version", id="magic only"),
        pytest.param(b"\x93NUMPY\x01\x01" + bytes(20), "version", id="unknown version"),
        pytest.param(b"\x93NUMPY\x02\x00\x10", "9 bytes", id="cut in the length"),
        pytest.param(npy_with_header(_text())[:20], "20 of", id="cut in the text"),
        pytest.param(npy_with_header(_text() + " " * HEADER_LIMIT), "at most 10000", id="long"),
        pytest.param(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", "at most", id="4 GiB header"),
        pytest.param(b"\x93NUMPY\x03\x00\x02\x00\x00\x00\xff\xff", "UTF-8", id="no UTF-8"),
    ],
)
def test_broken_start_is_refused(data, reason):
    with pytest.raises(SourceError, match=reason):
        _parse(data)


def test_refused_header_costs_no_time_to_refuse():
    # A pattern that backtracks would need longer than the age of the universe here.
    with pytest.raises(SourceError):
        _parse(npy_with_header("{" + "1" * 9000 + "x}\n"))
