"""The page as a whole: who may see it, what it lists, its URL, failures, the keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys
from service.browser import Browser
from service.pageuse import (
    HOSTILE,
    shown_frame,
    wait_for,
    walk_to,
)

from ptyzarr.config import ServiceConfig
from ptyzarr.ingestion import ingest
from ptyzarr.service import BackgroundService, serve_background

TIMES = "\N{MULTIPLICATION SIGN}"


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


@pytest.mark.parametrize(
    ("hash_", "said", "kept"),
    [
        pytest.param(
            "frame=x&scale=linear", ["frame=x", "default is"], "frame=0&scale=linear",
            id="number",
        ),
        pytest.param(
            "frame=3&scale=cubic&cmap=jet", ["scale=cubic, cmap=jet", "defaults are"], "frame=3",
            id="choices",
        ),
        pytest.param("frame=3&zoom=1,2,-5", ["zoom=1,2,-5"], "frame=3", id="zoom inside out"),
        pytest.param("frame=3&color=<b>", ["color=<b>"], "frame=3", id="markup"),
        pytest.param("frame=3&colour=order", ["colour=order"], "frame=3", id="unknown name"),
        pytest.param("frame=3&mode=7", ["no mode 7", "mode 0 alone"], "frame=3", id="mode"),
    ],
)  # fmt: skip
def test_what_a_url_cannot_mean_is_said_and_put_right(
    quiet: Browser, service: BackgroundService, hash_: str, said: list[str], kept: str
) -> None:
    page = quiet
    page.open(service.url, f"scan=first&{hash_}", service.key)
    wait_for(page, int(kept[6]))
    page.wait(lambda: page.run("return location.hash") == f"#scan=first&{kept}")
    assert all(words in page.text("remark") for words in said)
    page.find("next").click()
    wait_for(page, int(kept[6]) + 1)
    assert not page.find("remark").is_displayed()


def test_a_url_that_is_edited_is_put_right_too(first: Browser) -> None:
    first.run("location.hash = '#scan=first&frame=5&gridsize=-2'")
    first.wait(lambda: "gridsize=-2" in first.text("remark"))
    wait_for(first, 5)
    first.wait(lambda: first.run("return location.hash") == "#scan=first&frame=5")


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
