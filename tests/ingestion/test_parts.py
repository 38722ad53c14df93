"""A scan in parts: planned once, written by whoever, published when all of it is there."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import re
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import make_arrays, make_npz, tree_state
from victim import run_victim

from ptyzarr.config import IngestConfig
from ptyzarr.errors import (
    ConfigError,
    InterruptedIngestError,
    PtyzarrError,
    ScanExistsError,
    ScanNotFoundError,
    SourceError,
)
from ptyzarr.ingestion import ingest, plan_parts, publication, publish, verify, write_part
from ptyzarr.ingestion.kinds import Kind
from ptyzarr.ingestion.plan import Plan
from ptyzarr.ingestion.staging import Staging
from ptyzarr.sources.frames import StackedFrames
from ptyzarr.store import open_store

SLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def five_shards(set_sizes):
    set_sizes(2, 8)


def write_all(source: Path, dest: Path, n_parts: int = 3, config: IngestConfig | None = None):
    return [write_part(source, dest, part, n_parts, config) for part in range(n_parts)]


def check_store(dest: Path, source: Path) -> None:
    verify(dest, source)
    with_ingest = ingest(source, dest.with_name("at-once.zarr"))
    here = open_store(dest)
    assert here.digest == with_ingest.digest
    assert {key: entry["sha256"] for key, entry in here.files.items()} == {
        key: entry["sha256"] for key, entry in with_ingest.files.items()
    }
    with_ingest.close()
    here.close()


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
@pytest.mark.parametrize("n_parts", [1, 3, 9])
def test_parts_make_the_store_that_ingest_makes(tmp_path, compressed, n_parts):
    source = make_npz(tmp_path / "scan.npz", compressed=compressed)
    dest = tmp_path / "scan.zarr"
    planned = plan_parts(source, dest)
    assert (planned.n_frames, planned.n_shards, planned.dtype) == (40, 5, "uint8")
    reports = write_all(source, dest, n_parts)
    assert sum(report.n_shards for report in reports) == 5
    assert sum(report.n_frames for report in reports) == 40
    assert not dest.exists()
    publish(dest).close()
    check_store(dest, source)
    assert sorted(os.listdir(tmp_path)) == ["at-once.zarr", "scan.npz", "scan.zarr"]


def test_deflated_scan_is_inflated_once(tmp_path, monkeypatch):
    passes = []
    blocks = StackedFrames.blocks

    def count(self: StackedFrames, max_frames: int) -> Any:
        passes.append(max_frames)
        return blocks(self, max_frames)

    monkeypatch.setattr(StackedFrames, "blocks", count)
    source = make_npz(tmp_path / "scan.npz", compressed=True)
    plan_parts(source, tmp_path / "scan.zarr")
    plan_parts(source, tmp_path / "scan.zarr")
    write_all(source, tmp_path / "scan.zarr")
    publish(tmp_path / "scan.zarr").close()
    assert len(passes) == 1


def test_every_step_may_be_repeated(tmp_path):
    source, dest = make_npz(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    for _ in range(2):
        plan_parts(source, dest)
    write_all(source, dest)
    shards = tree_state(Staging.beside(dest).store)
    plan_parts(source, dest)
    write_all(source, dest)
    assert tree_state(Staging.beside(dest).store) == shards
    publish(dest).close()
    before = tree_state(dest)
    publish(dest).close()
    assert plan_parts(source, dest).published
    assert write_part(source, dest, 0, 3).published
    assert tree_state(dest) == before
    assert sorted(os.listdir(tmp_path)) == ["scan.npz", "scan.zarr"]


def test_interrupted_part_goes_on_where_it_was(tmp_path):
    class Stop:
        def start(self, stage: str, total: int, unit: str) -> None: ...

        def advance(self, amount: int) -> None:
            raise KeyboardInterrupt

        def finish(self) -> None: ...

    source, dest = make_npz(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    one = IngestConfig(n_workers=1)
    plan_parts(source, dest)
    with pytest.raises(InterruptedIngestError, match="interrupted"):
        write_part(source, dest, 0, 1, one, progress=Stop())
    staged = Staging.beside(dest)
    written = tree_state(staged.root / "journal")
    assert 1 <= len(written) < 5
    write_part(source, dest, 0, 1, one)
    after = tree_state(staged.root / "journal")
    assert {key: after[key] for key in written} == written
    publish(dest).close()
    check_store(dest, source)


@pytest.mark.parametrize(
    ("step", "event", "number", "compressed"),
    [
        pytest.param("plan", "before check_block", 1, True, id="plan: spooling"),
        pytest.param(
            "plan", "before write_json", 2, False, id="plan: asked for, not saved", marks=SLOW
        ),
        pytest.param("plan", "after save", 1, True, id="plan: saved", marks=SLOW),
        pytest.param("part", "before check_block", 2, False, id="part: in a shard", marks=SLOW),
        pytest.param("part", "after replace", 3, False, id="part: in place, not journalled"),
        pytest.param("part", "after commit_shard", 1, True, id="part: one shard done"),
        pytest.param(
            "publish", "after write_array", 2, False, id="publish: some arrays", marks=SLOW
        ),
        pytest.param("publish", "before rename", 1, False, id="publish: not renamed"),
        pytest.param("publish", "after rename", 1, True, id="publish: staging left"),
    ],
)
def test_killed_steps_are_repeated(tmp_path, step, event, number, compressed):
    source = make_npz(tmp_path / "scan.npz", compressed=compressed)
    dest = tmp_path / "scan.zarr"

    def kill(now: str) -> None:
        if step == now:
            assert run_victim(source, dest, event, number, step=step)

    kill("plan")
    plan_parts(source, dest)
    kill("part")
    write_all(source, dest, 2)
    kill("publish")
    publish(dest).close()
    check_store(dest, source)
    assert sorted(os.listdir(tmp_path)) == ["at-once.zarr", "scan.npz", "scan.zarr"]


def test_same_part_may_be_written_many_times_at_once(tmp_path):
    source, dest = make_npz(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    plan_parts(source, dest)
    with ThreadPoolExecutor(4) as pool:
        parts = [pool.submit(write_part, source, dest, part, 2) for part in (0, 1, 0, 1)]
        for part in parts:
            part.result()
    publish(dest).close()
    check_store(dest, source)


@pytest.mark.parametrize(
    ("part", "n_parts"), [(0, 0), (3, 3), (-1, 3), pytest.param(5, 2, id="beyond")]
)
def test_part_that_is_none_of_n_is_refused(tmp_path, part, n_parts):
    with pytest.raises(ConfigError, match="expected i/n"):
        write_part(tmp_path / "scan.npz", tmp_path / "scan.zarr", part, n_parts)


@pytest.mark.parametrize("option", [{"scheduler": "tcp://x:1"}, {"staging": "/scratch"}], ids=str)
def test_part_goes_without_a_scheduler_and_a_staging_folder(tmp_path, option):
    with pytest.raises(ConfigError, match="exclude each other"):
        write_part("a.npz", tmp_path / "a.zarr", 0, 2, IngestConfig(**option))


def test_part_without_a_plan_says_what_to_run(tmp_path):
    source = make_npz(tmp_path / "scan.npz")
    with pytest.raises(ScanNotFoundError, match=r"run 'ptyzarr plan .*scan\.zarr' first"):
        write_part(source, tmp_path / "scan.zarr", 0, 2)
    assert os.listdir(tmp_path) == ["scan.npz"]


def test_part_of_another_plan_is_refused(tmp_path):
    source, dest = make_npz(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    other = make_npz(tmp_path / "other.npz", seed=5)
    plan_parts(source, dest)
    before = tree_state(tmp_path)
    with pytest.raises(ScanExistsError, match="another source or of other options"):
        write_part(other, dest, 0, 2)
    with pytest.raises(ScanExistsError, match="repeat the options"):
        write_part(source, dest, 0, 2, IngestConfig(layout="acquisition"))
    assert tree_state(tmp_path) == before


def test_missing_parts_are_named(tmp_path):
    source, dest = make_npz(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    plan_parts(source, dest)
    with pytest.raises(InterruptedIngestError, match=r"lacks shards 0, 1, 2, 3, 4; .*every part"):
        publish(dest)
    write_part(source, dest, 1, 3)
    with pytest.raises(InterruptedIngestError, match=r"lacks shards 0, 2, 3; .*--part 0/3, 2/3, "):
        publish(dest)
    write_part(source, dest, 0, 3)
    write_part(source, dest, 2, 3)
    publish(dest).close()
    check_store(dest, source)


@pytest.mark.parametrize("what", ["store/diffraction/c/1/0/0", "records/1.bin"])
def test_shard_that_was_damaged_after_its_part_is_named_and_repaired(tmp_path, what):
    source, dest = make_npz(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    plan_parts(source, dest)
    write_all(source, dest)
    path = Staging.beside(dest).root / what
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(InterruptedIngestError, match=r"lacks shards 1; .*--part 1/3, "):
        publish(dest)
    assert not dest.exists()
    write_part(source, dest, 1, 3)
    publish(dest).close()
    check_store(dest, source)


def test_destination_without_plan_or_store_says_what_to_run(tmp_path):
    with pytest.raises(ScanNotFoundError, match="run 'ptyzarr plan SOURCE"):
        publish(tmp_path / "scan.zarr")
    assert os.listdir(tmp_path) == []


def test_interrupted_ingest_is_no_plan_to_publish(tmp_path):
    source, dest = make_npz(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    plan_parts(source, dest)
    Staging.beside(dest).request.unlink()
    with pytest.raises(ScanExistsError, match="run 'ptyzarr ingest"):
        publish(dest)


def wide_scan(path: Path, compressed: bool = False) -> Path:
    """Write a scan of which one frame needs more than the others; see `narrow_sample`."""
    frames = make_arrays()["diff3d"]
    frames[21, 3, 3] = np.sqrt(np.float32(70_000))
    return make_npz(path, diff3d=frames, compressed=compressed)


@pytest.fixture
def narrow_sample(monkeypatch):
    monkeypatch.setattr("ptyzarr.ingestion.kinds.SAMPLE_FRAMES", 2)


@pytest.mark.parametrize("at_once", [False, True], ids=["in turn", "at once"])
def test_wider_count_found_by_one_part_is_planned_again(tmp_path, narrow_sample, at_once):
    source, dest = wide_scan(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    assert plan_parts(source, dest).dtype == "uint8"

    def attempt(part: int) -> str:
        try:
            write_part(source, dest, part, 3)
        except InterruptedIngestError as error:
            return str(error)
        return "done"

    with ThreadPoolExecutor(3 if at_once else 1) as pool:
        results = list(pool.map(attempt, range(3)))
    failed = [result for result in results if result != "done"]
    assert failed
    assert all("again, then every part" in text for text in failed)
    with pytest.raises(InterruptedIngestError, match=r"run 'ptyzarr plan .* again"):
        publish(dest)
    assert plan_parts(source, dest).dtype == "uint32"
    write_all(source, dest)
    publish(dest).close()
    check_store(dest, source)


def test_plan_of_a_deflated_scan_needs_no_second_one(tmp_path, narrow_sample):
    source, dest = wide_scan(tmp_path / "scan.npz", compressed=True), tmp_path / "scan.zarr"
    assert plan_parts(source, dest).dtype == "uint32"
    write_all(source, dest)
    publish(dest).close()
    check_store(dest, source)


def test_part_of_a_plan_that_is_replaced_meanwhile_stops(tmp_path, monkeypatch, narrow_sample):
    """A straggler of a given-up plan must not put its shards among those of the new one."""
    source, dest = wide_scan(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    config = IngestConfig(layout="acquisition", n_workers=1)
    plan_parts(source, dest, config)
    read, replaced = StackedFrames.read_summed, []

    def replace_then_read(self: StackedFrames, indices: np.ndarray) -> Any:
        if not replaced:
            replaced.append(True)
            staging = Staging.beside(dest)
            staging.write_json(staging.needs / "uint32.json", Kind("counts", "<u4"))
            plan_parts(source, dest, config)
        return read(self, indices)

    monkeypatch.setattr(StackedFrames, "read_summed", replace_then_read)
    with pytest.raises(Exception, match=r"again|resume"):
        write_part(source, dest, 0, 2, config)
    assert tree_state(Staging.beside(dest).store) == {}
    for part in range(2):
        write_part(source, dest, part, 2, config)
    publish(dest).close()
    verify(dest, source)


def test_late_shard_of_a_given_up_plan_is_not_published(tmp_path):
    source, dest = make_npz(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    plan_parts(source, dest)
    write_all(source, dest)
    stray = Staging.beside(dest).store / "diffraction/c/7/0/0"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"late")
    publish(dest).close()
    check_store(dest, source)
    assert not (dest / "diffraction/c/7").exists()


def test_refused_frame_is_named_by_its_part_and_nothing_is_published(tmp_path, narrow_sample):
    frames = make_arrays()["diff3d"]
    frames[21, 3, 3] = np.nan
    source, dest = make_npz(tmp_path / "scan.npz", diff3d=frames), tmp_path / "scan.zarr"
    plan_parts(source, dest)
    (shard,) = [part for part in range(5) if is_refused(source, dest, part)]
    with pytest.raises(PtyzarrError, match=f"part {shard}/5: .*frame 21 .*; mend the source"):
        publish(dest)
    config = IngestConfig(nonfinite="mask")
    plan_parts(source, dest, config)
    write_all(source, dest, config=config)
    publish(dest).close()
    verify(dest, source)


def is_refused(source: Path, dest: Path, part: int) -> bool:
    try:
        write_part(source, dest, part, 5)
    except SourceError as error:
        return "frame 21" in str(error)
    return False


def test_refused_plan_leaves_nothing(tmp_path):
    frames = make_arrays()["diff3d"]
    frames[0, 3, 3] = -1
    source = make_npz(tmp_path / "scan.npz", diff3d=frames)
    with pytest.raises(SourceError, match="frame 0"):
        plan_parts(source, tmp_path / "scan.zarr")
    assert os.listdir(tmp_path) == ["scan.npz"]


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_source_that_changes_between_plan_and_publication_is_never_published(tmp_path, compressed):
    source, dest = make_npz(tmp_path / "scan.npz", compressed=compressed), tmp_path / "scan.zarr"
    plan_parts(source, dest)
    write_all(source, dest)
    make_npz(source, seed=9, compressed=compressed)
    with pytest.raises(InterruptedIngestError, match="run 'ptyzarr plan"):
        publish(dest)
    assert not dest.exists()


def test_frames_that_fail_their_checksum_are_never_published(tmp_path):
    source, dest = make_npz(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    raw = bytearray(source.read_bytes())
    place = raw.index(make_arrays()["diff3d"][20].tobytes()) + 8 * 17 * 4
    raw[place : place + 4] = np.float32(3).tobytes()
    source.write_bytes(raw)
    plan_parts(source, dest)
    write_all(source, dest)
    with pytest.raises(SourceError, match=r"CRC|checksum"):
        publish(dest)
    assert os.listdir(tmp_path) == ["scan.npz"]


def test_two_publishers_at_once_both_succeed(tmp_path, monkeypatch):
    monkeypatch.setattr(publication, "POLL_S", 0.001)
    source, dest = make_npz(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    plan_parts(source, dest)
    write_all(source, dest)
    together, published = threading.Barrier(3), []
    rename = os.rename

    def count(one: Any, other: Any) -> None:
        published.append(other)
        rename(one, other)

    def call() -> str:
        together.wait()
        store = publish(dest)
        store.close()
        return store.digest

    monkeypatch.setattr(os, "rename", count)
    with ThreadPoolExecutor(3) as pool:
        digests = {future.result() for future in [pool.submit(call) for _ in range(3)]}
    assert len(digests) == 1
    assert published.count(dest) == 1
    check_store(dest, source)


def test_publisher_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(publication, "WAIT_S", 0.0)
    source, dest = make_npz(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    plan_parts(source, dest)
    (Staging.beside(dest).root / "lock").write_text('{"token": "x", "host": "elsewhere"}')
    with pytest.raises(ScanExistsError, match="on elsewhere"):
        publish(dest)


def test_publisher_says_once_that_it_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(publication, "POLL_S", 0.0)
    source, dest = make_npz(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    plan_parts(source, dest)
    write_all(source, dest)
    held = Staging.beside(dest).root / "lock"
    held.write_text('{"token": "x", "host": "elsewhere"}')
    said, sleep = [], publication.time.sleep

    def release(duration_s: float) -> None:
        if said and rounds.pop() == 0:
            held.unlink()
        sleep(duration_s)

    rounds = [0, 1, 2]
    monkeypatch.setattr(publication.time, "sleep", release)
    publish(dest, on_wait=said.append).close()
    assert len(said) == 1
    assert "is being written by process unknown on elsewhere" in said[0]


def test_publisher_does_not_wait_for_what_is_no_lock(tmp_path):
    source, dest = make_npz(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    plan_parts(source, dest)
    (Staging.beside(dest).root / "lock").mkdir()
    with pytest.raises(ScanExistsError, match="no regular file"):
        publish(dest)


@pytest.mark.parametrize("moment", ["plan", "frames"])
def test_part_that_meets_publication_is_done(tmp_path, monkeypatch, moment):
    """A part that is repeated while its store is published finds its folder gone."""
    source, dest = make_npz(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    plan_parts(source, dest)
    write_all(source, dest)
    owner, name = (Plan, "load") if moment == "plan" else (Staging, "finished")
    inner = vars(owner)[name]
    function = getattr(inner, "__func__", inner)
    seen = []

    def publish_first(*args: Any) -> Any:
        if not seen:
            seen.append(True)
            publish(dest).close()
        return function(*args)

    is_method = isinstance(inner, classmethod)
    monkeypatch.setattr(owner, name, classmethod(publish_first) if is_method else publish_first)
    assert write_part(source, dest, 0, 3).published
    assert sorted(os.listdir(tmp_path)) == ["scan.npz", "scan.zarr"]


def test_parts_replace_another_store_only_if_asked(tmp_path):
    old, new = make_npz(tmp_path / "old.npz", seed=1), make_npz(tmp_path / "new.npz", seed=2)
    dest = tmp_path / "scan.zarr"
    ingest(old, dest).close()
    with pytest.raises(ScanExistsError, match="--overwrite"):
        plan_parts(new, dest)
    config = IngestConfig(overwrite=True)
    plan_parts(new, dest, config)
    write_all(new, dest, config=config)
    open_store(dest).close()
    publish(dest).close()
    verify(dest, new)


def test_ingest_finishes_what_parts_began(tmp_path):
    source, dest = make_npz(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    plan_parts(source, dest)
    write_part(source, dest, 0, 2)
    ingest(source, dest).close()
    check_store(dest, source)


def test_relative_paths_are_those_of_the_plan(tmp_path, monkeypatch):
    make_npz(tmp_path / "scan.npz")
    monkeypatch.chdir(tmp_path)
    plan_parts("scan.npz", "scan.zarr")
    write_part("scan.npz", "scan.zarr", 0, 1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    publish(tmp_path / "scan.zarr").close()
    verify(tmp_path / "scan.zarr", tmp_path / "scan.npz")


def test_plan_may_be_made_with_other_memory_than_its_parts(tmp_path):
    source, dest = make_npz(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    plan_parts(source, dest, IngestConfig(memory="300MiB", n_workers=1))
    write_all(source, dest, config=dataclasses.replace(IngestConfig(), memory="2GiB"))
    publish(dest).close()
    check_store(dest, source)


@pytest.fixture
def network_disk(monkeypatch, tmp_path):
    """Let calls behave as on NFS or Lustre at their worst."""

    def report_missing(function: Any) -> Any:
        def move(one: Any, other: Any) -> None:
            function(one, other)
            # zarr's own renames have no such door: they are errors, and a repetition resumes.
            if str(one).startswith(str(tmp_path)) and not str(one).endswith(".partial"):
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(one))

        return move

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    def flush(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            refuse()

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, report_missing(getattr(os, name)))
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)


@pytest.mark.parametrize("way", ["parts", "at once"])
def test_network_disk_that_misreports_and_lacks_locks_holds_the_same_store(
    tmp_path, network_disk, monkeypatch, way
):
    source, dest = make_npz(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    if way == "parts":
        plan_parts(source, dest)
        write_all(source, dest)
        publish(dest).close()
    else:
        ingest(source, dest).close()
    verify(dest, source)
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["scan.npz", "scan.zarr"]


_SBATCH = """#!/bin/bash
# What sbatch does with the documented script, at once: the tasks of an array run together.
for argument; do
  case $argument in --array=0-*) last=${argument#--array=0-} ;; esac
  command=$argument
done
pids=()
for task in $(seq 0 "${last:-0}"); do
  SLURM_ARRAY_TASK_ID=$task bash -c "$command" >&2 & pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || exit 1; done
echo 7
"""


def test_documented_array_script_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs/cluster.md").read_text()
    script = re.search(r"```bash\n(#!/bin/bash\n# usage: .*?)```", text, re.DOTALL)
    assert script is not None
    commands = tmp_path / "bin"
    commands.mkdir()
    program = f'#!/bin/bash\nexec "{sys.executable}" -m ptyzarr "$@"\n'
    for name, content in {"sbatch": _SBATCH, "ptyzarr": program}.items():
        (commands / name).write_text(content)
        (commands / name).chmod(0o755)
    (tmp_path / "submit.sh").write_text(script[1])
    source = make_npz(tmp_path / "my scan.npz", n_frames=9000, N=8)
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    arguments = [tmp_path / "submit.sh", source, tmp_path / "my scan.zarr", "2"]
    done = subprocess.run(["bash", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "part 1/2, 1 shards, 4096 frames" in done.stderr
    verify(tmp_path / "my scan.zarr", source)


@pytest.mark.parametrize(
    ("part", "n_parts"),
    [
        pytest.param(0, 10**5000, id="thousands of digits"),
        pytest.param(10**5000, 10**5000 + 1, id="both"),
        pytest.param(0, 10**300, id="hundreds of digits"),
        pytest.param(0.0, 4, id="no integer"),
        pytest.param("0", "4", id="text"),
        pytest.param(-(10**5000), 4, id="far below"),
    ],
)
def test_part_that_cannot_be_is_one_line(tmp_path, part, n_parts):
    source = make_npz(tmp_path / "scan.npz")
    with pytest.raises(ConfigError, match=r"expected .*i/n") as caught:
        write_part(source, tmp_path / "scan.zarr", part, n_parts)
    assert len(str(caught.value)) < 200


def test_publisher_says_what_a_part_refused(tmp_path, narrow_sample):
    frames = make_arrays()["diff3d"].copy()
    frames[29, 3, 4] = np.nan
    source, dest = make_npz(tmp_path / "scan.npz", diff3d=frames), tmp_path / "scan.zarr"
    plan_parts(source, dest)
    said = []
    for part in range(3):
        try:
            write_part(source, dest, part, 3)
        except SourceError as error:
            said.append(str(error))
    assert len(said) == 1
    with pytest.raises(PtyzarrError, match=re.escape(said[0])) as caught:
        publish(dest)
    assert caught.value.code != "interrupted"  # nothing would come of the same command again
    assert "repeat" not in str(caught.value)
    assert Staging.beside(dest).plan.is_file()


def test_refusal_of_a_part_that_is_done_by_now_is_forgotten(tmp_path, monkeypatch):
    source, dest = make_npz(tmp_path / "scan.npz"), tmp_path / "scan.zarr"
    plan_parts(source, dest)

    def refuse(*_: Any) -> None:
        raise SourceError("the disk gave other bytes for once")

    with monkeypatch.context() as patch:
        patch.setattr("ptyzarr.ingestion.parts.write_shards", refuse)
        with pytest.raises(SourceError, match="for once"):
            write_part(source, dest, 1, 3)
    with pytest.raises(PtyzarrError, match=r"part 1/3: .* for once"):
        publish(dest)
    write_all(source, dest)
    publish(dest).close()
    check_store(dest, source)
