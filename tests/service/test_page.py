"""The page, used as people do: by clicks and keys in a headless Chromium."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import synthetic
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from service.browser import INSTALL, Browser, is_installed, open_browser
from service.webclient import Client

from ptyzarr.config import GroupingConfig, ServiceConfig
from ptyzarr.grouping import group_table
from ptyzarr.ingestion import ingest
from ptyzarr.service import BackgroundService, serve_background
from ptyzarr.store import ScanStore, open_store

# Where tests must not be skipped, the set-up has to bring the browser.
pytestmark = pytest.mark.skipif(
    not is_installed() and "CI" not in os.environ,
    reason=INSTALL,
)

TIMES = "\N{MULTIPLICATION SIGN}"
N_FRAMES, FRAME_SIZE = 90, 32
HOSTILE = '<img src=x onerror=window.hacked=1> &amp; "#%41'


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `first`, a scan without an object under a hostile name, and `torn`."""
    folder = tmp_path_factory.mktemp("served")
    sources = tmp_path_factory.mktemp("sources")
    first = synthetic.make_npz(sources / "first.npz", N_FRAMES, FRAME_SIZE)
    ingest(first, folder / "first.zarr").close()
    bare = synthetic.make_npz(sources / "bare.npz", 9, 16, seed=1, objectGuess=None)
    ingest(bare, folder / f"{HOSTILE}.zarr").close()
    ingest(bare, folder / "torn.zarr").close()
    shutil.rmtree(folder / "torn.zarr" / "diffraction" / "c")
    return folder


@pytest.fixture(scope="module")
def service(root: Path) -> Iterator[BackgroundService]:
    """A service of `root`."""
    with serve_background(root) as running:
        yield running


@pytest.fixture(scope="module")
def store(root: Path) -> Iterator[ScanStore]:
    """The scan `first`, read from the disk."""
    opened = open_store(root / "first.zarr")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser, used by one test after the other."""
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def quiet(tab: Browser) -> Iterator[Browser]:
    """A browser whose console must be empty in the end.

    But for requests that the service is meant to refuse: those the console always names.
    """
    yield tab
    messages = [entry["message"] for entry in tab.messages()]
    assert [text for text in messages if not re.search(r"status of (40[014]|500) \(", text)] == []


@pytest.fixture
def page(quiet: Browser, service: BackgroundService) -> Browser:
    """The page before anyone has logged in."""
    quiet.open(service.url)
    return quiet


@pytest.fixture
def catalogue(quiet: Browser, service: BackgroundService) -> Browser:
    """The page with the list of scans."""
    quiet.open(service.url, key=service.key)
    quiet.wait(lambda: quiet.all("#scans a"))
    return quiet


@pytest.fixture
def first(quiet: Browser, service: BackgroundService) -> Browser:
    """The page at frame 0 of the scan `first`, with everything loaded."""
    quiet.open(service.url, "scan=first&frame=0", service.key)
    wait_for(quiet, 0)
    return quiet


def wait_for(page: Browser, frame: int, n_members: int = 4) -> None:
    """Wait until a frame, its group on the map and its members' pictures are shown."""

    def is_shown() -> bool:
        return bool(
            page.run(
                """
                const [frame, n] = arguments;
                const image = document.getElementById("frame-image");
                const members = [...document.querySelectorAll("#members img")];
                const map = document.getElementById("map").dataset;
                return (image.dataset.shows ?? "").includes(`/frames/${frame}.png`)
                    && map.chosen === String(frame)
                    && document.getElementById("group-title").textContent.endsWith(` ${frame}`)
                    && members.length === n && members.every((member) => member.src)
                    && map.members.split(",").length === n;
                """,
                frame,
                n_members,
            )
        )

    page.wait(is_shown)


def place(page: Browser, x: float, y: float) -> tuple[float, float]:
    """Return where on the map a point in object pixels is drawn."""
    drawn = page.run("return {...document.getElementById('map').dataset}")
    scale = float(drawn["scale"])
    return float(drawn["offsetX"]) + scale * x, float(drawn["offsetY"]) + scale * y


def click_map(page: Browser, x: float, y: float) -> None:
    page.click_at(page.find("map"), *place(page, x, y))


def nearest(store: ScanStore, x: float, y: float) -> int:
    return int(np.argmin(np.hypot(*(store.positions - [x, y]).T)))


def towards(store: ScanStore, start: int, right: int, down: int) -> int | None:
    """Return the position that an arrow key leads to, None if there is none."""
    offsets = store.positions - store.positions[start]
    along = offsets @ [right, down]
    across = np.abs(offsets @ [down, right])
    distance = np.where((along > 0) & (across <= along), np.hypot(*offsets.T), np.inf)
    return int(np.argmin(distance)) if np.isfinite(distance).any() else None


def members_shown(page: Browser) -> list[int]:
    return [int(button.get_attribute("data-member")) for button in page.all("#members button")]


def canonical_members(store: ScanStore, position: int, **options: int) -> list[int]:
    options = {"gridsize": 2, "n_neighbors": 6, "seed": 0, **options}
    table = group_table(store, GroupingConfig(**options))
    return table.nn_indices[table.seeds == position][0].tolist()


def test_a_wrong_key_is_refused_and_the_right_one_opens(
    page: Browser, service: BackgroundService
) -> None:
    page.login("not-the-key")
    page.wait(lambda: "does not accept this key" in page.text("key-error"))
    assert page.focused() == "key"
    page.login("clé")
    page.wait(lambda: "without blanks" in page.text("key-error"))
    page.find("key").clear()
    page.login(f" {service.key} ")
    page.wait(lambda: page.all("#scans tr"))
    assert not page.find("login").is_displayed()
    assert page.run("return location.href").find(str(service.key)) == -1
    page.find("sign-out").click()
    assert page.find("key").is_displayed()
    assert page.run("return sessionStorage.length") == 0


def test_a_service_without_keys_opens_at_once(tab: Browser, root: Path) -> None:
    with serve_background(root, ServiceConfig(port=0, no_key=True)) as running:
        tab.open(running.url)
        tab.wait(lambda: tab.all("#scans tr"))
        assert not tab.find("login").is_displayed()
        assert tab.messages() == []


def test_the_catalogue_lists_scans_and_says_what_is_damaged(catalogue: Browser) -> None:
    page = catalogue
    hostile, first, torn = page.all("#scans tr")
    assert hostile.text.startswith(HOSTILE)
    assert first.text.split()[:6] == ["first", "90", "32", TIMES, "32", "counts"]
    assert torn.text.startswith("torn Damaged: ")
    assert "diffraction/c/0" in torn.text
    assert page.text("catalogue-count") == "3 in all, 1 damaged"
    page.find("find").send_keys("FIR")
    page.wait(lambda: len(page.all("#scans tr")) == 1)


def test_names_are_text_and_never_markup(catalogue: Browser) -> None:
    page = catalogue
    page.all("#scans a")[0].click()
    wait_for(page, 0)
    assert page.text("here") == HOSTILE
    assert page.hash()["scan"] == HOSTILE
    assert page.run("return window.hacked") is None
    assert page.all("main img:not([id]):not([alt])") == []


def test_new_and_removed_stores_appear(
    tab: Browser, tmp_path: Path, make_npz: Callable[..., Path]
) -> None:
    source = make_npz(tmp_path / "scan.npz", 9)
    (tmp_path / "served").mkdir()
    with serve_background(tmp_path / "served", ServiceConfig(port=0, no_key=True)) as running:
        tab.open(running.url)
        tab.wait(lambda: "no scans yet" in tab.text("catalogue-empty"))
        ingest(source, tmp_path / "served" / "new.zarr").close()
        tab.find("refresh").click()
        tab.wait(lambda: tab.all("#scans a[data-scan=new]"))
        shutil.rmtree(tmp_path / "served" / "new.zarr")
        tab.find("refresh").click()
        tab.wait(lambda: "no scans yet" in tab.text("catalogue-empty"))


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
    first.keys(Keys.PAGE_DOWN)
    first.wait(lambda: first.find("status").get_attribute("textContent").startswith("This is the"))
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


def n_colors(image: np.ndarray) -> int:
    return len(np.unique(image.reshape(-1, 4), axis=0))


def shown_frame(page: Browser) -> str:
    return str(page.run("return document.getElementById('frame-image').dataset.shows"))


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
    first.wait(lambda: "expected vmin below vmax" in first.text("frame-error"))
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


def test_a_reload_shows_the_same(first: Browser) -> None:
    first.type("frame-number", "31")
    first.choose("scale", "linear")
    first.choose("color", "order")
    wait_for(first, 31)
    url = first.driver.current_url
    first.driver.refresh()
    wait_for(first, 31)
    assert first.driver.current_url == url
    assert first.find("scale").get_attribute("value") == "linear"
    assert first.find("color").get_attribute("value") == "order"
    assert "scale=linear" in shown_frame(first)


def test_back_and_forth_restore_what_was_seen(catalogue: Browser) -> None:
    first = catalogue
    first.all("#scans a[data-scan=first]")[0].click()
    wait_for(first, 0)
    for position in (5, 6):
        first.type("frame-number", str(position))
        wait_for(first, position)
    first.driver.back()
    wait_for(first, 5)
    first.driver.back()
    wait_for(first, 0)
    first.driver.back()
    first.wait(lambda: first.find("catalogue").is_displayed())
    first.driver.forward()
    first.driver.forward()
    wait_for(first, 5)


def test_a_url_opens_what_it_names_after_login(page: Browser, service: BackgroundService) -> None:
    page.driver.get(f"{service.url}/#scan=first&frame=12&scale=linear&gridsize=1&frame=x")
    page.login(str(service.key))
    wait_for(page, 12, 1)
    assert "scale=linear" in shown_frame(page)


@pytest.mark.parametrize(
    ("hash_", "message"),
    [
        pytest.param("scan=absent", "There is no scan absent", id="unknown"),
        pytest.param("scan=torn", "torn cannot be shown", id="damaged"),
        pytest.param("scan=..%2F..%2Fetc", "There is no scan ../../etc", id="path"),
    ],
)
def test_a_scan_that_cannot_be_shown_says_why(
    quiet: Browser, service: BackgroundService, hash_: str, message: str
) -> None:
    tab = quiet
    tab.open(service.url, hash_, service.key)
    tab.wait(lambda: tab.text("failed-title") == message)
    assert len(tab.text("failed-text")) > 20
    tab.find("failed-back").click()
    tab.wait(lambda: tab.find("catalogue").is_displayed())


def test_a_frame_beyond_the_scan_is_the_last_one(
    quiet: Browser, service: BackgroundService
) -> None:
    page = quiet
    page.open(service.url, "scan=first&frame=4000", service.key)
    wait_for(page, 89)
    assert page.text("map-error") == "There is no position 4000; this scan has 0 to 89."
    page.wait(lambda: page.hash()["frame"] == "89")


def test_a_service_that_went_away_is_noticed_and_found_again(tab: Browser, root: Path) -> None:
    running = serve_background(root)
    port = int(running.url.rpartition(":")[2])
    tab.open(running.url, "scan=first&frame=0", running.key)
    wait_for(tab, 0)
    running.close()
    tab.find("map").send_keys(Keys.PAGE_DOWN)
    tab.wait(lambda: "does not answer" in tab.text("notice-text"))
    with serve_background(root, ServiceConfig(port=port)) as again:
        tab.find("retry").click()
        tab.wait(lambda: "any more" in tab.text("key-error"))
        tab.login(str(again.key))
        wait_for(tab, 1)
        assert not tab.find("notice").is_displayed()


def test_what_was_said_of_a_lost_service_goes_when_it_answers(tab: Browser, root: Path) -> None:
    with serve_background(root, ServiceConfig(port=0, no_key=True)) as running:
        tab.open(running.url, "scan=first&frame=0")
        wait_for(tab, 0)
        tab.driver.set_network_conditions(offline=True, latency=0, throughput=0)
        tab.find("next").click()
        tab.wait(lambda: "does not answer" in tab.text("notice-text"))
        tab.driver.delete_network_conditions()
        tab.find("next").click()
        wait_for(tab, 2)
        assert not tab.find("notice").is_displayed()


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


def test_nothing_but_the_service_is_asked(first: Browser, service: BackgroundService) -> None:
    first.find("next").click()
    wait_for(first, 1)
    foreign = {
        url for url in first.urls() if not url.startswith((service.url, f"blob:{service.url}"))
    }
    assert foreign == set()


def test_the_key_alone_opens_what_holds_data(first: Browser, service: BackgroundService) -> None:
    without = first.run(
        "return fetch('v1/scans/first/frames/0.png').then((answer) => answer.status)"
    )
    assert without == 401
    first.messages()


def test_all_can_be_done_with_the_keyboard(page: Browser, service: BackgroundService) -> None:
    page.wait(lambda: page.focused() == "key")
    page.keys(str(service.key), Keys.ENTER)
    page.wait(lambda: page.focused() == "catalogue-title")
    page.wait(lambda: page.all("#scans a"))
    walk_to(page, "first", "return document.activeElement.dataset.scan")
    page.keys(Keys.ENTER)
    wait_for(page, 0)
    assert page.focused() == "map"
    page.keys(Keys.PAGE_DOWN)
    wait_for(page, 1)
    page.keys("+", "+")
    page.wait(lambda: "zoom" in page.hash())
    walk_to(page, "frame-number")
    page.keys(Keys.BACKSPACE, "9", Keys.ENTER)
    wait_for(page, 9)
    walk_to(page, "scale")
    page.keys("li")
    page.wait(lambda: "scale=linear" in shown_frame(page))
    walk_to(page, "BUTTON")
    page.keys(Keys.ENTER)


def walk_to(
    page: Browser, wanted: str, script: str = "return document.activeElement.id", limit: int = 40
) -> None:
    """Press Tab until the wanted element has the focus, which has to be seen."""
    for _ in range(limit):
        page.keys(Keys.TAB)
        if page.run(script) == wanted or page.focused() == wanted:
            ring = "return getComputedStyle(document.activeElement).outlineStyle"
            assert page.run(ring) == "solid"
            return
    raise AssertionError(f"{limit} times Tab does not lead to {wanted}")


def test_the_skip_link_is_first_and_leads_to_the_content(first: Browser) -> None:
    first.driver.refresh()
    wait_for(first, 0)
    first.keys(Keys.TAB)
    assert first.focused() == "skip"
    first.keys(Keys.ENTER)
    assert first.focused() == "main"
    assert first.hash()["scan"] == "first"


def test_every_control_has_a_name(first: Browser) -> None:
    nameless = first.run(
        """
        const named = (element) => element.labels?.length || element.textContent.trim()
            || element.getAttribute("aria-label") || element.getAttribute("aria-labelledby")
            || element.querySelector("img[alt]:not([alt=''])");
        return [...document.querySelectorAll("button, input, select, canvas:not([aria-hidden])")]
            .filter((element) => !named(element)).map((element) => element.outerHTML);
        """
    )
    assert nameless == []


def test_the_page_follows_the_colour_scheme(first: Browser) -> None:
    seen = {}
    for scheme in ("dark", "light"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        first.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        seen[scheme] = first.run("return getComputedStyle(document.body).backgroundColor")
    assert seen == {"dark": "rgb(20, 24, 28)", "light": "rgb(244, 245, 246)"}


@pytest.mark.parametrize(
    "width",
    [pytest.param(1280, id="large"), pytest.param(800, id="small"), pytest.param(480, id="narrow")],
)
def test_nothing_is_cut_off(first: Browser, width: int) -> None:
    first.choose("range", "percentiles")
    first.point_at(first.find("frame-image"), 50, 50)
    first.wait(lambda: first.text("frame-under"))
    size = {"width": width, "height": 600, "deviceScaleFactor": 1, "mobile": False}
    first.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    first.settle()
    cut = first.run(
        """
        const inside = (element) => element.getBoundingClientRect().right;
        return [...document.querySelectorAll(".panel")].flatMap((panel) =>
            [...panel.querySelectorAll("button, select, input, output, img, canvas, p, h2")]
            .filter((element) => !element.closest(".scroll, pre") && element.offsetParent
                && !element.closest("details:not([open])")
                && inside(element) > inside(panel) + 0.5).map((element) => element.id));
        """
    )
    scrolled = first.run("return document.documentElement.scrollWidth - innerWidth")
    first.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert cut == []
    assert scrolled <= 0


def test_the_strip_counts_what_was_fetched(first: Browser) -> None:
    first.wait(lambda: not first.text("traffic-total").startswith("0 B"))
    amount, unit = first.text("traffic-total").split()[:2]
    assert unit in ("kB", "MB")
    assert float(amount) > 1


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
