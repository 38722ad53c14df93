"""Small screens, odd scans, and what is left over when something fails or ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import synthetic
from service.browser import Browser
from service.pageuse import shown_frame, wait_for

from ptyzarr.ingestion import ingest
from ptyzarr.service import BackgroundService

WIDTH, HEIGHT = 400, 800


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans: `first`, `bare` without an object, `still` whose positions all coincide."""
    folder = tmp_path_factory.mktemp("served")
    sources = tmp_path_factory.mktemp("sources")
    still = {name: np.full(9, 20.0) for name in ("xcoords", "ycoords")}
    still |= {f"{name}_start": values for name, values in still.items()}
    for name, members in {"first": {}, "bare": {"objectGuess": None}, "still": still}.items():
        n_frames = 90 if name == "first" else 9
        source = synthetic.make_npz(sources / f"{name}.npz", n_frames, 32, **members)
        ingest(source, folder / f"{name}.zarr").close()
    return folder


@pytest.fixture
def narrow(tab: Browser, service: BackgroundService) -> Iterator[Browser]:
    """The catalogue on a small screen."""
    size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    tab.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    tab.open(service.url, key=service.key)
    tab.wait(lambda: tab.all("#scans a"))
    yield tab
    tab.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def edges(page: Browser, element_id: str) -> tuple[float, float]:
    """Return where an element ends, to the right and below, in CSS pixels."""
    script = "const box = document.getElementById(arguments[0]).getBoundingClientRect();"
    right, bottom = page.run(f"{script} return [box.right, box.bottom]", element_id)
    return right, bottom


def test_positions_in_one_place_are_one_dot_with_the_choice(
    quiet: Browser, service: BackgroundService
) -> None:
    quiet.open(service.url, "scan=still&frame=3", service.key)
    quiet.wait(lambda: "/frames/3.png" in (shown_frame(quiet) or ""))
    quiet.find("zoom-in").click()
    quiet.wait(lambda: "zoom" in quiet.hash())
    assert "NaN" not in quiet.hash()["zoom"]
    drawn = quiet.run("return {...document.getElementById('map').dataset}")
    assert float(drawn["scale"]) > 0
    ratio = float(quiet.run("return devicePixelRatio"))
    x, y = (float(drawn[name]) + 20.0 * float(drawn["scale"]) for name in ("offsetX", "offsetY"))
    pixels = quiet.pixels("map")
    around = pixels[round(y * ratio) - 20 : round(y * ratio) + 20]
    around = around[:, round(x * ratio) - 20 : round(x * ratio) + 20]
    choice = (208, 0, 111, 255)
    assert (around == choice).all(axis=-1).any()


def test_the_catalogue_fits_a_small_screen(narrow: Browser) -> None:
    assert narrow.run("return document.documentElement.scrollWidth") <= WIDTH
    assert edges(narrow, "refresh")[0] <= WIDTH


def test_the_enlarged_picture_fits_a_small_screen(
    narrow: Browser, service: BackgroundService
) -> None:
    narrow.open(service.url, "scan=first&frame=0", service.key)
    wait_for(narrow, 0)
    narrow.all("#frame .enlarge")[0].click()
    inner, outer = edges(narrow, "large-image"), edges(narrow, "large")
    assert inner[0] < outer[0] <= WIDTH
    assert inner[1] < outer[1] <= HEIGHT
    narrow.find("large-close").click()


def test_back_closes_the_enlarged_picture(first: Browser) -> None:
    first.type("frame-number", "5")
    wait_for(first, 5)
    first.all("#frame .enlarge")[0].click()
    assert first.find("large").is_displayed()
    first.driver.back()
    wait_for(first, 0)
    assert not first.find("large").is_displayed()


@pytest.mark.parametrize(
    ("low", "message"),
    [
        pytest.param("101", "Percentiles go from 0 to 100", id="beyond"),
        pytest.param("99.95", "The lower percentile has to be below", id="crossed"),
    ],
)
def test_limits_that_cannot_be_are_said_and_make_no_history(
    first: Browser, low: str, message: str
) -> None:
    first.choose("range", "percentiles")
    first.wait(lambda: "pmin=1&" in shown_frame(first))
    before = first.run("return history.length")
    first.type("low", low)
    assert first.text("frame-error").startswith(message)
    assert "pmin=1&" in shown_frame(first)
    first.type("low", "1.0")
    assert first.run("return history.length") == before
    first.type("low", "2")
    first.wait(lambda: "pmin=2&" in shown_frame(first))
    assert first.text("frame-error") == ""
    assert first.run("return history.length") == before + 1


def test_a_scan_without_an_object_has_no_empty_box(
    quiet: Browser, service: BackgroundService
) -> None:
    quiet.open(service.url, "scan=bare&frame=0", service.key)
    quiet.wait(lambda: "This scan has no object guess." in quiet.text("guesses"))
    assert not quiet.find("object-amplitude").is_displayed()
    assert quiet.find("probe-amplitude").is_displayed()


def test_a_picture_that_cannot_be_fetched_leaves_neither_box_nor_numbers(
    first: Browser, service: BackgroundService
) -> None:
    assert first.text("frame-low") != ""
    first.run("window.fetch = () => Promise.reject(new TypeError('gone'))")
    first.type("frame-number", "7")
    first.wait(lambda: first.text("frame-error") == "The picture could not be fetched.")
    assert first.text("frame-title") == "Frame 7"
    assert [first.text(f"frame-{name}") for name in ("low", "high", "unit")] == ["", "", ""]
    shown = "return getComputedStyle(document.getElementById('frame-image')).visibility"
    assert first.run(shown) == "hidden"


def test_a_finger_scrolls_over_a_map_that_shows_all(first: Browser) -> None:
    touch = "return getComputedStyle(document.getElementById('map')).touchAction"
    assert first.run(touch) == "pan-y"
    first.find("zoom-in").click()
    assert first.run(touch) == "none"
    first.find("zoom-fit").click()
    assert first.run(touch) == "pan-y"


def test_a_drag_that_is_taken_away_ends(first: Browser) -> None:
    script = """
        const map = document.getElementById("map");
        map.setPointerCapture = () => {};
        const send = (type, x) => map.dispatchEvent(
          new PointerEvent(type, { pointerId: 1, button: 0, clientX: x, clientY: 200 }));
        send("pointerdown", 200);
        send("pointermove", 260);
        const during = map.classList.contains("dragged");
        send("pointercancel", 260);
        return [during, map.classList.contains("dragged")];
    """
    assert first.run(script) == [True, False]
