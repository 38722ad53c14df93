"""Many scans, one store each: what fails is told at the end, what is there is left alone."""

from __future__ import annotations

import dataclasses
import glob
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from ptyzarr.config import IngestConfig
from ptyzarr.errors import (
    BudgetError,
    ConfigError,
    DeviceError,
    PtyzarrError,
    ScanExistsError,
    ScanNotFoundError,
)
from ptyzarr.ingestion.destination import ingest_and_land
from ptyzarr.ingestion.landing import Landing
from ptyzarr.progress import Progress, Silent
from ptyzarr.store import ROOT_KEY, RemoteFolder, is_url, natural_key, remote_access


@dataclasses.dataclass(frozen=True, slots=True)
class ScanOutcome:
    """What became of one of many scans.

    Attributes
    ----------
    source, store
        Paths.
    status
        ``"done"``, ``"present"`` (the store held this source already) or ``"failed"``.
    code, message
        Of the error of a failed scan, else None.
    seconds
        How long it took.
    """

    source: str
    store: str
    status: Literal["done", "present", "failed"]
    code: str | None
    message: str | None
    seconds: float


def find_sources(patterns: Iterable[str]) -> list[str]:
    """Return the files that names and glob patterns stand for, each once, in natural order.

    Patterns may come quoted, so that a long list never passes through a shell. ``**`` matches
    folders of any depth. A name that exists is taken as it is, whatever characters it has; one
    that does not exist and is no pattern is kept, and fails when it is ingested.

    Raises
    ------
    ScanNotFoundError
        If a pattern matches nothing.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        for path in _matches(pattern):
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def is_pattern(name: str) -> bool:
    """Return whether a source stands for all files that match, not for one that has this name."""
    return glob.has_magic(name) and not os.path.lexists(name)


def pair_stores(sources: Sequence[str], folder: str) -> list[tuple[str, str]]:
    """Return each source with its store ``folder/<stem>.zarr``.

    Raises
    ------
    ScanExistsError
        If two sources would become the same store.
    """
    pairs = [(source, os.path.join(folder, f"{Path(source).stem}.zarr")) for source in sources]
    first: dict[str, str] = {}
    for source, store in pairs:
        if store in first:
            raise ScanExistsError(
                f"{first[store]} and {source} would both become {store}; expected different file "
                "names; rename one"
            )
        first[store] = source
    return pairs


def ingest_many(
    pairs: Sequence[tuple[str, str]],
    config: IngestConfig | None = None,
    *,
    progress: Progress | None = None,
) -> Iterator[ScanOutcome]:
    """Ingest scans one after another, each with the whole memory budget; yield what became of each.

    A scan that fails does not stop the others. An interrupt does: the scan it met is the last to
    be yielded, with the code ``"interrupted"``. If that scan was published already, it is done and
    the next one is yielded so.

    Parameters
    ----------
    pairs
        Source and destination of each scan.
    config
        Options of all.
    progress
        Receives the stages, each named with its scan and how many there are.

    Raises
    ------
    ConfigError, DeviceError
        If an option cannot work for any scan.
    """
    config = config or IngestConfig()
    landing = Landing()
    for number, (source, store) in enumerate(pairs, start=1):
        if landing.was_interrupted:
            message = "ingest was interrupted before it was begun; run the same command to resume"
            yield ScanOutcome(source, store, "failed", "interrupted", message, 0.0)
            return
        landing = Landing()
        named = _NumberedProgress(
            progress or Silent(), f"{number}/{len(pairs)} {os.path.basename(source)}"
        )
        outcome = _ingest_one(source, store, config, named, landing)
        yield outcome
        if outcome.code == "interrupted":
            return


def _matches(pattern: str) -> list[str]:
    if not is_pattern(pattern):
        return [pattern]
    paths = sorted(glob.glob(pattern, recursive=True), key=natural_key)
    if not paths:
        raise ScanNotFoundError(
            f"no file matches {pattern!r}; expected at least one; {_advice(pattern)}"
        )
    return paths


def _advice(pattern: str) -> str:
    """Return what to do about a pattern that nothing matches: names may have a ``[``."""
    plain = pattern.replace("[", "[[]")
    folder = os.path.dirname(plain)
    if plain != pattern and (
        glob.glob(plain, recursive=True) or ("[" in folder and glob.glob(folder))
    ):
        return f"'[' begins a set of characters and '[[]' matches it, write {plain!r}"
    return "check it"


def _ingest_one(
    source: str, store: str, config: IngestConfig, progress: Progress, landing: Landing
) -> ScanOutcome:
    began = time.perf_counter()
    before = _root_state(store)
    status: Literal["done", "present", "failed"] = "failed"
    code = message = None
    try:
        ingest_and_land(source, store, config, progress, landing).close()
        status = "present" if _root_state(store) == before else "done"
    except BudgetError as error:  # another scan may be smaller
        code, message = error.code, str(error)
    except (ConfigError, DeviceError):
        raise
    except PtyzarrError as error:
        code, message = error.code, str(error)
    return ScanOutcome(source, store, status, code, message, time.perf_counter() - began)


def _root_state(store: str) -> object:
    """Return what changes whenever a store is published."""
    if is_url(store):
        return RemoteFolder(store, remote_access()).look(ROOT_KEY)
    try:
        status = os.stat(os.path.join(store, ROOT_KEY))
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


class _NumberedProgress:
    """Passes stages on with the name of the scan before them."""

    def __init__(self, inner: Progress, name: str) -> None:
        self._inner = inner
        self._name = name

    def start(self, stage: str, total: int, unit: str) -> None:
        self._inner.start(f"{self._name}: {stage}", total, unit)

    def advance(self, amount: int) -> None:
        self._inner.advance(amount)

    def finish(self) -> None:
        self._inner.finish()
