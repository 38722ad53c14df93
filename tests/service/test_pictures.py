from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from service.webclient import Client

from ptyzarr.errors import ConfigError
from ptyzarr.service.pictures import (
    COLOR_MAPS,
    PictureOptions,
    color_limits,
    color_table,
    draw,
    encode_png,
    resize,
)
from ptyzarr.store import open_store

FRAME = "/v1/scans/first/frames/3.png"


def decode(png: bytes) -> np.ndarray:
    """Return the colours (h, w, 3) uint8 by a decoder that is not ours."""
    colors = matplotlib.image.imread(io.BytesIO(png), format="png")
    return np.rint(colors[..., :3] * 255).astype(np.uint8)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_other_decoders_see_the_colours_that_were_meant(height: int, width: int, seed: int) -> None:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    table = color_table("ember")
    expected = np.frombuffer(table, np.uint8).reshape(256, 3)[levels]
    np.testing.assert_array_equal(decode(encode_png(levels, table)), expected)


@pytest.mark.parametrize("name", COLOR_MAPS)
def test_colours_differ_and_grow_lighter_where_they_stand_for_more(name: str) -> None:
    colors = np.frombuffer(color_table(name), np.uint8).reshape(256, 3)
    assert len(np.unique(colors, axis=0)) > 200
    luminance = colors @ np.array([0.2126, 0.7152, 0.0722])
    if name == "phase":
        assert np.abs(colors[0].astype(int) - colors[-1]).max() < 8
    else:
        assert luminance[-1] - luminance[0] > 200
        assert (np.diff(luminance) > -1.0).all()


def test_a_frame_shows_its_counts(client: Client, root: Path) -> None:
    counts = open_store(root / "first.zarr").stored(np.array([3]))[0].astype(float)
    answer = client.ask(f"{FRAME}?scale=linear&cmap=gray")
    shown = decode(answer.body)[..., 0].astype(float)
    assert float(answer.headers["x-ptyzarr-vmax"]) == counts.max()
    assert float(answer.headers["x-ptyzarr-vmin"]) == counts.min() == 0
    order = np.argsort(counts, axis=None, kind="stable")
    assert (np.diff(shown.ravel()[order]) >= 0).all()
    assert shown.ravel()[counts.argmax()] == 255


def test_scales_limits_colours_and_sizes_change_the_picture(client: Client) -> None:
    queries = (
        "", "scale=linear", "cmap=gray", "vmax=3", "vmin=2&vmax=9", "pmin=20&pmax=80", "size=8",
        "size=64",
    )  # fmt: skip
    bodies = [client.ask(f"{FRAME}?{query}").body for query in queries]
    assert len(set(bodies)) == len(bodies)
    assert decode(bodies[-1]).shape == (64, 64, 3)
    assert decode(bodies[-2]).shape == (8, 8, 3)


@pytest.mark.parametrize(
    "query",
    [
        "scale=square", "cmap=viridis", "vmin=x", "vmin=nan", "vmax=inf", "vmin=1_0", "vmax=1e999",
        "vmin=5&vmax=5", "vmin=5&vmax=4", "vmin=0&vmax=4", "vmax=-1", "pmin=-1", "pmax=101",
        "pmin=60&pmax=40", "vmin=1&pmin=0", "vmin=1&pmax=99&vmax=5",
        "size=0", "size=2049", "size=1e2", "color=gray",
    ],
)  # fmt: skip
def test_a_picture_that_cannot_be_is_refused(client: Client, query: str) -> None:
    answer = client.ask(f"{FRAME}?{query}")
    assert answer.status == 400
    assert answer.json["code"] in ("request", "config")


@given(
    values=st.lists(
        st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=30
    ),
    options=st.builds(
        PictureOptions,
        scale=st.sampled_from(["log", "linear"]),
        pmin=st.floats(0, 49),
        pmax=st.floats(50, 100),
        size=st.none() | st.integers(1, 40),
    ),
)
def test_whatever_the_values_there_is_a_picture(
    values: list[float], options: PictureOptions
) -> None:
    picture = draw(np.array(values, np.float64).reshape(1, -1), options)
    assert picture.vmin < picture.vmax
    assert decode(picture.png).ndim == 3


@pytest.mark.parametrize(
    ("values", "options", "limits"),
    [
        pytest.param([0, 1, 10], {}, (1, 10), id="log leaves out zeros"),
        pytest.param([0, 1, 1e9], {}, (1e3, 1e9), id="log has six decades"),
        pytest.param([-5, 1, 10], {"scale": "linear"}, (-5, 10), id="linear"),
        pytest.param([0, 0, 0], {}, (0.1, 1), id="log of nothing"),
        pytest.param([4, 4, 4], {"scale": "linear"}, (0, 4), id="one value"),
        pytest.param([1, 2, 3], {"vmin": 5.0, "scale": "linear"}, (5, 10), id="above all"),
        pytest.param([1, 2, 3], {"vmax": 0.5}, (0.05, 0.5), id="below all"),
        pytest.param(range(101), {"scale": "linear", "pmin": 10, "pmax": 90}, (10, 90), id="share"),
    ],
)
def test_limits_are_chosen_as_stated(
    values: Any, options: dict[str, Any], limits: tuple[float, float]
) -> None:
    found = color_limits(np.array([values], np.float64), PictureOptions(**options))
    assert found == pytest.approx(limits)


def test_limits_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected vmin below vmax"):
        color_limits(np.ones((1, 1)), PictureOptions(vmin=2, vmax=1))


def test_smaller_pictures_have_means_and_larger_ones_repeats() -> None:
    values = np.arange(16.0).reshape(4, 4)
    np.testing.assert_array_equal(resize(values, 2), [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(resize(values, 8), values.repeat(2, axis=0).repeat(2, axis=1))
    assert resize(np.zeros((100, 3)), 10).shape == (10, 1)
