"""Stores in a bucket: whole or not there, never a mixture, never over somebody else's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from farstores import serve_careless_s3
from zarr.storage import ObjectStore

from ptyzarr.config import IngestConfig, TransformConfig
from ptyzarr.errors import (
    ConfigError,
    DamagedStoreError,
    InterruptedIngestError,
    ScanExistsError,
    ScanNotFoundError,
    StorageError,
    VerificationError,
)
from ptyzarr.ingestion import ingest, plan_parts, repair, transform, verify
from ptyzarr.ingestion.upload import CLAIM_KEY
from ptyzarr.store import RemoteFolder, open_store, open_stores, remote_access

MakeNpz = Callable[..., Path]


@pytest.fixture(autouse=True)
def small_shards(set_sizes: Callable[..., None]) -> None:
    set_sizes(chunk_frames=4, shard_frames=16)


@pytest.fixture
def config(tmp_path: Path) -> IngestConfig:
    return IngestConfig(staging=str(tmp_path / "staging"))


@pytest.fixture
def source(make_npz: MakeNpz, tmp_path: Path) -> Path:
    return make_npz(tmp_path / "scan.npz", n_frames=60)


@pytest.fixture
def url(bucket: str) -> str:
    return f"{bucket}/runs/scan.zarr"


@pytest.fixture
def folder(url: str) -> RemoteFolder:
    return RemoteFolder(url, remote_access())


def fail_at(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    """Let the upload of the given file fail."""
    send, calls = RemoteFolder.put, iter(range(1000))

    def put(self: RemoteFolder, *args: Any) -> None:
        if next(calls) == number:
            raise error
        send(self, *args)

    monkeypatch.setattr(RemoteFolder, "put", put)


def test_an_uploaded_store_equals_the_folder_and_leaves_nothing_else(
    source: Path, url: str, config: IngestConfig, folder: RemoteFolder, tmp_path: Path
) -> None:
    local = ingest(source, tmp_path / "scan.zarr")
    far = ingest(source, url, config)
    assert far.digest == local.digest
    order = np.random.default_rng(0).permutation(60)
    assert np.array_equal(far.amplitude(order), local.amplitude(order))
    assert set(folder.list()) == {*local.files, "zarr.json"}
    assert list((tmp_path / "staging").iterdir()) == []
    assert verify(url, source).digest == local.digest
    far.close()


def test_zarr_reads_the_uploaded_store(
    source: Path, url: str, config: IngestConfig, bucket: str, tmp_path: Path
) -> None:
    from obstore.store import S3Store

    far = ingest(source, url, config)
    plain = S3Store(
        bucket.removeprefix("s3://"), prefix="runs/scan.zarr", client_options={"allow_http": True}
    )
    group = zarr.open_group(ObjectStore(plain, read_only=True), mode="r")
    frames = group["diffraction"]
    assert isinstance(frames, zarr.Array)
    assert np.array_equal(np.asarray(frames[5:9]), far.stored(far.frame_index[5:9]))
    far.close()


def test_stores_in_a_bucket_are_found_by_a_pattern(
    source: Path, bucket: str, config: IngestConfig
) -> None:
    for name in ("run_10", "run_9", "other"):
        ingest(source, f"{bucket}/runs/{name}.zarr", config).close()
    found = open_stores(f"{bucket}/runs/run_*.zarr")
    assert [store.path.rsplit("/")[-1] for store in found] == ["run_9.zarr", "run_10.zarr"]
    assert len(open_stores(f"{bucket}/r*/*.zarr")) == 3
    assert len(open_stores(f"{bucket}/runs/*")) == 3
    urls = [f"{bucket}/runs/other.zarr", f"{bucket}/runs/run_9.zarr"]
    assert [store.path for store in open_stores(urls)] == urls
    with pytest.raises(ScanNotFoundError, match="no store matches"):
        open_stores(f"{bucket}/none/*.zarr")


def test_the_same_source_is_uploaded_once(
    source: Path, url: str, config: IngestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(source, url, config).close()
    fail_at(monkeypatch, 0, AssertionError("written again"))
    for overwrite in (False, True):
        again = IngestConfig(staging=config.staging, overwrite=overwrite)
        ingest(source, url, again).close()


def test_another_store_is_replaced_only_when_asked(
    source: Path,
    url: str,
    config: IngestConfig,
    make_npz: MakeNpz,
    tmp_path: Path,
    folder: RemoteFolder,
) -> None:
    old = ingest(source, url, config)
    other = make_npz(tmp_path / "other.npz", n_frames=40, seed=3)
    with pytest.raises(ScanExistsError, match="of another source"):
        ingest(other, url, config)
    assert open_store(url).digest == old.digest
    new = ingest(other, url, IngestConfig(staging=config.staging, overwrite=True))
    assert new.digest != old.digest
    assert set(folder.list()) == {*new.files, "zarr.json"}
    # Whoever has the old one open is told; nothing of the new one passes for it.
    with pytest.raises(DamagedStoreError, match="somebody replaced"):
        old.amplitude(np.arange(60))
    with pytest.raises(DamagedStoreError, match="somebody replaced"):
        old.positions  # noqa: B018
    verify(url, other)


@pytest.mark.parametrize("number", [0, 3, 11], ids=["first", "some", "many"])
def test_an_interrupted_upload_is_no_store_and_goes_on(
    source: Path,
    url: str,
    config: IngestConfig,
    folder: RemoteFolder,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    with monkeypatch.context() as patch:
        fail_at(patch, number, KeyboardInterrupt())
        with pytest.raises(InterruptedIngestError, match="run the same command to resume"):
            ingest(source, url, config)
    with pytest.raises(ScanNotFoundError, match="no finished store"):
        open_store(url)
    there = folder.list()
    sent = []
    put = RemoteFolder.put
    monkeypatch.setattr(
        RemoteFolder, "put", lambda self, key, *args: sent.append(key) or put(self, key, *args)
    )
    far = ingest(source, url, config)
    assert not set(sent) & {key for key in there if key != CLAIM_KEY}
    verify(url, source)
    far.close()


def test_a_file_that_arrived_cut_or_changed_is_sent_again(
    source: Path,
    url: str,
    config: IngestConfig,
    folder: RemoteFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "create", _create_all_but_root(RemoteFolder.create))
        with pytest.raises(ScanExistsError, match="taken by another upload"):
            ingest(source, url, config)
    body = folder.read("positions/c/0/0")
    assert body is not None
    folder.put("positions/c/0/0", bytes(len(body.body)))
    folder.put("diffraction/c/1/0/0", b"cut")
    ingest(source, url, config).close()
    verify(url, source)


def _create_all_but_root(create: Any) -> Any:
    def refuse_root(self: RemoteFolder, key: str, content: bytes) -> bool:
        return key != "zarr.json" and create(self, key, content)

    return refuse_root


def test_an_unfinished_upload_of_another_scan_is_left_alone(
    source: Path,
    url: str,
    config: IngestConfig,
    make_npz: MakeNpz,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        fail_at(patch, 3, StorageError("no network"))
        with pytest.raises(StorageError, match="no network"):
            ingest(source, url, config)
    other = make_npz(tmp_path / "other.npz", n_frames=40, seed=3)
    with pytest.raises(ScanExistsError, match=r"unfinished upload of scan\.npz"):
        ingest(other, url, config)
    replaced = ingest(other, url, IngestConfig(staging=config.staging, overwrite=True))
    assert replaced.n_frames == 40
    verify(url, other)


def test_two_uploads_at_once_never_mix(
    source: Path,
    url: str,
    config: IngestConfig,
    make_npz: MakeNpz,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ptyzarr.ingestion.upload._FILES_AT_ONCE", 1)
    other = make_npz(tmp_path / "other.npz", n_frames=60, seed=3)
    put, calls = RemoteFolder.put, iter(range(1000))

    def put_and_be_overtaken(self: RemoteFolder, *args: Any) -> None:
        put(self, *args)
        if next(calls) == 5:
            with monkeypatch.context() as patch:
                patch.setattr(RemoteFolder, "put", put)
                staging = str(tmp_path / "second")
                ingest(other, url, IngestConfig(staging=staging, overwrite=True)).close()

    monkeypatch.setattr(RemoteFolder, "put", put_and_be_overtaken)
    with pytest.raises(ScanExistsError, match="taken by another upload"):
        ingest(source, url, config)
    # The second published; the first has put files of its own over some of it.
    with pytest.raises(VerificationError, match=r"expected|digest"):
        verify(url, other)
    far = open_store(url)
    with pytest.raises(DamagedStoreError):
        far.amplitude(np.arange(60))
    far.close()


def once_claimed(monkeypatch: pytest.MonkeyPatch, when: str, call: Callable[[], Any]) -> None:
    """Make a call right before or after the next upload creates its claim."""
    create = RemoteFolder.create

    def interleaved(self: RemoteFolder, key: str, content: bytes) -> bool:
        if key != CLAIM_KEY:
            return create(self, key, content)
        monkeypatch.setattr(RemoteFolder, "create", create)
        if when == "before":
            call()
        is_new = create(self, key, content)
        if when == "after":
            call()
        return is_new

    monkeypatch.setattr(RemoteFolder, "create", interleaved)


@pytest.mark.parametrize("overwrite", [False, True], ids=["plain", "overwrite"])
def test_a_store_that_is_published_while_another_is_prepared_is_left_whole(
    source: Path,
    url: str,
    folder: RemoteFolder,
    config: IngestConfig,
    make_npz: MakeNpz,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overwrite: bool,
) -> None:
    other = make_npz(tmp_path / "other.npz", n_frames=60, seed=3)
    theirs = IngestConfig(staging=str(tmp_path / "theirs"))
    once_claimed(monkeypatch, "before", lambda: ingest(other, url, theirs).close())
    ours = IngestConfig(staging=config.staging, overwrite=overwrite)
    message = "was published by another upload while" if overwrite else "of another source"
    with pytest.raises(ScanExistsError, match=message):
        ingest(source, url, ours)
    verify(url, other)
    assert CLAIM_KEY not in folder.list()
    if overwrite:  # what is there is seen by now
        ingest(source, url, ours).close()
        verify(url, source)


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_same_store_published_meanwhile_is_success(
    source: Path,
    url: str,
    folder: RemoteFolder,
    config: IngestConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    theirs = IngestConfig(staging=str(tmp_path / "theirs"))
    once_claimed(monkeypatch, when, lambda: ingest(source, url, theirs).close())
    ingest(source, url, config).close()
    verify(url, source)
    assert CLAIM_KEY not in folder.list()


@pytest.mark.parametrize("staging", ["staging", "theirs"], ids=["same-staging", "other-staging"])
@pytest.mark.parametrize("number", [0, 5], ids=["first-file", "later-file"])
def test_of_two_uploads_of_one_store_both_succeed(
    source: Path,
    url: str,
    folder: RemoteFolder,
    config: IngestConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    staging: str,
) -> None:
    monkeypatch.setattr("ptyzarr.ingestion.upload._FILES_AT_ONCE", 1)
    put, calls = RemoteFolder.put, iter(range(1000))

    def put_and_be_overtaken(self: RemoteFolder, *args: Any) -> None:
        put(self, *args)
        if next(calls) == number:
            with monkeypatch.context() as patch:
                patch.setattr(RemoteFolder, "put", put)
                ingest(source, url, IngestConfig(staging=str(tmp_path / staging))).close()

    monkeypatch.setattr(RemoteFolder, "put", put_and_be_overtaken)
    assert ingest(source, url, config).n_frames == 60
    verify(url, source)
    assert CLAIM_KEY not in folder.list()


def test_a_call_that_is_refused_leaves_the_files_that_another_is_uploading(
    source: Path,
    url: str,
    config: IngestConfig,
    make_npz: MakeNpz,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = make_npz(tmp_path / "other.npz", n_frames=60, seed=3)
    put, calls = RemoteFolder.put, iter(range(1000))

    def put_and_be_disturbed(self: RemoteFolder, *args: Any) -> None:
        if next(calls) == 0:
            with pytest.raises(ScanExistsError, match="unfinished upload"):
                ingest(other, url, config)
        put(self, *args)

    monkeypatch.setattr(RemoteFolder, "put", put_and_be_disturbed)
    ingest(source, url, config).close()
    verify(url, source)
    assert list((tmp_path / "staging").iterdir()) == []


def test_a_call_that_finds_its_store_leaves_the_claim_of_another(
    source: Path, url: str, folder: RemoteFolder, config: IngestConfig
) -> None:
    ingest(source, url, config).close()
    folder.put(CLAIM_KEY, b'{"root": "another", "source": "other.npz"}')
    ingest(source, url, config).close()
    assert folder.look(CLAIM_KEY) is not None


def test_probes_that_a_killed_call_left_are_removed(
    source: Path, url: str, folder: RemoteFolder, config: IngestConfig
) -> None:
    folder.put(".ptyzarr-probe-0123", b"first")
    far = ingest(source, url, config)
    assert set(folder.list()) == {*far.files, "zarr.json"}
    folder.put(".ptyzarr-probe-4567", b"first")
    ingest(source, url, config).close()
    assert set(folder.list()) == {*far.files, "zarr.json"}
    far.close()


def test_a_probe_that_somebody_removes_is_made_again(
    source: Path, url: str, config: IngestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, calls = RemoteFolder.create, iter(range(1000))

    def remove_the_first(self: RemoteFolder, key: str, content: bytes) -> bool:
        is_new = create(self, key, content)
        if next(calls) == 0:
            self.delete([key])
        return is_new

    monkeypatch.setattr(RemoteFolder, "create", remove_the_first)
    assert ingest(source, url, config).n_frames == 60


def test_a_server_that_overwrites_what_should_be_created_is_refused(
    source: Path,
    url: str,
    config: IngestConfig,
    folder: RemoteFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        RemoteFolder, "create", lambda self, key, content: self.put(key, content) is None
    )
    with pytest.raises(StorageError, match="does not honour"):
        ingest(source, url, config)
    assert folder.list() == {}


@pytest.mark.parametrize("refuses", [False, True], ids=["ignored", "501"])
def test_a_server_without_the_condition_is_refused_in_one_line(
    source: Path,
    url: str,
    config: IngestConfig,
    folder: RemoteFolder,
    monkeypatch: pytest.MonkeyPatch,
    s3_address: str,
    refuses: bool,
) -> None:
    assert folder.list() == {}  # its client is of the server behind
    with serve_careless_s3(s3_address, refuses=refuses) as careless:
        monkeypatch.setenv("AWS_ENDPOINT_URL", careless)
        with pytest.raises(StorageError, match="does not honour") as caught:
            ingest(source, url, config)
    assert "\n" not in str(caught.value)
    assert folder.list() == {}


def test_a_root_that_was_created_although_the_answer_was_lost_is_success(
    source: Path, url: str, config: IngestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = RemoteFolder.create

    def lose_the_answer(self: RemoteFolder, key: str, content: bytes) -> bool:
        is_new = create(self, key, content)
        return is_new and key != "zarr.json"

    monkeypatch.setattr(RemoteFolder, "create", lose_the_answer)
    assert ingest(source, url, config).n_frames == 60


def test_a_staged_file_that_decayed_is_not_sent(
    source: Path, url: str, config: IngestConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        fail_at(patch, 0, StorageError("no network"))
        with pytest.raises(StorageError):
            ingest(source, url, config)
    (path,) = (tmp_path / "staging").glob("*/scan.zarr/positions/c/0/0")
    path.write_bytes(bytes(path.stat().st_size))
    ingest(source, url, config).close()  # it is made again
    verify(url, source)


def test_verify_of_a_url_finds_what_is_wrong(
    source: Path, url: str, config: IngestConfig, folder: RemoteFolder
) -> None:
    ingest(source, url, config).close()
    folder.put("diffraction/c/1/0/0", b"cut")
    folder.delete(["positions/c/0/0"])
    folder.put("stray", b"what is this")
    with pytest.raises(VerificationError, match=r"positions/c/0/0 is missing") as caught:
        verify(url)
    assert "diffraction/c/1/0/0 has 3 bytes" in str(caught.value)


def test_what_is_left_unfinished_in_the_bucket_says_whose_it_is(
    source: Path, url: str, config: IngestConfig, folder: RemoteFolder, monkeypatch: Any
) -> None:
    fail_at(monkeypatch, 2, StorageError("no network"))
    with pytest.raises(StorageError):
        ingest(source, url, config)
    claim = folder.read(CLAIM_KEY)
    assert claim is not None
    assert json.loads(bytes(claim.body))["source"] == "scan.npz"


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda source, url: ingest(source, "http://host/scan.zarr"), id="http"),
        pytest.param(plan_parts, id="plan"),
        pytest.param(
            lambda source, url: transform(url, "scan.zarr", TransformConfig(flip_x=True)),
            id="transform",
        ),
        pytest.param(lambda source, url: repair(url, source), id="repair"),
        pytest.param(
            lambda source, url: ingest(source, "scan.zarr", IngestConfig(staging="x")),
            id="staging-of-a-folder",
        ),
    ],
)
def test_what_cannot_be_done_with_a_url_is_refused(
    call: Callable[[Path, str], Any], source: Path, url: str
) -> None:
    with pytest.raises(ConfigError, match=r"URL|cannot be written"):
        call(source, url)


def test_a_bucket_that_is_not_there_is_told(
    source: Path, bucket: str, config: IngestConfig
) -> None:
    with pytest.raises(StorageError, match="no such bucket"):
        ingest(source, f"{bucket}-none/scan.zarr", config)


@pytest.mark.parametrize("name", ["runs/scan.zarr", "runs/*.zarr"], ids=["url", "pattern"])
def test_a_bucket_that_is_not_there_is_named_to_readers(bucket: str, name: str) -> None:
    url = f"{bucket}-none/{name}"
    with pytest.raises(ScanNotFoundError, match=r"there is no bucket '[\w-]+-none'"):
        open_stores(url)


@pytest.mark.parametrize("path", ["runs//star.zarr", "runs/../star.zarr", "runs//*.zarr"])
def test_a_url_with_empty_names_is_no_damage(bucket: str, path: str) -> None:
    with pytest.raises(ConfigError, match="between its slashes"):
        open_stores(f"{bucket}/{path}")


def test_without_credentials_the_variables_are_named(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StorageError, match=r"AWS_\*"):
        open_store(url)
