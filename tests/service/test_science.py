from __future__ import annotations

import io
import json
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from service.webclient import Client

from ptyzarr.config import GroupingConfig, IngestConfig
from ptyzarr.grouping import group_table
from ptyzarr.ingestion import ingest
from ptyzarr.service import science
from ptyzarr.store import ScanStore, open_store

SCAN = "/v1/scans/first"
NPY = "application/x-npy"


@pytest.fixture
def store(root: Path) -> ScanStore:
    return open_store(root / "first.zarr")


def test_the_map_is_the_positions_in_acquisition_order(client: Client, store: ScanStore) -> None:
    answer = client.ask(f"{SCAN}/map", Accept=NPY)
    assert answer.npy.dtype == np.float64
    np.testing.assert_array_equal(answer.npy, store.positions)
    for other in ("application/octet-stream", "text/html, application/numpy;q=0.9"):
        assert client.ask(f"{SCAN}/map", Accept=other).body == answer.body
    listed = client.ask(f"{SCAN}/map", Accept="*/*")
    np.testing.assert_array_equal(listed.json["positions"], store.positions)
    assert listed.json["unit"] == "object pixels"
    assert answer.headers["vary"] == "Accept"
    assert answer.headers["etag"] != listed.headers["etag"]


def test_the_power_is_that_of_each_frame(client: Client, store: ScanStore) -> None:
    np.testing.assert_array_equal(client.ask(f"{SCAN}/power", Accept=NPY).npy, store.frame_power)
    np.testing.assert_array_equal(client.ask(f"{SCAN}/power").json["power"], store.frame_power)


@pytest.mark.parametrize(
    ("query", "config"),
    [
        pytest.param("", GroupingConfig(), id="defaults"),
        pytest.param(
            "?gridsize=2&n_neighbors=6&seed=3",
            GroupingConfig(gridsize=2, n_neighbors=6, seed=3),
            id="four of seven",
        ),
        pytest.param(
            "?gridsize=2&n_neighbors=5&n_samples=7&seed=4294967295",
            GroupingConfig(gridsize=2, n_neighbors=5, n_samples=7, seed=2**32 - 1),
            id="few groups",
        ),
    ],
)
def test_groups_are_the_canonical_ones(
    client: Client, store: ScanStore, query: str, config: GroupingConfig
) -> None:
    expected = group_table(store, config).nn_indices
    found = client.ask(f"{SCAN}/groups{query}").npy
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_more_groups_of_one_frame_than_positions_are_no_matter_for_the_log(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = client.ask(f"{SCAN}/groups?gridsize=1&n_samples=1000").npy
    np.testing.assert_array_equal(found, client.ask(f"{SCAN}/groups?gridsize=1").npy)
    assert caplog.records == []


def test_groups_of_a_position_are_those_drawn_for_it(client: Client, store: ScanStore) -> None:
    table = group_table(store, GroupingConfig(gridsize=2, n_neighbors=6))
    query = "gridsize=2&n_neighbors=6&position=17"
    found = client.ask(f"{SCAN}/groups?{query}").json
    numbers = np.flatnonzero(table.seeds == 17)
    assert found["groups"] == numbers.tolist()
    assert found["members"] == table.nn_indices[numbers].tolist()
    assert found["position"] == 17


def test_groups_are_computed_once_for_all_who_ask_at_once(
    root: Path, start: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[GroupingConfig] = []
    real, may_end, asked = science.cached_group_table, threading.Event(), threading.Barrier(5)

    def slow(store: ScanStore, config: GroupingConfig) -> Any:
        calls.append(config)
        assert may_end.wait(20)
        return real(store, config)

    monkeypatch.setattr(science, "cached_group_table", slow)
    client = start(root)
    bodies: list[bytes] = []

    def ask() -> None:
        asked.wait(20)
        bodies.append(client.ask(f"{SCAN}/groups?gridsize=2&n_neighbors=6&seed=8").body)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    asked.wait(20)
    while client.ask("/metrics").body.count(b"ptyzarr_requests_running 5") == 0:
        pass  # the four wait, and the one who looks
    may_end.set()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(set(bodies)) == 1
    assert len(bodies) == 4


@pytest.mark.parametrize(
    ("query", "status"),
    [
        pytest.param("gridsize=0", 400, id="no grid"),
        pytest.param("gridsize=-1", 400, id="negative grid"),
        pytest.param("gridsize=nan", 400, id="no number"),
        pytest.param("gridsize=2.0", 400, id="no integer"),
        pytest.param("gridsize=1e3", 400, id="exponent"),
        pytest.param("gridsize=%D9%A2", 400, id="digit of another script"),
        pytest.param("gridsize=99999999999999999999999", 400, id="huge grid"),
        pytest.param("n_neighbors=-1", 400, id="negative neighbours"),
        pytest.param("seed=-1", 400, id="negative seed"),
        pytest.param("seed=4294967296", 400, id="seed out of range"),
        pytest.param("n_samples=9223372036854775808", 400, id="huge samples"),
        pytest.param("gridsize=7&n_neighbors=48", 400, id="more members than positions"),
        pytest.param("gridsize=2&n_neighbors=2", 400, id="too few neighbours"),
        pytest.param("position=40", 404, id="position outside"),
        pytest.param("position=-1", 400, id="negative position"),
        pytest.param("gridsize=2&gridsize=2", 400, id="twice"),
        pytest.param("grid=2", 400, id="unknown"),
    ],
)
def test_groups_that_cannot_be_drawn_are_refused(client: Client, query: str, status: int) -> None:
    answer = client.ask(f"{SCAN}/groups?{query}")
    assert answer.status == status
    assert set(answer.json) == {"code", "message"}


def test_a_table_that_takes_too_much_memory_is_refused(
    root: Path, start: Callable[..., Client]
) -> None:
    client = start(root, max_table_size="4KiB")
    assert client.ask(f"{SCAN}/groups?gridsize=1&n_neighbors=2").status == 200
    answer = client.ask(f"{SCAN}/groups?gridsize=2&n_neighbors=30")
    assert (answer.status, answer.json["code"]) == (413, "too_large")


def test_frames_are_the_amplitudes(client: Client, store: ScanStore) -> None:
    for index in (0, 17, 39):
        found = client.ask(f"{SCAN}/frames/{index}.npy").npy
        assert found.dtype == store.amplitude_dtype
        np.testing.assert_array_equal(found, store.amplitude(np.array([index]))[0])


@pytest.mark.parametrize(
    "index",
    ["40", "-1", "00", "+0", "1.5", "nan", "x", "99999999999999999999", "%D9%A0", "", "1e1"],
)
@pytest.mark.parametrize("kind", ["npy", "png"])
def test_frames_outside_the_scan_are_not_there(client: Client, index: str, kind: str) -> None:
    answer = client.ask(f"{SCAN}/frames/{index}.{kind}")
    assert (answer.status, answer.json["code"]) == (404, "not_found")


def test_the_mean_is_that_of_the_counts(client: Client, store: ScanStore) -> None:
    counts = store.stored(np.arange(store.n_frames)).astype(np.float64)
    np.testing.assert_array_equal(client.ask(f"{SCAN}/mean.npy").npy, counts.sum(axis=0) / 40)
    assert client.ask(f"{SCAN}/mean.png").body.startswith(b"\x89PNG")


def test_the_mean_does_not_depend_on_the_blocks(
    store: ScanStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = science.mean_intensity(store)
    monkeypatch.setattr(science, "BLOCK_BYTES", 3 * 8 * 16 * 16)
    np.testing.assert_array_equal(science.mean_intensity(store), whole)


def test_probe_and_object_are_those_of_the_scan(client: Client, store: ScanStore) -> None:
    np.testing.assert_array_equal(client.ask(f"{SCAN}/probe.npy").npy, store.probe_guess)
    np.testing.assert_array_equal(client.ask(f"{SCAN}/object.npy").npy, store.object_guess)
    for what in ("probe", "object"):
        for part in ("amplitude", "phase"):
            answer = client.ask(f"{SCAN}/{what}/{part}.png?size=64")
            assert answer.headers["content-type"] == "image/png"
        assert client.ask(f"{SCAN}/{what}/real.png").status == 404
    assert client.ask(f"{SCAN}/probe/amplitude.png?mode=1").status == 404


def test_a_scan_of_amplitudes_with_modes_and_without_object_is_served(
    tmp_path: Path, start: Callable[..., Client]
) -> None:
    rng = np.random.default_rng(5)
    arrays = {
        "diff3d": rng.random((12, 8, 8)),
        "probeGuess": rng.random((3, 8, 8)) + 1j,
        "objectGuess": None,
    }
    source = synthetic.make_npz(tmp_path / "a.npz", n_frames=12, N=8, **arrays)
    ingest(source, tmp_path / "served" / "a.zarr", IngestConfig()).close()
    client = start(tmp_path / "served")
    np.testing.assert_array_equal(client.ask("/v1/scans/a/frames/5.npy").npy, arrays["diff3d"][5])
    mean = client.ask("/v1/scans/a/mean.npy").npy
    np.testing.assert_allclose(mean, np.square(arrays["diff3d"]).mean(axis=0), rtol=1e-14)
    assert client.ask("/v1/scans/a").json["probe_modes"] == 3
    assert client.ask("/v1/scans/a/probe/phase.png?mode=2").status == 200
    assert client.ask("/v1/scans/a/probe/phase.png?mode=3").status == 404
    for path in ("object.npy", "object/amplitude.png", "object/phase.png"):
        answer = client.ask(f"/v1/scans/a/{path}")
        assert (answer.status, answer.json["code"]) == (404, "not_found")
    assert "object" not in client.ask("/v1/scans/a").json["links"]


@pytest.mark.parametrize(
    "indices", [[3], [5, 1, 5, 39, 0], [], list(range(40)) * 3], ids=["one", "some", "none", "many"]
)
def test_a_batch_has_each_frame_once_and_gives_back_what_was_asked(
    client: Client, store: ScanStore, indices: list[int]
) -> None:
    answer = client.ask(f"{SCAN}/batch", "POST", {"indices": indices})
    assert answer.headers["content-type"] == "application/x-npz"
    with np.load(io.BytesIO(answer.body), allow_pickle=False) as batch:
        frames, inverse = batch["frames"], batch["inverse"]
    assert len(frames) == len(set(indices))
    np.testing.assert_array_equal(frames[inverse], store.amplitude(np.array(indices, np.int64)))


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b"", 400, id="empty"),
        pytest.param(b"{", 400, id="cut"),
        pytest.param(b"\xff\xfe", 400, id="no text"),
        pytest.param(b"[" * 100_000, 400, id="deep"),
        pytest.param(b"9" * 10_000, 400, id="long number"),
        pytest.param(b"NaN", 400, id="nan"),
        pytest.param(b"null", 400, id="null"),
        pytest.param(b"[]", 400, id="list"),
        pytest.param(b'{"indices": 3}', 400, id="no list"),
        pytest.param(b'{"indices": [0], "more": 1}', 400, id="more"),
        pytest.param(b'{"indices": [0.0]}', 400, id="float"),
        pytest.param(b'{"indices": [NaN]}', 400, id="nan index"),
        pytest.param(b'{"indices": [true]}', 400, id="bool"),
        pytest.param(b'{"indices": ["0"]}', 400, id="text"),
        pytest.param(b'{"indices": [null]}', 400, id="null index"),
        pytest.param(b'{"indices": [[0]]}', 400, id="nested"),
        pytest.param(b'{"indices": [-1]}', 400, id="negative"),
        pytest.param(b'{"indices": [40]}', 400, id="outside"),
        pytest.param(b'{"indices": [1e400]}', 400, id="infinite"),
        pytest.param(b'{"indices": [%s]}' % (b"9" * 4000), 400, id="huge"),
        pytest.param(b'{"indices": [%s]}' % (b"9" * 5000), 400, id="too many digits"),
        pytest.param(json.dumps({"indices": [0] * 5000}).encode(), 413, id="too many"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(client: Client, body: bytes, status: int) -> None:
    answer = client.ask(f"{SCAN}/batch", "POST", body)
    assert answer.status == status
    assert set(answer.json) == {"code", "message"}
    assert len(answer.json["message"]) < 300


def test_a_batch_that_takes_too_much_memory_is_refused(
    root: Path, start: Callable[..., Client]
) -> None:
    client = start(root, max_batch_size="2KiB", max_batch_frames=10)
    assert client.ask(f"{SCAN}/batch", "POST", {"indices": [0, 1, 0, 1]}).status == 200
    answer = client.ask(f"{SCAN}/batch", "POST", {"indices": [0, 1, 2]})
    assert (answer.status, answer.json["code"]) == (413, "too_large")
    assert client.ask(f"{SCAN}/batch", "POST", {"indices": [0] * 11}).status == 413


def test_an_answer_that_a_client_holds_is_not_made_again(client: Client) -> None:
    paths = (
        "map", "power", "groups", "groups?position=1", "frames/1.npy", "frames/1.png", "mean.npy",
        "mean.png?scale=linear", "probe.npy", "probe/phase.png", "object.npy",
        "object/amplitude.png",
    )  # fmt: skip
    for path in paths:
        first = client.ask(f"{SCAN}/{path}")
        again = client.ask(f"{SCAN}/{path}", If_None_Match=first.headers["etag"])
        assert (again.status, again.body) == (304, b""), path
        other = client.ask(f"/v1/scans/second/{path}", If_None_Match=first.headers["etag"])
        assert other.status == 200, path


def test_a_damaged_frame_is_a_fault_that_names_no_path(
    root: Path, tmp_path: Path, start: Callable[..., Client]
) -> None:
    shutil.copytree(root / "first.zarr", tmp_path / "served" / "first.zarr")
    shard = tmp_path / "served" / "first.zarr" / "diffraction" / "c" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 0xFF
    shard.write_bytes(content)
    client = start(tmp_path / "served")
    answers = [client.ask(f"{SCAN}/frames/{index}.npy") for index in range(40)]
    failed = [answer for answer in answers if answer.status != 200]
    assert failed
    for answer in failed:
        assert (answer.status, answer.json["code"]) == (500, "damaged")
        assert str(tmp_path) not in answer.json["message"]
