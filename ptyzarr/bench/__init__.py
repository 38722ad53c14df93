"""Contenders and their tables; the command line and the scripts in ``benchmarks/`` call them."""

from ptyzarr.bench.contender import BatchTrial, Contender, Delivery, Entry, Work
from ptyzarr.bench.decodes import measure_decoding
from ptyzarr.bench.epochs import DROPS, EVERY, READ, REFERENCE, SHORT, epoch_entries, measure_epochs
from ptyzarr.bench.ingests import Promise, measure_ingest, measure_promises
from ptyzarr.bench.machine import (
    describe_machine,
    forget_peak,
    package_versions,
)
from ptyzarr.bench.quality import ShuffleQuality, shuffle_quality
from ptyzarr.bench.report import (
    BenchReport,
    draw_report,
    format_markdown,
    format_table,
    load_reports,
    make_report,
    save_reports,
)
from ptyzarr.bench.rounds import Row, run_rounds
from ptyzarr.bench.run import run_bench
from ptyzarr.bench.workload import Workload

__all__ = [
    "DROPS",
    "EVERY",
    "READ",
    "REFERENCE",
    "SHORT",
    "BatchTrial",
    "BenchReport",
    "Contender",
    "Delivery",
    "Entry",
    "Promise",
    "Row",
    "ShuffleQuality",
    "Work",
    "Workload",
    "describe_machine",
    "draw_report",
    "epoch_entries",
    "forget_peak",
    "format_markdown",
    "format_table",
    "load_reports",
    "make_report",
    "measure_decoding",
    "measure_epochs",
    "measure_ingest",
    "measure_promises",
    "package_versions",
    "run_bench",
    "run_rounds",
    "save_reports",
    "shuffle_quality",
]
