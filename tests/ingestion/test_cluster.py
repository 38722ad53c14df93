"""Shards written by a dask.distributed cluster, by address."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pytest
from synthetic import make_arrays, make_npz

from ptyzarr.config import IngestConfig
from ptyzarr.errors import ConfigError, DeviceError, InterruptedIngestError, StorageError
from ptyzarr.ingestion import ingest, verify


class Counter:
    done = 0

    def start(self, stage: str, total: int, unit: str) -> None:
        self.done = 0

    def advance(self, amount: int) -> None:
        self.done += amount

    def finish(self) -> None: ...


class Killer(Counter):
    """Kills a worker of a cluster when the first shard is done, as the kernel would."""

    def __init__(self, cluster: Any, journal: Path) -> None:
        self._cluster, self._journal = cluster, journal
        self.n_journalled = None

    def advance(self, amount: int) -> None:
        super().advance(amount)
        if self.n_journalled is None:
            process = next(iter(self._cluster.workers.values())).process.process
            os.kill(process.pid, signal.SIGKILL)
            self.n_journalled = len(list(self._journal.iterdir()))


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


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "compressed", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["stored", "deflated"]
)
def test_worker_that_is_killed_in_the_middle_changes_nothing(tmp_path, set_sizes, compressed):
    distributed = pytest.importorskip("distributed")
    set_sizes(2, 4)
    source = make_npz(tmp_path / "scan.npz", n_frames=1000, compressed=compressed)
    with distributed.LocalCluster(
        processes=True,
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=None,
        local_directory=str(tmp_path / "dask"),
    ) as cluster:
        killer = Killer(cluster, tmp_path / "scan.zarr.staging" / "journal")
        config = IngestConfig(scheduler=cluster.scheduler_address)
        store = ingest(source, tmp_path / "scan.zarr", config, progress=killer)
    assert killer.n_journalled is not None
    assert killer.n_journalled < store.format.n_shards == 250
    assert killer.done == 1000
    local = ingest(source, tmp_path / "local.zarr")
    assert store.files == local.files
    assert sorted(os.listdir(tmp_path)) == ["dask", "local.zarr", "scan.npz", "scan.zarr"]


def test_graph_of_many_shards_is_small_and_each_task_names_one(tmp_path, set_sizes, monkeypatch):
    """The job is in the graph once; a task is a key, a number and a reference to it."""
    distributed = pytest.importorskip("distributed")
    set_sizes(1, 1)
    graphs = []

    class Client(FakeClient):
        def compute(self, tasks: list[Any], retries: int) -> list[Any]:
            assert retries
            graphs.append(dask.base.collections_to_expr(tasks).__dask_graph__())
            return tasks

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distributed.comm.core.connect", connect_to_nobody)
    monkeypatch.setattr(distributed, "Client", Client)
    monkeypatch.setattr(distributed, "as_completed", stop)
    n_shards = 1000
    source = make_npz(tmp_path / "scan.npz", n_frames=n_shards, N=8)
    with pytest.raises(InterruptedIngestError):
        ingest(source, tmp_path / "scan.zarr", IngestConfig(scheduler="tcp://x:1"))
    (graph,) = graphs
    assert len(graph) == n_shards + 1
    assert len(pickle.dumps(graph)) < 400 * n_shards
    for key, task in graph.items():
        if key.startswith("write-shard-"):
            assert {name.rsplit("-", 1)[0] for name in task.dependencies} == {"shard-job"}


class FakeComm:
    """A connection to nobody."""

    async def close(self) -> None: ...


async def connect_to_nobody(*_: object, **__: object) -> FakeComm:
    return FakeComm()


class FakeClient:
    """A client without a cluster."""

    loop = None

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None: ...

    def compute(self, tasks: list[Any], retries: int) -> list[Any]:
        return tasks

    @classmethod
    def current(cls, *, allow_global: bool) -> FakeClient:
        raise ValueError("dask asks for a client of its own the first time it computes")


def test_dying_workers_are_said_and_resumable(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    scheduler = pytest.importorskip("distributed.scheduler")
    killed = scheduler.KilledWorker("shard", SimpleNamespace(address="tcp://y:2"), 3)

    def die(*_: object, **__: object) -> None:
        raise killed

    monkeypatch.setattr("distributed.comm.core.connect", connect_to_nobody)
    monkeypatch.setattr(distributed, "Client", FakeClient)
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
