from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from service.webclient import Client


def values(client: Client) -> dict[str, float]:
    text = client.ask("/metrics").body.decode()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r'ptyzarr_\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [0-9.e+-]+', line), line
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_answers_are_counted_by_route_and_status(root: Path, start: Callable[..., Client]) -> None:
    client = start(root)
    for index in range(3):
        client.ask(f"/v1/scans/first/frames/{index}.npy")
    client.ask("/v1/scans/first/frames/99.npy")
    client.ask("/v1/scans", key="wrong")
    client.ask("/anything", "BREW")
    found = values(client)
    route = 'route="/v1/scans/{id}/frames/{index}.npy",method="GET"'
    assert found[f'ptyzarr_requests_total{{{route},status="200"}}'] == 3
    assert found[f'ptyzarr_requests_total{{{route},status="404"}}'] == 1
    assert found['ptyzarr_requests_total{route="none",method="GET",status="401"}'] == 1
    assert found['ptyzarr_requests_total{route="none",method="other",status="404"}'] == 1
    assert found["ptyzarr_scans"] == 2
    assert found["ptyzarr_requests_running"] == 1


def test_bytes_sent_are_those_of_the_bodies(root: Path, start: Callable[..., Client]) -> None:
    client = start(root)
    sent = len(client.ask("/v1/scans/first/zarr/diffraction/c/0/0/0").body)
    client.ask("/v1/scans/first/zarr/diffraction/c/0/0/0", "HEAD")
    found = values(client)
    assert found['ptyzarr_sent_bytes_total{route="/v1/scans/{id}/zarr/{key:path}"}'] == sent


def test_every_metric_says_what_it_is(client: Client) -> None:
    text = client.ask("/metrics").body.decode()
    names = set(re.findall(r"^(ptyzarr_\w+?)(?:_bucket|_sum|_count)?[ {]", text, re.MULTILINE))
    for name in names:
        assert f"# HELP {name} " in text
        assert f"# TYPE {name} " in text
