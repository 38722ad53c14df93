"""No single flipped bit, and no lost or swapped file, goes unnoticed."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import pytest
from reliability.flips import all_bits, flip_bits, is_refused, make_tiny_store

from ptyzarr.cli import main
from ptyzarr.errors import PtyzarrError
from ptyzarr.ingestion import verify
from ptyzarr.store import open_store


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_tiny_store(tmp_path)


def keys(store: Path) -> list[str]:
    return [p.relative_to(store).as_posix() for p in sorted(store.rglob("*")) if p.is_file()]


def test_flipped_bits_are_found_by_verify_and_where_they_are_read(tiny: Path) -> None:
    """A sample of each file; `benchmarks/reliability.py` flips every bit."""
    bits, chance = list(all_bits(tiny)), random.Random(11)
    by_key = {key: [bit for bit in bits if bit[0] == key] for key in keys(tiny)}
    sample = [bit for some in by_key.values() for bit in chance.sample(some, 12)]
    sample += chance.sample(by_key["zarr.json"], 100)
    report = flip_bits(tiny, sample)
    assert report.missed == []
    assert report.flips == report.found == len(sample)
    assert report.read == report.refused > 200
    verify(tiny)


@pytest.mark.parametrize("key", ["zarr.json", "diffraction/c/1/0/0", "extra/note/c/0"])
def test_flip_is_exit_status_4(tiny: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    raw = bytearray((tiny / key).read_bytes())
    raw[len(raw) // 2] ^= 1
    (tiny / key).write_bytes(raw)
    with pytest.raises(SystemExit, match="4"):
        main(["verify", str(tiny)])
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("damage", ["missing", "empty", "longer"])
def test_lost_file_is_an_error_for_every_reader(tiny: Path, damage: str) -> None:
    for key in keys(tiny):
        path = tiny / key
        raw = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(b"" if damage == "empty" else raw + b"\n")
        with pytest.raises(PtyzarrError):
            verify(tiny)
        with pytest.raises(PtyzarrError):
            open_store(tiny)
        path.write_bytes(raw)
    verify(tiny)


def test_file_that_goes_after_opening_is_an_error_not_zeros(tiny: Path) -> None:
    for key in keys(tiny):
        if "/c" not in key:
            continue
        store = open_store(tiny)
        os.rename(tiny / key, tiny / "away")
        node = key.partition("/c")[0]
        with pytest.raises((PtyzarrError, ValueError)):
            store.amplitude([0, 1, 2, 3, 4, 5]) if node == "diffraction" else store.array(node)[...]
        os.rename(tiny / "away", tiny / key)
        store.close()


def test_any_two_swapped_files_are_found(tiny: Path) -> None:
    pairs = list(itertools.combinations(keys(tiny), 2))
    chance = random.Random(12)
    for one, other in chance.sample(pairs, 60):
        if (tiny / one).read_bytes() == (tiny / other).read_bytes():
            continue
        swap(tiny / one, tiny / other)
        with pytest.raises(PtyzarrError):
            verify(tiny)
        sizes = {(tiny / name).stat().st_size for name in (one, other)}
        assert len(sizes) == 1 or is_refused(tiny, one)
        swap(tiny / one, tiny / other)
    verify(tiny)


def swap(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
