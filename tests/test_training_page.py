"""The Python blocks of the page on training run, one after the other, as they stand there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import ptyzarr

REPOSITORY = Path(__file__).parent.parent
PAGE = REPOSITORY / "docs" / "training.md"
SCAN = Path(ptyzarr.__file__).parent / "demo_data" / "siemens_star_516.npz"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str, int]]:
    """Return language, text and first line of every block of the page."""
    text = PAGE.read_text()
    return [
        (match[1], match[2], text.count("\n", 0, match.start(2))) for match in FENCED.finditer(text)
    ]


# Lightning 2.6 takes batches apart in a way that torch 2.13 calls deprecated.
@pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\). is deprecated")
@pytest.mark.slow
@pytest.mark.filterwarnings(
    # torchdata 0.11 calls what torch 2.13 has deprecated.
    "ignore:'set_vital' is deprecated:UserWarning"
)
def test_the_python_blocks_run_from_top_to_bottom(tmp_path, monkeypatch):
    shutil.copy(SCAN, tmp_path / "scan.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    namespace: dict[str, object] = {"__name__": "training_page"}
    python = [(text, line) for language, text, line in blocks() if language == "python"]
    assert python
    for text, line in python:
        # Empty lines before it, so that a failure names the line of the page.
        exec(compile("\n" * line + text, str(PAGE), "exec"), namespace)


def test_every_block_says_what_it_is():
    assert {language for language, _, _ in blocks()} <= {"python", "bash", "text"}


@pytest.mark.parametrize("page", ["README.md", "docs/training.md"])
def test_links_to_other_pages_lead_somewhere(page):
    path = REPOSITORY / page
    links = re.findall(r"\]\(([^)#:]+)[^):]*\)", path.read_text())
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []
