"""What tests do on the page, and what they expect there."""

from __future__ import annotations

import numpy as np
from selenium.webdriver.common.keys import Keys
from service.browser import Browser

from ptyzarr.config import GroupingConfig
from ptyzarr.grouping import group_table
from ptyzarr.store import ScanStore

N_FRAMES, FRAME_SIZE = 90, 32
HOSTILE = '<img src=x onerror=window.hacked=1> &amp; "#%41'


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


def n_colors(image: np.ndarray) -> int:
    return len(np.unique(image.reshape(-1, 4), axis=0))


def shown_frame(page: Browser) -> str:
    return str(page.run("return document.getElementById('frame-image').dataset.shows"))


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
