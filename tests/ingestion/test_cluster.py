"""Shards written by a dask.distributed cluster, by address."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic import make_arrays, make_npz

from ptyzarr.config import IngestConfig
from ptyzarr.errors import ConfigError, DeviceError, StorageError
from ptyzarr.ingestion import ingest, verify


class Counter:
    done = 0

    def start(self, stage: str, total: int, unit: str) -> None:
        self.done = 0

    def advance(self, amount: int) -> None:
        self.done += amount

    def finish(self) -> None: ...


# Sockets and processes that the cluster leaves to the garbage collector at its end.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
def test_cluster_writes_the_same_stores(tmp_path, set_sizes, monkeypatch):
    distributed = pytest.importorskip("distributed")
    set_sizes(2, 8)
    with distributed.LocalCluster(
        processes=True,
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=None,
        local_directory=str(tmp_path / "dask"),
    ) as cluster:
        monkeypatch.chdir(tmp_path)  # the workers have another directory
        for compressed in (False, True):
            make_npz(tmp_path / "scan.npz", compressed=compressed)
            progress = Counter()
            config = IngestConfig(scheduler=cluster.scheduler_address)
            store = ingest("scan.npz", f"{compressed}.zarr", config, progress=progress)
            assert progress.done == 40
            assert store.amplitude(np.arange(40)).tobytes() == make_arrays()["diff3d"].tobytes()
            verify(f"{compressed}.zarr", "scan.npz")
            assert store.digest == ingest("scan.npz", f"{compressed}-local.zarr").digest


def test_dying_workers_are_said_and_resumable(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    scheduler = pytest.importorskip("distributed.scheduler")
    killed = scheduler.KilledWorker("shard", SimpleNamespace(address="tcp://y:2"), 3)

    class Client:
        loop = None

        def __init__(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None: ...

        def compute(self, tasks: list[object], retries: int) -> list[object]:
            return tasks

        @classmethod
        def current(cls, *, allow_global: bool) -> Client:
            raise ValueError("dask asks for a client of its own the first time it computes")

    def die(*_: object, **__: object) -> None:
        raise killed

    monkeypatch.setattr(distributed, "Client", Client)
    monkeypatch.setattr(distributed, "as_completed", die)
    source = make_npz(tmp_path / "scan.npz")
    with pytest.raises(StorageError, match="run the same command to resume"):
        ingest(source, tmp_path / "scan.zarr", IngestConfig(scheduler="tcp://x:1"))
    ingest(source, tmp_path / "scan.zarr").close()


def test_missing_package_names_what_to_install(tmp_path, monkeypatch):
    source = make_npz(tmp_path / "scan.npz")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(DeviceError, match=r"ptyzarr\[cluster\]"):
        ingest(source, tmp_path / "scan.zarr", IngestConfig(scheduler="tcp://127.0.0.1:1"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("address", ["nonsense", "nowhere://x"])
def test_address_that_cannot_be_one_is_a_config_error(tmp_path, address):
    pytest.importorskip("distributed")
    source = make_npz(tmp_path / "scan.npz")
    with pytest.raises(ConfigError, match="no scheduler answers"):
        ingest(source, tmp_path / "scan.zarr", IngestConfig(scheduler=address))
