"""SIGTERM and Ctrl-C: no more shards are taken, status 75, one line, and the next call resumes."""

from __future__ import annotations

import os
import random
import re
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from reliability.killloop import N_FRAMES, PHASES, Children, children
from synthetic import make_arrays, make_npz

from ptyzarr.ingestion import verify
from ptyzarr.store import open_store


def start(processes: Children, source: Path, destination: Path, **job: float) -> int:
    arguments = ["ingest", str(source), str(destination), "--n-workers", "2"]
    return processes.start(arguments=arguments, seed=0, **job)


@pytest.mark.slow
def test_signals_in_every_phase_end_with_status_75_and_are_resumed(tmp_path: Path) -> None:
    chance, seen = random.Random(8), Counter[tuple[int, str]]()
    with children(tmp_path) as processes:
        for number in range(16):
            source = make_npz(tmp_path / f"{number}.npz", N_FRAMES, 8, compressed=number % 4 == 0)
            path = tmp_path / f"{number}.zarr"
            pid = start(processes, source, path)
            sent = (signal.SIGTERM, signal.SIGINT)[number % 2]
            phase = PHASES[1 + number // 2 % 5]
            processes.kill_in(pid, phase, chance.choice([0, 0.002, 0.02]), sent)
            status, log = processes.wait(pid), (tmp_path / "log").read_text()
            seen[status, processes.phase(pid)] += 1
            if status == 75:
                assert re.fullmatch(r"ptyzarr: .*interrupted.*resume\n", log), log
            else:
                assert status == 0, log
            if not path.exists():
                assert processes.wait(start(processes, source, path)) == 0
            verify(path, source)
            if status == 75:
                assert processes.wait(start(processes, source, path)) == 0
            assert not path.with_name(path.name + ".staging").exists()
    n_interrupted = sum(count for (status, _), count in seen.items() if status == 75)
    # On a busy machine a child may be past the phase, or through, when its signal comes.
    assert n_interrupted > 4, seen


@pytest.mark.slow
def test_finished_shards_are_kept_when_a_signal_comes(tmp_path: Path) -> None:
    source, path = make_npz(tmp_path / "scan.npz", N_FRAMES, 8), tmp_path / "scan.zarr"
    journal = path.with_name("scan.zarr.staging") / "journal"
    with children(tmp_path) as processes:
        pid = start(processes, source, path, pause_s=0.3)
        while not (journal.is_dir() and os.listdir(journal)):
            os.sched_yield()
        os.kill(pid, signal.SIGTERM)
        assert processes.wait(pid) == 75
        finished = os.listdir(journal)
        assert 0 < len(finished) < N_FRAMES // 8
        staged = path.with_name("scan.zarr.staging") / "store/diffraction/c"
        inodes = {
            name: (staged / Path(name).stem / "0/0").stat().st_ino
            for name in finished
            if name.endswith(".json")
        }
        assert processes.wait(start(processes, source, path)) == 0
    for name, inode in inodes.items():
        assert (path / f"diffraction/c/{Path(name).stem}/0/0").stat().st_ino == inode
    store = open_store(path)
    expected = make_arrays(N_FRAMES, 8)["diff3d"].tobytes()
    assert store.amplitude(np.arange(N_FRAMES)).tobytes() == expected
    store.close()


# Sockets and processes that the cluster leaves to the garbage collector at its end.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
def test_a_signal_while_a_cluster_writes_ends_with_status_75_and_is_resumed(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    n_frames = 4000
    source = make_npz(tmp_path / "scan.npz", n_frames, 8)
    path = tmp_path / "scan.zarr"
    journal = path.with_name("scan.zarr.staging") / "journal"
    with (
        children(tmp_path) as processes,
        distributed.LocalCluster(
            processes=True,
            n_workers=1,
            threads_per_worker=1,
            dashboard_address=None,
            local_directory=str(tmp_path / "dask"),
        ) as cluster,
    ):
        arguments = ["ingest", str(source), str(path), "--scheduler", cluster.scheduler_address]
        pid = processes.start(arguments=arguments, seed=0)
        while not (journal.is_dir() and os.listdir(journal)):
            os.sched_yield()
        os.kill(pid, signal.SIGTERM)
        assert processes.wait(pid) == 75
        # dask.distributed may say before that it lost a task.
        log = (tmp_path / "log").read_text().splitlines()
        said = [line for line in log if line.startswith("ptyzarr:")]
        assert len(said) == 1, log
        assert re.fullmatch(r"ptyzarr: .*interrupted.*resume", said[0]), log
        assert not path.exists()
        assert 0 < len(os.listdir(journal)) < n_frames // 8
        assert processes.wait(processes.start(arguments=arguments, seed=0)) == 0
    verify(path, source)
