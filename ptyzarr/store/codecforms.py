"""Which codecs the metadata of a store may name, and with which options."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ptyzarr.store.forms import as_list, as_mapping, as_text, expect

_Check = Callable[[object], bool]


def _is_integer(least: int, most: int) -> _Check:
    return lambda value: type(value) is int and least <= value <= most


def _is_one_of(*known: str) -> _Check:
    return lambda value: isinstance(value, str) and value in known


_OPTIONS: Mapping[str, Mapping[str, _Check]] = {
    "bytes": {"endian": lambda value: value in (None, "little", "big")},
    "blosc": {
        "typesize": _is_integer(1, 255),
        "cname": _is_one_of("lz4", "lz4hc", "blosclz", "snappy", "zlib", "zstd"),
        "clevel": _is_integer(0, 9),
        "shuffle": _is_one_of("noshuffle", "shuffle", "bitshuffle"),
        "blocksize": _is_integer(0, 2**31 - 1),
    },
    "zstd": {
        "level": _is_integer(-131072, 22),
        "checksum": lambda value: type(value) is bool,
    },
    "gzip": {"level": _is_integer(0, 9)},
    "crc32c": {},
}
_OURS = ("bytes", "blosc", "crc32c")


def check_array_codecs(name: str, value: object, itemsize: int) -> None:
    """Check the codecs of an array that is not frames: those that ingest writes, no others.

    Parameters
    ----------
    name
        For messages.
    value
        What the metadata says.
    itemsize
        Of a value in bytes.

    Raises
    ------
    UnexpectedFormError
        If they are others.
    """
    if value == _written(itemsize):  # of a store with thousands of arrays, too
        return
    codecs = _named_codecs(name, value)
    names = [str(codec["name"]) for codec in codecs]
    expect(names == list(_OURS), name, names, f"{', '.join(_OURS)}, in this order")
    _check_bytes(name, codecs[0], itemsize, ("little",))
    for codec in codecs[1:]:
        _check_options(name, codec)


@functools.cache
def _written(itemsize: int) -> list[dict[str, Any]]:
    """Return what ingest writes for an array of values of a size, as JSON."""
    endian = {"configuration": {"endian": "little"}} if itemsize > 1 else {}
    options = {"typesize": itemsize, "cname": "zstd", "clevel": 3, "shuffle": "shuffle"}
    blosc = {"name": "blosc", "configuration": {**options, "blocksize": 0}}
    return [{"name": "bytes", **endian}, blosc, {"name": "crc32c"}]


def check_frame_codecs(name: str, value: object, itemsize: int) -> None:
    """Check the codecs of chunks of frames: ``bytes``, then any of those that are known.

    Parameters and errors as those of `check_array_codecs`.
    """
    codecs = _named_codecs(name, value)
    names = [str(codec["name"]) for codec in codecs]
    is_chain = names[:1] == ["bytes"] and len(set(names)) == len(names)
    known = ", ".join(sorted(set(_OPTIONS) - {"bytes"}))
    is_known = is_chain and set(names) <= set(_OPTIONS)
    expect(is_known, name, names, f"'bytes' and then any of {known}, each once")
    _check_bytes(name, codecs[0], itemsize, ("little", "big"))
    for codec in codecs[1:]:
        _check_options(name, codec)


def check_index_codecs(name: str, value: object) -> None:
    """Check the codecs of a shard's index, whose size must be known; errors as above."""
    codecs = _named_codecs(name, value)
    names = [str(codec["name"]) for codec in codecs]
    # Without a checksum, or turned round, an index would be believed whatever places it names.
    expect(names == ["bytes", "crc32c"], name, names, "bytes, crc32c, in this order")
    _check_bytes(name, codecs[0], 8, ("little",))
    for codec in codecs[1:]:
        _check_options(name, codec)


def check_named(name: str, value: object) -> Mapping[str, Any]:
    """Return a mapping with a name and perhaps a configuration, and nothing else.

    Raises
    ------
    UnexpectedFormError
        If it is no such mapping.
    """
    found = as_mapping(name, value)
    as_text(f"the name in {name}", found.get("name"))
    as_mapping(f"the configuration in {name}", found.get("configuration", {}))
    others = sorted(set(found) - {"name", "configuration"})
    expect(not others, f"what else is in {name}", others, "a name and a configuration only")
    return found


def _named_codecs(name: str, value: object) -> list[Mapping[str, Any]]:
    codecs = [check_named(name, codec) for codec in as_list(name, value)]
    expect(len(codecs) > 0, name, value, "at least one codec")
    return codecs


def _check_bytes(
    name: str, codec: Mapping[str, Any], itemsize: int, orders: tuple[str, ...]
) -> None:
    endian = codec.get("configuration", {}).get("endian")
    holds = endian in orders or (endian is None and itemsize == 1)
    expect(holds, f"endian in {name}", endian, f"one of {', '.join(orders)}")
    _check_options(name, codec)


def _check_options(name: str, codec: Mapping[str, Any]) -> None:
    kind = codec["name"]
    known = _OPTIONS[kind]
    for option, value in codec.get("configuration", {}).items():
        holds = option in known and known[option](value)
        expect(holds, f"{option!r} of {kind} in {name}", value, "an option that zarr v3 has")
