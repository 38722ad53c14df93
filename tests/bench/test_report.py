from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ptyzarr.bench import (
    BenchReport,
    Row,
    draw_report,
    format_markdown,
    format_table,
    load_reports,
    save_reports,
)


def make_report(**changes: object) -> BenchReport:
    rows = [
        Row(
            label="ptyzarr window",
            key="window",
            how="our loader",
            rates=(900.0, 1000.0, 1300.0),
            cpu_rates=(500.0, 510.0, 520.0),
            peak_bytes=300 * 2**20,
            added_bytes=100 * 2**20,
            disk_bytes=5 * 2**20,
            facts={"decoded_per_delivered": 0.31, "whole_epoch": True, "distance": 0.95},
        ),
        Row(
            label="plain",
            key="ram",
            how="the plain way",
            rates=(400.0, 500.0, 450.0),
            cpu_rates=(300.0,),
        ),
        Row(label="peer", key="peer", how="a peer", skipped="peer is not installed"),
    ]
    fields = {
        "title": "Epoch",
        "unit": "groups",
        "reference": "plain",
        "conditions": {"batch_size": 64},
        "rows": rows,
        "machine": {"cpu": "a processor", "cores": 2, "load_1min": 1.5, "load_1min_at_end": 2.5},
        "packages": {"numpy": "2"},
    }
    return BenchReport(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_table_has_medians_ranges_and_ratios() -> None:
    lines = format_table(make_report()).splitlines()
    ours = next(line for line in lines if line.startswith("ptyzarr window"))
    assert ours.split()[2:] == [
        "1,000",
        "900..1,300",
        "2.22",
        "510",
        "1.70",
        "100",
        "5",
        "0.31",
        "0.95",
    ]
    assert "batch_size 64, cpu a processor, cores 2, load 1.5..2.5" in lines[1]


def test_who_was_skipped_is_said_with_the_reason() -> None:
    text = format_table(make_report())
    assert "peer (skipped: peer is not installed)" in text
    assert "a peer" not in text
    assert "plain: the plain way" in text


def test_columns_without_values_are_left_out() -> None:
    header = format_markdown(make_report()).splitlines()[0]
    assert "lag 1" not in header
    assert "first batch s" not in header
    assert "distance" in header


@pytest.mark.parametrize(
    "reference",
    [pytest.param("peer", id="skipped"), pytest.param("nobody", id="absent")],
)
def test_without_the_reference_there_is_no_ratio(reference: str, tmp_path: Path) -> None:
    report = make_report(reference=reference)
    assert all(math.isnan(report.ratio(row)) for row in report.rows)
    assert "ratio" not in format_markdown(report).splitlines()[0]
    document = json.loads(save_reports([report], tmp_path / "r.json").read_text())
    assert [row["ratio"] for row in document["reports"][0]["rows"]] == [None, None, None]


def test_json_keeps_every_round_and_the_conditions(tmp_path: Path) -> None:
    path = save_reports([make_report()], tmp_path / "deep" / "r.json")
    report = json.loads(path.read_text())["reports"][0]
    assert report["rows"][0]["rates"] == [900.0, 1000.0, 1300.0]
    assert report["rows"][0]["median"] == 1000.0
    assert report["rows"][1]["ratio"] == 1.0
    assert report["rows"][2]["median"] is None
    assert report["packages"] == {"numpy": "2"}
    assert path.with_suffix(".md").read_text().startswith("## Epoch\n\n|  | groups/s |")


def test_a_report_is_read_back_as_it_was(tmp_path: Path) -> None:
    report = make_report()
    (again,) = load_reports(save_reports([report], tmp_path / "r.json"))
    assert again == report
    assert format_markdown(again) == format_markdown(report)


def test_a_picture_is_drawn_of_those_that_ran(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = draw_report(make_report(), tmp_path / "r.png")
    assert path is not None
    assert path.read_bytes().startswith(b"\x89PNG")
