"""A service of small stores in the background."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic
from service.webclient import Client

from ptyzarr.config import ServiceConfig
from ptyzarr.ingestion import ingest
from ptyzarr.service import BackgroundService, serve_background


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stores `first` and `second`; tests of a module must not change it."""
    folder = tmp_path_factory.mktemp("served")
    sources = tmp_path_factory.mktemp("sources")
    for number, name in enumerate(("first", "second")):
        source = synthetic.make_npz(sources / f"{name}.npz", seed=number)
        ingest(source, folder / f"{name}.zarr").close()
    return folder


@pytest.fixture(scope="module")
def service(root: Path) -> Iterator[BackgroundService]:
    """A service of `root` with the defaults."""
    with serve_background(root) as running:
        yield running


@pytest.fixture
def client(service: BackgroundService) -> Client:
    """A client of `service`."""
    return Client(service.url, service.key)


@pytest.fixture
def start() -> Iterator[Callable[..., Client]]:
    """`start(root, **config)`: a client of a service of its own."""
    running: list[BackgroundService] = []

    def start_one(root: Path, **options: Any) -> Client:
        running.append(serve_background(root, ServiceConfig(port=0, **options)))
        return Client(running[-1].url, running[-1].key)

    yield start_one
    for service in running:
        service.close()
