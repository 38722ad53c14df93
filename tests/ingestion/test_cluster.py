"""Shards written by a dask.distributed cluster, by address."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from synthetic import make_arrays, make_npz

from ptyzarr.config import IngestConfig
from ptyzarr.errors import ConfigError, DeviceError
from ptyzarr.ingestion import ingest, verify


class Counter:
    done = 0

    def start(self, stage: str, total: int, unit: str) -> None:
        self.done = 0

    def advance(self, amount: int) -> None:
        self.done += amount

    def finish(self) -> None: ...


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # sockets of the cluster at its end
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_cluster_writes_the_same_store(tmp_path, set_sizes, monkeypatch, compressed):
    distributed = pytest.importorskip("distributed")
    set_sizes(2, 8)
    make_npz(tmp_path / "scan.npz", compressed=compressed)
    local = ingest(tmp_path / "scan.npz", tmp_path / "local.zarr")
    monkeypatch.chdir(tmp_path)  # workers started before have another directory
    with distributed.LocalCluster(
        processes=True,
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=None,
        local_directory=str(tmp_path / "dask"),
    ) as cluster:
        progress = Counter()
        config = IngestConfig(scheduler=cluster.scheduler_address)
        store = ingest("scan.npz", "scan.zarr", config, progress=progress)
    assert progress.done == 40
    assert store.digest == local.digest
    assert store.amplitude(np.arange(40)).tobytes() == make_arrays()["diff3d"].tobytes()
    verify(tmp_path / "scan.zarr", tmp_path / "scan.npz")


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
