"""Names, dimensions and digests of the schema."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ptyzarr.errors import SchemaError
from ptyzarr.scan import FIELDS, Member
from ptyzarr.store import array_bytes, array_digest, frames_digest, store_digest
from ptyzarr.store.schema import array_dims, member_from_json, member_to_json, natural_key


@pytest.mark.parametrize(
    ("node", "ndim", "dims"),
    [
        pytest.param("diffraction", 3, ("frame", "y", "x"), id="frames"),
        pytest.param("probe_guess", 2, ("probe_y", "probe_x"), id="probe"),
        pytest.param("probe_guess", 3, ("mode", "probe_y", "probe_x"), id="probe modes"),
        pytest.param("bad_pixels", 2, ("y", "x"), id="bad pixels"),
        pytest.param("extra/table", 2, ("table_0", "table_1"), id="extra"),
        pytest.param("extra/scalar", 0, (), id="extra scalar"),
        pytest.param("masked/index", 1, ("masked_pixel",), id="masked index"),
        pytest.param("masked/value", 1, ("masked_pixel",), id="masked value"),
    ],
)
def test_dimension_names(node, ndim, dims):
    assert array_dims(node, ndim) == dims


@pytest.mark.parametrize(("node", "ndim"), [("positions", 1), ("probe_guess", 4)])
def test_field_with_another_number_of_axes_is_refused(node, ndim):
    with pytest.raises(SchemaError, match=f"'{node}' has {ndim} axes"):
        array_dims(node, ndim)


def test_every_field_has_as_many_names_as_axes():
    for name, field in FIELDS.items():
        n_fixed = sum(not dim.startswith("[") for dim in field.dims)
        assert len(array_dims(name, n_fixed)) == n_fixed


@given(
    st.binary(max_size=200),
    st.none() | st.integers(0, 2**32 - 1),
    st.one_of(st.none(), st.integers(0, 1)),
)
def test_member_survives_json(header, crc32, column):
    member = Member("näme/../x.npy", 12, crc32, "extra/x", column, header)
    assert member_from_json(member_to_json(member)) == member


@given(hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)))
def test_digest_does_not_depend_on_byte_and_memory_order(array):
    same = [array.astype(array.dtype.newbyteorder(order)) for order in "<>"]
    same += [np.asfortranarray(array)] if array.ndim else []
    assert {array_digest(other) for other in same} == {array_digest(array)}
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    assert bytes(array_bytes(array)) == little.tobytes()


def test_digest_tells_dtype_shape_and_values_apart():
    base = np.zeros(4, np.float32)
    others = [base.astype("i4"), base.reshape(2, 2), base + 1, base[:3], -base]
    assert len({array_digest(array) for array in [base, *others]}) == 6


def test_frames_digest_depends_on_order_dtype_and_size():
    hashes = np.arange(5, dtype=np.uint64)
    digests = {
        frames_digest(np.dtype("f4"), hashes, 8),
        frames_digest(np.dtype("f8"), hashes, 8),
        frames_digest(np.dtype("f4"), hashes[::-1], 8),
        frames_digest(np.dtype("f4"), hashes, 16),
    }
    assert len(digests) == 4
    assert frames_digest(np.dtype(">f4"), hashes.astype(">u8"), 8) in digests


def test_store_digest_depends_on_every_array_but_not_on_their_order():
    digest = store_digest("f", {"a": "1", "b": "2"})
    assert digest == store_digest("f", {"b": "2", "a": "1"})
    others = [("g", {"a": "1", "b": "2"}), ("f", {"a": "1"}), ("f", {"a": "2", "b": "1"})]
    assert all(store_digest(*other) != digest for other in others)


def test_names_are_sorted_as_people_count():
    names = ["run_10", "run_9", "a", "run_100", "run_9b", "2", "10", "²"]
    assert sorted(names, key=natural_key) == [
        "2", "10", "a", "run_9", "run_9b", "run_10", "run_100", "²",
    ]  # fmt: skip
