"""Whether a root document, whose digest anybody can compute, says what readers rely on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ptyzarr.errors import SchemaError
from ptyzarr.store.arrayforms import check_frames, check_nodes
from ptyzarr.store.forms import (
    UnexpectedFormError,
    as_digest,
    as_integer,
    as_lengths,
    as_list,
    as_mapping,
    as_text,
    expect,
)
from ptyzarr.store.memberforms import check_contents, check_members
from ptyzarr.store.schema import ATTRIBUTE, EXTRA, SCHEMA_VERSION

_LAYOUTS = ("hilbert", "acquisition")
_QUANTITIES = ("counts", "amplitude")
_AXES = ("nyx", "yxn", "nyx1")
_MASK_MODES = ("zero", "keep")
_MAX_TILE = 2**16  # of a scan with fewer frames


def check_root(document: Mapping[str, Any], path: object) -> None:
    """Check version, attributes and consolidated metadata of a root document.

    Parameters
    ----------
    document
        As `parse_root` returns it: its digest and its manifest are checked.
    path
        For messages.

    Raises
    ------
    SchemaError
        If something that readers use is missing, of another form, or more than the listed files
        can hold.
    """
    attributes = document["attributes"][ATTRIBUTE]
    version = attributes.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise SchemaError(
            f"{path} has schema version {version!r}; this ptyzarr reads {SCHEMA_VERSION}; expected "
            "that; install the version that wrote it or a newer one"
        )
    try:
        nodes = _nodes(document)
        check_nodes(nodes, attributes["manifest"]["files"])
        _check_attributes(attributes, nodes)
    except UnexpectedFormError as error:
        raise SchemaError(
            f"{path}: {error}; the root document is not one that ingest writes, ingest the source "
            "again with --overwrite"
        ) from error


def _nodes(document: Mapping[str, Any]) -> Mapping[str, Any]:
    found = document.get("zarr_format"), document.get("node_type")
    expect(found == (3, "group"), "the root", found, "a group of zarr format 3")
    name = "consolidated_metadata"
    consolidated = as_mapping(name, document.get(name))
    kind = consolidated.get("kind")
    expect(kind == "inline", f"the kind of {name}", kind, "'inline'")
    return as_mapping(f"{name}.metadata", consolidated.get("metadata"))


def _check_attributes(attributes: Mapping[str, Any], nodes: Mapping[str, Any]) -> None:
    frames = nodes["diffraction"]
    n_frames, size = frames["shape"][:2]
    _check_choice("layout", attributes.get("layout"), _LAYOUTS)
    quantity = attributes.get("quantity")
    _check_choice("quantity", quantity, _QUANTITIES)
    check_frames(frames.get("attributes", {}), frames["data_type"], size, str(quantity))
    as_integer("tile_frames", attributes.get("tile_frames"), 1, max(n_frames, _MAX_TILE))
    as_text("created_by", attributes.get("created_by"))
    for name in ("frames_digest", "digest"):
        as_digest(name, attributes.get(name))
    for key, value in as_mapping("physics", attributes.get("physics")).items():
        is_number = type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)
        expect(is_number, f"physics.{key}", value, "a finite number")
    contents = as_mapping("contents", attributes.get("contents"))
    check_contents(contents, nodes)
    for node, digest in contents.items():
        as_digest(f"contents.{node}", digest)
    _check_source(as_mapping("source", attributes.get("source")), n_frames, nodes)


def _check_choice(name: str, value: object, known: tuple[str, ...]) -> None:
    expect(isinstance(value, str) and value in known, name, value, f"one of {', '.join(known)}")


def _check_array_name(name: str, node: object, nodes: Mapping[str, Any]) -> None:
    is_array = isinstance(node, str) and nodes.get(node, {}).get("node_type") == "array"
    expect(is_array, name, node, "the path of an array")


def _check_source(source: Mapping[str, Any], n_frames: int, nodes: Mapping[str, Any]) -> None:
    for name in ("name", "format", "frames_key"):
        as_text(f"source.{name}", source.get(name))
    as_integer("source.size", source.get("size"))
    as_integer("source.mtime_ns", source.get("mtime_ns"), -(2**62))
    as_integer("source.n_frames", source.get("n_frames"))
    _check_choice("source.axes", source.get("axes"), _AXES)
    _check_choice("source.quantity", source.get("quantity"), _QUANTITIES)
    _check_dtype("source.frame_dtype", source.get("frame_dtype"))
    expect("trailing" in source, "source.trailing", None, "the path of an array or null")
    _check_trailing(source, n_frames, nodes)
    if source.get("incomplete") is not None:
        _check_incomplete(as_mapping("source.incomplete", source["incomplete"]), n_frames)
    for step in as_list("source.transforms", source.get("transforms", [])):
        _check_step(as_mapping("an entry of source.transforms", step))
    check_members(source, nodes)


def _check_trailing(source: Mapping[str, Any], n_frames: int, nodes: Mapping[str, Any]) -> None:
    """Check the frames beyond the last position: an export writes them behind the others."""
    trailing, surplus = source["trailing"], source["n_frames"] - n_frames
    if trailing is None:
        expect(surplus == 0, "source.n_frames", source["n_frames"], f"{n_frames}, as stored")
        return
    _check_array_name("source.trailing", trailing, nodes)
    expect(trailing.startswith(f"{EXTRA}/"), "source.trailing", trailing, "an array of 'extra'")
    shape = [surplus, *nodes["diffraction"]["shape"][1:]]
    found = nodes[trailing]["shape"]
    expect(found == shape, f"the shape of {trailing!r}", found, f"{shape}, as source.n_frames says")


def _check_dtype(name: str, value: object) -> None:
    try:
        is_number = isinstance(value, str) and np.dtype(value).kind in "biuf"
    except (TypeError, ValueError, SyntaxError):
        is_number = False
    expect(is_number, name, value, "the name of a real data type")


def _check_incomplete(incomplete: Mapping[str, Any], n_frames: int) -> None:
    as_integer("source.incomplete.kept", incomplete.get("kept"), n_frames, n_frames)
    for key, length in as_mapping("source.incomplete.found", incomplete.get("found")).items():
        as_integer(f"source.incomplete.found.{key}", length)


def _check_step(step: Mapping[str, Any]) -> None:
    name = "a step of source.transforms"
    as_text(f"the store of {name}", step.get("store"))
    for key in ("digest", "frames_digest"):
        as_digest(f"{key} of {name}", step.get(key))
    sizes = as_lengths(f"frame_size of {name}", step.get("frame_size"), least=1)
    expect(len(sizes) == 2, f"frame_size of {name}", sizes, "the widths before and after")
    for key in ("flip_x", "flip_y"):
        expect(type(step.get(key)) is bool, f"{key} of {name}", step.get(key), "true or false")
    as_integer(f"quarter_turns of {name}", step.get("quarter_turns"), 0, 3)
    for key in as_list(f"left_out of {name}", step.get("left_out")):
        as_text(f"left_out of {name}", key)
    if step.get("bad_pixels") is not None:
        mask = as_mapping(f"bad_pixels of {name}", step["bad_pixels"])
        as_integer(f"n_bad of {name}", mask.get("n_bad"))
        as_digest(f"sha256 of {name}", mask.get("sha256"))
        _check_choice(f"mode of {name}", mask.get("mode"), _MASK_MODES)
    expect("bad_pixels" in step, f"bad_pixels of {name}", None, "a mapping or null")
