"""Tables of plain numbers, and the processes in which they are measured."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ptyzarr.bench import describe_machine, package_versions

Cell = str | int | float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """One subject: rows of numbers under stated conditions.

    Attributes
    ----------
    name
        By which documents ask for it.
    title
        What was measured.
    columns
        Names of the cells, with units.
    rows
        Cells; None is an empty one.
    conditions
        All that is needed to read it.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    conditions: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def format_cell(cell: Cell) -> str:
    """Return a number with about three digits, a text as it is."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or abs(cell) >= 100:
        return f"{cell:,.0f}"
    return f"{cell:.3g}" if abs(cell) < 0.1 else f"{cell:.3f}" if cell < 2 else f"{cell:.2f}"


def format_plain(table: Table) -> str:
    """Return the table as text for a terminal."""
    cells = [list(table.columns), *([format_cell(cell) for cell in row] for row in table.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    lines = [table.title, ", ".join(f"{key} {value}" for key, value in table.conditions.items())]
    for first, *rest in cells:
        numbers = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        lines.append("  ".join([f"{first:<{widths[0]}}", *numbers]).rstrip())
    return "\n".join(lines)


def format_markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return cells as a Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    lines += ["| " + " | ".join(format_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def save_tables(tables: Sequence[Table], path: Path) -> None:
    """Print tables; write them as JSON with machine and versions, and as Markdown beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for table in tables:
        print(format_plain(table), end="\n\n", flush=True)
    document = {
        "tables": [dataclasses.asdict(table) for table in tables],
        "machine": describe_machine(),
        "packages": package_versions(),
    }
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    texts = [f"## {t.title}\n\n{format_markdown_table(t.columns, t.rows)}\n" for t in tables]
    path.with_suffix(".md").write_text("\n".join(texts))


def run_child(script: str, *arguments: object, environment: Mapping[str, str] | None = None) -> Any:
    """Run a script of this folder in a fresh process; return the JSON of its last line.

    Raises
    ------
    SystemExit
        If it fails; what it wrote to stderr is there.
    """
    command = [sys.executable, str(Path(__file__).parent / script), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure, or None where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return None
    return import_module("matplotlib.figure").Figure(
        figsize=(width, height), layout="constrained", dpi=120
    )
