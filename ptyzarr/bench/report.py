"""Tables of measurements: as text for people, as JSON for machines, as a picture."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ptyzarr.bench.machine import describe_machine, load_average, package_versions
from ptyzarr.bench.rounds import Row


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """A table of contenders and all that is needed to read it.

    Attributes
    ----------
    title
        What was measured.
    unit
        What the rates count, e.g. ``"groups"`` a second.
    reference
        Key or label of the row that is 1 in the ratio column.
    conditions
        Scan, budgets, batches, seed, rounds.
    rows
        One for each contender.
    machine, packages
        Where it ran; no name of the machine.
    """

    title: str
    unit: str
    reference: str
    conditions: Mapping[str, Any]
    rows: Sequence[Row]
    machine: Mapping[str, Any]
    packages: Mapping[str, str]

    def ratio(self, row: Row) -> float:
        """Return a row's median rate over that of the reference; NaN where either did not run."""
        reference = self._reference_row()
        return row.median / reference.median if reference and reference.median else math.nan

    def cpu_ratio(self, row: Row) -> float:
        """Return the same of the rates for each second of processor time."""
        reference = self._reference_row()
        return row.cpu_median / reference.cpu_median if reference else math.nan

    def _reference_row(self) -> Row | None:
        for row in self.rows:
            if self.reference in (row.label, row.key):
                return row
        return None

    def to_json(self) -> dict[str, Any]:
        """Return everything, with medians and ratios."""
        document = dataclasses.asdict(self)
        for entry, row in zip(document["rows"], self.rows, strict=True):
            entry["median"] = _or_none(row.median)
            entry["ratio"] = _or_none(self.ratio(row))
            entry["cpu_median"] = _or_none(row.cpu_median)
            entry["cpu_ratio"] = _or_none(self.cpu_ratio(row))
        return document


def make_report(
    title: str,
    unit: str,
    reference: str,
    conditions: Mapping[str, Any],
    rows: Sequence[Row],
) -> BenchReport:
    """Return a report of this machine."""
    machine = {**describe_machine(), "load_1min_at_end": load_average()}
    return BenchReport(
        title=title,
        unit=unit,
        reference=reference,
        conditions=conditions,
        rows=rows,
        machine=machine,
        packages=package_versions(),
    )


def save_reports(reports: Sequence[BenchReport], path: Path) -> Path:
    """Write reports as one JSON document, and their tables as Markdown beside it.

    Returns
    -------
    Path
        Of the JSON.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"reports": [report.to_json() for report in reports]}
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    tables = [f"## {report.title}\n\n{format_markdown(report)}\n" for report in reports]
    path.with_suffix(".md").write_text("\n".join(tables))
    return path


def load_reports(path: Path) -> list[BenchReport]:
    """Return the reports of a JSON document that `save_reports` wrote."""
    return [_read_report(entry) for entry in json.loads(path.read_text())["reports"]]


def _read_report(entry: Mapping[str, Any]) -> BenchReport:
    names = {field.name for field in dataclasses.fields(Row)}
    rows = []
    for found in entry["rows"]:
        fields: dict[str, Any] = {name: found[name] for name in names}
        fields |= {name: tuple(found[name]) for name in ("rates", "cpu_rates")}
        rows.append(Row(**fields))
    return BenchReport(**{**entry, "rows": rows})


def _or_none(value: float) -> float | None:
    """Return a number as JSON has it: without NaN."""
    return None if math.isnan(value) else value


_COLUMNS = ("", "{unit}/s", "lo..hi", "ratio", "per CPU-s", "CPU ratio",
            "first batch s", "added MiB", "disk MiB", "decoded", "distance", "lag 1")  # fmt: skip


def table_rows(report: BenchReport) -> list[list[str]]:
    """Return the cells of the table, header first; columns that are empty are left out."""
    header = [column.format(unit=report.unit) for column in _COLUMNS]
    body = [_cells(report, row) for row in report.rows]
    keep = [i for i in range(len(header)) if i == 0 or any(cells[i] for cells in body)]
    return [[cells[i] for i in keep] for cells in (header, *body)]


def _cells(report: BenchReport, row: Row) -> list[str]:
    if row.skipped is not None:
        return [f"{row.label} (skipped: {row.skipped})", *[""] * (len(_COLUMNS) - 1)]
    facts = row.facts
    return [
        row.label,
        _number(row.median),
        f"{_number(min(row.rates))}..{_number(max(row.rates))}",
        _ratio(report.ratio(row)),
        _number(row.cpu_median) if row.cpu_rates else "",
        _ratio(report.cpu_ratio(row)),
        _fact(facts, "first_batch_s"),
        "" if row.added_bytes is None else f"{row.added_bytes / 2**20:,.0f}",
        "" if row.disk_bytes is None else f"{row.disk_bytes / 2**20:,.0f}",
        _fact(facts, "decoded_per_delivered") if facts.get("whole_epoch") else "",
        _fact(facts, "distance"),
        _fact(facts, "lag1"),
    ]


def _fact(facts: Mapping[str, Any], name: str) -> str:
    return f"{facts[name]:.2f}" if name in facts else ""


def _ratio(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _number(value: float) -> str:
    """Return a rate with about three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def format_table(report: BenchReport) -> str:
    """Return a report as plain text: conditions, the table, how each contender works."""
    cells = table_rows(report)
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    # A long reason for skipping needs no column of its own.
    widths[0] = max(len(row.label) for row in report.rows)
    lines = [report.title, _conditions(report), ""]
    for line in cells:
        rest = "  ".join(
            cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)
        )
        lines.append(f"{line[0]:<{widths[0]}}  {rest}".rstrip())
    lines += ["", *(f"{row.label}: {row.how}" for row in report.rows if row.skipped is None)]
    return "\n".join(lines)


def format_markdown(report: BenchReport) -> str:
    """Return the table of a report in Markdown."""
    header, *body = table_rows(report)
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(cells) + " |" for cells in body]
    return "\n".join(lines)


def _conditions(report: BenchReport) -> str:
    facts = {**report.conditions, "cpu": report.machine["cpu"], "cores": report.machine["cores"]}
    load = report.machine["load_1min"], report.machine["load_1min_at_end"]
    return ", ".join(f"{key} {value}" for key, value in facts.items()) + (
        f", load {load[0]}..{load[1]}"
    )


def draw_report(report: BenchReport, path: Path) -> Path | None:
    """Draw the medians as bars with lo..hi; None where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return None
    figure_type = import_module("matplotlib.figure").Figure
    rows = [row for row in report.rows if row.skipped is None][::-1]
    figure = figure_type(figsize=(9, 1 + 0.3 * len(rows)), layout="constrained", dpi=120)
    axes = figure.subplots()
    medians = [row.median for row in rows]
    low = [row.median - min(row.rates) for row in rows]
    high = [max(row.rates) - row.median for row in rows]
    colors = ["C0" if row.label.startswith("ptyzarr") else "0.7" for row in rows]
    labels = [row.label for row in rows]
    axes.barh(labels, medians, xerr=[low, high], color=colors, error_kw={"ecolor": "0.3"})
    for place, row in enumerate(rows):
        axes.annotate(
            _number(row.median),
            (max(row.rates), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(0, 1.12 * max(max(row.rates) for row in rows))
    axes.xaxis.set_major_locator(import_module("matplotlib.ticker").MaxNLocator(6))
    axes.xaxis.set_major_formatter("{x:,.6g}")
    axes.set_xlabel(f"{report.unit} per second, median of {len(rows[0].rates)} rounds, lo..hi")
    axes.set_title(report.title)
    figure.savefig(path)
    return path
