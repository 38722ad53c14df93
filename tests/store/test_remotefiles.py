"""Stores at URLs: equal to the folder, and an error wherever a byte may not be the listed one."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from farstores import FolderServer

from ptyzarr.errors import (
    ConfigError,
    DamagedStoreError,
    PtyzarrError,
    ScanNotFoundError,
    SchemaError,
    StorageError,
)
from ptyzarr.store import (
    RemoteFiles,
    ScanStore,
    check_remote_digests,
    open_store,
    open_stores,
    remote_access,
)

MakeStore = Callable[..., ScanStore]
SHARD = "scan.zarr/diffraction/c/0/0/0"
ROOT = "scan.zarr/zarr.json"


@pytest.fixture
def store(make_scan_store: MakeStore, set_sizes: Callable[..., None]) -> ScanStore:
    set_sizes(chunk_frames=4, shard_frames=64)
    return make_scan_store(n_frames=150, N=16, comment=np.array("far away"))


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def quick(server: FolderServer, **options: Any) -> ScanStore:
    return open_store(f"{server.url}/scan.zarr", **{"timeout_s": 30, "attempts": 3, **options})


def test_everything_read_over_http_equals_the_folder(
    store: ScanStore, folder_server: FolderServer
) -> None:
    far = quick(folder_server)
    for name in ("positions", "positions_start", "scan_index", "probe_guess", "object_guess"):
        assert np.array_equal(getattr(far, name), getattr(store, name))
    assert far.extra["comment"] == store.extra["comment"]
    assert (far.digest, far.bytes_stored) == (store.digest, store.bytes_stored)
    order = np.random.default_rng(0).permutation(150)
    assert np.array_equal(far.amplitude(order), store.amplitude(order))
    assert np.array_equal(far.diffraction[3:9].compute(), store.diffraction[3:9].compute())
    far.close()


def test_opening_reads_the_root_document_alone(
    store: ScanStore, folder_server: FolderServer
) -> None:
    quick(folder_server)
    assert folder_server.requests() == [("GET", ROOT, None)]


def test_a_few_frames_fetch_a_part_of_one_shard(
    store: ScanStore, folder_server: FolderServer
) -> None:
    far = quick(folder_server)
    far.rows  # noqa: B018 - reads the order of the frames first
    before = folder_server.n_sent
    frame = store.frame_index[70]
    assert np.array_equal(far.amplitude(np.array([frame])), store.amplitude(np.array([frame])))
    gets = [entry for entry in folder_server.requests("diffraction/c") if entry[0] == "GET"]
    assert len(gets) == 2  # the index and one chunk
    assert folder_server.n_sent - before < store.files["diffraction/c/1/0/0"]["size"] / 4
    far.close()


def test_a_key_is_sent_and_kept_out_of_sight(store: ScanStore, folder_server: FolderServer) -> None:
    folder_server.key = "open-sesame"
    far = quick(folder_server, key="open-sesame")
    assert "open-sesame" not in repr(far) + repr(far.__reduce__())
    again = pickle.loads(pickle.dumps(far))
    assert np.array_equal(again.amplitude(np.arange(5)), store.amplitude(np.arange(5)))
    again.close()


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        pytest.param(None, "PTYZARR_KEY", id="none"),
        pytest.param("wrong", "is not the server's", id="wrong"),
    ],
)
def test_a_refusal_names_the_key_and_is_not_tried_again(
    store: ScanStore, folder_server: FolderServer, key: str | None, hint: str
) -> None:
    folder_server.key = "right"
    with pytest.raises(StorageError, match=rf"access refused \(status 401\).*{hint}"):
        quick(folder_server, key=key)
    assert len(folder_server.log) == 1


def test_the_key_may_come_from_the_environment(
    store: ScanStore, folder_server: FolderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_server.key = "from-outside"
    monkeypatch.setenv("PTYZARR_KEY", "from-outside")
    assert quick(folder_server).n_frames == 150


PASSING = {
    "500": 500, "503": 503, "429": 429, "stall": "stall", "cut": "cut", "closed": "close",
    # An array is read whole: it has no range, and what is shorter has another size.
    "shorter-than-said": "short", "wrong-range": "wrong range",
    "404": 404, "204": 204, "other-size": "wrong size", "page": (200, b"<html>Log in</html>"),
    "empty": (200, b""),
}  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "key"),
    [
        pytest.param(fault, key, id=f"{kind}-{name}")
        for kind, key in (("array", "positions/c/0/0"), ("shard", "diffraction/c/1/0/0"))
        for name, fault in PASSING.items()
        if kind == "shard" or fault not in ("short", "wrong range")
    ],
)
def test_a_passing_failure_changes_nothing(
    store: ScanStore, folder_server: FolderServer, fault: Any, key: str
) -> None:
    folder_server.faults[f"scan.zarr/{key}"].extend([fault, fault])
    # On a busy machine right answers are late, too, and tried again.
    far = quick(folder_server, **({"timeout_s": 1, "attempts": 6} if fault == "stall" else {}))
    assert np.array_equal(far.positions, store.positions)
    assert np.array_equal(far.amplitude(np.arange(150)), store.amplitude(np.arange(150)))
    assert not folder_server.faults[f"scan.zarr/{key}"]
    far.close()


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        pytest.param(500, StorageError, r"answered 500.*attempt 3 of 3", id="500"),
        pytest.param("stall", StorageError, r"no byte came for 1 s.*attempt 3 of 3", id="stall"),
        pytest.param("cut", StorageError, r"cut.*attempt 3 of 3", id="cut"),
        pytest.param("close", StorageError, r"closed.*attempt 3 of 3", id="closed"),
        pytest.param("wrong range", StorageError, r"attempt 3 of 3", id="wrong-range"),
        pytest.param(404, DamagedStoreError, r"is missing; expected \d+ bytes", id="404"),
        pytest.param(410, StorageError, r"answered 410", id="410"),
        pytest.param(403, StorageError, r"status 403", id="403"),
        pytest.param("wrong size", DamagedStoreError, r"has \d+ bytes; expected", id="size"),
        pytest.param(
            (503, b'{"code": "busy", "message": "come\\nagain \\u001b[2J"}'),
            StorageError,
            r"answered 503 Service Unavailable \(come again \[2J\) \(attempt 3 of 3",
            id="reason",
        ),
        pytest.param((500, b'{"code": 3}'), StorageError, r"Error \(attempt 3", id="no-reason"),
        pytest.param(501, StorageError, r"answered 501 Not Implemented; expected", id="501"),
    ],
)
def test_a_lasting_failure_is_one_clear_error(
    store: ScanStore,
    folder_server: FolderServer,
    fault: Any,
    error: type[PtyzarrError],
    message: str,
) -> None:
    folder_server.always[SHARD] = fault
    far = quick(folder_server, timeout_s=1 if fault == "stall" else 30)
    with pytest.raises(error, match=message) as caught:
        far.amplitude(np.arange(150))
    assert folder_server.url in str(caught.value)
    assert "\n" not in str(caught.value)
    far.close()


@pytest.mark.parametrize("key", [SHARD, ROOT, "scan.zarr/positions/c/0/0"])
def test_damage_that_the_server_tells_of_is_told_at_once(
    store: ScanStore, folder_server: FolderServer, key: str
) -> None:
    folder_server.always[key] = (500, b'{"code": "damaged", "message": "file \'x\' is missing"}')
    with pytest.raises(DamagedStoreError, match=r"server says: file 'x' is missing"):
        read_all(folder_server)
    assert len(folder_server.requests(key)) == 1


def test_what_the_server_tells_of_is_one_of_the_problems_of_a_comparison(
    store: ScanStore, folder_server: FolderServer
) -> None:
    folder_server.always[SHARD] = (500, b'{"code": "damaged", "message": "a file is missing"}')
    files = RemoteFiles(f"{folder_server.url}/scan.zarr", remote_access())
    problems = [problem for _, problem in check_remote_digests(files, 2) if problem is not None]
    assert len(problems) == 1
    assert "the server says: a file is missing" in problems[0]


FLIPPED = [
    pytest.param("scan.zarr/zarr.json", "its own digest", id="root"),
    pytest.param("scan.zarr/positions/c/0/0", "other content than its digest", id="array"),
    pytest.param(SHARD, "fails its checksum", id="shard"),
]


def read_all(server: FolderServer, **options: Any) -> np.ndarray:
    far = quick(server, **options)
    try:
        assert len(far.positions) == 150
        return far.amplitude(np.arange(150))
    finally:
        far.close()


@pytest.mark.parametrize("way", ["ranges", "cache", "whole", "zarr"])
@pytest.mark.parametrize(("key", "message"), FLIPPED)
def test_what_is_flipped_on_its_way_is_fetched_as_often_as_was_said(
    store: ScanStore,
    folder_server: FolderServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    message: str,
    way: str,
) -> None:
    folder_server.gives_ranges = way != "whole"
    if way == "zarr":
        monkeypatch.setattr("ptyzarr.store.scanstore.native_functions", lambda: None)
    options = {"cache": tmp_path / "cache"} if way == "cache" else {}
    # Without ranges, that is found out by one more request.
    folder_server.faults[key].extend(["flip"] * 3)
    found = read_all(folder_server, attempts=4, **options)
    assert np.array_equal(found, store.amplitude(np.arange(150)))
    assert not folder_server.faults[key]


@pytest.mark.parametrize(("key", "message"), FLIPPED)
@pytest.mark.parametrize("attempts", [1, 4])
def test_what_is_always_flipped_says_how_often_it_came_and_what_may_be_at_fault(
    store: ScanStore, folder_server: FolderServer, key: str, message: str, attempts: int
) -> None:
    folder_server.always[key] = "flip"
    with pytest.raises(DamagedStoreError) as caught:
        read_all(folder_server, attempts=attempts)
    said = str(caught.value)
    times = "once" if attempts == 1 else f"{attempts} times"
    assert message in said
    assert f"fetched {times}; the transfer, a proxy or the store is at fault" in said
    assert f"'ptyzarr verify {folder_server.url}/scan.zarr'" in said
    assert "repair" not in said
    assert "\n" not in said
    gets = [asked for method, asked_key, asked in folder_server.requests(key) if method == "GET"]
    assert max(map(gets.count, gets)) == attempts


@pytest.mark.parametrize("left", [0, 100, -300, -1], ids=["empty", "cut", "no-index", "one-byte"])
def test_a_shard_that_is_too_short_is_asked_for_again_and_told(
    store: ScanStore, folder_server: FolderServer, tmp_path: Path, left: int
) -> None:
    path = tmp_path / SHARD
    path.write_bytes(path.read_bytes()[:left])
    far = quick(folder_server)
    with pytest.raises(DamagedStoreError, match=r"has \d+ bytes; expected \d+ bytes"):
        far.amplitude(np.arange(150))
    gets = [entry for entry in folder_server.requests(SHARD) if entry[0] == "GET"]
    assert len(gets) == 3
    far.close()


def test_a_listed_array_that_is_not_there_is_never_zeros(
    store: ScanStore, folder_server: FolderServer, tmp_path: Path
) -> None:
    (tmp_path / "scan.zarr/positions/c/0/0").unlink()
    with pytest.raises(DamagedStoreError, match="is missing"):
        quick(folder_server).positions  # noqa: B018


def test_other_content_of_the_same_size_is_found(
    store: ScanStore, folder_server: FolderServer, tmp_path: Path
) -> None:
    path = tmp_path / "scan.zarr/positions/c/0/0"
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DamagedStoreError, match="other content than its digest"):
        quick(folder_server).positions  # noqa: B018


def test_a_flipped_bit_in_a_frame_is_found(
    store: ScanStore, folder_server: FolderServer, tmp_path: Path
) -> None:
    path = tmp_path / SHARD
    raw = bytearray(path.read_bytes())
    raw[40] ^= 16
    path.write_bytes(raw)
    far = quick(folder_server)
    with pytest.raises(DamagedStoreError, match="fails its checksum"):
        far.amplitude(np.arange(150))
    far.close()


@pytest.mark.parametrize("tells_version", [True, False], ids=["etag", "no-etag"])
def test_a_store_that_is_replaced_while_open_is_an_error_not_a_mixture(
    store: ScanStore,
    folder_server: FolderServer,
    make_scan_store: MakeStore,
    tmp_path: Path,
    tells_version: bool,
) -> None:
    folder_server.tells_version = tells_version
    other = make_scan_store("other", n_frames=150, N=16, seed=5)
    far = quick(folder_server)
    first = far.frame_index[:4]
    assert np.array_equal(far.amplitude(first), store.amplitude(first))
    (tmp_path / "scan.zarr").rename(tmp_path / "old.zarr")
    (tmp_path / "other.zarr").rename(tmp_path / "scan.zarr")
    assert other.n_frames == far.n_frames
    with pytest.raises(DamagedStoreError, match="somebody replaced"):
        far.amplitude(np.arange(150))
    with pytest.raises(DamagedStoreError, match="somebody replaced"):
        far.positions  # noqa: B018
    far.close()


def test_a_server_that_ignores_ranges_is_read_by_whole_shards(
    store: ScanStore, folder_server: FolderServer, caplog: pytest.LogCaptureFixture
) -> None:
    folder_server.gives_ranges = False
    far = quick(folder_server)
    for _ in range(2):
        assert np.array_equal(far.amplitude(np.arange(150)), store.amplitude(np.arange(150)))
    assert len(folder_server.requests(SHARD)) == 3  # the index was asked for first, twice
    assert "ignores ranges" in caplog.text
    far.close()


def test_a_whole_shard_that_is_cut_goes_on_where_it_ended(
    store: ScanStore, folder_server: FolderServer
) -> None:
    folder_server.gives_ranges = False
    folder_server.faults[SHARD].extend([None, "cut", 503, "cut"])
    far = quick(folder_server, attempts=4)
    assert np.array_equal(far.amplitude(np.arange(150)), store.amplitude(np.arange(150)))
    far.close()


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        pytest.param("none.zarr", ScanNotFoundError, "no finished store", id="absent"),
        pytest.param("plain", SchemaError, "not a ptyzarr store", id="not-ours"),
        pytest.param("flipped", DamagedStoreError, "own digest", id="flipped-root"),
    ],
)
def test_what_is_no_store_is_told(
    store: ScanStore,
    folder_server: FolderServer,
    tmp_path: Path,
    path: str,
    error: type[PtyzarrError],
    message: str,
) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/zarr.json").write_text("{}")
    (tmp_path / "flipped").mkdir()
    raw = (tmp_path / ROOT).read_text()
    (tmp_path / "flipped/zarr.json").write_text(raw.replace("hilbert", "hilbeRt"))
    with pytest.raises(error, match=message):
        open_store(f"{folder_server.url}/{path}", attempts=1)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        pytest.param("ftp://host/scan.zarr", "cannot be opened", id="scheme"),
        pytest.param("http://me:secret@host/scan.zarr", "refused", id="password"),
        pytest.param("http://host/scan.zarr?x=1", "query", id="query"),
        pytest.param("s3://", "cannot be opened", id="no-bucket"),
    ],
)
def test_a_url_that_cannot_work_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"attempts": 0}, "attempts is 0", id="attempts"),
        pytest.param({"timeout_s": "soon"}, "timeout_s is 'soon'", id="timeout"),
        pytest.param({"cache_size": "much"}, "memory size 'much'", id="cache-size"),
        pytest.param({"key": "two\nlines"}, "no header may hold", id="key"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_store("http://127.0.0.1:9/scan.zarr", **options)
    assert "two" not in str(caught.value)


def test_a_host_that_is_not_there_is_told() -> None:
    with pytest.raises(StorageError, match=r"no connection could be made \(attempt 2 of 2\)"):
        open_store("http://127.0.0.1:9/scan.zarr", attempts=2)


def test_http_has_no_listing(store: ScanStore, folder_server: FolderServer) -> None:
    with pytest.raises(ConfigError, match="HTTP has no listing"):
        open_stores(f"{folder_server.url}/*.zarr")
    assert [far.digest for far in open_stores(f"{folder_server.url}/scan.zarr")] == [store.digest]


def test_a_list_of_urls_folders_and_patterns_is_opened_in_its_order(
    store: ScanStore, folder_server: FolderServer, make_scan_store: MakeStore, tmp_path: Path
) -> None:
    make_scan_store("a", n_frames=20, N=16, seed=3)
    places = [f"{folder_server.url}/scan.zarr", tmp_path / "*.zarr", f"{folder_server.url}/a.zarr"]
    found = open_stores(places)
    names = [opened.path.rsplit("/", 1)[-1] for opened in found]
    assert names == ["scan.zarr", "a.zarr", "scan.zarr", "a.zarr"]
    assert [opened.n_frames for opened in found] == [150, 20, 150, 20]
    for opened in found:
        opened.close()


@pytest.mark.parametrize("places", [[], None, 3, [3], ["a.zarr", None]])
def test_what_names_no_stores_is_refused_in_one_line(places: Any) -> None:
    with pytest.raises(ConfigError, match=r"names no stores; expected a path.*list of them$"):
        open_stores(places)


def test_another_codec_is_read_through_zarr(
    store: ScanStore, folder_server: FolderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptyzarr.store.scanstore.native_functions", lambda: None)
    far = quick(folder_server)
    assert np.array_equal(far.amplitude(np.arange(150)), store.amplitude(np.arange(150)))
    folder_server.always[SHARD] = 404
    with pytest.raises(DamagedStoreError, match="is missing"):
        far.amplitude(np.arange(150))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not tell")
def test_a_store_that_is_dropped_closes_its_files_in_the_cache(
    store: ScanStore, folder_server: FolderServer, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"

    def open_files() -> list[str]:
        found = []
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # closed by now
                found.append(os.readlink(entry))
        return [name for name in found if name.startswith(str(cache))]

    gc.disable()  # what is in no cycle needs no collection
    try:
        far = quick(folder_server, cache=cache)
        assert np.array_equal(far.amplitude(np.arange(150)), store.amplitude(np.arange(150)))
        assert open_files()
        del far
        assert open_files() == []
    finally:
        gc.enable()
