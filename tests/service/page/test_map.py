"""The scan map, by mouse and keys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import synthetic
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from service.browser import Browser
from service.pageuse import (
    FRAME_SIZE,
    N_FRAMES,
    click_map,
    n_colors,
    nearest,
    place,
    towards,
    wait_for,
)

from ptyzarr.config import ServiceConfig
from ptyzarr.ingestion import ingest
from ptyzarr.service import serve_background
from ptyzarr.store import ScanStore


@pytest.mark.parametrize(
    ("dx", "dy"),
    [
        pytest.param(0.0, 0.0, id="on-a-position"),
        pytest.param(1.1, 0.4, id="between-positions"),
        pytest.param(-0.9, 1.3, id="between-others"),
    ],
)
def test_a_click_on_the_map_chooses_the_nearest_position(
    first: Browser, store: ScanStore, dx: float, dy: float
) -> None:
    x, y = store.positions[47] + [dx, dy]
    click_map(first, x, y)
    expected = nearest(store, x, y)
    wait_for(first, expected)
    assert first.hash()["frame"] == str(expected)
    assert first.find("frame-number").get_attribute("value") == str(expected)
    assert first.text("frame-title") == f"Frame {expected}"


def test_the_map_marks_what_was_clicked_where_it_was_clicked(
    first: Browser, store: ScanStore
) -> None:
    click_map(first, *store.positions[50])
    wait_for(first, 50)
    image = first.pixels("map").astype(int)
    ratio = image.shape[1] / first.run("return document.getElementById('map').clientWidth")
    choice = np.all(np.abs(image[..., :3] - [0xD0, 0x00, 0x6F]) < 12, axis=2)
    rows, columns = np.nonzero(choice)
    seen = np.array([columns.min() + columns.max(), rows.min() + rows.max()]) / 2 / ratio
    # The cross is symmetric; half a pixel is lost to either edge.
    np.testing.assert_allclose(seen, place(first, *store.positions[50]), atol=1.5)


def test_a_drag_moves_the_map_and_a_zoomed_click_is_still_right(
    first: Browser, store: ScanStore
) -> None:
    for _ in range(4):
        first.find("zoom-in").click()
    first.settle()
    map_canvas = first.find("map")
    before = place(first, 0, 0)
    chain = ActionChains(first.driver).move_to_element(map_canvas).click_and_hold()
    chain.move_by_offset(-60, -40).release().perform()
    first.settle()
    np.testing.assert_allclose(np.subtract(place(first, 0, 0), before), [-60, -40], atol=1)
    assert first.hash()["frame"] == "0"
    middle = [map_canvas.size["width"] / 2, map_canvas.size["height"] / 2]
    origin, scale = place(first, 0, 0), place(first, 1, 0)[0] - place(first, 0, 0)[0]
    expected = nearest(store, *((np.array(middle) - origin) / scale))
    map_canvas.click()
    wait_for(first, expected)
    first.driver.refresh()
    wait_for(first, expected)
    np.testing.assert_allclose(place(first, 0, 0), origin, atol=0.1)
    first.find("zoom-fit").click()
    first.wait(lambda: "zoom" not in first.hash())


def test_arrow_keys_walk_over_the_map(first: Browser, store: ScanStore) -> None:
    click_map(first, *store.positions[44])
    wait_for(first, 44)
    at = 44
    for key, right, down in [
        (Keys.ARROW_RIGHT, 1, 0),
        (Keys.ARROW_DOWN, 0, 1),
        (Keys.ARROW_LEFT, -1, 0),
        (Keys.ARROW_UP, 0, -1),
        (Keys.ARROW_UP, 0, -1),
    ]:
        first.keys(key)
        expected = towards(store, at, right, down)
        assert expected is not None
        at = expected
        first.wait(lambda at=at: first.hash()["frame"] == str(at))
    wait_for(first, at)


def test_page_keys_walk_in_time_and_stop_at_the_ends(first: Browser) -> None:
    first.find("map").click()
    last = str(N_FRAMES - 1)
    for key, expected in [
        (Keys.HOME, "0"), (Keys.PAGE_DOWN, "1"), (Keys.PAGE_DOWN, "2"), (Keys.PAGE_UP, "1"),
        (Keys.END, last),
    ]:  # fmt: skip
        first.keys(key)
        first.wait(lambda expected=expected: first.hash()["frame"] == expected)
    wait_for(first, N_FRAMES - 1)

    def says(beginning: str) -> bool:
        return str(first.find("status").get_attribute("textContent")).startswith(beginning)

    first.wait(lambda: says(f"Position {last} "))  # its group would be told over the next words
    first.keys(Keys.PAGE_DOWN)
    first.wait(lambda: says("This is the last"))
    wait_for(first, N_FRAMES - 1)


def test_the_number_field_chooses_and_says_what_there_is(first: Browser) -> None:
    first.type("frame-number", "17")
    wait_for(first, 17)
    assert first.hash()["frame"] == "17"
    first.type("frame-number", "90")
    assert first.text("map-error") == "There is no position 90; this scan has 0 to 89."
    assert first.hash()["frame"] == "17"
    first.find("next").click()
    wait_for(first, 18)
    assert first.text("map-error") == ""


def test_the_pointer_reads_positions_and_pixels(first: Browser, store: ScanStore) -> None:
    x, y = store.positions[33]
    first.point_at(first.find("map"), *place(first, x, y))
    first.wait(lambda: first.text("map-under").startswith("33 at "))
    image = first.find("frame-image")
    column, row = 20, 13
    pixel = image.size["width"] / FRAME_SIZE
    counts = int(np.rint(np.square(store.amplitude(np.array([0]))[0, row, column])))
    first.point_at(image, (column + 0.5) * pixel, (row + 0.5) * pixel)
    first.wait(lambda: first.text("frame-under") == f"column {column}, row {row}: {counts}")


def test_what_is_said_under_a_resting_pointer_is_never_of_before(
    first: Browser, store: ScanStore
) -> None:
    click_map(first, *store.positions[33])
    wait_for(first, 33)
    assert first.text("map-under").startswith("33 at ")
    first.keys(Keys.PAGE_DOWN)
    wait_for(first, 34)
    assert first.text("map-under") == ""
    first.point_at(first.find("map"), *place(first, *store.positions[12]))
    first.wait(lambda: first.text("map-under").startswith("12 at "))
    before = place(first, *store.positions[12])
    first.keys("+")
    first.wait(lambda: place(first, *store.positions[12]) != before)
    drawn = first.run("return {...document.getElementById('map').dataset}")
    offset = [float(drawn["offsetX"]), float(drawn["offsetY"])]
    under = (np.rint(before) - offset) / float(drawn["scale"])
    assert first.text("map-under").startswith(f"{nearest(store, *under)} at ")


def test_the_value_under_a_resting_pointer_is_that_of_the_frame_shown(
    first: Browser, store: ScanStore
) -> None:
    image = first.find("frame-image")
    pixel = image.size["width"] / FRAME_SIZE
    first.run("document.getElementById('map').focus()")
    first.point_at(image, 20.5 * pixel, 13.5 * pixel)
    for frame in (0, 1, 2):
        wait_for(first, frame)
        counts = int(np.rint(np.square(store.amplitude(np.array([frame]))[0, 13, 20])))
        first.wait(
            lambda counts=counts: first.text("frame-under") == f"column 20, row 13: {counts}"
        )
        first.keys(Keys.PAGE_DOWN)


@pytest.mark.parametrize(
    ("field", "where", "message"),
    [
        pytest.param(
            "frame-number", "map-error",
            "Position was left empty; it has to be a whole number from 0 to 89 and stays 0.",
            id="position",
        ),
        pytest.param(
            "gridsize", "group-error",
            "Grid was left empty; it has to be a whole number from 1 to 64 and stays 2.",
            id="grid",
        ),
    ],
)  # fmt: skip
def test_a_number_field_that_is_emptied_says_so_and_keeps_its_value(
    first: Browser, field: str, where: str, message: str
) -> None:
    kept = first.find(field).get_attribute("value")
    first.find(field).send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE, Keys.ENTER)
    first.wait(lambda: first.text(where) == message)
    assert first.find(field).get_attribute("value") == kept
    first.find(field).send_keys(Keys.CONTROL, "a", Keys.NULL, "-", Keys.ENTER)
    first.wait(lambda: "is no number" in first.text(where))
    assert first.find(field).get_attribute("value") == kept


def test_the_object_lies_behind_the_positions(first: Browser) -> None:
    first.wait(lambda: first.find("object-phase").get_attribute("data-shows"))
    seen = []
    for behind in ("none", "amplitude", "phase"):
        first.choose("behind", behind)
        first.wait(lambda behind=behind: first.hash().get("behind", "amplitude") == behind)
        first.settle()
        seen.append(first.pixels("map"))
    assert not np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[1], seen[2])


@pytest.mark.slow
def test_many_positions_are_drawn_and_found(tab: Browser, tmp_path: Path) -> None:
    source = synthetic.make_npz(tmp_path / "many.npz", 40_000, 4)
    (tmp_path / "served").mkdir()
    store = ingest(source, tmp_path / "served" / "many.zarr")
    positions = store.positions
    store.close()
    with serve_background(tmp_path / "served", ServiceConfig(port=0, no_key=True)) as running:
        tab.open(running.url, "scan=many&frame=100&behind=none")
        wait_for(tab, 100)
        assert n_colors(tab.pixels("map")) > 100
        x, y = positions[23_456] + [0.3, -0.2]
        click_map(tab, x, y)
        # A CSS pixel is wider than the spacing: what was hit lies within one of them.
        tab.wait(lambda: tab.hash()["frame"] != "100")
        hit = positions[int(tab.hash()["frame"])]
        pixel = 1 / (place(tab, 1, 0)[0] - place(tab, 0, 0)[0])
        assert np.hypot(*(hit - [x, y])) <= pixel + 3
        assert tab.messages() == []
