"""A store that is replaced while it is read: its old bytes or one clear error, never a mixture."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic

from ptyzarr.config import IngestConfig
from ptyzarr.errors import DamagedStoreError
from ptyzarr.ingestion import ingest
from ptyzarr.service import serve_background
from ptyzarr.store import ScanStore, open_store

N_FRAMES = 150


@pytest.fixture
def make(tmp_path: Path, set_sizes: Callable[..., None]) -> Callable[[int], Path]:
    """`make(seed)`: the store of a scan whose shards have the sizes of every other's."""
    set_sizes(chunk_frames=4, shard_frames=64)
    target = tmp_path / "served" / "scan.zarr"

    def made(seed: int) -> Path:
        # Noise does not get smaller, so that files of all seeds have equal sizes.
        counts = np.random.default_rng(seed).integers(0, 256, (N_FRAMES, 16, 16))
        frames = np.sqrt(counts).astype(np.float32)
        source = synthetic.make_npz(
            tmp_path / f"{seed}.npz", N_FRAMES, 16, seed, diff3d=frames, diffraction=None
        )
        ingest(source, target, IngestConfig(overwrite=True)).close()
        return target

    return made


def read_each(store: ScanStore) -> list[Any]:
    """Read frames one by one; give them, and what is said where one cannot be read."""
    found: list[Any] = []
    for index in range(N_FRAMES):
        try:
            found.append(store.amplitude(np.array([index]))[0])
        except DamagedStoreError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("is_native", [True, False], ids=["shards", "zarr"])
def test_what_is_read_of_a_replaced_folder_is_old_or_an_error(
    make: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, is_native: bool
) -> None:
    if not is_native:
        monkeypatch.setattr("ptyzarr.store.scanstore.native_functions", lambda: None)
    store = open_store(make(1))
    old = open_store(make(1)).amplitude(np.arange(N_FRAMES))
    first = store.frame_index[:1]
    assert np.array_equal(store.amplitude(first), old[first])
    make(2)
    found = read_each(store)
    told = [what for what in found if isinstance(what, str)]
    assert told
    assert all("somebody replaced or removed the store since it was opened" in w for w in told)
    for index, frame in enumerate(found):
        assert isinstance(frame, str) or np.array_equal(frame, old[index])
    with pytest.raises(DamagedStoreError, match="somebody replaced"):
        store.positions  # noqa: B018
    store.close()


def test_what_is_read_of_a_replaced_store_of_a_service_is_old_or_an_error(
    make: Callable[[int], Path],
) -> None:
    path = make(1)
    with serve_background(path.parent) as service:
        url = f"{service.url}/v1/scans/scan/zarr"
        store = open_store(url, key=service.key)
        old = open_store(path).amplitude(np.arange(N_FRAMES))
        first = store.frame_index[:1]
        assert np.array_equal(store.amplitude(first), old[first])
        make(2)
        found = read_each(store)
        told = [what for what in found if isinstance(what, str)]
        assert len(told) == N_FRAMES
        assert all("somebody replaced" in what for what in told)
        store.close()
        again = open_store(url, key=service.key)
        new = open_store(path).amplitude(np.arange(N_FRAMES))
        assert np.array_equal(again.amplitude(np.arange(N_FRAMES)), new)
        again.close()


def test_a_store_that_is_gone_is_said_to_be(make: Callable[[int], Path]) -> None:
    store = open_store(make(1))
    shutil.rmtree(store.path)
    with pytest.raises(DamagedStoreError, match="replaced or removed"):
        store.amplitude(np.array([0]))


def test_a_root_that_is_written_again_with_the_same_bytes_is_the_same(
    make: Callable[[int], Path],
) -> None:
    path = make(1)
    store = open_store(path)
    raw = (path / "zarr.json").read_bytes()
    (path / "new").write_bytes(raw)
    os.replace(path / "new", path / "zarr.json")
    assert store.amplitude(np.arange(N_FRAMES)).shape == (N_FRAMES, 16, 16)
    store.close()
