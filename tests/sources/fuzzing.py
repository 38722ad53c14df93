"""Random damage and forgery: how the fuzz tests run, and what they compare with.

Whatever the bytes, a reader either refuses with one line, or gives what NumPy gives. A longer form
runs with more examples: ``PTYZARR_FUZZ_EXAMPLES=5000 pytest tests/sources -k fuzz``.
"""

from __future__ import annotations

import contextlib
import os
import tracemalloc
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings

from ptyzarr.errors import PtyzarrError
from ptyzarr.scan import Scan
from ptyzarr.sources import open_source

from .contracts import read_everything
from .npzfiles import (
    make_arrays,
)

_EXAMPLES = int(os.environ.get("PTYZARR_FUZZ_EXAMPLES", "0"))


def fuzzed(short: int) -> Any:
    """Return settings of a fuzz test; what takes half a minute for small files is a hang."""
    return settings(
        deadline=timedelta(seconds=30),
        max_examples=_EXAMPLES or short,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@contextlib.contextmanager
def bounded_memory(nbytes: int) -> Iterator[None]:
    """Fail if Python and NumPy hold more than this at once."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < nbytes


def check_message(error: PtyzarrError, name: str) -> None:
    """A message is one line that names the file and says what was found and expected."""
    text = str(error)
    assert text.isprintable()
    assert len(text) < 1500
    assert text.startswith(f"{name}: ")
    assert "; expected " in text


def read_or_refuse(path: Path) -> tuple[Scan, dict[str, Any]] | None:
    """Return a scan and all its values, or None where it was refused as it should be."""
    try:
        scan = open_source(path, max_resident=2**24)
        return scan, read_everything(scan)
    except PtyzarrError as error:
        check_message(error, path.name)
        return None


def check_against_numpy(path: Path) -> bool:
    """Return whether a file was accepted, after comparing with what NumPy reads of it.

    NumPy comes second: it may crash, or allocate whatever a header says, where we refuse.
    """
    accepted = read_or_refuse(path)
    if accepted is None:
        return False
    scan, values = accepted
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None  # every checksum holds in another implementation too
        infos = archive.infolist()
        assert [(m.name, m.size, m.crc32) for m in scan.members] == [
            (info.orig_filename, info.file_size, info.CRC) for info in infos
        ]
    assert same(values["frames"], numpy_array(path, next(iter(scan.lengths))))
    assert same(values["probe_guess"], numpy_array(path, "probeGuess"))
    for axis, key in enumerate(("xcoords", "ycoords")):
        assert np.array_equal(values["positions"][:, axis], numpy_array(path, key))
    return True


def numpy_array(path: Path, key: str) -> np.ndarray:
    """Return a member as NumPy reads it; `numpy.load` itself wants a zip file's first byte."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as stream:
        return np.ascontiguousarray(np.lib.format.read_array(stream, allow_pickle=False))


def same(one: Any, other: Any) -> bool:
    """Return whether two arrays, or lists of them, have the same values bit for bit."""
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if one is None or other is None:
        return one is other
    other = other.astype(one.dtype) if one.dtype == other.dtype.newbyteorder("=") else other
    return (one.dtype, one.shape) == (other.dtype, other.shape) and (
        one.tobytes() == other.tobytes()
    )


def scan_arrays() -> dict[str, Any]:
    return make_arrays(n=5, size=3) | {
        "objectGuess": np.asfortranarray(np.arange(6.0).reshape(2, 3) + 1j),
        "scan_index": np.arange(5, dtype=">i4"),
        "table": np.asfortranarray(np.arange(12, dtype=">u2").reshape(3, 4)),
        "_metadata": np.array('{"k": 1}'),
        "note.txt": b"text",
    }
