"""One shard task: idempotent, safe to run twice at once, small enough to travel."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from synthetic import make_npz

from ptyzarr.config import IngestConfig
from ptyzarr.errors import InterruptedIngestError, SourceChangedError
from ptyzarr.ingestion.plan import make_plan
from ptyzarr.ingestion.staging import Staging
from ptyzarr.ingestion.write import ShardJob, write_one_shard
from ptyzarr.progress import Silent
from ptyzarr.sources import open_source


@pytest.fixture
def job(tmp_path, set_sizes):
    set_sizes(2, 16)
    staging = Staging.beside(tmp_path / "scan.zarr")
    staging.root.mkdir()
    staging.prepare()
    scan = open_source(make_npz(tmp_path / "scan.npz"))
    plan = make_plan(scan, IngestConfig(), staging, 2, Silent())
    return ShardJob(staging, plan, scan.frames, False, "amplitude", "scan.npz", 4)


def shard_file(job: ShardJob, shard: int):
    return job.staging.store / f"diffraction/c/{shard}/0/0"


def test_finished_shard_is_not_written_again(job):
    first = write_one_shard(job, 1)
    inode = shard_file(job, 1).stat().st_ino
    again = write_one_shard(job, 1)
    assert (first["frames"], again["frames"]) == (16, 16)
    assert first["nbytes"] == shard_file(job, 1).stat().st_size
    assert again["nbytes"] == 0
    assert shard_file(job, 1).stat().st_ino == inode


def test_last_shard_has_the_rest(job):
    assert write_one_shard(job, 2)["frames"] == 8


def test_one_shard_may_be_written_many_times_at_once(job):
    together = threading.Barrier(4)

    def write() -> None:
        together.wait()
        write_one_shard(job, 0)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(write) for _ in range(4)]:
            future.result()
    assert job.staging.finished(0)
    assert list((job.staging.root / "scratch").iterdir()) == []


def test_job_travels_without_its_plan(job):
    data = pickle.dumps(job)
    assert len(data) < 4000
    there = pickle.loads(data)
    assert there.plan.key == job.plan.key
    assert write_one_shard(there, 0) == {
        "shard": 0, "frames": 16, "nbytes": shard_file(job, 0).stat().st_size,
    }  # fmt: skip


def test_job_whose_plan_is_gone_is_refused(job):
    data = pickle.dumps(job).replace(job.plan.key.encode(), b"0" * 64)
    with pytest.raises(SourceChangedError, match="no longer holds the plan"):
        pickle.loads(data)


def test_stopped_job_writes_nothing(job):
    job.stop.set()
    with pytest.raises(InterruptedIngestError):
        write_one_shard(job, 0)
    assert not shard_file(job, 0).exists()
    assert list((job.staging.root / "scratch").iterdir()) == []


def test_frame_that_is_not_the_checked_one_is_refused(job):
    class Other:
        def read(self, indices):
            frames = job.frames.read(indices)
            frames[indices == 7] += 1
            return frames

    other = ShardJob(job.staging, job.plan, Other(), False, "amplitude", "scan.npz", 4)
    shard = int(np.flatnonzero(job.plan.order == 7)[0]) // 16
    with pytest.raises(SourceChangedError, match=r"scan\.npz: frame 7 is not the one"):
        write_one_shard(other, shard)
    assert not shard_file(job, shard).exists()
