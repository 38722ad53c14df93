from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from service.webclient import Client

from ptyzarr.config import IngestConfig
from ptyzarr.errors import ScanNotFoundError, StorageError
from ptyzarr.ingestion import ingest
from ptyzarr.service.catalogue import Catalogue, Published
from ptyzarr.service.files import open_stored
from ptyzarr.store import open_store


@pytest.fixture
def folder(root: Path, tmp_path: Path) -> Path:
    """A folder of its own with the stores run_1, run_2 and run_10."""
    for name in ("run_10", "run_2", "run_1"):
        shutil.copytree(root / "first.zarr", tmp_path / "served" / f"{name}.zarr")
    return tmp_path / "served"


def listed(client: Client, query: str = "") -> list[str]:
    return [entry["id"] for entry in client.ask(f"/v1/scans{query}").json["scans"]]


def test_scans_are_listed_in_natural_order(folder: Path, start: Callable[..., Client]) -> None:
    answer = start(folder).ask("/v1/scans").json
    assert [entry["id"] for entry in answer["scans"]] == ["run_1", "run_2", "run_10"]
    assert (answer["n_scans"], answer["next"]) == (3, None)


def test_pages_together_are_the_catalogue(folder: Path, start: Callable[..., Client]) -> None:
    client = start(folder)
    first = client.ask("/v1/scans?limit=2").json
    assert [entry["id"] for entry in first["scans"]] == ["run_1", "run_2"]
    second = client.ask(f"/v1/scans?limit=2&cursor={first['next']}").json
    assert [entry["id"] for entry in second["scans"]] == ["run_10"]
    assert second["next"] is None


def test_a_page_goes_on_where_its_cursor_was_although_that_scan_is_gone(
    folder: Path, start: Callable[..., Client]
) -> None:
    client = start(folder)
    shutil.rmtree(folder / "run_2.zarr")
    assert listed(client, "?cursor=run_2") == ["run_10"]


def test_a_line_of_the_catalogue_tells_what_the_scan_is(client: Client, root: Path) -> None:
    entry = client.ask("/v1/scans").json["scans"][0]
    store = open_store(root / "first.zarr")
    assert entry == {
        "id": "first",
        "n_frames": 40,
        "frame_size": 16,
        "quantity": "counts",
        "dtype": "uint8",
        "amplitude_dtype": "float32",
        "digest": store.digest,
        "frames_digest": store.frames_digest,
        "bytes_stored": store.bytes_stored,
        "bytes_logical": store.bytes_logical,
        "url": "/v1/scans/first/zarr",
    }


def test_metadata_has_units_shapes_and_provenance(client: Client) -> None:
    scan = client.ask("/v1/scans/first").json
    assert scan["arrays"]["diffraction"]["shape"] == [40, 16, 16]
    assert scan["arrays"]["diffraction"]["dimensions"] == ["frame", "y", "x"]
    assert scan["arrays"]["positions"]["unit"] == "object pixels"
    assert scan["positions"]["unit"] == "object pixels"
    assert scan["source"]["name"] == "first.npz"
    assert scan["intensity_unit"] == "counts"
    assert scan["grouping"] == {"gridsize": 1, "n_neighbors": 4, "n_samples": None, "seed": 0}
    assert scan["links"]["object"] == "/v1/scans/first/object/amplitude.png"


def test_stores_appear_and_disappear_without_a_restart(
    folder: Path, root: Path, start: Callable[..., Client]
) -> None:
    client = start(folder)
    assert client.ask("/v1/scans/new").status == 404
    shutil.copytree(root / "second.zarr", folder / "new.zarr")
    assert "new" in listed(client)
    assert client.ask("/v1/scans/new").status == 200
    shutil.rmtree(folder / "new.zarr")
    assert "new" not in listed(client)
    assert client.ask("/v1/scans/new").status == 404
    assert client.ask("/v1/scans/new/zarr/zarr.json").status == 404


def test_a_store_that_is_replaced_is_another_one_everywhere(
    tmp_path: Path, start: Callable[..., Client]
) -> None:
    def make(seed: int) -> None:
        source = synthetic.make_npz(tmp_path / f"{seed}.npz", seed=seed)
        ingest(source, tmp_path / "served" / "a.zarr", IngestConfig(overwrite=True)).close()

    make(1)
    client = start(tmp_path / "served")
    before = {path: client.ask(path) for path in ("/v1/scans/a/map", "/v1/scans/a/frames/3.npy")}
    make(2)
    with contextlib.closing(open_store(tmp_path / "served" / "a.zarr")) as store:
        for path, old in before.items():
            answer = client.ask(path, If_None_Match=old.headers["etag"])
            assert answer.status == 200
            assert answer.body != old.body
        np.testing.assert_array_equal(
            client.ask("/v1/scans/a/frames/3.npy").npy, store.amplitude(np.array([3]))[0]
        )


def test_a_damaged_store_is_listed_with_its_error(
    folder: Path, start: Callable[..., Client]
) -> None:
    client = start(folder)
    assert "error" not in client.ask("/v1/scans").json["scans"][1]
    assert client.ask("/v1/scans/run_2").status == 200
    (folder / "run_2.zarr" / "frame_power" / "c" / "0").unlink()
    entries = client.ask("/v1/scans").json["scans"]
    while not any("error" in entry for entry in entries):
        entries = client.ask("/v1/scans").json["scans"]  # not looked at every time
    assert [entry["id"] for entry in entries if "error" in entry] == ["run_2"]
    assert entries[1]["error"]["code"] == "damaged"
    assert str(folder) not in entries[1]["error"]["message"]
    for path in ("", "/mean.npy", "/mean.png"):
        answer = client.ask(f"/v1/scans/run_2{path}")
        assert (answer.status, answer.json["code"]) == (500, "damaged")


def test_damage_is_told_by_the_first_listing_although_the_store_was_opened_before(
    folder: Path, start: Callable[..., Client]
) -> None:
    client = start(folder)
    assert client.ask("/v1/scans/run_2/map").status == 200
    (folder / "run_2.zarr" / "frame_power" / "c" / "0").unlink()
    entries = client.ask("/v1/scans").json["scans"]
    assert [entry["id"] for entry in entries if "error" in entry] == ["run_2"]


def test_a_mean_that_is_known_is_not_given_for_a_copy_that_is_damaged(
    folder: Path, start: Callable[..., Client]
) -> None:
    client = start(folder)
    known = client.ask("/v1/scans/run_1/mean.npy")
    (folder / "run_2.zarr" / "diffraction" / "c" / "0" / "0" / "0").unlink()
    for headers in ({}, {"If_None_Match": known.headers["etag"]}):
        answer = client.ask("/v1/scans/run_2/mean.npy", **headers)
        assert (answer.status, answer.json["code"]) == (500, "damaged")
    assert client.ask("/v1/scans/run_1/mean.npy").body == known.body


@pytest.mark.parametrize(
    "name",
    [pytest.param("run_2", id="two stores"), pytest.param("run_2.zarr.old", id="other name")],
)
def test_neither_of_two_stores_with_one_id_hides_the_other(
    folder: Path, start: Callable[..., Client], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    client = start(folder)
    shutil.copytree(folder / "run_1.zarr", folder / name)
    is_double = name == "run_2"
    for _ in range(2):
        entries = {entry["id"]: entry for entry in client.ask("/v1/scans").json["scans"]}
        assert ("error" in entries["run_2"]) is is_double
    if is_double:
        assert entries["run_2"]["error"]["code"] == "ambiguous"
        assert "'run_2' and 'run_2.zarr'" in entries["run_2"]["error"]["message"]
        for path in ("", "/map", "/zarr/zarr.json", "/mean.npy", "/groups"):
            answer = client.ask(f"/v1/scans/run_2{path}")
            assert (answer.status, answer.json["code"]) == (409, "ambiguous")
    told = [record for record in caplog.records if "the same id" in record.getMessage()]
    assert len(told) == is_double
    shutil.rmtree(folder / name)
    assert client.ask("/v1/scans/run_2/map").status == 200


def test_a_link_to_a_store_beside_it_is_that_store(
    folder: Path, start: Callable[..., Client]
) -> None:
    client = start(folder)
    (folder / "run_2").symlink_to("run_2.zarr")
    assert listed(client) == ["run_1", "run_2", "run_10"]
    assert client.ask("/v1/scans/run_2").status == 200


def test_no_scan_is_lost_between_pages_where_numbers_are_written_differently(
    folder: Path, start: Callable[..., Client]
) -> None:
    client = start(folder)
    shutil.copytree(folder / "run_1.zarr", folder / "run_01.zarr")
    found, cursor = [], ""
    while cursor is not None:
        page = client.ask(f"/v1/scans?limit=1{cursor and f'&cursor={cursor}'}").json
        found += [entry["id"] for entry in page["scans"]]
        cursor = page["next"]
    assert found == ["run_01", "run_1", "run_2", "run_10"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param(b"", "schema", id="empty"),
        pytest.param(b'{"zarr_format": 3, "node_type": "group"}', "schema", id="not ours"),
        pytest.param(b'{"root_sha256": "00"', "damaged", id="cut"),
    ],
)
def test_a_store_with_a_broken_root_stops_nobody(
    folder: Path, start: Callable[..., Client], content: bytes, code: str
) -> None:
    client = start(folder)
    (folder / "run_1.zarr" / "zarr.json").write_bytes(content)
    entries = client.ask("/v1/scans").json["scans"]
    assert entries[0]["error"]["code"] == code
    assert "error" not in entries[1]
    answer = client.ask("/v1/scans/run_1/zarr/diffraction/zarr.json")
    assert (answer.status, answer.json["code"]) == (500, code)


def test_a_store_without_its_root_is_listed_as_unfinished(
    folder: Path, start: Callable[..., Client]
) -> None:
    (folder / "run_1.zarr" / "zarr.json").unlink()
    client = start(folder)
    assert client.ask("/v1/scans").json["scans"][0]["error"]["code"] == "not_found"
    assert client.ask("/v1/scans/run_1").status == 404


def test_roots_that_are_a_pipe_or_brackets_alone_stop_nobody(
    folder: Path, start: Callable[..., Client]
) -> None:
    client = start(folder)
    for name in ("pipe.zarr", "deep.zarr"):
        (folder / name).mkdir()
    os.mkfifo(folder / "pipe.zarr" / "zarr.json")
    (folder / "deep.zarr" / "zarr.json").write_text("[" * 200_000)
    entries = {entry["id"]: entry for entry in client.ask("/v1/scans").json["scans"]}
    assert {"run_1", "run_2", "run_10"} <= set(entries)
    assert entries["run_1"]["n_frames"] > 0
    assert client.ask("/v1/scans/pipe").status in (404, 500)
    assert client.ask("/v1/scans/deep").status in (404, 500)
    assert client.ask("/v1/scans/run_1").status == 200


def test_what_is_no_store_is_not_listed(folder: Path, start: Callable[..., Client]) -> None:
    (folder / "notes").mkdir()
    (folder / "empty.zarr").mkdir()
    (folder / "file.zarr").write_text("x")
    (folder / ".hidden.zarr").mkdir()
    (folder / ".hidden.zarr" / "zarr.json").write_text("{}")
    client = start(folder)
    assert listed(client) == ["run_1", "run_2", "run_10"]
    for name in ("notes", "empty", "file", ".hidden", "file.zarr", ".ptyzarr-cache"):
        assert client.ask(f"/v1/scans/{name}").status == 404


def test_a_store_may_lie_behind_a_link_and_have_any_name(
    root: Path, tmp_path: Path, start: Callable[..., Client]
) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "über 1.zarr").symlink_to(root / "first.zarr")
    client = start(folder)
    entry = client.ask("/v1/scans").json["scans"][0]
    assert entry["id"] == "über 1"
    assert entry["url"] == "/v1/scans/%C3%BCber%201/zarr"
    assert client.ask(f"{entry['url']}/zarr.json").status == 200


def test_one_store_alone_can_be_served(root: Path, start: Callable[..., Client]) -> None:
    client = start(root / "first.zarr")
    assert listed(client) == ["first"]
    assert client.ask("/v1/scans/first/zarr/zarr.json").status == 200
    assert client.ask("/v1/scans/second").status == 404


def test_only_so_many_stores_are_kept_open(root: Path, tmp_path: Path) -> None:
    names = [f"s{number}" for number in range(20)]
    for name in names:
        (tmp_path / f"{name}.zarr").symlink_to(root / "first.zarr")
    catalogue = Catalogue(tmp_path)

    def n_shards() -> int:
        links = (os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))
        return sum("diffraction/c/" in link for link in links)

    before = n_shards()
    for name in names:
        catalogue.store(name).amplitude(np.array([0]))
    assert n_shards() - before <= 16
    catalogue.close()
    assert n_shards() == before


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanNotFoundError, match="is no folder; expected one that holds stores"):
        Catalogue(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "query", ["?limit=0", "?limit=1001", "?limit=x", "?limit=1&limit=2", "?page=2", "?limit=+1 "]
)
def test_a_query_that_is_not_understood_is_refused(client: Client, query: str) -> None:
    answer = client.ask("/v1/scans" + query.replace(" ", "%20"))
    assert (answer.status, answer.json["code"]) == (400, "request")


def test_a_file_is_opened_again_if_its_store_was_replaced_meanwhile(
    folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = Catalogue(folder)
    target, new = folder / "run_1.zarr", folder / ".new"
    shutil.copytree(root / "second.zarr", new)
    key = "diffraction/c/0/0/0"
    real_open, opened = os.open, []

    def replace_then_open(path: Any, *arguments: Any, **names: Any) -> int:
        if str(path).endswith(key) and not opened:
            opened.append(path)
            shutil.rmtree(target)
            new.rename(target)
        return real_open(path, *arguments, **names)

    assert catalogue.published("run_1").files[key]
    monkeypatch.setattr(os, "open", replace_then_open)
    file = open_stored(catalogue, "run_1", key)
    assert opened
    expected = (root / "second.zarr" / key).read_bytes()
    assert file.read(0, file.size) == expected
    assert file.etag == f'"{hashlib.sha256(expected).hexdigest()}"'
    file.close()


def test_a_store_that_never_rests_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = Catalogue(folder)
    monkeypatch.setattr(Published, "is_current", lambda published: False)
    with pytest.raises(StorageError, match="changes all the time"):
        open_stored(catalogue, "run_1", "diffraction/c/0/0/0")
    with pytest.raises(StorageError, match="changes all the time"):
        catalogue.store("run_1")


def test_a_folder_that_cannot_be_read_is_a_fault_of_the_disk(
    folder: Path, start: Callable[..., Client]
) -> None:
    client = start(folder)
    shutil.rmtree(folder)
    answer = client.ask("/v1/scans")
    assert (answer.status, answer.json["code"]) == (503, "storage")
    assert str(folder) not in answer.json["message"]
    assert client.ask("/v1/scans/run_1").status == 404
