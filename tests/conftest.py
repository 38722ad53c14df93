"""Fixtures for all tests: synthetic scans and stores, small shards, a full disk, no GPU."""

from __future__ import annotations

import contextlib
import os
import resource
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import farstores
import pytest
import synthetic
from hypothesis import settings

from ptyzarr.config import IngestConfig
from ptyzarr.ingestion import ingest
from ptyzarr.ingestion.layout import Sizes
from ptyzarr.store import ScanStore

# Shared cores and coverage make any deadline a lottery; what is fast enough, benchmarks say. Where
# CI is set the examples are the same in every run, elsewhere new ones are tried.
settings.register_profile("ptyzarr", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("ptyzarr")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def quick_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let flushing to the disk do nothing: it matters for a power cut, which no test can make.

    That files and folders are flushed at all is tested by substituting this again.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def make_npz() -> Callable[..., Path]:
    """`make_npz(path, n_frames, N, seed, compressed, **overrides)` of `synthetic`."""
    return synthetic.make_npz


@pytest.fixture
def set_sizes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`set_sizes(chunk_frames, shard_frames)` for what is ingested from now on."""

    def set_them(chunk_frames: int, shard_frames: int, tile_frames: int = 16) -> None:
        sizes = Sizes(chunk_frames, shard_frames, tile_frames)
        monkeypatch.setattr("ptyzarr.ingestion.plan.choose_sizes", lambda *_: sizes)

    return set_them


@pytest.fixture
def make_scan_store(tmp_path: Path) -> Iterator[Callable[..., ScanStore]]:
    """`make_scan_store(name="scan", config=None, **scan)`: an ingested synthetic scan."""
    opened: list[ScanStore] = []

    def make(name: str = "scan", config: IngestConfig | None = None, **scan: Any) -> ScanStore:
        source = synthetic.make_npz(tmp_path / f"{name}.npz", **scan)
        opened.append(ingest(source, tmp_path / f"{name}.zarr", config))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def folder_server(tmp_path: Path) -> Iterator[farstores.FolderServer]:
    """A server of the test's own folder over HTTP."""
    with farstores.serve_folder(tmp_path) as server:
        yield server


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """Address of an S3 server that lives as long as the tests."""
    with farstores.serve_s3() as address:
        yield address


@pytest.fixture
def bucket(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket, with the environment that reaches it."""
    name = f"scans-{uuid.uuid4().hex[:12]}"
    farstores.make_bucket(s3_address, name)
    for variable, value in {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_address,
    }.items():
        monkeypatch.setenv(variable, value)
    return f"s3://{name}"


@pytest.fixture
def file_size_limit() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """`with file_size_limit(n):` the file system refuses files larger than n bytes."""

    @contextlib.contextmanager
    def limit(nbytes: int) -> Iterator[None]:
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, old[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)

    return limit
