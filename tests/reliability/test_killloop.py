"""Real processes killed at random: what is published is whole, and nothing gets stuck."""

from __future__ import annotations

from pathlib import Path

import pytest
from reliability.killloop import PHASES, KillLoop, format_report


@pytest.mark.slow
def test_no_kill_and_no_tear_publishes_anything_but_the_source(tmp_path: Path) -> None:
    """The short form; `benchmarks/reliability.py` goes on for ten times as long."""
    report = KillLoop(tmp_path, seed=1).run(kills=20, tears=10)
    assert report.problems == [], format_report(report)
    assert (report.wrong, report.stuck) == (0, 0)
    assert report.n_kills >= 20
    assert report.tears >= 10
    assert set(PHASES[1:-1]) <= set(report.kills)
    assert report.stores > 0


@pytest.mark.slow
def test_control_without_digests_publishes_what_was_torn(tmp_path: Path) -> None:
    """The loop above would find it if torn shards were not found on resume and publication."""
    report = KillLoop(tmp_path, seed=2, blind=True).run(kills=60, tears=60)
    assert report.wrong > 0, format_report(report)
