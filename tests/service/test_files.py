from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from service.webclient import Client

from ptyzarr.service.answers import Refusal
from ptyzarr.service.files import byte_range
from ptyzarr.store import ScanStore, open_store

SHARD = "diffraction/c/0/0/0"
ZARR = "/v1/scans/first/zarr"


@pytest.fixture
def store(root: Path) -> ScanStore:
    return open_store(root / "first.zarr")


@pytest.fixture
def shard(root: Path) -> bytes:
    return (root / "first.zarr" / SHARD).read_bytes()


def test_every_listed_file_is_served_byte_for_byte(client: Client, store: ScanStore) -> None:
    for key, entry in store.files.items():
        answer = client.ask(f"{ZARR}/{key}")
        assert answer.status == 200
        assert hashlib.sha256(answer.body).hexdigest() == entry["sha256"]
        assert answer.headers["etag"] == f'"{entry["sha256"]}"'
        assert answer.headers["content-length"] == str(entry["size"])
        assert "immutable" in answer.headers["cache-control"]


def test_the_root_is_served_and_never_kept_without_asking(client: Client, root: Path) -> None:
    answer = client.ask(f"{ZARR}/zarr.json")
    assert answer.body == (root / "first.zarr" / "zarr.json").read_bytes()
    assert answer.headers["content-type"] == "application/json"
    assert "immutable" not in answer.headers["cache-control"]
    assert "no-cache" in answer.headers["cache-control"]
    assert client.ask(f"{ZARR}/zarr.json", If_None_Match=answer.headers["etag"]).status == 304


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        pytest.param("bytes=0-0", 0, 1, id="first byte"),
        pytest.param("bytes=5-99", 5, 100, id="inside"),
        pytest.param("bytes=100-", 100, None, id="open end"),
        pytest.param("bytes=-8", -8, None, id="suffix"),
        pytest.param("bytes=-999999999", 0, None, id="suffix longer than the file"),
        pytest.param("bytes=3-999999999", 3, None, id="beyond the end"),
        pytest.param("bytes=3-" + 23 * "9", 3, None, id="far beyond the end"),
        pytest.param("bytes=3-" + 5000 * "9", 3, None, id="beyond any number"),
        pytest.param("bytes=-" + 23 * "9", 0, None, id="suffix far longer"),
        pytest.param("bytes=" + 30 * "0" + "5-" + 30 * "0" + "6", 5, 7, id="leading zeros"),
        pytest.param("BYTES=0-3", 0, 4, id="unit in capitals"),
    ],
)
def test_a_range_gives_those_bytes(
    client: Client, shard: bytes, header: str, start: int, stop: int | None
) -> None:
    answer = client.ask(f"{ZARR}/{SHARD}", Range=header)
    assert answer.status == 206
    assert answer.body == shard[start:stop]
    first = start % len(shard)
    last = first + len(answer.body) - 1
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(shard)}"
    assert answer.headers["content-length"] == str(len(answer.body))


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("bytes=0-1,4-5", id="several"),
        pytest.param("bytes=9-3", id="backwards"),
        pytest.param("bytes=", id="empty"),
        pytest.param("bytes=-", id="dash"),
        pytest.param("bytes=a-b", id="letters"),
        pytest.param("bytes=\u0660-\u0663", id="digits of another script"),
        pytest.param("bytes=0x0-0x9", id="hexadecimal"),
        pytest.param("bytes=" + 23 * "9" + "-9", id="backwards from far beyond"),
        pytest.param("items=0-3", id="other unit"),
        pytest.param("0-3", id="no unit"),
    ],
)
def test_a_range_that_is_not_understood_is_ignored(
    client: Client, shard: bytes, header: str
) -> None:
    answer = client.ask(f"{ZARR}/{SHARD}", Range=header.encode().decode("latin-1"))
    assert (answer.status, answer.body) == (200, shard)


@pytest.mark.parametrize(
    "header",
    [
        "bytes=99999999-",
        "bytes=-0",
        "bytes=-" + 30 * "0",
        "bytes=99999999-99999999",
        "bytes=" + 23 * "9" + "-",
        "bytes=" + 23 * "9" + "-" + 24 * "9",
    ],
)
def test_a_range_outside_the_file_is_refused(client: Client, shard: bytes, header: str) -> None:
    answer = client.ask(f"{ZARR}/{SHARD}", Range=header)
    assert (answer.status, answer.json["code"]) == (416, "range")
    assert answer.headers["content-range"] == f"bytes */{len(shard)}"


@given(size=st.integers(0, 50), first=st.integers(0, 60), last=st.integers(0, 60))
def test_ranges_are_those_of_slices(size: int, first: int, last: int) -> None:
    content = bytes(range(size))
    if first >= size and last >= first:
        with pytest.raises(Refusal):
            byte_range(f"bytes={first}-{last}", size)
    else:
        span = byte_range(f"bytes={first}-{last}", size)
        assert span == (None if last < first else (first, min(size, last + 1)))
    if first and size:
        start, stop = byte_range(f"bytes=-{first}", size) or (0, 0)
        assert content[start:stop] == content[-first:]


def test_head_tells_the_size_and_sends_nothing(client: Client, shard: bytes) -> None:
    answer = client.ask(f"{ZARR}/{SHARD}", "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == str(len(shard))
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        pytest.param("{etag}", 304, id="same"),
        pytest.param("W/{etag}", 304, id="weak"),
        pytest.param('"other", {etag}', 304, id="in a list"),
        pytest.param("*", 304, id="any"),
        pytest.param('"other"', 200, id="other"),
    ],
)
def test_what_a_client_holds_is_not_sent_again(
    client: Client, store: ScanStore, tags: str, status: int
) -> None:
    etag = f'"{store.files[SHARD]["sha256"]}"'
    answer = client.ask(f"{ZARR}/{SHARD}", If_None_Match=tags.format(etag=etag))
    assert answer.status == status
    assert answer.headers["etag"] == etag
    assert (answer.body == b"") == (status == 304)


def test_a_range_of_another_content_gives_all_of_this_one(client: Client, shard: bytes) -> None:
    answer = client.ask(f"{ZARR}/{SHARD}", Range="bytes=0-3", If_Range='"other"')
    assert (answer.status, answer.body) == (200, shard)
    etag = answer.headers["etag"]
    assert client.ask(f"{ZARR}/{SHARD}", Range="bytes=0-3", If_Range=etag).status == 206


@pytest.mark.parametrize(
    "key",
    [
        "../second.zarr/zarr.json",
        "%2e%2e/second.zarr/zarr.json",
        "..%2fsecond.zarr%2fzarr.json",
        "..\\second.zarr\\zarr.json",
        "..%5csecond.zarr%5czarr.json",
        "zarr.json%00",
        "%00",
        "/etc/passwd",
        "//etc/passwd",
        "%2fetc%2fpasswd",
        "C:%5cwindows",
        "./zarr.json",
        "diffraction/../zarr.json",
        "diffraction//zarr.json",
        "diffraction%2fzarr.json",
        "diffraction",
        "diffraction/",
        "",
        "diffraction/c/00/0/0",
        "diffraction/c/+0/0/0",
        "diffraction/c/0/0/-0",
        "diffraction/c/%D9%A0/0/0",
        "diffraction/c/0/0/0.partial",
        ".journal/0.json",
        "unlisted",
        "ZARR.JSON",
    ],
)
def test_what_no_manifest_lists_is_not_there(client: Client, key: str) -> None:
    answer = client.ask(f"{ZARR}/{key}")
    assert answer.status == 404
    assert answer.json["code"] == "not_found"


@pytest.mark.parametrize(
    "path",
    ["first%2Fzarr/zarr.json", "first%2fzarr%2fzarr.json", "%2e/first/zarr/zarr.json", "first%00"],
)
def test_slashes_that_are_hidden_lead_nowhere(client: Client, path: str) -> None:
    answer = client.ask(f"/v1/scans/{path}")
    assert (answer.status, answer.json["code"]) == (404, "not_found")


@pytest.fixture
def damaged(root: Path, tmp_path: Path) -> Path:
    """A folder of its own with one store to be damaged."""
    shutil.copytree(root / "first.zarr", tmp_path / "served" / "first.zarr")
    return tmp_path / "served"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link_elsewhere(path: Path) -> None:
    other = path.with_name("elsewhere")
    path.rename(other)
    path.symlink_to(other)


def link_folder(path: Path) -> None:
    folder = path.parent
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (Path.unlink, "is missing"),
        (cut, "bytes; expected"),
        (make_folder, "is no file"),
        (make_pipe, "is no file"),
        (link_elsewhere, "is a link"),
        (link_folder, "is a link"),
    ],
)
def test_a_listed_file_that_is_not_whole_is_a_fault_not_a_hole(
    damaged: Path, start: Callable[..., Client], damage: Callable[[Path], None], said: str
) -> None:
    client = start(damaged)
    assert client.ask(f"{ZARR}/{SHARD}").status == 200
    damage(damaged / "first.zarr" / SHARD)
    answer = client.ask(f"{ZARR}/{SHARD}")
    assert (answer.status, answer.json["code"]) == (500, "damaged")
    assert SHARD in answer.json["message"]
    assert said in answer.json["message"]
    assert str(damaged) not in answer.json["message"]
    assert client.ask(f"{ZARR}/zarr.json").status == 200


def test_a_file_that_the_disk_does_not_give_is_a_fault(
    damaged: Path, start: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start(damaged)
    real_open = os.open

    def refuse(path: str, *arguments: int, **names: int) -> int:
        if str(path).endswith(SHARD):
            raise OSError(5, "Input/output error")
        return real_open(path, *arguments, **names)

    monkeypatch.setattr(os, "open", refuse)
    answer = client.ask(f"{ZARR}/{SHARD}")
    assert (answer.status, answer.json["code"]) == (503, "storage")
    assert "Input/output error" in answer.json["message"]


def test_files_are_closed_whatever_becomes_of_the_answer(client: Client) -> None:
    def n_open() -> int:
        return sum(
            os.path.realpath(f"/proc/self/fd/{fd}").endswith(SHARD)
            for fd in os.listdir("/proc/self/fd")
        )

    before = n_open()
    etag = client.ask(f"{ZARR}/{SHARD}").headers["etag"]
    client.ask(f"{ZARR}/{SHARD}", If_None_Match=etag)
    client.ask(f"{ZARR}/{SHARD}", "HEAD")
    client.ask(f"{ZARR}/{SHARD}", Range="bytes=99999999-")
    assert n_open() == before
