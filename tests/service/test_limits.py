"""Many at once, and those who take or send nothing, do not keep others from their answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import synthetic
from service.load import served
from service.webclient import Client, connect, head

from ptyzarr.ingestion import ingest
from ptyzarr.service import science
from ptyzarr.store import open_store, shard_key

FRAME = "/v1/scans/first/frames/0.npy"
FILE = "/v1/scans/first/zarr/extra/noise/c/0"
N_BYTES = 16 * 1024**2  # more than the buffers of a connection


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one file that no socket's buffers hold."""
    folder = tmp_path_factory.mktemp("large")
    noise = np.random.default_rng(0).integers(0, 256, N_BYTES, np.uint8)
    source = synthetic.make_npz(folder / "a.npz", noise=noise)
    ingest(source, folder / "served" / "first.zarr").close()
    return folder / "served"


async def ask_part(client: Client, path: str, start: int, stop: int) -> tuple[bytes, bytes]:
    """Return status line and body of a range, over a connection of its own."""
    host, port = client.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    more = f"Range: bytes={start}-{stop - 1}\r\nConnection: close\r\n"
    writer.write(head(client, path, more=more))
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    before, _, body = answer.partition(b"\r\n\r\n")
    return before.partition(b"\r\n")[0], body


@pytest.mark.parametrize(
    "flags",
    [pytest.param([], id="defaults"), pytest.param(["--max-requests", "3"], id="few places")],
)
def test_six_hundred_requests_at_once_get_their_answers(large: Path, flags: list[str]) -> None:
    content = (Path(open_store(large / "first.zarr").path) / shard_key(0)).read_bytes()
    spans = [(number % 97, number % 97 + 100) for number in range(600)]

    async def ask_all(client: Client) -> list[tuple[bytes, bytes]]:
        path = f"/v1/scans/first/zarr/{shard_key(0)}"
        return await asyncio.gather(*(ask_part(client, path, *span) for span in spans))

    with served(large, *flags) as (url, key):
        answers = asyncio.run(ask_all(Client(url, key)))
    expected = [(b"HTTP/1.1 206 Partial Content", content[start:stop]) for start, stop in spans]
    assert answers == expected


def test_more_files_than_places_may_wait_for_their_clients(
    large: Path, start: Callable[..., Client]
) -> None:
    client = start(large, max_requests=2)
    with contextlib.ExitStack() as sleepers:
        for _ in range(10):
            sleeper = sleepers.enter_context(connect(client, 4096))
            sleeper.sendall(head(client, FILE))
            assert sleeper.recv(10) == b"HTTP/1.1 2"
        assert client.ask(FRAME).status == 200
        stored = large / "first.zarr" / "extra" / "noise" / "c" / "0"
        assert client.ask(FILE).body == stored.read_bytes()


def test_who_takes_no_computed_answer_makes_room_for_others(
    large: Path, start: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(science, "amplitude_frame", lambda *_: np.ones(N_BYTES, np.uint8))
    client = start(large, max_requests=2, max_answers_size=2 * N_BYTES)
    with contextlib.ExitStack() as sleepers:
        for _ in range(2):
            sleeper = sleepers.enter_context(connect(client, 4096))
            sleeper.sendall(head(client, FRAME))
        np.testing.assert_array_equal(client.ask(FRAME).npy, np.ones(N_BYTES, np.uint8))


def test_who_sends_no_body_keeps_no_place(large: Path, start: Callable[..., Client]) -> None:
    client = start(large, max_requests=1)
    with connect(client) as sleeper:
        path = "/v1/scans/first/batch"
        more = "Content-Length: 100\r\nExpect: 100-continue\r\n"
        sleeper.sendall(head(client, path, "POST", more))
        assert sleeper.recv(100).startswith(b"HTTP/1.1 100")
        assert client.ask(path, "POST", {"indices": [0]}).status == 200
