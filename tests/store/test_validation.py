"""A root document whose digest is right, and which says what no ingest writes."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import make_npz

from ptyzarr.errors import DamagedStoreError, PtyzarrError, SchemaError, VerificationError
from ptyzarr.ingestion import ingest, verify
from ptyzarr.store import ROOT_KEY, check_root, open_store, parse_root

Change = Callable[[Any, Any], Any]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that no test changes."""
    folder = tmp_path_factory.mktemp("valid")
    source = make_npz(folder / "scan.npz", pixel_size_m=1e-8, note="x", table=[[1, 2], [3, 4]])
    ingest(source, folder / "scan.zarr").close()
    return folder / "scan.zarr"


@pytest.fixture
def forged(original: Path, tmp_path: Path) -> Callable[..., Path]:
    """`forged(change)`: a copy whose root is changed and digested anew.

    With ``beside=True`` the documents of the nodes become what the root then says of them.
    """

    def forge(change: Change, *, beside: bool = False) -> Path:
        root = tmp_path / "scan.zarr"
        shutil.copytree(original, root)
        document = json.loads((root / ROOT_KEY).read_bytes())
        nodes = document["consolidated_metadata"]["metadata"]
        change(document["attributes"]["ptyzarr"], nodes)
        for node in nodes if beside else ():
            raw = json.dumps(nodes[node]).encode()
            (root / node / ROOT_KEY).write_bytes(raw)
            document["attributes"]["ptyzarr"]["manifest"]["files"][f"{node}/{ROOT_KEY}"] = {
                "size": len(raw),
                "sha256": hashlib.sha256(raw).hexdigest(),
            }
        (root / ROOT_KEY).write_bytes(digested(document))
        return root

    return forge


def digested(document: Any) -> bytes:
    document["attributes"]["ptyzarr"]["manifest"]["root_sha256"] = "0" * 64
    return sealed(json.dumps(document, indent=1).encode())


def sealed(blank: bytes) -> bytes:
    """Return the bytes of a root whose digest is zeros, with the right one."""
    digest = hashlib.sha256(blank).hexdigest()
    return blank.replace(b'"root_sha256": "' + b"0" * 64, f'"root_sha256": "{digest}'.encode())


def put(path: str, value: Any) -> Change:
    """Return a change of one place of the attributes, or below ``nodes`` of the metadata."""

    def change(attributes: Any, nodes: Any) -> None:
        *parents, last = path.split(".")
        place = {**attributes, "nodes": nodes} if parents else attributes
        for parent in parents:
            place = place[int(parent) if parent.isdigit() else parent]
        place[int(last) if last.isdigit() else last] = value

    return change


def drop(path: str) -> Change:
    def change(attributes: Any, nodes: Any) -> None:
        *parents, last = path.split(".")
        place = {**attributes, "nodes": nodes} if parents else attributes
        for parent in parents:
            place = place[parent]
        del place[last]

    return change


def lengthen(attributes: Any, nodes: Any) -> None:
    """Make every per-frame array claim 3e7 rows in one chunk."""
    n = 30_000_000
    for node in ("frame_index", "frame_hash", "frame_power", "positions", "scan_index"):
        nodes[node]["shape"][0] = n
        nodes[node]["chunk_grid"]["configuration"]["chunk_shape"][0] = n


def rename(old: str, new: str) -> Change:
    return lambda attributes, nodes: nodes.__setitem__(new, nodes.pop(old))


def reverse(node: str) -> Change:
    return lambda attributes, nodes: nodes[node]["codecs"].reverse()


def repeat(node: str, number: int) -> Change:
    return lambda attributes, nodes: nodes[node]["codecs"].append(nodes[node]["codecs"][number])


def stretch(node: str) -> Change:
    def change(attributes: Any, nodes: Any) -> None:
        nodes[node]["chunk_grid"]["configuration"]["chunk_shape"][0] *= 2

    return change


def lose_member(attributes: Any, nodes: Any) -> None:
    attributes["source"]["members"].pop()


def repeat_member(attributes: Any, nodes: Any) -> None:
    members = attributes["source"]["members"]
    members.append(members[-1])


INNER = "nodes.diffraction.codecs.0.configuration"
GRID = "chunk_grid.configuration.chunk_shape"
CHANGES = [
    pytest.param(put("nodes.diffraction.shape", [10**15, 16, 16]), "files", id="many frames"),
    pytest.param(put("nodes.diffraction.shape.0", 10**30), "integer", id="more than int64"),
    pytest.param(put("nodes.diffraction.shape.0", True), "integer", id="a truth value as length"),
    pytest.param(put("nodes.diffraction.shape", [40, 16, 15]), "(n, N, N)", id="oblong frames"),
    pytest.param(put("nodes.diffraction.shape", [0, 16, 16]), "(n, N, N)", id="no frames"),
    pytest.param(put("nodes.frame_index.shape", [10**12]), "chunk files", id="long index"),
    pytest.param(put("nodes.frame_index.shape", [39]), "at most (39,)", id="short index"),
    pytest.param(lengthen, "hold so much", id="all arrays 3e7 long"),
    pytest.param(put(f"nodes.positions.{GRID}", [0, 2]), "1 or more", id="chunk of nothing"),
    pytest.param(put(f"nodes.diffraction.{GRID}", [0, 16, 16]), "1 or more", id="empty shard"),
    pytest.param(put(f"nodes.diffraction.{GRID}", [16 * 10**9, 16, 16]), "bytes", id="long shard"),
    pytest.param(put(f"{INNER}.chunk_shape", [0, 16, 16]), "1 or more", id="chunk of 0 frames"),
    pytest.param(put(f"{INNER}.chunk_shape", [5, 16, 16]), "whole chunks", id="odd chunk"),
    pytest.param(put(f"{INNER}.codecs", []), "codec", id="no codecs in shards"),
    pytest.param(put(f"{INNER}.index_codecs", [{"name": "bytes"}]), "crc32c", id="index unchecked"),
    pytest.param(
        put(f"{INNER}.index_codecs.0.configuration.endian", "big"),
        "little",
        id="index turned round",
    ),
    pytest.param(reverse("extra/table"), "blosc, crc32c, in this order", id="codecs reversed"),
    pytest.param(repeat("extra/table", 1), "in this order", id="blosc twice"),
    pytest.param(repeat("extra/table", 2), "in this order", id="crc32c twice"),
    pytest.param(put("nodes.extra/note.codecs.1.name", "a\nb"), "'a\\nb'", id="codec of two lines"),
    pytest.param(put("nodes.extra/note.codecs.1.configuration.clevel", 77), "clevel", id="level"),
    pytest.param(
        put("nodes.extra/table.codecs.0.configuration.endian", "big"), "little", id="endian"
    ),
    pytest.param(put("nodes.extra/table.storage_transformers", [{}]), "none", id="transformers"),
    pytest.param(put("nodes.extra/table.dimension_names", ["x"]), "2 names", id="dimension names"),
    pytest.param(stretch("extra/note"), "at most (", id="chunk longer than the array"),
    pytest.param(put("nodes.diffraction.codecs", [{"name": []}]), "text", id="codec of no name"),
    pytest.param(put("nodes.diffraction.data_type", "object"), "data type", id="dtype"),
    pytest.param(put("nodes.diffraction.data_type", "int8"), "uint8", id="signed counts"),
    pytest.param(put("nodes.frame_hash.data_type", "int8"), "uint64", id="dtype of hashes"),
    pytest.param(put("nodes.diffraction.attributes.max_nonzero", -1), "0 to 256", id="negative"),
    pytest.param(put("nodes.diffraction.attributes.max_nonzero", 10**18), "0 to 256", id="huge"),
    pytest.param(put("nodes.diffraction.attributes.max_wide", "9"), "0 to 256", id="limit as text"),
    pytest.param(put("nodes.diffraction.attributes", []), "mapping", id="attributes"),
    pytest.param(put("nodes.positions", None), "mapping", id="node of nothing"),
    pytest.param(put("nodes.positions.node_type", "group"), "an array", id="group for an array"),
    pytest.param(drop("nodes.probe_guess"), "an array", id="no probe"),
    pytest.param(rename("extra/table", "extra/../../x"), "inside the store", id="node above"),
    pytest.param(rename("extra/table", "/etc/x"), "inside the store", id="absolute node"),
    pytest.param(rename("extra/table", ""), "inside the store", id="node of no name"),
    pytest.param(rename("extra/table", "extra/other"), "manifest lists", id="unlisted node"),
    pytest.param(put("nodes.frame_hash.fill_value", -1), "of data type uint64", id="fill value"),
    pytest.param(put("nodes.frame_power.fill_value", 10**400), "float64", id="long fill value"),
    pytest.param(put("nodes.probe_guess.fill_value", [0, "x"]), "float32", id="complex fill value"),
    pytest.param(drop("source"), "source is None", id="no source"),
    pytest.param(put("source", []), "source is []", id="source as a list"),
    pytest.param(put("source.size", "9"), "source.size is '9'", id="size as text"),
    pytest.param(put("source.frame_dtype", "O"), "real data type", id="frames of objects"),
    pytest.param(put("source.members", {}), "a list", id="members"),
    pytest.param(put("source.members", [3]), "a mapping", id="member"),
    pytest.param(put("source.members.0.header", "\u0100"), "latin-1", id="header"),
    pytest.param(put("source.members.0.crc32", -1), "0 to 4294967295", id="crc32"),
    pytest.param(put("source.members", []), "a member for every array", id="no members"),
    pytest.param(lose_member, "a member for every array", id="a member less"),
    pytest.param(repeat_member, "array that has", id="a member twice"),
    pytest.param(put("source.members.1.node", "x"), "positions", id="node of no name"),
    pytest.param(put("source.members.1.node", ""), "positions", id="empty node"),
    pytest.param(put("source.members.1.node", "a\nb"), "'a\\nb'", id="node of two lines"),
    pytest.param(put("source.members.1.node", "extra/note"), "note", id="node of another"),
    pytest.param(put("source.members.1.column", 1), "0)", id="column of another"),
    pytest.param(put("source.members.1.column", None), "0)", id="no column"),
    pytest.param(put("source.members.1.name", "../../../etc/passwd"), "passwd", id="name above"),
    pytest.param(put("source.members.1.name", "a\0b"), "NUL", id="NUL in a name"),
    pytest.param(put("source.members.1.name", ""), "member ''", id="empty name"),
    pytest.param(put("source.members.1.header", ""), "npy", id="field without header"),
    pytest.param(put("source.members.1.crc32", None), "integer", id="no checksum"),
    pytest.param(drop("contents.extra/note"), "digest of every array", id="array without digest"),
    pytest.param(put("source.n_frames", 2**40), "40, as stored", id="frames beyond the last"),
    pytest.param(put("source.trailing", "extra/note"), "n_frames", id="trailing of one dimension"),
    pytest.param(put("source.trailing", "nowhere"), "path of an array", id="trailing"),
    pytest.param(put("source.incomplete", "x"), "a mapping", id="incomplete"),
    pytest.param(put("source.incomplete", {"kept": 40}), "a mapping", id="nothing found"),
    pytest.param(put("source.transforms", 3), "a list", id="transforms"),
    pytest.param(put("source.transforms", [{}]), "text", id="empty step"),
    pytest.param(put("physics", []), "a mapping", id="physics as a list"),
    pytest.param(put("physics", "x"), "a mapping", id="physics as text"),
    pytest.param(put("physics.pixel_size_m", "x"), "finite number", id="length as text"),
    pytest.param(put("tile_frames", "x"), "integer", id="tile as text"),
    pytest.param(put("tile_frames", 0), "1 to", id="tile of none"),
    pytest.param(put("tile_frames", 10**18), "1 to", id="huge tile"),
    pytest.param(put("layout", "zz"), "one of hilbert, acquisition", id="layout"),
    pytest.param(put("quantity", ["counts"]), "one of counts, amplitude", id="quantity"),
    pytest.param(put("digest", "x"), "hexadecimal", id="digest"),
    pytest.param(put("contents", []), "a mapping", id="contents"),
    pytest.param(put("contents.nowhere", "0" * 64), "path of an array", id="content of nothing"),
]


@pytest.mark.parametrize(("change", "match"), CHANGES)
def test_forged_root_is_refused_when_it_is_opened(forged, change, match):
    path = forged(change)
    with pytest.raises(SchemaError) as caught:
        open_store(path)
    message = str(caught.value)
    assert match in message
    assert "expected" in message
    assert "\n" not in message
    assert len(message) < 600 + len(str(path))


def test_data_type_that_the_bytes_are_not_is_found_by_verify(forged):
    def change(attributes: Any, nodes: Any) -> None:
        nodes["extra/table"]["data_type"] = "float16"
        nodes["extra/table"]["fill_value"] = 0.0

    with pytest.raises(VerificationError, match="extra/table"):
        verify(forged(change))


@pytest.mark.parametrize(
    "value", [None, [], {"kind": "inline"}, {"kind": "x", "metadata": {}}], ids=repr
)
def test_root_without_usable_consolidated_metadata_is_refused(original, value):
    document = json.loads((original / ROOT_KEY).read_bytes())
    document["consolidated_metadata"] = value
    with pytest.raises(SchemaError, match="consolidated_metadata"):
        check_root(parse_root(digested(document), "root"), "root")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"[" * 200_000, id="nested deeply"),
        pytest.param(b'{"a":' * 200_000, id="mappings nested deeply"),
        pytest.param(
            rb'{"attributes": {"ptyzarr": {"manifest": {"root_sha256": "\ud800"}}}}',
            id="digest that is no text",
        ),
    ],
)
def test_json_that_cannot_be_read_is_refused(raw):
    with pytest.raises(SchemaError, match="root"):
        parse_root(raw, "root")


def test_key_that_a_mapping_has_twice_is_refused(original):
    raw = (original / ROOT_KEY).read_bytes()
    blank = re.sub(rb'"root_sha256": "[0-9a-f]+', b'"root_sha256": "' + b"0" * 64, raw)
    twice = blank.replace(b'"layout": "hilbert"', b'"layout": "acquisition", "layout": "hilbert"')
    with pytest.raises(SchemaError, match=r"the key 'layout' twice; expected .* each key once"):
        parse_root(sealed(twice), "root")
    with pytest.raises(DamagedStoreError, match="its own digest"):
        parse_root(sealed(twice).replace(b"hilbert", b"hilbart"), "root")


def test_byte_order_mark_is_refused(original):
    raw = (original / ROOT_KEY).read_bytes()
    blank = re.sub(rb'"root_sha256": "[0-9a-f]+', b'"root_sha256": "' + b"0" * 64, raw)
    with pytest.raises(SchemaError, match="a byte order mark; expected JSON"):
        parse_root(sealed(b"\xef\xbb\xbf" + blank), "root")


@pytest.mark.parametrize("key", ["../two", "/etc/passwd"])
def test_key_outside_the_store_is_named_whatever_the_digest(original, key):
    document = json.loads((original / ROOT_KEY).read_bytes())
    files = document["attributes"]["ptyzarr"]["manifest"]["files"]
    files[key] = {"size": 1, "sha256": "0" * 64}
    raw = digested(document)
    with pytest.raises(SchemaError, match=f"lists '{key}'"):
        parse_root(raw, "root")
    with pytest.raises(DamagedStoreError, match=f"its own digest and lists '{key}'"):
        parse_root(raw.replace(b"hilbert", b"hilbart"), "root")


def test_older_store_without_later_fields_opens(forged):
    def age(attributes: Any, nodes: Any) -> None:
        del attributes["source"]["incomplete"]
        for entry in attributes["manifest"]["files"].values():
            entry.pop("tail", None)
        del nodes["diffraction"]["attributes"]["max_nonzero"]
        del nodes["diffraction"]["attributes"]["max_wide"]

    path = forged(age, beside=True)
    assert open_store(path).pixel_limits is None
    assert verify(path).n_frames == 40


def test_metadata_of_a_node_that_the_root_does_not_repeat_is_found_by_verify(forged):
    def change(attributes: Any, nodes: Any) -> None:
        nodes["extra/table"]["attributes"] = {"unit": "m"}

    path = forged(change)
    assert open_store(path).array("extra/table").attrs["unit"] == "m"
    with pytest.raises(VerificationError, match=r"extra/table/zarr\.json and the consolidated"):
        verify(path)


def test_an_array_that_says_another_dtype_is_one_error_of_ours(forged):
    def change(attributes: Any, nodes: Any) -> None:
        nodes["extra/table"]["data_type"] = "complex128"
        nodes["extra/table"]["fill_value"] = [0, 0]

    array = open_store(forged(change)).array("extra/table")
    with pytest.raises(DamagedStoreError, match=r"'extra/table.* expected"):
        array[0]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items: Any = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, entry in items:
        yield from places(entry, (*path, key))


JUNK = st.sampled_from(
    [None, True, -1, 0, 1, 10**18, 10**40, 1.5, 1e308, "", "x", "..", [], {}, [1]]
)


@given(data=st.data())
def test_any_part_replaced_is_refused_or_harmless(original, data):
    document = json.loads((original / ROOT_KEY).read_bytes())
    *parents, last = data.draw(st.sampled_from([path for path in places(document) if path]))
    changed = copy.deepcopy(document)
    place = changed
    for parent in parents:
        place = place[parent]
    place[last] = data.draw(JUNK)
    try:
        check_root(parse_root(digested(changed), "root"), "root")
    except PtyzarrError:
        return
    except (KeyError, TypeError):  # of the forger, who finds no manifest to digest
        assert last in ("attributes", "ptyzarr", "manifest")
