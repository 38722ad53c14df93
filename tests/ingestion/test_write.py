"""One shard task: idempotent, safe to run twice at once, small enough to travel."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from synthetic import make_npz

from ptyzarr.config import IngestConfig
from ptyzarr.errors import InterruptedIngestError, SourceChangedError
from ptyzarr.ingestion.kinds import Kind
from ptyzarr.ingestion.plan import make_plan
from ptyzarr.ingestion.staging import Staging
from ptyzarr.ingestion.write import ShardJob, ShardReport, write_one_shard
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
    return ShardJob(staging, plan, scan.frames, "amplitude", "scan.npz", 4, False)


def shard_file(job: ShardJob, shard: int):
    return job.staging.store / f"diffraction/c/{shard}/0/0"


def test_finished_shard_is_not_written_again(job):
    first = write_one_shard(job, 1)
    inode = shard_file(job, 1).stat().st_ino
    assert first == write_one_shard(job, 1) == ShardReport(1, 16, None)
    assert shard_file(job, 1).stat().st_ino == inode


def test_last_shard_has_the_rest(job):
    assert write_one_shard(job, 2).n_frames == 8


@pytest.mark.parametrize("n_pending", [1, 3])
def test_shard_is_the_same_whoever_works_on_its_blocks(job, n_pending):
    write_one_shard(job, 0)
    alone = [shard_file(job, 0).read_bytes(), job.staging.records(0).read_bytes()]
    shard_file(job, 0).unlink()
    with ThreadPoolExecutor(3) as pool:
        write_one_shard(dataclasses.replace(job, blocks=(pool, n_pending)), 0)
    assert [shard_file(job, 0).read_bytes(), job.staging.records(0).read_bytes()] == alone


def test_one_shard_may_be_written_many_times_at_once(job):
    together = threading.Barrier(4)

    def write() -> None:
        together.wait()
        write_one_shard(job, 0)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(write) for _ in range(4)]:
            future.result()
    assert job.staging.finished(0, job.plan.stamp)
    assert list((job.staging.root / "scratch").iterdir()) == []


def test_job_travels_without_its_plan(job):
    data = pickle.dumps(job)
    assert len(data) < 4000
    there = pickle.loads(data)
    assert there.plan.key == job.plan.key
    assert write_one_shard(there, 0) == ShardReport(0, 16, None)


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


def test_frames_that_the_plan_does_not_hold_are_reported_and_not_written(job):
    narrow = dataclasses.replace(job, plan=job.plan.with_kind(Kind("counts", "|u1")))

    class Brighter:
        def read_summed(self, indices):
            frames, sums = job.frames.read_summed(indices)
            frames[indices == 7] = 300
            return frames, sums

    brighter = dataclasses.replace(narrow, frames=Brighter())
    shard = int(np.flatnonzero(job.plan.order == 7)[0]) // 16
    assert write_one_shard(brighter, shard).needs == Kind("counts", "<u4")
    assert not shard_file(job, shard).exists()
    assert list((job.staging.root / "scratch").iterdir()) == []


def test_shard_written_for_another_guess_is_written_again(job):
    write_one_shard(job, 0)
    wider = dataclasses.replace(job, plan=job.plan.with_kind(Kind("counts", "<u4")))
    wider.plan.save(job.staging)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ptyzarr.ingestion.kinds.Kind.with_block", lambda self, block: self)
        patch.setattr(
            "ptyzarr.ingestion.kinds.Kind.stored",
            lambda self, block: block.counts.astype(self.dtype),
        )
        assert write_one_shard(wider, 0).needs is None
    assert not job.staging.finished(0, job.plan.stamp)
    assert job.staging.finished(0, wider.plan.stamp)
