"""`draw_scan`: what is in the picture, in which files it can be written, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptyzarr.config import GroupingConfig
from ptyzarr.errors import ConfigError, DeviceError, GroupingError, StorageError
from ptyzarr.grouping import group_table
from ptyzarr.ingestion import ingest
from ptyzarr.store import ScanStore
from ptyzarr.view import draw_scan
from ptyzarr.view.groups import choose_groups

pytest.importorskip("matplotlib")
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

PAIRS = GroupingConfig(gridsize=2, n_neighbors=5)


def make_store(folder: Path, n_frames: int = 40, size: int = 8, **members: Any) -> ScanStore:
    """Ingest counts on a jittered raster in columns 4 to 40, rows 4 to 30 of the object."""
    rng = np.random.default_rng(1)
    frames = np.sqrt(rng.poisson(3.0, (n_frames, size, size)).astype(np.float32))
    scan = {
        "diff3d": frames,
        "xcoords": 4 + 36 * rng.random(n_frames),
        "ycoords": 4 + 26 * rng.random(n_frames),
        "probeGuess": np.ones((size, size), np.complex64),
    }
    name = members.pop("name", "star")
    scan.update(members)
    folder.mkdir(exist_ok=True)
    np.savez(folder / "source.npz", **scan)
    return ingest(folder / "source.npz", folder / f"{name}.zarr")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ScanStore:
    return make_store(tmp_path_factory.mktemp("view"))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved; they are not rendered, which takes most of the time."""
    saved: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: saved.append(figure))
    return saved


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def axes_titled(figure: Figure, start: str) -> Any:
    (axes,) = (axes for axes in figure.axes if axes.get_title().startswith(start))
    return axes


def positions_drawn(figure: Figure) -> PathCollection:
    """The first scatter of the map holds every position."""
    scatters = axes_titled(figure, "Scan map").collections
    return next(item for item in scatters if isinstance(item, PathCollection))


@pytest.mark.parametrize(
    ("name", "start"),
    [
        pytest.param("scan.png", b"\x89PNG", id="png"),
        pytest.param("deep/er/scan.PDF", b"%PDF", id="pdf_in_a_new_folder"),
        pytest.param("scan.svg", b"<?xml", id="svg"),
    ],
)
def test_the_suffix_decides_the_format(
    store: ScanStore, tmp_path: Path, name: str, start: bytes
) -> None:
    path = draw_scan(store, tmp_path / name, grouping=PAIRS, n_groups=1)
    assert path == tmp_path / name
    assert path.read_bytes().startswith(start)


def test_map_shows_every_position_with_y_down(
    store: ScanStore, tmp_path: Path, figures: list[Figure]
) -> None:
    draw_scan(store, tmp_path / "scan.png", grouping=PAIRS)
    axes = axes_titled(figures[0], "Scan map")
    np.testing.assert_array_equal(positions_drawn(figures[0]).get_offsets(), store.positions)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert left < store.positions[:, 0].min() <= store.positions[:, 0].max() < right
    assert top < store.positions[:, 1].min() <= store.positions[:, 1].max() < bottom
    assert axes.get_aspect() == 1
    assert axes.get_xlabel() == "x (object pixels)"


@pytest.mark.parametrize(
    ("color", "expected", "label"),
    [
        pytest.param("power", lambda store: store.frame_power, "power of a frame", id="power"),
        pytest.param("order", lambda store: np.arange(40), "acquisition index", id="order"),
    ],
)
def test_positions_are_coloured_by(
    store: ScanStore, tmp_path: Path, figures: list[Figure], color: Any, expected: Any, label: str
) -> None:
    draw_scan(store, tmp_path / "scan.png", grouping=PAIRS, color=color)
    np.testing.assert_array_equal(positions_drawn(figures[0]).get_array(), expected(store))
    assert any(text.startswith(label) for text in texts(figures[0]))


@pytest.mark.parametrize(
    "is_counts", [pytest.param(True, id="counts"), pytest.param(False, id="amplitude")]
)
def test_mean_pattern_is_that_of_squared_amplitudes(
    tmp_path: Path, figures: list[Figure], is_counts: bool
) -> None:
    more = {} if is_counts else {"diff3d": np.random.default_rng(0).random((40, 8, 8))}
    store = make_store(tmp_path, **more)
    assert (store.quantity == "counts") is is_counts
    draw_scan(store, tmp_path / "scan.png", n_groups=0)
    axes = axes_titled(figures[0], "Mean diffraction pattern, all 40 frames")
    frames = store.amplitude(np.arange(40)).astype(np.float64)
    # Amplitudes are float32 roots of the counts that are averaged.
    np.testing.assert_allclose(axes.images[0].get_array(), (frames**2).mean(axis=0), rtol=1e-6)
    unit = "counts" if is_counts else "squared amplitude"
    assert f"mean of a pixel ({unit})" in texts(figures[0])


def test_mean_of_a_large_scan_is_that_of_a_sample(
    tmp_path: Path, figures: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path, n_frames=2500, size=4)
    read: list[int] = []
    stored = ScanStore.stored
    monkeypatch.setattr(
        ScanStore, "stored", lambda self, rows: (read.extend(rows), stored(self, rows))[1]
    )
    draw_scan(store, tmp_path / "scan.png", n_groups=0)
    assert axes_titled(figures[0], "Mean diffraction pattern, 1,000 of 2,500 frames")
    assert len(read) == len(set(read)) == 1000


def test_panels_show_the_members_of_canonical_groups(
    store: ScanStore, tmp_path: Path, figures: list[Figure]
) -> None:
    draw_scan(store, tmp_path / "scan.png", grouping=PAIRS, n_groups=3)
    found = texts(figures[0])
    numbers = [int(text.split()[-1]) for text in found if text[1:].startswith(": group ")]
    frames = [int(text.split()[-1]) for text in found if text.startswith("frame ")]
    table = group_table(store, PAIRS)
    assert len(set(numbers)) == 3
    np.testing.assert_array_equal(frames, table.nn_indices[numbers].reshape(-1))
    panels = [axes for axes in figures[0].axes if axes.get_title().startswith("frame ")]
    for axes, frame in zip(panels, frames, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), store.stored([frame])[0])
    assert len({(axes.images[0].norm.vmin, axes.images[0].norm.vmax) for axes in panels}) == 1


def test_members_are_ringed_in_the_colour_of_their_panels(
    store: ScanStore, tmp_path: Path, figures: list[Figure]
) -> None:
    draw_scan(store, tmp_path / "scan.png", grouping=PAIRS, n_groups=2)
    table = group_table(store, PAIRS)
    rings = {
        to_hex(item.get_edgecolors()[0]): item.get_offsets()
        for item in axes_titled(figures[0], "Scan map").collections
        if isinstance(item, PathCollection) and len(item.get_edgecolors()) == 1
    }
    titles = [text for text in figures[0].findobj(Text) if ": group " in text.get_text()]
    assert len({title.get_color() for title in titles}) == 2
    for title in titles:
        members = table.nn_indices[int(title.get_text().split()[-1])]
        np.testing.assert_array_equal(rings[title.get_color()], store.positions[members])


@given(n_groups=st.integers(1, 8), n_samples=st.integers(1, 40), seed=st.integers(0, 99))
def test_shown_groups_are_distinct_groups_of_the_table(
    store: ScanStore, n_groups: int, n_samples: int, seed: int
) -> None:
    grouping = GroupingConfig(gridsize=2, n_neighbors=5, n_samples=n_samples)
    shown = choose_groups(store, grouping, n_groups, seed)
    assert len(set(shown.numbers.tolist())) == len(shown.numbers) == min(n_groups, n_samples)
    table = group_table(store, grouping)
    np.testing.assert_array_equal(shown.nn_indices, table.nn_indices[shown.numbers])


def test_shown_groups_lie_apart(tmp_path: Path) -> None:
    x, y = np.meshgrid(np.arange(16.0), np.arange(16.0))
    store = make_store(tmp_path, 256, 4, xcoords=x.ravel(), ycoords=y.ravel())
    shown = choose_groups(store, GroupingConfig(gridsize=1), 4, seed=0)
    quadrants = {tuple(position) for position in (store.positions[shown.nn_indices[:, 0]] >= 8)}
    assert len(quadrants) == 4


def test_other_seeds_show_other_groups(store: ScanStore) -> None:
    shown = [choose_groups(store, PAIRS, 4, seed).numbers.tolist() for seed in (0, 0, 1)]
    assert shown[0] == shown[1] != shown[2]


@pytest.mark.parametrize(
    ("n_frames", "size", "message"),
    [
        pytest.param(3, 8, "No groups: a group has 4 frames, the scan has 3 frames", id="three"),
        pytest.param(1, 8, "No groups: a group has 4 frames, the scan has 1 frame", id="one"),
    ],
)
def test_a_scan_smaller_than_a_group_is_drawn_without_groups(
    tmp_path: Path, n_frames: int, size: int, message: str
) -> None:
    store = make_store(tmp_path, n_frames, size)
    saved = tmp_path / "scan.svg"
    draw_scan(store, saved)
    assert saved.stat().st_size > 0
    assert choose_groups(store, PAIRS, 4, 0).title == message


def test_no_groups_asked_for_are_none_shown(
    store: ScanStore, tmp_path: Path, figures: list[Figure]
) -> None:
    draw_scan(store, tmp_path / "scan.png", n_groups=0)
    draw_scan(store, tmp_path / "scan.png", grouping=GroupingConfig(n_samples=0))
    assert not any("frame " in axes.get_title() for figure in figures for axes in figure.axes)
    assert "No groups: none were asked for" in texts(figures[1])


def test_panels_of_large_groups_say_how_many_frames_they_leave_out(
    store: ScanStore, tmp_path: Path, figures: list[Figure]
) -> None:
    grouping = GroupingConfig(gridsize=5, n_neighbors=30)
    draw_scan(store, tmp_path / "scan.png", grouping=grouping, n_groups=1)
    assert any(text.endswith(", 9 more frames") for text in texts(figures[0]))
    assert sum(axes.get_title().startswith("frame ") for axes in figures[0].axes) == 16


def test_panels_of_large_frames_are_means_of_blocks(tmp_path: Path, figures: list[Figure]) -> None:
    store = make_store(tmp_path, n_frames=2, size=260)
    draw_scan(store, tmp_path / "scan.png", grouping=GroupingConfig(), n_groups=1)
    (panel,) = (axes for axes in figures[0].axes if axes.get_title().startswith("frame "))
    frame = store.stored([int(panel.get_title().split()[-1])])[0].astype(np.float64)
    drawn = panel.images[0].get_array()
    assert drawn.shape == (130, 130)
    assert drawn[3, 5] == frame[6:8, 10:12].mean()


STRIPES = np.tile(1 + np.arange(60) % 5, (40, 1)).astype(np.complex64)


@pytest.mark.parametrize(
    ("guess", "is_drawn"),
    [
        pytest.param(STRIPES, True, id="around_the_positions"),
        pytest.param(STRIPES[:20], False, id="too_low_for_the_positions"),
        pytest.param(STRIPES[:, :20], False, id="too_narrow_for_the_positions"),
        pytest.param(np.ones_like(STRIPES), False, id="without_contrast"),
    ],
)
def test_object_is_drawn_where_positions_lie_in_it(
    tmp_path: Path, figures: list[Figure], guess: Any, is_drawn: bool
) -> None:
    store = make_store(tmp_path, objectGuess=guess)
    draw_scan(store, tmp_path / "scan.png", n_groups=0)
    axes = axes_titled(figures[0], "Scan map")
    assert len(axes.images) == is_drawn
    assert axes.get_title().endswith("object amplitude behind") is is_drawn
    for image in axes.images:
        left, _, _, top = image.get_extent()
        x, y = round(left + 0.5), round(top + 0.5)
        drawn = image.get_array()
        height, width = drawn.shape
        np.testing.assert_array_equal(drawn, abs(guess[y : y + height, x : x + width]))


@pytest.mark.parametrize(
    ("members", "labels"),
    [
        pytest.param({"object_pixel_m": np.float64(2e-7)}, {"x (µm)", "y (µm)"}, id="known"),
        pytest.param({}, set(), id="unknown"),
        pytest.param({"object_pixel_m": np.float64(0)}, set(), id="zero"),
    ],
)
def test_second_scale_is_in_micrometres_where_the_pixel_size_is_known(
    tmp_path: Path, members: dict[str, Any], labels: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path, **members)
    saved: list[Figure] = []
    savefig = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (saved.append(self), savefig(self, *a, **k))
    )
    draw_scan(store, tmp_path / "scan.png", n_groups=0)
    assert {text for text in texts(saved[0]) if "µm" in text} == labels
    if labels:
        axes = axes_titled(saved[0], "Scan map")
        (second,) = (item for item in axes.child_axes if item.get_xlabel() == "x (µm)")
        np.testing.assert_allclose(second.get_xlim(), np.multiply(axes.get_xlim(), 0.2))


def test_frames_without_a_photon_and_names_with_dollar_signs_are_drawn(tmp_path: Path) -> None:
    dark = np.zeros((5, 8, 8), np.float32)
    store = make_store(tmp_path, 5, diff3d=dark, name="a$b_{$ " + 60 * "x")
    assert draw_scan(store, tmp_path / "scan.png", n_groups=1).stat().st_size > 0


def test_title_tells_name_frames_and_sizes(
    store: ScanStore, tmp_path: Path, figures: list[Figure]
) -> None:
    draw_scan(store, tmp_path / "scan.png", n_groups=0)
    (title,) = (text for text in texts(figures[0]) if text.startswith("star "))
    assert "40 frames of 8 x 8, stored as counts" in title
    stored = sum(file.stat().st_size for file in Path(store.path).rglob("*") if file.is_file())
    assert f"{stored / 1024:.1f} KiB on disk for 10.0 KiB of float32 amplitudes" in title


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        pytest.param("scan.jpg", {}, "expected one of .png, .pdf, .svg", id="suffix"),
        pytest.param("scan", {}, "expected one of .png, .pdf, .svg", id="no_suffix"),
        pytest.param("scan.png", {"n_groups": 9}, "n_groups is 9; expected 0 to 8", id="many"),
        pytest.param("scan.png", {"n_groups": -1}, "n_groups is -1; expected 0", id="negative"),
        pytest.param("scan.png", {"color": "red"}, "expected one of power, order", id="color"),
    ],
)
def test_options_that_cannot_work_are_refused(
    store: ScanStore, tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        draw_scan(store, tmp_path / name, **options)
    assert caught.value.code == "config"
    assert list(tmp_path.iterdir()) == []


def test_missing_matplotlib_names_the_extra(
    store: ScanStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DeviceError, match=r"install 'ptyzarr\[plot\]'") as caught:
        draw_scan(store, tmp_path / "scan.png")
    assert caught.value.code == "device"


def test_a_place_that_cannot_be_written_is_a_storage_error(
    store: ScanStore, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written") as caught:
        draw_scan(store, tmp_path / "file" / "scan.png", n_groups=0)
    assert caught.value.code == "storage"


def test_impossible_groups_are_refused(store: ScanStore, tmp_path: Path) -> None:
    with pytest.raises(GroupingError, match="n_neighbors is 3"):
        draw_scan(store, tmp_path / "scan.png", grouping=GroupingConfig(gridsize=2, n_neighbors=3))


def test_the_title_names_another_strategy(store: ScanStore) -> None:
    grouping = GroupingConfig(strategy="nearest", gridsize=2, seed=7)
    shown = choose_groups(store, grouping, 3, seed=0)
    assert shown.title == "Groups of 4 frames, nearest (seed 7), 3 of 40 shown"
    table = group_table(store, grouping)
    np.testing.assert_array_equal(shown.nn_indices, table.nn_indices[shown.numbers])
