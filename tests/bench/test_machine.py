from __future__ import annotations

import socket
from pathlib import Path

import numpy as np

from ptyzarr.bench import describe_machine, package_versions
from ptyzarr.bench.machine import folder_nbytes, forget_peak
from ptyzarr.memory import resident_memory


def test_the_machine_is_described_without_its_name() -> None:
    facts = describe_machine()
    assert facts["cores"] >= 1
    assert facts["cpu"]
    assert socket.gethostname() not in facts.values()


def test_versions_are_those_installed() -> None:
    assert package_versions()["numpy"] == np.__version__


def test_the_peak_can_be_forgotten_and_rises_again() -> None:
    nbytes = 64 * 2**20
    np.ones(nbytes, np.uint8)
    if not forget_peak():
        return
    before = resident_memory()
    assert before is not None
    block = np.ones(nbytes, np.uint8)
    after = resident_memory()
    assert after is not None
    assert after[1] - before[0] > 0.9 * block.nbytes
    assert resident_memory(2**30) is None


def test_a_folder_has_the_size_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"12345")
    (tmp_path / "y").write_bytes(b"123")
    assert folder_nbytes(tmp_path) == 8
    assert folder_nbytes(tmp_path / "y") == 3
