"""Whether the recorded members of a source are those from which every stored array came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptyzarr.scan import FIELD_KEYS, FIELDS
from ptyzarr.store.forms import as_integer, as_list, as_mapping, as_text, expect
from ptyzarr.store.schema import EXTRA, MASKED

_MASKED = (f"{MASKED}/index", f"{MASKED}/value")
_UNDIGESTED = frozenset(("diffraction", "frame_index", "frame_power", "frame_hash"))
#: Fields whose member may be kept under ``extra`` instead, in the form that the source has.
_KEPT_ASIDE = ("positions", "positions_start", "scan_index")
_MAX_NAME_BYTES = 2**16 - 1  # of a zip
_MAX_CRC32 = 2**32 - 1

_Place = tuple[str, int | None]


def check_members(source: Mapping[str, Any], nodes: Mapping[str, Any]) -> None:
    """Check that members cover every array of a source once, under the name that it has there.

    Parameters
    ----------
    source
        The attribute ``source``; all but its members is checked.
    nodes
        The consolidated metadata, checked.

    Raises
    ------
    UnexpectedFormError
        If a member has another form or place, or one is missing.
    """
    fields = _fields(str(source["frames_key"]), nodes)
    others = _others(nodes) - {source["trailing"]}
    found: set[str] = set()
    for entry in as_list("source.members", source.get("members")):
        member = as_mapping("an entry of source.members", entry)
        _check_form(member, is_made=bool(source.get("transforms")))
        if member["node"] in others:
            others.remove(member["node"])
            key = _check_other(member, nodes[member["node"]], fields)
        else:
            key = _check_field(member, fields)
        expect(key not in found, "a second key in source.members", key, "each key once")
        found.add(key)
    missing = [*sorted(fields.keys() - found), *sorted(others)]
    expect(not missing, "what source.members lacks", missing, "a member for every array")


def check_contents(contents: Mapping[str, Any], nodes: Mapping[str, Any]) -> None:
    """Check that every array of a source but the frames has a digest.

    Raises
    ------
    UnexpectedFormError
        If one has none, or something else has one.
    """
    arrays = {node for node, entry in nodes.items() if entry["node_type"] == "array"}
    digested = arrays - _UNDIGESTED
    for node in contents:
        expect(node in digested, "a key of contents", node, "the path of an array")
    missing = sorted(digested - contents.keys())
    expect(not missing, "what contents lacks", missing, "a digest of every array")


def _others(nodes: Mapping[str, Any]) -> set[str]:
    """Return the arrays that are no field."""
    others = set()
    for node, entry in nodes.items():
        if entry["node_type"] == "array" and node not in FIELDS and node not in _MASKED:
            expect(node.startswith(f"{EXTRA}/"), "an array", node, f"a field or below {EXTRA!r}")
            others.add(node)
    return others


def _fields(frames_key: str, nodes: Mapping[str, Any]) -> dict[str, _Place]:
    """Return where the member of each field's key belongs."""
    fields: dict[str, _Place] = {frames_key: ("diffraction", None)}
    for node, keys in FIELD_KEYS.items():
        if node in nodes:
            columns = range(len(keys)) if len(keys) > 1 else (None,)
            places = [(node, column) for column in columns]
            fields.update(zip(keys, places, strict=True))
    return fields


def _check_form(member: Mapping[str, Any], *, is_made: bool) -> None:
    for name in ("name", "node", "header"):
        as_text(f"{name} of a member", member.get(name))
    name = member["name"]
    is_name = "\0" not in name and len(name.encode()) <= _MAX_NAME_BYTES
    expect(is_name, "name of a member", name, f"no NUL, at most {_MAX_NAME_BYTES} bytes")
    is_latin = max(member["header"], default="") < "\u0100"
    expect(is_latin, "header of a member", member["header"], "latin-1 text")
    as_integer("size of a member", member.get("size"))
    for key in ("crc32", "column"):
        expect(key in member, f"{key} of a member", None, "an integer or null")
    if member["column"] is not None:
        as_integer("column of a member", member["column"], 0, 1)
    # Frames that were made from a store were in no file.
    if member["crc32"] is not None or not (is_made and member["node"] == "diffraction"):
        as_integer("crc32 of a member", member["crc32"], 0, _MAX_CRC32)


def _keys(member: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys that a member may have: only arrays lose the ``.npy``."""
    name = str(member["name"])
    plain = name.removesuffix(".npy")
    return (plain,) if member["header"] else (plain, name)


def _check_field(member: Mapping[str, Any], fields: Mapping[str, _Place]) -> str:
    (key, *_), place = _keys(member), (member["node"], member["column"])
    known = fields.get(key)
    where = f"node and column of member {key!r}"
    expect(known is not None, where, place, "an array that has no other member")
    expect(known == place, where, place, f"{known}")
    expect(member["header"] != "", f"header of member {key!r}", "", "that of an npy")
    return key


def _check_other(
    member: Mapping[str, Any], node: Mapping[str, Any], fields: Mapping[str, _Place]
) -> str:
    place = member["node"]
    key = node.get("attributes", {}).get("key", place.removeprefix(f"{EXTRA}/"))
    keys = _keys(member)
    expect(key in keys, f"name of the member in {place!r}", member["name"], f"{key!r} or {key}.npy")
    expect(member["column"] is None, f"column of member {key!r}", member["column"], "null")
    is_raw = node.get("attributes", {}).get("raw", False)
    holds = is_raw is (member["header"] == "")
    expect(holds, f"the attribute 'raw' of {place!r}", is_raw, "true for a member without header")
    if is_raw:
        found = node["data_type"], node["shape"]
        expect(found == ("uint8", [member["size"]]), f"array {place!r}", found, "a member's bytes")
    is_aside = key not in fields or fields[key][0] in _KEPT_ASIDE
    expect(is_aside, f"node of member {key!r}", place, "that of the field")
    return str(key)
