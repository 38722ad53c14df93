"""`run_bench`: a user's own scan on a user's own machine, ours beside the plain ways."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from ptyzarr.bench.epochs import SHORT, measure_epochs
from ptyzarr.bench.report import BenchReport, draw_report, save_reports
from ptyzarr.bench.workload import Workload
from ptyzarr.compiled import available_cores
from ptyzarr.config import Channels, IngestConfig, LoaderConfig
from ptyzarr.errors import ScanNotFoundError, StorageError
from ptyzarr.ingestion import ingest
from ptyzarr.progress import Progress

_DEFAULT: Final = LoaderConfig()
_MAX_FILE: Final = 32 * 1024**3


def run_bench(
    source: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    memory: str | int = _DEFAULT.memory,
    batch_size: int = _DEFAULT.batch_size,
    channels: Channels = _DEFAULT.channels,
    gridsize: int = 2,
    n_neighbors: int = 6,
    seed: int = 0,
    n_threads: int | None = None,
    n_rounds: int = 5,
    round_s: float = 1.0,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure shuffled epochs of a scan, ours beside the plain ways, on this machine.

    Each contender runs in a process of its own; their rounds are interleaved. The report goes to
    ``out_dir/bench.json`` and, with matplotlib, ``out_dir/bench.png``. Files that other
    contenders need are made in ``out_dir/scratch`` and removed at the end.

    Parameters
    ----------
    source
        A store, or a file to ingest into ``out_dir``.
    out_dir
        Folder; made if missing.
    memory, batch_size, channels
        As in `LoaderConfig`.
    gridsize, n_neighbors, seed
        As in `GroupingConfig`.
    n_threads
        Threads of the contenders that have them (default: the cores at hand).
    n_rounds, round_s
        Rounds that count, and the time after which one ends.
    progress
        Receives the stages; silent if None.

    Returns
    -------
    BenchReport

    Raises
    ------
    ScanNotFoundError, SourceError, ScanExistsError
        As `ingest` and `open_store`.
    BudgetError, GroupingError
        As `GroupLoader`.
    DeviceError
        If a contender's process fails.
    StorageError
        If the folder cannot be made.
    """
    out = Path(os.path.abspath(out_dir))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{out} cannot be made: {error.strerror}; expected a folder for results; choose "
            "another one"
        ) from error
    scratch = out / "scratch"
    work = Workload(
        store=str(_find_store(Path(source), out, memory, progress)),
        folder=str(scratch),
        gridsize=gridsize,
        n_neighbors=n_neighbors,
        seed=seed,
        batch_size=batch_size,
        channels=channels,
        memory=memory,
        n_threads=n_threads or available_cores(),
        round_s=round_s,
    )
    max_disk = min(_MAX_FILE, shutil.disk_usage(out).free // 2)
    try:
        report = measure_epochs(
            work, SHORT, n_rounds=n_rounds, max_disk=max_disk, progress=progress
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    save_reports([report], out / "bench.json")
    draw_report(report, out / "bench.png")
    return report


def _find_store(source: Path, out: Path, memory: str | int, progress: Progress | None) -> Path:
    """Return the folder of the store, made of the source if that is a file."""
    if not source.exists():
        raise ScanNotFoundError(f"{source} does not exist; expected a store or a file to ingest")
    if source.is_dir():
        return source.absolute()
    store = out / f"{source.stem}.zarr"
    ingest(source, store, IngestConfig(memory=memory), progress=progress).close()
    return store
