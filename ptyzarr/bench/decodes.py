"""The table of the reader: chunks out of shards beside the codec alone, an epoch beside both."""

from __future__ import annotations

import dataclasses

from ptyzarr.bench.catalogue import CONTENDERS, DECODERS
from ptyzarr.bench.contender import Entry
from ptyzarr.bench.report import BenchReport, make_report
from ptyzarr.bench.rounds import run_rounds
from ptyzarr.bench.workload import Workload
from ptyzarr.config import format_size
from ptyzarr.progress import Progress


def measure_decoding(
    work: Workload, *, n_rounds: int = 5, progress: Progress | None = None
) -> list[BenchReport]:
    """Return two tables: random chunks with one thread, and a full shuffle beside its decoding.

    Parameters
    ----------
    work
        Scan, budget and threads of the epoch.
    n_rounds
        Rounds that count.
    progress
        Receives the stages.
    """
    alone = dataclasses.replace(work, n_threads=1)
    single = [
        Entry(label=f"{DECODERS[key].label}, 1 thread", contender=DECODERS[key], workload=alone)
        for key in ("random-chunks", "codec-checked", "codec")
    ]
    full, same = CONTENDERS["full"], DECODERS["same-chunks"]
    label = f"{full.label}, {format_size(work.memory_bytes)}"
    epoch = [
        Entry(label=label, contender=full, workload=work),
        Entry(label=same.label, contender=same, workload=work),
    ]
    conditions = {
        "chunk": format_size(work.open().chunks.chunk_nbytes),
        "rounds": n_rounds,
        "round_s": work.round_s,
        "files": "in the page cache",
    }
    whole = {**conditions, "memory": format_size(work.memory_bytes), "threads": work.n_threads}
    return [
        make_report(
            "Random chunks out of shards", "GB", "codec", conditions,
            run_rounds(single, n_rounds, 0, progress),
        ),
        make_report(
            "Full shuffle beside its decoding", "groups", "same-chunks", whole,
            run_rounds(epoch, n_rounds, 0, progress),
        ),
    ]  # fmt: skip
