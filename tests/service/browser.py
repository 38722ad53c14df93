"""A headless browser on the page of a service, with what a person does to it."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

CHROMIUM, DRIVER = "chromium", "chromedriver"
INSTALL = "Chromium and its driver are needed: apt-get install chromium chromium-driver"
PATIENCE_S = 20.0


def is_installed() -> bool:
    """Return whether there is a Chromium and its driver."""
    return shutil.which(CHROMIUM) is not None and shutil.which(DRIVER) is not None


class Browser:
    """One tab."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str, hash_: str = "", key: str | None = None) -> None:
        """Go to the page in a tab that remembers nothing but, if given, a key."""
        self.driver.get(f"{url}/healthz")
        self.run("sessionStorage.clear()")
        if key is not None:
            self.run("sessionStorage.setItem('ptyzarr-key', arguments[0])", key)
        self.messages()
        self.urls()
        self.driver.get(f"{url}/#{hash_}")

    def login(self, key: str) -> None:
        """Type a key and press Enter."""
        self.wait(lambda: self.find("key").is_displayed())
        self.find("key").send_keys(f"{key}\n")

    def find(self, element_id: str) -> WebElement:
        """Return the element with an id."""
        return self.driver.find_element(By.ID, element_id)

    def all(self, selector: str) -> list[WebElement]:
        """Return what a CSS selector finds."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, element_id: str) -> str:
        """Return the text that is seen of an element."""
        return self.find(element_id).text

    def choose(self, element_id: str, value: str) -> None:
        """Choose from a list."""
        Select(self.find(element_id)).select_by_value(value)

    def type(self, element_id: str, text: str) -> None:
        """Replace the text of a field and press Enter."""
        field = self.find(element_id)
        field.send_keys(Keys.CONTROL, "a", Keys.NULL, f"{text}\n")

    def keys(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def click_at(self, element: WebElement, x: float, y: float) -> None:
        """Click at CSS pixels from the upper left corner of an element."""
        self.point_at(element, x, y)
        ActionChains(self.driver).click().perform()

    def point_at(self, element: WebElement, x: float, y: float) -> None:
        """Move the pointer to CSS pixels from the upper left corner of an element."""
        size = element.size
        offset = (round(x - size["width"] / 2), round(y - size["height"] / 2))
        ActionChains(self.driver).move_to_element_with_offset(element, *offset).perform()

    def focused(self) -> str:
        """Return the id of what has the focus, or its tag."""
        return str(self.run("return document.activeElement.id || document.activeElement.tagName"))

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a script returns."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Return what a condition returns as soon as it is true."""
        waiting = WebDriverWait(self.driver, PATIENCE_S, poll_frequency=0.05)
        return waiting.until(lambda _: condition())

    def settle(self) -> None:
        """Wait until what was changed has been drawn."""
        self.run("return new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")

    def hash(self) -> dict[str, str]:
        """Return what the URL says is seen."""
        script = "return Object.fromEntries(new URLSearchParams(location.hash.slice(1)))"
        return dict(self.run(script))

    def pixels(self, element_id: str) -> np.ndarray:
        """Return (h, w, 4) uint8: red, green, blue and alpha of a loaded picture or a canvas."""
        script = """
            const shown = document.getElementById(arguments[0]);
            const width = shown.naturalWidth || shown.width;
            const height = shown.naturalHeight || shown.height;
            const context = new OffscreenCanvas(width, height).getContext("2d");
            context.drawImage(shown, 0, 0);
            const { data } = context.getImageData(0, 0, width, height);
            const reader = new FileReader();
            return new Promise((done) => {
              reader.onload = () => done([height, width, reader.result.split(",")[1]]);
              reader.readAsDataURL(new Blob([data]));
            });
        """
        height, width, encoded = self.run(script, element_id)
        return np.frombuffer(base64.b64decode(encoded), np.uint8).reshape(height, width, 4)

    def messages(self) -> list[dict[str, Any]]:
        """Return and forget what the console has."""
        return list(self.driver.get_log("browser"))

    def urls(self) -> set[str]:
        """Return and forget the URLs that were asked for."""
        entries = [json.loads(entry["message"])["message"] for entry in self.performance()]
        return {
            entry["params"]["request"]["url"]
            for entry in entries
            if entry["method"] == "Network.requestWillBeSent"
        }

    def performance(self) -> list[dict[str, Any]]:
        """Return and forget what the network did."""
        return list(self.driver.get_log("performance"))


@contextmanager
def open_browser(profile: Path, width: int = 1280, height: int = 800) -> Iterator[Browser]:
    """Yield a browser with a profile of its own; `FileNotFoundError` if there is no Chromium."""
    if not is_installed():
        raise FileNotFoundError(INSTALL)
    options = Options()
    options.binary_location = str(shutil.which(CHROMIUM))
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync",
        "disable-dev-shm-usage", "hide-scrollbars", f"window-size={width},{height}",
        f"user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(shutil.which(DRIVER))))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
