"""Single bits of a tiny store are flipped, one at a time, and looked for."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from synthetic import make_arrays, make_npz

from ptyzarr.config import IngestConfig
from ptyzarr.errors import PtyzarrError, VerificationError
from ptyzarr.ingestion import ingest, plan, verify
from ptyzarr.ingestion.layout import Sizes
from ptyzarr.store import ROOT_KEY, open_store


@dataclasses.dataclass
class FlipReport:
    """How many flips were found.

    Attributes
    ----------
    flips, found
        Bits flipped, and those that `verify` reported.
    read, refused
        Bits of chunks that were read, and those whose reading was an error.
    missed
        Where a flip was not found: key, byte, bit, and by what.
    """

    flips: int = 0
    found: int = 0
    read: int = 0
    refused: int = 0
    missed: list[tuple[str, int, int, str]] = dataclasses.field(default_factory=list)


def make_tiny_store(folder: Path) -> Path:
    """Ingest a scan of six frames of 4x4 pixels with an extra and a masked pixel."""
    arrays = make_arrays(6, 4)
    arrays["diff3d"][2, 1, 1] = np.nan
    source = make_npz(folder / "tiny.npz", **arrays, note=np.array("text"))
    chosen = plan.choose_sizes
    plan.choose_sizes = lambda *_: Sizes(1, 2, 16)
    try:
        ingest(source, folder / "tiny.zarr", IngestConfig(nonfinite="mask")).close()
    finally:
        plan.choose_sizes = chosen
    return folder / "tiny.zarr"


def all_bits(store: Path) -> Iterator[tuple[str, int, int]]:
    """Yield key, byte and bit of every bit of every file."""
    for path in sorted(path for path in store.rglob("*") if path.is_file()):
        key = path.relative_to(store).as_posix()
        for position, bit in itertools.product(range(path.stat().st_size), range(8)):
            yield key, position, bit


def flip_bits(store: Path, bits: Iterable[tuple[str, int, int]]) -> FlipReport:
    """Flip each bit alone, verify, read what it belongs to, and flip it back."""
    report = FlipReport()
    for key, position, bit in bits:
        path = store / key
        flip(path, position, bit)
        report.flips += 1
        if is_reported(store):
            report.found += 1
        else:
            report.missed.append((key, position, bit, "verify"))
        if key == ROOT_KEY or "/c" in key:
            report.read += 1
            if is_refused(store, key):
                report.refused += 1
            else:
                report.missed.append((key, position, bit, "reading"))
        flip(path, position, bit)
    return report


def flip(path: Path, position: int, bit: int) -> None:
    """Flip one bit of a file in place."""
    fd = os.open(path, os.O_RDWR)
    try:
        (byte,) = os.pread(fd, 1, position)
        os.pwrite(fd, bytes([byte ^ (1 << bit)]), position)
    finally:
        os.close(fd)


def is_reported(store: Path) -> bool:
    """Return whether `verify` says that the store is damaged."""
    try:
        verify(store)
    except VerificationError:
        return True
    return False


def is_refused(store: Path, key: str) -> bool:
    """Return whether opening the store, or reading the array of a file, is an error."""
    try:
        opened = open_store(store)
    except PtyzarrError:
        return True
    try:
        read_node(opened, key.partition("/c")[0])
    except (PtyzarrError, ValueError, RuntimeError):  # extras are read by zarr itself
        return True
    finally:
        opened.close()
    return False


def read_node(store: Any, node: str) -> None:
    """Read all of an array the way a user would."""
    if node == "diffraction":
        store.amplitude(np.arange(store.n_frames))
    elif "/" in node:
        np.asarray(store.array(node)[...])
    else:
        getattr(store, node)
