"""The zarr store that checks what it reads, through every door that zarr uses."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype

from ptyzarr.errors import DamagedStoreError, StorageError
from ptyzarr.store.checking import CheckingStore

PROTOTYPE = default_buffer_prototype()


@pytest.fixture
def checking(tmp_path):
    (tmp_path / "good").write_bytes(b"0123456789")
    (tmp_path / "short").write_bytes(b"0123")
    (tmp_path / "unlisted").write_bytes(b"x")
    (tmp_path / "zarr.json").write_bytes(b"{}")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    names = ("good", "short", "missing", "folder", "pipe")
    files = {key: {"size": 10, "sha256": ""} for key in names}
    return CheckingStore(tmp_path, files)


def get(store: CheckingStore, key: str) -> Any:
    return asyncio.run(store.get(key, PROTOTYPE))


def get_partial(store: CheckingStore, key: str) -> Any:
    request = (key, RangeByteRequest(2, 4))
    (value,) = asyncio.run(store.get_partial_values(PROTOTYPE, [request]))
    return value


def get_many(store: CheckingStore, key: str) -> Any:
    async def collect() -> Any:
        return [value async for _, value in store._get_many([(key, PROTOTYPE, None)])]

    return asyncio.run(collect())[0]


@pytest.mark.parametrize(("start", "expected"), [(2, b"23456789"), (10, b""), (2**61, b"")])
def test_range_beyond_the_end_gives_what_is_there_and_allocates_no_more(checking, start, expected):
    value = asyncio.run(checking.get("good", PROTOTYPE, RangeByteRequest(start, 2**62)))
    assert value.to_bytes() == expected


DOORS = [get, get_partial, get_many]


@pytest.mark.parametrize("door", DOORS)
def test_listed_file_of_the_listed_size_is_read(checking, door):
    expected = b"23" if door is get_partial else b"0123456789"
    assert door(checking, "good").to_bytes() == expected


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("short", "has 4 bytes"),
        ("missing", "is missing"),
        ("folder", "is no file"),
        ("pipe", "is no file"),
    ],
)
def test_damaged_file_is_an_error(checking, door, key, what):
    with pytest.raises(DamagedStoreError, match=f"'{key}' {what}; expected 10 bytes"):
        door(checking, key)


@pytest.mark.parametrize("door", DOORS)
def test_file_that_is_not_listed_is_not_there(checking, door):
    assert door(checking, "unlisted") is None


def test_existence_is_what_the_manifest_says(checking):
    async def exist() -> list[bool]:
        return [await checking.exists(k) for k in ("zarr.json", "good", "missing", "unlisted")]

    assert asyncio.run(exist()) == [True, True, True, False]
    assert get(checking, "zarr.json").to_bytes() == b"{}"


def test_listing_is_that_of_the_manifest(tmp_path):
    files = {key: {"size": 0, "sha256": ""} for key in ("a/zarr.json", "a/c/0", "b/zarr.json")}
    store = CheckingStore(tmp_path, files)
    (tmp_path / "stray").write_bytes(b"x")

    async def collect(keys: Any) -> list[str]:
        return [key async for key in keys]

    assert asyncio.run(collect(store.list())) == list(files)
    assert asyncio.run(collect(store.list_prefix("a/c"))) == ["a/c/0"]
    assert asyncio.run(collect(store.list_dir(""))) == ["a", "b"]
    assert asyncio.run(collect(store.list_dir("a/"))) == ["zarr.json", "c"]
    assert asyncio.run(store.is_empty("stray"))
    assert not asyncio.run(store.is_empty("b"))
    (tmp_path / "zarr.json").write_bytes(b"{}")
    assert "zarr.json" in asyncio.run(collect(store.list()))


def test_derived_stores_check_too(checking):
    with pytest.raises(DamagedStoreError), checking as derived:
        get(derived, "short")
    assert checking.with_read_only(read_only=True) is checking
    with pytest.raises(StorageError, match="published store"):
        checking.with_read_only()
