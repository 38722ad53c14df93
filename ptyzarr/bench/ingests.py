"""The ingest table, and the promise of memory: ingest and epoch stay within their budget."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ptyzarr.bench.catalogue import CONTENDERS, INGESTERS
from ptyzarr.bench.contender import Entry
from ptyzarr.bench.report import BenchReport, make_report
from ptyzarr.bench.rounds import Row, run_rounds
from ptyzarr.bench.workload import IngestWork, Workload
from ptyzarr.compiled import available_cores
from ptyzarr.config import IngestConfig, Shuffle, format_size, parse_size
from ptyzarr.ingestion import ingest
from ptyzarr.progress import Progress

_REFERENCE: Final = "numpy-load"
_LIMITS: Final = ("encode", "disk")
_SHUFFLES: Final[dict[Shuffle, str]] = {"window": "window", "full": "full", False: "canonical"}
# No round of an epoch whose memory is measured is cut short.
_ENDLESS_S: Final = 1e9


def measure_ingest(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    kind: str,
    *,
    memory: str | int = "512MiB",
    n_threads: int | None = None,
    n_rounds: int = 3,
    progress: Progress | None = None,
) -> BenchReport:
    """Return the table of ways to take a source in; rates in 1e9 bytes of its frames.

    Parameters
    ----------
    source
        An NPZ with ``diff3d``.
    folder
        Where stores are written; they are removed again.
    kind
        What the file is, for the title: stored or deflated.
    memory, n_threads
        Of the contenders that have them.
    n_rounds
        Rounds that count.
    progress
        Receives the stages.
    """
    work = IngestWork(
        source=os.fspath(source),
        folder=os.fspath(folder),
        memory=memory,
        n_threads=n_threads or available_cores(),
    )
    entries = [Entry(label=c.label, contender=c, workload=work) for c in INGESTERS.values()]
    rows = run_rounds(entries, n_rounds, 0, progress)
    conditions = {
        "file": format_size(Path(work.source).stat().st_size),
        "memory": format_size(parse_size(memory)),
        "threads": work.n_threads,
        "rounds": n_rounds,
        "files": "in the page cache",
        **_share_of_limit(rows),
    }
    return make_report(f"Ingest of a {kind} NPZ", "GB", _REFERENCE, conditions, rows)


def _share_of_limit(rows: Sequence[Row]) -> dict[str, str]:
    """Return our ingest's rate over that of the slower of codec and disk, the limit of any."""
    by_key = {row.key: row for row in rows if row.rates}
    limit = min((by_key[key] for key in _LIMITS), key=lambda row: row.median)
    return {f"ingest / {limit.label}": f"{by_key['ingest'].median / limit.median:.2f}"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One step whose memory was promised.

    Attributes
    ----------
    step
        What ran.
    limit_bytes
        What it may add to the resident memory of interpreter and imports.
    added_bytes
        What it added at most; None where the system does not tell.
    peak_bytes
        The largest resident memory of its process in all; None likewise.
    """

    step: str
    limit_bytes: int
    added_bytes: int | None
    peak_bytes: int | None = None

    @property
    def is_kept(self) -> bool:
        """Whether it stayed within the limit."""
        return self.added_bytes is not None and self.added_bytes <= self.limit_bytes


def measure_promises(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    kind: str,
    *,
    memory: str | int = "512MiB",
    shuffles: Sequence[Shuffle] = ("window", "full", False),
    progress: Progress | None = None,
) -> list[Promise]:
    """Return the peak memory of an ingest and of whole epochs over its result.

    Each step runs in a process of its own. The ingest is done twice, the epochs too: the first
    one compiles.

    Parameters
    ----------
    source
        An NPZ.
    folder
        Where stores are written.
    kind
        What the file is, for the names of the steps.
    memory
        Budget of every step, and the limit.
    shuffles
        Kinds of epochs.
    progress
        Receives the stages.
    """
    n_threads = available_cores()
    taking = IngestWork(
        source=os.fspath(source), folder=os.fspath(folder), memory=memory, n_threads=n_threads
    )
    entry = Entry(label="ingest", contender=INGESTERS["ingest"], workload=taking)
    rows = run_rounds([entry], 1, 0, progress, judged=False)
    store = Path(folder) / f"{Path(source).stem}.zarr"
    ingest(source, store, IngestConfig(memory=memory), progress=progress).close()
    streaming = Workload(
        store=str(store),
        folder=os.fspath(folder),
        memory=memory,
        n_threads=n_threads,
        channels="last",
        round_s=_ENDLESS_S,
    )
    epochs = [CONTENDERS[_SHUFFLES[shuffle]] for shuffle in shuffles]
    for contender in epochs:
        entry = Entry(label=contender.label, contender=contender, workload=streaming)
        rows += run_rounds([entry], 1, 0, progress, judged=False)
    return [_promise(row, kind, parse_size(memory)) for row in rows]


def _promise(row: Row, kind: str, limit: int) -> Promise:
    step = f"{kind} NPZ: {row.label.removeprefix('ptyzarr ')}"
    return Promise(
        step=step,
        limit_bytes=limit,
        added_bytes=row.added_bytes,
        peak_bytes=row.peak_bytes,
    )
