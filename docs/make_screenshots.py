"""Draw the pictures of the service's page that the documentation shows, from the demo's scan.

Run from the root of the checkout: ``python docs/make_screenshots.py``. It needs Chromium and its
driver, as the tests of the page do.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path

from ptyzarr.ingestion import ingest
from ptyzarr.service import serve_background

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE.parent / "tests"))

from service.browser import Browser, open_browser  # noqa: E402 # lies beside the tests that use it

_SOURCE = _HERE.parent / "ptyzarr" / "demo_data" / "siemens_star_516.npz"
_WIDTH, _HEIGHT = 1280, 800
_VIEWS = {
    "service-page": ("light", "scan=star&frame=270&gridsize=2"),
    "service-page-dark": ("dark", "scan=star&frame=131&behind=phase&cmap=ocean&zoom=275,330,90"),
}


def main() -> None:
    """Write every picture into the folder of this file."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "demo")
        ingest(_SOURCE, root / "star.zarr").close()
        with serve_background(root) as service, open_browser(Path(folder, "profile")) as page:
            for name, (scheme, hash_) in _VIEWS.items():
                _dress(page, scheme)
                page.open(service.url, hash_, service.key)
                _wait_for_pictures(page)
                (_HERE / f"{name}.png").write_bytes(_picture(page))


def _dress(page: Browser, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": _WIDTH, "height": _HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def _wait_for_pictures(page: Browser) -> None:
    def are_there() -> bool:
        pictures = page.all("#members img[src], #guesses img[src], #frame img[src]")
        return len(pictures) >= 9 and not page.text("traffic-rate").startswith("0 ")

    page.wait(are_there)
    page.settle()


def _picture(page: Browser) -> bytes:
    taken = page.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    return base64.b64decode(taken["data"])


if __name__ == "__main__":
    main()
