"""What the consolidated metadata of a store may say, and that its files can hold so much.

Shapes and chunk sizes decide how much is allocated, so none is believed that the files which the
manifest lists cannot hold.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ptyzarr.errors import SchemaError
from ptyzarr.scan import FIELDS
from ptyzarr.store.codecforms import (
    check_array_codecs,
    check_frame_codecs,
    check_index_codecs,
    check_named,
)
from ptyzarr.store.forms import (
    UnexpectedFormError,
    as_lengths,
    as_list,
    as_mapping,
    as_text,
    expect,
)
from ptyzarr.store.schema import COUNT_DTYPES, MASKED, ROOT_KEY, array_dims

#: More decoded bytes than a byte of a file can stand for: zstd, which packs zeros best, comes to
#: 2**15 at most (a block of 128 KiB in 4 bytes).
_MAX_RATIO = 2**16
_NUMBERS = frozenset(
    f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
) | frozenset(("float16", "float32", "float64", "bool"))
_DTYPES = _NUMBERS | {"complex64", "complex128"}
_FIXED = {
    "frame_index": {"int64"},
    "frame_power": {"float64"},
    "frame_hash": {"uint64"},
    "bad_pixels": {"bool"},
    f"{MASKED}/index": {"int64"},
}
_SHARD_OPTIONS = {"chunk_shape", "codecs", "index_codecs", "index_location"}
_REQUIRED = (
    "diffraction",
    "positions",
    "frame_index",
    "frame_power",
    "frame_hash",
    "probe_guess",
)


def check_nodes(nodes: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]) -> None:
    """Check every node of a store's consolidated metadata.

    Parameters
    ----------
    nodes
        The ``zarr.json`` of each node by path.
    files
        The manifest's entries by key, checked.

    Raises
    ------
    UnexpectedFormError
        If one is not of the forms that are read, or the files cannot hold it.
    """
    for node, entry in nodes.items():
        _check_node(node, entry, files)
    for node in _REQUIRED:
        expect(_is_array(nodes, node), f"array {node!r}", nodes.get(node), "an array")
    frames = nodes["diffraction"]["shape"]
    expect(
        len(frames) == 3 and min(frames) > 0 and frames[1] == frames[2],
        "the shape of 'diffraction'", frames, "(n, N, N)",
    )  # fmt: skip
    for node, entry in nodes.items():
        if entry["node_type"] == "array":
            _check_field(node, entry, frames[0], frames[1])
    _check_masked(nodes)


def check_frames(attributes: Mapping[str, Any], dtype: str, size: int, quantity: str) -> None:
    """Check what is recorded beside the frames; raises `UnexpectedFormError`."""
    known = COUNT_DTYPES if quantity == "counts" else tuple(sorted(_NUMBERS))
    expect(dtype in known, f"the data type of {quantity}", dtype, f"one of {', '.join(known)}")
    for name in ("max_nonzero", "max_wide"):
        limit = attributes.get(name)
        holds = limit is None or (type(limit) is int and 0 <= limit <= size**2)
        expect(holds, name, limit, f"an integer, 0 to {size**2}")


def _is_array(nodes: Mapping[str, Any], node: str) -> bool:
    return node in nodes and nodes[node]["node_type"] == "array"


def _check_node(node: str, entry: object, files: Mapping[str, Mapping[str, Any]]) -> None:
    parts = as_text("a node's path", node).split("/")
    is_inside = not {"", ".", ".."} & set(parts) and not set("\0\\:") & set(node)
    expect(is_inside, "a node's path", node, "names inside the store")
    found = as_mapping(f"node {node!r}", entry)
    kind = found.get("node_type")
    expect(kind in ("array", "group"), f"node_type of {node!r}", kind, "'array' or 'group'")
    version = found.get("zarr_format")
    expect(version == 3, f"zarr_format of {node!r}", version, "3")
    attributes = as_mapping(f"the attributes of {node!r}", found.get("attributes", {}))
    as_text(f"the key of {node!r}", attributes.get("key", ""))
    document = f"{node}/{ROOT_KEY}"
    expect(document in files, f"file {document!r}", None, "a file that the manifest lists")
    if kind == "array":
        _check_array(node, found, files)


def _check_array(
    node: str, entry: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]
) -> None:
    shape = as_lengths(f"the shape of {node!r}", entry.get("shape"))
    dtype = entry.get("data_type")
    is_known = isinstance(dtype, str) and dtype in _DTYPES
    expect(is_known, f"data_type of {node!r}", dtype, "a core data type of zarr v3")
    _check_fill(f"fill_value of {node!r}", entry.get("fill_value"), np.dtype(dtype))
    grid = check_named(f"chunk_grid of {node!r}", entry.get("chunk_grid"))
    expect(grid["name"] == "regular", f"chunk_grid of {node!r}", grid["name"], "'regular'")
    outer = _chunk_shape(node, grid, shape)
    itemsize = np.dtype(dtype).itemsize
    inner, index_nbytes = _check_codecs(node, entry.get("codecs"), shape, outer, itemsize)
    _check_names(node, entry, len(shape))
    grid_shape = tuple(-(-n // m) for n, m in zip(shape, outer, strict=True))
    nbytes = _files_nbytes(node, entry, grid_shape, files)
    held = min(nbytes, default=None)
    if held is None:
        return
    expect(held >= index_nbytes, f"the shards of {node!r}", held, f"{index_nbytes} bytes or more")
    _check_held(f"a chunk of {node!r}", inner, itemsize, held)
    _check_held(f"array {node!r}", shape, itemsize, sum(nbytes))


def _check_fill(name: str, value: object, dtype: np.dtype[Any]) -> None:
    """Check a fill value, which nothing is ever read as, but zarr converts without a look."""
    if dtype.kind == "c":
        parts = as_list(name, value)
        expect(len(parts) == 2, name, value, "real and imaginary part")
        for part in parts:
            _check_fill(name, part, np.dtype(f"f{dtype.itemsize // 2}"))
        return
    if dtype.kind == "b":
        holds = type(value) is bool
    elif dtype.kind == "f":
        is_special = isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity")
        is_number = isinstance(value, int | float) and abs(value) <= float(np.finfo(dtype).max)
        holds = is_special or is_number
    else:
        limits = np.iinfo(dtype)
        holds = type(value) is int and limits.min <= value <= limits.max
    expect(holds, name, value, f"a value of data type {dtype}")


def _check_held(name: str, shape: tuple[int, ...], itemsize: int, nbytes: int) -> None:
    holds = math.prod(shape) * itemsize <= _MAX_RATIO * max(nbytes, 1)
    found = f"{name} of shape {'x'.join(map(str, shape))}"
    expect(holds, found, f"{nbytes} bytes of files", "files that can hold so much")


def _chunk_shape(node: str, grid: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[int, ...]:
    name = f"the chunk shape of {node!r}"
    settings = as_mapping(name, grid.get("configuration"))
    chunks = as_lengths(name, settings.get("chunk_shape"), least=1)
    expect(len(chunks) == len(shape), name, chunks, f"{len(shape)} axes")
    return chunks


def _check_codecs(
    node: str, value: object, shape: tuple[int, ...], outer: tuple[int, ...], itemsize: int
) -> tuple[tuple[int, ...], int]:
    """Return the shape of the smallest chunks and the size of a shard's index, 0 without shards."""
    name = f"codecs of {node!r}"
    if node != "diffraction":
        check_array_codecs(name, value, itemsize)
        # A larger chunk than the array would be decoded as one, which ingest never wrote.
        fits = all(m <= max(1, n) for n, m in zip(shape, outer, strict=True))
        expect(fits, f"the chunk shape of {node!r}", outer, f"at most {shape}")
        return outer, 0
    codecs = as_list(name, value)
    expect(len(codecs) > 0, name, value, "at least one codec")
    first = check_named(name, codecs[0])
    if first["name"] != "sharding_indexed":
        check_frame_codecs(name, codecs, itemsize)
        return outer, 0
    expect(len(codecs) == 1, f"the shards of {node!r}", len(codecs), "no codec besides")
    return _check_sharding(node, first, outer, itemsize)


def _check_sharding(
    node: str, codec: Mapping[str, Any], outer: tuple[int, ...], itemsize: int
) -> tuple[tuple[int, ...], int]:
    """Return the shape of the chunks in a shard and the size of its index."""
    name = f"the shards of {node!r}"
    settings = as_mapping(name, codec.get("configuration"))
    others = sorted(set(settings) - _SHARD_OPTIONS)
    expect(not others, f"what else is in {name}", others, "options that zarr v3 has")
    inner = _chunk_shape(node, codec, outer)
    expect(
        not any(n % m for n, m in zip(outer, inner, strict=True)),
        name, f"{outer} with chunks {inner}", "whole chunks",
    )  # fmt: skip
    check_frame_codecs(f"codecs in {name}", settings.get("codecs"), itemsize)
    check_index_codecs(f"index_codecs in {name}", settings.get("index_codecs"))
    place = settings.get("index_location", "end")
    expect(place in ("start", "end"), f"index_location in {name}", place, "'start' or 'end'")
    return inner, 16 * math.prod(n // m for n, m in zip(outer, inner, strict=True))


def _check_names(node: str, entry: Mapping[str, Any], n_axes: int) -> None:
    dims = entry.get("dimension_names")
    if dims is not None:
        names = as_list(f"dimension_names of {node!r}", dims)
        holds = len(names) == n_axes and all(name is None or type(name) is str for name in names)
        expect(holds, f"dimension_names of {node!r}", names, f"{n_axes} names")
    transformers = entry.get("storage_transformers", [])
    expect(transformers == [], f"storage_transformers of {node!r}", transformers, "none")


def _files_nbytes(
    node: str,
    entry: Mapping[str, Any],
    grid: tuple[int, ...],
    files: Mapping[str, Mapping[str, Any]],
) -> list[int]:
    """Return the size of every chunk file of an array; all must be listed."""
    # Compared before a key is made: the shape may be that of an array which nothing could hold.
    count = math.prod(grid)
    name = f"array {node!r} of shape {'x'.join(map(str, entry['shape']))}"
    expect(count <= len(files), name, f"{count} chunk files", f"at most the {len(files)} listed")
    nbytes = []
    for key in _chunk_keys(node, entry, grid):
        expect(key in files, f"file {key!r}", None, "every chunk file in the manifest")
        nbytes.append(int(files[key]["size"]))
    return nbytes


def _chunk_keys(node: str, entry: Mapping[str, Any], grid: tuple[int, ...]) -> Iterator[str]:
    name = f"chunk_key_encoding of {node!r}"
    encoding = check_named(name, entry.get("chunk_key_encoding"))
    kind = encoding["name"]
    expect(kind in ("default", "v2"), name, kind, "'default' or 'v2'")
    usual = "/" if kind == "default" else "."
    separator = encoding.get("configuration", {}).get("separator", usual)
    expect(separator in ("/", "."), f"separator in {name}", separator, "'/' or '.'")
    for numbers in itertools.product(*map(range, grid)):
        parts = [str(number) for number in numbers]
        if kind == "default":
            parts = ["c", *parts]
        yield f"{node}/{separator.join(parts) or '0'}"


def _check_field(node: str, entry: Mapping[str, Any], n_frames: int, size: int) -> None:
    """Check an array of the schema against the frames, whose shape is (n_frames, size, size)."""
    field = FIELDS.get(node)
    shape, dtype = entry["shape"], entry["data_type"]
    name = f"the shape of {node!r}"
    known = _FIXED.get(node, _DTYPES if field is None or not field.per_frame else _NUMBERS)
    expect(dtype in known, f"data_type of {node!r}", dtype, f"one of {', '.join(sorted(known))}")
    if field is None and not node.startswith(f"{MASKED}/"):
        return
    try:
        n_axes = len(array_dims(node, len(shape)))
    except SchemaError as error:
        raise UnexpectedFormError(str(error)) from error
    expect(n_axes == len(shape), name, shape, f"{n_axes} axes")
    if field is not None and field.per_frame:
        expect(shape[0] == n_frames, name, shape, f"{n_frames} rows, as 'diffraction' has")
    if node in ("positions", "positions_start"):
        expect(shape[1] == 2, name, shape, f"({n_frames}, 2)")
    if node == "bad_pixels":
        expect(shape == [size, size], name, shape, f"({size}, {size})")
    expect(field is None or 0 not in shape, name, shape, "no axis of length 0")


def _check_masked(nodes: Mapping[str, Any]) -> None:
    pair = [f"{MASKED}/index", f"{MASKED}/value"]
    found = [nodes[node]["shape"] for node in pair if _is_array(nodes, node)]
    holds = not found or (len(found) == 2 and found[0] == found[1])
    expect(holds, f"the shapes of {' and '.join(pair)}", found, "two of one length")
