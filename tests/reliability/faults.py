"""Calls to the operating system that fail, one at a time, in the middle of real work."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import importlib
import io
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from synthetic import make_arrays, make_npz

from ptyzarr.config import IngestConfig
from ptyzarr.errors import PtyzarrError
from ptyzarr.ingestion import ingest, repair, verify
from ptyzarr.store import open_store

#: Calls that fail, by name, and how.
CALLS = {
    "os.replace": os,
    "os.rename": os,
    "os.fsync": os,
    "os.open": os,
    "os.mkdir": os,
    "os.unlink": os,
    "os.stat": os,
    "os.scandir": os,
    "io.open": io,
}
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EACCES": errno.EACCES}
#: The call does what it is asked for and then reports that it did not, as on NFS.
AFTER = "ENOENT after success"
OPERATIONS = ("ingest", "ingest deflated", "overwrite", "repair")
N_FRAMES = 40


@dataclasses.dataclass(frozen=True)
class Fault:
    """One call that fails.

    Attributes
    ----------
    call, error
        Keys of `CALLS` and `ERRORS`, or `AFTER`.
    number
        Which call of the operation, from 0.
    """

    call: str
    error: str
    number: int


class Work:
    """An operation on a small scan, from the same beginning every time.

    Parameters
    ----------
    folder
        For its files.
    operation
        One of `OPERATIONS`.
    """

    def __init__(self, folder: Path, operation: str) -> None:
        self._folder, self._operation = folder, operation
        self._start = folder / "start"
        self._start.mkdir(parents=True)
        self.source = make_npz(
            self._start / "scan.npz", N_FRAMES, 8, compressed=operation == "ingest deflated"
        )
        self._new = make_arrays(N_FRAMES, 8)["diff3d"].tobytes()
        if operation == "overwrite":
            old = make_npz(folder / "old.npz", N_FRAMES, 8, seed=1)
            ingest(old, self._start / "scan.zarr").close()
        if operation == "repair":
            ingest(self.source, self._start / "scan.zarr").close()
            for key in ("diffraction/c/1/0/0", "positions/c/0/0", "diffraction/c/4/0/0"):
                os.truncate(self._start / "scan.zarr" / key, 9)

    def reset(self) -> Path:
        """Return a fresh copy of the beginning."""
        place = self._folder / "work"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self._start, place)
        return place

    def run(self, place: Path) -> None:
        """Do it."""
        if self._operation == "repair":
            repair(place / "scan.zarr", place / "scan.npz")
        else:
            config = IngestConfig(overwrite=self._operation == "overwrite", n_workers=2)
            ingest(place / "scan.npz", place / "scan.zarr", config).close()

    def look(self, place: Path) -> str:
        """Return what is there: nothing, the old store, the new one, or one that is an error."""
        path = place / "scan.zarr"
        if not os.path.lexists(path):
            return "nothing"
        try:
            store = open_store(path)
        except PtyzarrError as error:
            return f"error: {error}"
        frames = store.amplitude(np.arange(N_FRAMES)).tobytes()
        store.close()
        return "new" if frames == self._new else "old"

    def allowed(self) -> tuple[str, ...]:
        """Return what may be there after a failure, besides the new store."""
        return {"overwrite": ("old",), "repair": ("error",)}.get(self._operation, ("nothing",))


def check_fault(work: Work, fault: Fault) -> str:
    """Run an operation with a fault and again without; return what is wrong, or nothing.

    After the first run there is what was there before or the new store, and an error of ours on
    one line if it did not succeed. After the second there is the new store and nothing else.
    """
    place = work.reset()
    message = None
    with failing(fault) as calls:
        try:
            work.run(place)
        except PtyzarrError as error:
            message = str(error)
        except Exception as error:  # noqa: BLE001  any other error is what is looked for
            return f"{fault}: {type(error).__name__}: {error}"
    if calls[0] <= fault.number:
        return ""  # there are fewer calls this time
    found = work.look(place).partition(":")[0]
    if found != "new" and (message is None or found not in work.allowed()):
        return f"{fault}: {found} is there after {message!r}"
    if found == "new" and "nothing was published" in str(message):
        return f"{fault}: publishes, but says {message!r}"
    if message is not None and ("\n" in message or ";" not in message):
        return f"{fault}: says {message!r}"
    return _go_on(work, place, fault)


def _go_on(work: Work, place: Path, fault: Fault) -> str:
    try:
        work.run(place)
        verify(place / "scan.zarr", place / "scan.npz")
    except PtyzarrError as error:
        return f"{fault}: cannot go on: {error}"
    left = sorted(os.listdir(place))
    return "" if left == ["scan.npz", "scan.zarr"] else f"{fault}: leaves {left}"


def count_calls(work: Work, call: str) -> int:
    """Return how often an operation makes a call when nothing fails."""
    place = work.reset()
    with failing(Fault(call, "EIO", -1)) as calls:
        work.run(place)
    return calls[0]


@contextlib.contextmanager
def failing(fault: Fault) -> Iterator[list[int]]:
    """Let one call fail; give the number of calls so far."""
    owner, name = CALLS[fault.call], fault.call.partition(".")[2]
    real: Callable[..., Any] = getattr(owner, name)
    calls, lock = [0], threading.Lock()

    def call(*args: Any, **kwargs: Any) -> Any:
        with lock:
            fails = calls[0] == fault.number
            calls[0] += 1
        if not fails:
            return real(*args, **kwargs)
        if fault.error == AFTER:
            real(*args, **kwargs)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        code = ERRORS[fault.error]
        raise OSError(code, os.strerror(code))

    setattr(owner, name, call)
    try:
        yield calls
    finally:
        setattr(owner, name, real)


@contextlib.contextmanager
def native_pread(answer: Callable[[int, int, int], bytes | None]) -> Iterator[None]:
    """Let compiled code read what ``answer(fd, nbytes, offset)`` gives; None is an error."""

    def pread(fd: int, address: int, nbytes: int, offset: int) -> int:
        data = answer(fd, nbytes, offset)
        if data is None:
            return -1
        ctypes.memmove(address, data, len(data))
        return len(data)

    places = [("ptyzarr.sources.fileaccess", "native_reads")]
    places += [("ptyzarr.store.scanstore", "native_functions")]
    with contextlib.ExitStack() as stack:
        for module, name in places:
            owner = importlib.import_module(module)
            real = getattr(owner, name)
            native = real()
            if native is not None:
                changed = dataclasses.replace(native, pread=type(native.pread)(pread))
                setattr(owner, name, lambda changed=changed: changed)
                stack.callback(setattr, owner, name, real)
        yield
