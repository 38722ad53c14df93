"""Shards at URLs: which ranges are asked for, and what the local cache keeps and forgets."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from farstores import FolderServer
from hypothesis import given
from hypothesis import strategies as st

from ptyzarr.errors import PtyzarrError, StorageError
from ptyzarr.store import RemoteFiles, ScanStore, open_store
from ptyzarr.store.farshard import MAX_GAP, merge_runs
from ptyzarr.store.rangecache import CachedShard, ShardCache
from ptyzarr.store.shardindex import index_nbytes

ALL = np.arange(150)


@pytest.fixture
def store(make_scan_store: Callable[..., ScanStore], set_sizes: Callable[..., None]) -> ScanStore:
    set_sizes(chunk_frames=4, shard_frames=64)
    return make_scan_store(n_frames=150, N=16)


@pytest.fixture
def open_cached(
    store: ScanStore, folder_server: FolderServer, tmp_path: Path
) -> Callable[..., ScanStore]:
    def open_it(**options: Any) -> ScanStore:
        url = f"{folder_server.url}/scan.zarr"
        return open_store(url, **{"cache": tmp_path / "cache", "attempts": 2, **options})

    return open_it


def shard_requests(server: FolderServer) -> int:
    return len(server.requests("diffraction/c"))


@given(
    st.lists(st.tuples(st.integers(0, 200_000), st.integers(1, 300_000)), min_size=1, max_size=40)
)
def test_runs_hold_every_chunk_and_little_else(pieces: list[tuple[int, int]]) -> None:
    gaps, lengths = (np.array(column, np.int64) for column in zip(*pieces, strict=True))
    offsets = np.cumsum(gaps + lengths) - lengths
    runs, run_of = merge_runs(offsets, lengths)
    assert (runs[run_of, 0] <= offsets).all()
    assert (runs[run_of, 1] >= offsets + lengths).all()
    assert (runs[1:, 0] >= runs[:-1, 1]).all()
    unwanted = (runs[:, 1] - runs[:, 0]).sum() - lengths.sum()
    assert unwanted <= MAX_GAP * (len(lengths) - len(runs))


def test_indexes_of_several_shards_are_asked_for_at_once(
    store: ScanStore,
    folder_server: FolderServer,
    open_cached: Callable[..., ScanStore],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    far = open_cached(cache=None)
    far.rows  # noqa: B018 - reads the order of the frames first
    together, read_range = threading.Barrier(3), RemoteFiles.read_range  # as many as shards

    def meet(self: RemoteFiles, key: str, start: int, stop: int) -> memoryview:
        if stop - start == index_nbytes(16):
            together.wait(20)
        return read_range(self, key, start, stop)

    monkeypatch.setattr(RemoteFiles, "read_range", meet)
    assert np.array_equal(far.amplitude(ALL), store.amplitude(ALL))
    assert shard_requests(folder_server) == 6
    far.close()


def test_what_is_cached_is_not_asked_for_again(
    store: ScanStore, folder_server: FolderServer, open_cached: Callable[..., ScanStore]
) -> None:
    for expected in (True, False):
        before = shard_requests(folder_server)
        far = open_cached()
        assert np.array_equal(far.amplitude(ALL), store.amplitude(ALL))
        assert (shard_requests(folder_server) > before) is expected
        far.close()


def test_a_partly_cached_shard_fetches_what_is_missing_only(
    store: ScanStore, folder_server: FolderServer, open_cached: Callable[..., ScanStore]
) -> None:
    far = open_cached()
    assert np.array_equal(far.amplitude(ALL[:20]), store.amplitude(ALL[:20]))
    far.close()
    sent = folder_server.n_sent
    far = open_cached()
    assert np.array_equal(far.amplitude(ALL), store.amplitude(ALL))
    again = folder_server.n_sent - sent - far.bytes_stored
    assert again < 0
    far.close()


def read_in_threads(far: ScanStore, n_threads: int) -> list[Any]:
    """Return what each of several threads gets of the same frames: an array or an error."""
    barrier = threading.Barrier(n_threads)

    def read(_: int) -> Any:
        barrier.wait()
        try:
            return far.amplitude(far.frame_index[:8])
        except PtyzarrError as error:
            return error

    far.rows  # noqa: B018 - reads the order of the frames first
    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(read, range(n_threads)))


def test_what_several_threads_want_is_fetched_once(
    store: ScanStore, folder_server: FolderServer, open_cached: Callable[..., ScanStore]
) -> None:
    folder_server.latency_s = 0.05
    far = open_cached()
    for found in read_in_threads(far, 6):
        assert np.array_equal(found, store.amplitude(store.frame_index[:8]))
    assert shard_requests(folder_server) == 2  # the index and one part
    far.close()


def test_who_waits_for_a_request_that_fails_asks_again(
    store: ScanStore, folder_server: FolderServer, open_cached: Callable[..., ScanStore]
) -> None:
    folder_server.latency_s = 0.05
    folder_server.faults["scan.zarr/diffraction/c/0/0/0"].extend([None, 500])
    far = open_cached(attempts=1)
    results = read_in_threads(far, 3)
    errors = [found for found in results if isinstance(found, PtyzarrError)]
    assert [str(error).count("answered 500") for error in errors] == [1]
    for found in results:
        if found is not errors[0]:
            assert np.array_equal(found, store.amplitude(store.frame_index[:8]))
    far.close()


@pytest.mark.parametrize("place", ["chunk", "index", "map", "length"])
def test_a_damaged_cache_is_fetched_again(
    store: ScanStore,
    folder_server: FolderServer,
    open_cached: Callable[..., ScanStore],
    tmp_path: Path,
    place: str,
) -> None:
    far = open_cached()
    far.amplitude(ALL)
    far.close()
    sizes = {entry["sha256"]: entry["size"] for entry in store.files.values()}
    for path in (tmp_path / "cache").iterdir():
        size = sizes[path.stem]
        raw = bytearray(path.read_bytes())
        at = {"chunk": 30, "index": size - 10, "map": size, "length": -1}[place]
        if place == "length":
            raw = raw[:-3]
        else:
            raw[at] ^= 1
        path.write_bytes(raw)
    before = shard_requests(folder_server)
    far = open_cached()
    assert np.array_equal(far.amplitude(ALL), store.amplitude(ALL))
    assert shard_requests(folder_server) > before
    far.close()


def test_a_disk_that_is_full_is_no_reason_to_fail(
    store: ScanStore, open_cached: Callable[..., ScanStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(CachedShard, "write", refuse)
    far = open_cached()
    for _ in range(2):
        assert np.array_equal(far.amplitude(ALL), store.amplitude(ALL))
    far.close()


def test_a_cache_that_cannot_be_made_is_no_reason_to_fail(
    store: ScanStore, open_cached: Callable[..., ScanStore], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    far = open_cached(cache=tmp_path / "file" / "cache")
    assert np.array_equal(far.amplitude(ALL), store.amplitude(ALL))
    far.close()


def test_what_parts_are_cached_of_is_completed_by_a_server_without_ranges(
    store: ScanStore, folder_server: FolderServer, open_cached: Callable[..., ScanStore]
) -> None:
    far = open_cached()
    far.amplitude(ALL[:20])
    far.close()
    folder_server.gives_ranges = False
    far = open_cached()
    assert np.array_equal(far.amplitude(ALL), store.amplitude(ALL))
    far.close()


def test_a_server_without_ranges_needs_the_disk(
    store: ScanStore,
    folder_server: FolderServer,
    open_cached: Callable[..., ScanStore],
    tmp_path: Path,
) -> None:
    folder_server.gives_ranges = False
    (tmp_path / "file").touch()
    far = open_cached(cache=tmp_path / "file" / "cache")
    with pytest.raises(StorageError, match="cannot be kept on the local disk"):
        far.amplitude(ALL)
    far.close()


@pytest.mark.parametrize("gives_ranges", [True, False], ids=["ranges", "no-ranges"])
def test_the_cache_keeps_to_its_size(
    store: ScanStore,
    folder_server: FolderServer,
    open_cached: Callable[..., ScanStore],
    tmp_path: Path,
    gives_ranges: bool,
) -> None:
    folder_server.gives_ranges = gives_ranges
    far = open_cached(cache_size="40KiB")
    rng = np.random.default_rng(0)
    for _ in range(12):
        some = rng.permutation(150)[:40]
        assert np.array_equal(far.amplitude(some), store.amplitude(some))
        on_disk = sum(path.stat().st_blocks * 512 for path in (tmp_path / "cache").iterdir())
        largest = max(entry["size"] for entry in store.files.values())
        assert on_disk <= 40 * 1024 + largest
    far.close()


def test_the_shard_unused_for_longest_goes_first(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 80 * 1024)
    for number, name in enumerate("abc"):
        shard = cache.open(64 * name, 30_000, 4)
        assert cache.make_room(30_000) is (name == "c")
        shard.write(0, memoryview(bytes(30_000)))
        os.utime(tmp_path / f"{64 * name}.shard", (number, number))
        shard.close()
    assert sorted(path.stem[0] for path in tmp_path.iterdir()) == ["b", "c"]


def test_a_digest_that_is_a_path_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="is no sha256"):
        ShardCache(tmp_path / "cache", 1000).open("../outside", 10, 1)
    assert list(tmp_path.iterdir()) == []


def test_threads_and_stores_may_share_a_cache(
    store: ScanStore, open_cached: Callable[..., ScanStore]
) -> None:
    stores = [open_cached(cache_size="60KiB") for _ in range(3)]
    expected = store.amplitude(ALL)
    barrier = threading.Barrier(6)

    def read(number: int) -> bool:
        order = np.random.default_rng(number).permutation(150)
        barrier.wait()
        parts = [stores[number % 3].amplitude(part) for part in np.split(order, 10)]
        return np.array_equal(np.concatenate(parts), expected[order])

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(read, range(6)))
    for far in stores:
        far.close()
