from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zarr

from ptyzarr.bench import Workload
from ptyzarr.store import ScanStore


@pytest.fixture
def work(make_scan_store: Callable[..., ScanStore], tmp_path: Path) -> Workload:
    """An epoch of 60 groups of a small scan."""
    store = make_scan_store(n_frames=60, N=16)
    return Workload(
        store=store.path,
        folder=str(tmp_path / "peers"),
        batch_size=16,
        memory="320MiB",
        n_threads=2,
        round_s=0.05,
    )


@pytest.fixture
def settings() -> Iterator[None]:
    """Undo what contenders set in libraries; each has a process of its own otherwise."""
    before: dict[str, Any] = {
        key: zarr.config.get(key) for key in ("threading.max_workers", "codec_pipeline.path")
    }
    yield
    zarr.config.set(before)
