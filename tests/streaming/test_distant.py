"""Epochs over stores at URLs: the batches of the folder, bit for bit, and only what they need."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from farstores import FolderServer

from ptyzarr.config import GroupingConfig, IngestConfig, LoaderConfig
from ptyzarr.errors import StorageError
from ptyzarr.ingestion import ingest
from ptyzarr.store import RemoteFiles, ScanStore, open_store
from ptyzarr.store.shardindex import index_nbytes
from ptyzarr.streaming import GroupLoader

GROUPS = GroupingConfig(gridsize=2, n_neighbors=6)


@pytest.fixture(autouse=True)
def users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users-cache"))


@pytest.fixture
def store(make_scan_store: Callable[..., ScanStore], set_sizes: Callable[..., None]) -> ScanStore:
    set_sizes(chunk_frames=4, shard_frames=64)
    return make_scan_store(n_frames=400, N=16)


def batches(store: ScanStore, **options: Any) -> Iterator[tuple[Any, Any]]:
    config = LoaderConfig(device="numpy", batch_size=32, n_threads=2, **options)
    with GroupLoader(store, GROUPS, config) as loader:
        for batch in loader:
            yield batch.X, batch.nn_indices


def assert_equal_epochs(one: ScanStore, other: ScanStore, **options: Any) -> None:
    pairs = zip(batches(one, **options), batches(other, **options), strict=True)
    for (x, indices), (other_x, other_indices) in pairs:
        assert np.array_equal(indices, other_indices)
        assert np.array_equal(x.view(np.uint32), other_x.view(np.uint32))


@pytest.mark.parametrize("shuffle", ["window", "full", False])
@pytest.mark.parametrize("cached", [True, False], ids=["cache", "no-cache"])
def test_an_epoch_over_http_is_that_of_the_folder(
    store: ScanStore, folder_server: FolderServer, tmp_path: Path, shuffle: Any, cached: bool
) -> None:
    cache = tmp_path / "cache" if cached else None
    far = open_store(f"{folder_server.url}/scan.zarr", cache=cache)
    for _ in range(2):
        assert_equal_epochs(far, store, shuffle=shuffle)
    far.close()


def test_an_epoch_over_s3_is_that_of_the_folder(
    store: ScanStore, bucket: str, tmp_path: Path
) -> None:
    staging = IngestConfig(staging=str(tmp_path / "staging"))
    far = ingest(tmp_path / "scan.npz", f"{bucket}/scan.zarr", staging)
    for shuffle in ("window", "full", False):
        assert_equal_epochs(far, store, shuffle=shuffle)
    far.close()


def test_failures_on_the_way_change_no_batch(store: ScanStore, folder_server: FolderServer) -> None:
    for shard in range(7):
        key = f"scan.zarr/diffraction/c/{shard}/0/0"
        folder_server.faults[key].extend([503, None, "cut", "close"])
    far = open_store(f"{folder_server.url}/scan.zarr", timeout_s=30)
    assert_equal_epochs(far, store, shuffle="full")
    far.close()


def test_a_shard_that_is_gone_ends_the_epoch_with_an_error(
    store: ScanStore, folder_server: FolderServer
) -> None:
    far = open_store(f"{folder_server.url}/scan.zarr", attempts=1)
    folder_server.always["scan.zarr/diffraction/c/3/0/0"] = 500
    with pytest.raises(StorageError, match="answered 500"):
        list(batches(far, shuffle="window"))
    far.close()


def test_more_requests_are_under_way_than_there_are_threads_that_decode(
    store: ScanStore, folder_server: FolderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = open_store(f"{folder_server.url}/scan.zarr")
    monkeypatch.setattr("ptyzarr.streaming.loader._MAX_JOB_CHUNKS", 4)
    waiting = threading.Barrier(5)  # more than there are decoding threads
    read_range, met = RemoteFiles.read_range, []

    def meet(*args: Any) -> memoryview:
        if args[3] - args[2] == index_nbytes(16):  # the others wait for it
            return read_range(*args)
        with contextlib.suppress(threading.BrokenBarrierError):
            waiting.wait(20)
            met.append(True)
        waiting.abort()
        return read_range(*args)

    monkeypatch.setattr(RemoteFiles, "read_range", meet)
    next(batches(far, shuffle="window"))
    assert met
    far.close()


def test_a_small_budget_is_kept_without_threads_that_wait(
    store: ScanStore, folder_server: FolderServer
) -> None:
    far = open_store(f"{folder_server.url}/scan.zarr")
    config = LoaderConfig(device="numpy", n_threads=2, memory="1GiB")
    with GroupLoader(store, GROUPS, config) as near, GroupLoader(far, GROUPS, config) as loader:
        assert 0 < loader.projected_memory - near.projected_memory <= 64 * 1024**2
    far.close()
