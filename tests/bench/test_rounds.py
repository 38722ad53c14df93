from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ptyzarr.bench import Contender, Entry, Workload, epoch_entries, measure_epochs, run_rounds
from ptyzarr.bench.catalogue import CONTENDERS
from ptyzarr.bench.files import read_once
from ptyzarr.errors import DeviceError, ScanNotFoundError


class Notes:
    def __init__(self) -> None:
        self.stages: dict[str, list[int]] = {}
        self._stage = ""

    def start(self, stage: str, total: int, unit: str) -> None:
        del unit
        self._stage = stage
        self.stages[stage] = [total, 0]

    def advance(self, amount: int) -> None:
        self.stages[self._stage][1] += amount

    def finish(self) -> None:
        pass


@pytest.mark.slow
def test_contenders_run_side_by_side_in_processes_of_their_own(work: Workload) -> None:
    notes = Notes()
    entries = epoch_entries(work, ["window", "memmap"], budgets=["384MiB"])
    rows = run_rounds(entries, 2, 2**30, notes)
    assert [row.label for row in rows] == [
        "ptyzarr window, 320 MiB",
        "ptyzarr window, 384 MiB",
        "numpy.memmap gather",
    ]
    assert all(len(row.rates) == 2 and min(row.rates) > 0 for row in rows)
    assert all(row.facts["checked_frames"] == 32 for row in rows)
    assert all(row.added_bytes is not None and row.added_bytes > 0 for row in rows)
    assert rows[2].disk_bytes == work.path("frames.npy").stat().st_size
    assert {stage: done for stage, (total, done) in notes.stages.items() if done == total} == {
        "preparing": 4,
        "measuring": 6,
        "checking what was delivered": 3,
    }


@pytest.mark.slow
def test_an_error_of_a_contender_is_raised_in_its_own_type(work: Workload) -> None:
    broken = dataclasses.replace(work, store=str(Path(work.store) / "gone"))
    entry = Entry(label="ours", contender=CONTENDERS["window"], workload=broken)
    with pytest.raises(ScanNotFoundError, match=r"^ours: .*gone does not exist"):
        run_rounds([entry], 1, 0)


@pytest.mark.slow
def test_a_process_that_dies_is_an_error(work: Workload) -> None:
    entry = Entry(label="ours", contender=contender(key="unknown"), workload=work)
    with pytest.raises(DeviceError, match="'ours' ended; see its messages"):
        run_rounds([entry], 1, 0)


def test_a_file_is_read_whole_before_it_is_measured(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a").write_bytes(b"123")
    (tmp_path / "b").write_bytes(b"45")
    assert read_once(tmp_path) == 5
    assert read_once(tmp_path / "b") == 2


@pytest.mark.slow
def test_rows_keep_their_order_though_the_largest_files_are_read_last(work: Workload) -> None:
    pytest.importorskip("tensordict")
    report = measure_epochs(work, ["tensordict", "memmap"], n_rounds=1)
    assert [row.key for row in report.rows] == ["tensordict", "memmap"]
    assert all(row.median > 0 for row in report.rows)


def contender(**changes: object) -> Contender:
    fields = {"key": "x", "label": "x", "how": "nothing", "make": lambda _: None}
    return Contender(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param(
            {"needs": ("no_such_package",)}, "no_such_package is not installed", id="package"
        ),
        pytest.param({"resident": lambda _: 2**60}, "in memory", id="memory"),
        pytest.param({"files": ("frames.npy",)}, "needs a file of up to", id="disk"),
    ],
)
def test_who_cannot_run_is_skipped_by_name(
    changes: dict[str, object], reason: str, work: Workload
) -> None:
    entry = Entry(label="x", contender=contender(**changes), workload=work)
    (row,) = run_rounds([entry], 1, max_disk=1000)
    assert row.skipped is not None
    assert reason in row.skipped
    assert row.rates == ()


def test_ram_is_stated_with_one_thread_and_with_all(work: Workload) -> None:
    entries = epoch_entries(work, ["ram"])
    assert [entry.label for entry in entries] == [
        "RAM float32 index_select, 1 thread",
        "RAM float32 index_select, all threads",
    ]
    assert [entry.workload.n_threads for entry in entries] == [1, 2]


def test_other_budgets_have_rows_of_their_own(work: Workload) -> None:
    entries = epoch_entries(work, ["window", "memmap", "tensorstore-store"], budgets=["1GiB"])
    assert [(entry.label, entry.workload.memory) for entry in entries] == [
        ("ptyzarr window, 320 MiB", "320MiB"),
        ("ptyzarr window, 1.0 GiB", "1GiB"),
        ("numpy.memmap gather", "320MiB"),
        ("TensorStore index array, our store, 320 MiB", "320MiB"),
        ("TensorStore index array, our store, 1.0 GiB", "1GiB"),
    ]
