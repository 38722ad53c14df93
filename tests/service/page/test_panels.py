"""Frames, groups, probe, object and metadata of a scan."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import synthetic
from selenium.webdriver.common.keys import Keys
from service.browser import Browser
from service.pageuse import (
    FRAME_SIZE,
    N_FRAMES,
    canonical_members,
    members_shown,
    n_colors,
    shown_frame,
    wait_for,
)
from service.webclient import Client

from ptyzarr.config import ServiceConfig
from ptyzarr.ingestion import ingest
from ptyzarr.service import BackgroundService, serve_background
from ptyzarr.store import ScanStore

TIMES = "\N{MULTIPLICATION SIGN}"


@pytest.mark.parametrize("position", [3, 58])
def test_the_group_is_the_canonical_one(first: Browser, store: ScanStore, position: int) -> None:
    first.type("frame-number", str(position))
    wait_for(first, position)
    expected = canonical_members(store, position)
    assert members_shown(first) == expected
    assert first.find("map").get_attribute("data-members") == ",".join(map(str, expected))
    assert str(expected)[1:-1] in first.find("status").get_attribute("textContent")


def test_groups_are_drawn_as_the_fields_say(first: Browser, store: ScanStore) -> None:
    first.type("gridsize", "3")
    first.wait(lambda: len(first.all("#members button")) == 9 or first.text("group-error"))
    first.type("neighbors", "14")
    first.type("seed", "5")
    wait_for(first, 0, 9)
    expected = canonical_members(store, 0, gridsize=3, n_neighbors=14, seed=5)
    first.wait(lambda: members_shown(first) == expected)
    shown = first.hash()
    assert (shown["gridsize"], shown["neighbors"], shown["seed"]) == ("3", "14", "5")


def test_a_group_that_cannot_be_says_why(first: Browser) -> None:
    first.type("neighbors", "1")
    first.wait(lambda: "neighbor" in first.text("group-error"))
    assert first.all("#members button") == []
    first.type("neighbors", "-1")
    assert "whole number from 0" in first.text("group-error")
    first.type("neighbors", "6")
    wait_for(first, 0)
    assert first.text("group-error") == ""


def test_a_member_is_a_way_to_its_frame(first: Browser) -> None:
    button = first.all("#members button")[1]
    member = int(button.get_attribute("data-member"))
    button.click()
    wait_for(first, member)
    assert first.hash()["frame"] == str(member)


def test_the_frame_is_drawn_from_its_counts(first: Browser, store: ScanStore) -> None:
    first.choose("cmap", "gray")
    first.choose("scale", "linear")
    first.wait(lambda: "linear&cmap=gray" in shown_frame(first))
    image = first.pixels("frame-image")
    assert image.shape == (FRAME_SIZE, FRAME_SIZE, 4)
    counts = np.square(store.amplitude(np.array([0]))[0].astype(float))
    levels = np.minimum(counts / counts.max() * 256, 255).astype(int)
    pairs = np.unique(np.stack([levels.ravel(), image[..., 0].ravel().astype(int)]), axis=1)
    # One gray for each level, lighter for more.
    assert len(pairs[0]) == len(np.unique(levels))
    assert (np.diff(pairs[1]) >= 0).all()
    assert (image[..., 3] == 255).all()
    assert [first.text("frame-low"), first.text("frame-high")] == ["0", f"{counts.max():g}"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("scale", "linear", id="scale"),
        pytest.param("cmap", "ocean", id="colours"),
        pytest.param("range", "percentiles", id="range"),
        pytest.param("show", "mean", id="mean"),
    ],
)
def test_options_change_the_picture(first: Browser, field: str, value: str) -> None:
    before, path = first.pixels("frame-image"), shown_frame(first)
    assert n_colors(before) > 4
    first.choose(field, value)
    first.wait(lambda: shown_frame(first) != path)
    assert not np.array_equal(first.pixels("frame-image"), before)
    assert first.hash()[field] == value
    assert first.text("frame-error") == ""


def test_limits_are_values_that_can_be_typed(first: Browser) -> None:
    first.choose("range", "values")
    first.wait(lambda: "vmin=" in shown_frame(first))
    first.type("low", "2")
    first.type("high", "5.5")
    first.wait(lambda: "vmin=2&vmax=5.5" in shown_frame(first))
    assert [first.text("frame-low"), first.text("frame-high")] == ["2", "5.5"]
    first.type("high", "1")
    assert first.text("frame-error").startswith("The lower limit has to be below the upper one")
    assert "vmin=2&vmax=5.5" in shown_frame(first)
    first.choose("range", "full")
    first.wait(lambda: "vmin" not in shown_frame(first))
    assert first.text("frame-error") == ""


def test_probe_and_object_are_amplitude_and_phase(
    first: Browser, service: BackgroundService
) -> None:
    client = Client(service.url, service.key)
    for picture in ("probe-amplitude", "probe-phase", "object-amplitude", "object-phase"):
        first.wait(lambda picture=picture: first.find(picture).get_attribute("data-shows"))
        path = first.find(picture).get_attribute("data-shows")
        assert path.startswith(f"v1/scans/first/{picture.replace('-', '/')}.png")
        assert client.ask(f"/{path}").headers["content-type"] == "image/png"
        assert n_colors(first.pixels(picture)) > 2
    first.find("probe-phase").click()
    assert first.text("large-title") == "Probe phase"
    first.keys(Keys.ESCAPE)
    first.wait(lambda: not first.find("large").is_displayed())


def test_modes_of_the_probe_are_shown_one_by_one(tab: Browser, tmp_path: Path) -> None:
    one = synthetic.make_arrays(9, 16)["probeGuess"]
    modes = np.stack([one, one[::-1] * np.linspace(0, 1, 16, dtype=np.float32)])
    source = synthetic.make_npz(tmp_path / "modes.npz", 9, 16, probeGuess=modes)
    (tmp_path / "served").mkdir()
    ingest(source, tmp_path / "served" / "modes.zarr").close()
    with serve_background(tmp_path / "served", ServiceConfig(port=0, no_key=True)) as running:
        tab.open(running.url, "scan=modes&frame=0")
        wait_for(tab, 0)
        tab.wait(lambda: tab.find("probe-amplitude").get_attribute("data-shows"))
        before = tab.pixels("probe-amplitude")
        tab.type("mode", "1")
        tab.wait(
            lambda: "mode=1" in (tab.find("probe-amplitude").get_attribute("data-shows") or "")
        )
        assert not np.array_equal(tab.pixels("probe-amplitude"), before)
        assert tab.hash()["mode"] == "1"
        tab.type("mode", "2")
        tab.wait(
            lambda: (
                "Mode cannot be 2; it has to be a whole number from 0 to 1" in tab.text("guesses")
            )
        )


def test_a_scan_without_an_object_says_so(catalogue: Browser) -> None:
    page = catalogue
    page.all("#scans a")[0].click()
    wait_for(page, 0)
    assert "This scan has no object guess." in page.text("guesses")


def test_metadata_has_units(first: Browser, store: ScanStore) -> None:
    text = first.text("facts")
    assert f"90 of 32 {TIMES} 32 pixels" in text
    assert "object pixels" in text
    assert store.digest in text.replace("\n", "")
    assert "power" in first.text("frame-facts")
    assert first.text("frame-facts").endswith("counts")


def test_a_damaged_frame_says_so_where_it_would_be(
    tab: Browser, root: Path, tmp_path: Path
) -> None:
    hurt = shutil.copytree(root / "first.zarr", tmp_path / "hurt.zarr")
    shard = next(path for path in sorted((hurt / "diffraction" / "c").rglob("*")) if path.is_file())
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 0x10
    shard.write_bytes(content)
    with serve_background(tmp_path, ServiceConfig(port=0, no_key=True)) as running:
        client = Client(running.url, None)
        statuses = [client.ask(f"/v1/scans/hurt/frames/{i}.png").status for i in range(N_FRAMES)]
        bad = statuses.index(500)
        tab.open(running.url, f"scan=hurt&frame={bad}")
        tab.wait(lambda: "(500)" in tab.text("frame-error"))
        tab.wait(lambda: len(members_shown(tab)) == 4)
        readable = [member for member in members_shown(tab) if statuses[member] == 200]
        tab.wait(lambda: len(tab.all("#members img[src]")) == len(readable))
        assert ("(500)" in tab.text("group-error")) == (len(readable) < 4)
        good = next(i for i in range(bad, N_FRAMES) if statuses[i] == 200)
        tab.type("frame-number", str(good))
        tab.wait(lambda: f"/frames/{good}.png" in shown_frame(tab))
        assert tab.text("frame-error") == ""
