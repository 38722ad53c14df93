"""The examples of docs/service.md do what they say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from ptyzarr.config import ServiceConfig
from ptyzarr.service import create_app, serve_background

PAGE = Path(__file__).parents[2] / "docs" / "service.md"


def test_the_examples_run_one_after_the_other(root: Path, tmp_path: Path) -> None:
    tensorstore, xarray = pytest.importorskip("tensorstore"), pytest.importorskip("xarray")
    pytest.importorskip("obstore")
    shutil.copytree(root / "first.zarr", tmp_path / "star.zarr")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 4
    with serve_background(tmp_path) as service:
        names: dict[str, Any] = {
            "KEY": service.key, "xarray": xarray, "tensorstore": tensorstore,
        }  # fmt: skip
        for block in blocks:
            code = block.replace("http://127.0.0.1:8000", service.url)
            exec(code.replace('"runs/"', repr(str(tmp_path))), names)
    assert names["store"].n_frames == 40
    assert len(names["loader"]) == 1
    assert next(iter(names["scans"])).id == "star"


def test_the_table_of_limits_is_that_of_the_config() -> None:
    config = ServiceConfig()
    rows = re.findall(r"^\| `--([a-z-]+)` \| (\S+) \|", PAGE.read_text(), re.MULTILINE)
    assert len(rows) >= 8
    for flag, default in rows:
        value = getattr(config, flag.replace("-", "_"))
        if default == "cores":
            assert value is None
        elif default.isdigit():
            assert value == int(default)
        else:
            assert value == default


def test_every_route_and_status_is_in_the_table(root: Path) -> None:
    text = PAGE.read_text()
    for route in create_app(root, keys=["k"]).routes:
        path = re.sub(r"^/v1/scans/\{id\}/", "/", route.path.replace(":path", ""))
        path = path.replace("{part}", "amplitude").replace("{index}", "{i}")
        path = path.replace("/page/{name}", "/page/*")
        assert path in text, path
