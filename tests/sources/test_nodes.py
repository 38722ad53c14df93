import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptyzarr.errors import SourceError
from ptyzarr.sources import node_name, node_names, open_source

from .npzfiles import make_arrays, write_npz


def _hashed(key: str) -> str:
    return "x-" + hashlib.sha256(key.encode("utf-8")).hexdigest()[:16]


@pytest.mark.parametrize("key", ["a", "fourier_error", "_metadata", "A-1", "x" * 100, "9"])
def test_plain_key_keeps_its_name(key):
    assert node_name(key) == key


@pytest.mark.parametrize(
    "key", ["", "__init", "a b", "a/b", "../a", "note.txt", "x" * 101, "é", "a\n", "zarr.json", "٣"]
)
def test_any_other_key_is_hashed(key):
    assert node_name(key) == _hashed(key)


@given(st.lists(st.text(alphabet="aAbB_/é", max_size=4), unique=True))
def test_names_are_distinct_and_safe_where_case_does_not_count(keys):
    nodes = node_names(keys)
    assert list(nodes) == keys
    assert len({node.lower() for node in nodes.values()}) == len(keys)
    assert all(re.fullmatch(r"(?!__)[A-Za-z0-9_-]{1,100}", node) for node in nodes.values())


def test_later_key_that_differs_in_case_only_is_hashed():
    assert node_names(["Mask", "mask"]) == {"Mask": "Mask", "mask": _hashed("mask")}


def test_keys_that_still_collide_are_refused():
    with pytest.raises(SourceError, match="both become node"):
        node_names([_hashed("a b"), "a b"])


def test_members_use_these_names(tmp_path):
    arrays = make_arrays() | {"Mask": 1, "mask": 2, "a b": 3}
    scan = open_source(write_npz(tmp_path / "scan.npz", arrays))
    nodes = [m.node for m in scan.members if m.node.startswith("extra/")]
    assert nodes == ["extra/Mask", f"extra/{_hashed('mask')}", f"extra/{_hashed('a b')}"]
