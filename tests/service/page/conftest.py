"""A browser on the page of a service, for the tests of the page."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import synthetic
from service.browser import INSTALL, Browser, is_installed, open_browser
from service.pageuse import (
    FRAME_SIZE,
    HOSTILE,
    N_FRAMES,
    wait_for,
)

from ptyzarr.ingestion import ingest
from ptyzarr.service import BackgroundService, serve_background
from ptyzarr.store import ScanStore, open_store


@pytest.fixture(autouse=True, scope="module")
def chromium() -> None:
    """Skip without Chromium; where tests must not be skipped, the set-up has to bring it."""
    if not is_installed() and "CI" not in os.environ:
        pytest.skip(INSTALL)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `first`, a scan without an object under a hostile name, and `torn`."""
    folder = tmp_path_factory.mktemp("served")
    sources = tmp_path_factory.mktemp("sources")
    first = synthetic.make_npz(sources / "first.npz", N_FRAMES, FRAME_SIZE)
    ingest(first, folder / "first.zarr").close()
    bare = synthetic.make_npz(sources / "bare.npz", 9, 16, seed=1, objectGuess=None)
    ingest(bare, folder / f"{HOSTILE}.zarr").close()
    ingest(bare, folder / "torn.zarr").close()
    shutil.rmtree(folder / "torn.zarr" / "diffraction" / "c")
    return folder


@pytest.fixture(scope="module")
def service(root: Path) -> Iterator[BackgroundService]:
    """A service of `root`."""
    with serve_background(root) as running:
        yield running


@pytest.fixture(scope="module")
def store(root: Path) -> Iterator[ScanStore]:
    """The scan `first`, read from the disk."""
    opened = open_store(root / "first.zarr")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser, used by one test after the other."""
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def quiet(tab: Browser) -> Iterator[Browser]:
    """A browser whose console must be empty in the end.

    But for requests that the service is meant to refuse: those the console always names.
    """
    yield tab
    messages = [entry["message"] for entry in tab.messages()]
    assert [text for text in messages if not re.search(r"status of (40[014]|500) \(", text)] == []


@pytest.fixture
def page(quiet: Browser, service: BackgroundService) -> Browser:
    """The page before anyone has logged in."""
    quiet.open(service.url)
    return quiet


@pytest.fixture
def catalogue(quiet: Browser, service: BackgroundService) -> Browser:
    """The page with the list of scans."""
    quiet.open(service.url, key=service.key)
    quiet.wait(lambda: quiet.all("#scans a"))
    return quiet


@pytest.fixture
def first(quiet: Browser, service: BackgroundService) -> Browser:
    """The page at frame 0 of the scan `first`, with everything loaded."""
    quiet.open(service.url, "scan=first&frame=0", service.key)
    wait_for(quiet, 0)
    return quiet
