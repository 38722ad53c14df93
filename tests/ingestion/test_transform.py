"""`transform` from end to end: what the new store holds, what is refused, what resumes."""

from __future__ import annotations

import itertools
import os
import pickle
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from farfield import by_pixel, diffract, frames_of, sample, smooth_object, smooth_probe
from synthetic import make_arrays, make_npz, tree_state

from ptyzarr.config import IngestConfig, TransformConfig
from ptyzarr.errors import (
    BudgetError,
    ConfigError,
    DamagedStoreError,
    DtypeError,
    InterruptedIngestError,
    ScanExistsError,
    ScanNotFoundError,
    ShapeError,
    SourceChangedError,
    SourceError,
    VerificationError,
)
from ptyzarr.grouping import RawDataTorch, neighbors, object_patches
from ptyzarr.ingestion import export, ingest, repair, transform, verify
from ptyzarr.ingestion.geometry import Orientation, move_pixels, pixel_map
from ptyzarr.ingestion.storedframes import StoredFrames
from ptyzarr.scan import frame_power
from ptyzarr.store import open_store

TURNED = TransformConfig(flip_x=True, quarter_turns=1)
SMALL = TransformConfig(frame_size=12)
EVERY = np.arange(40)


class Interrupt:
    """A `Progress` that interrupts once some frames are written."""

    def start(self, stage: str, total: int, unit: str) -> None:
        self.stage = stage

    def advance(self, amount: int) -> None:
        if self.stage == "writing":
            raise KeyboardInterrupt

    def finish(self) -> None:
        """Nothing to do."""


@pytest.fixture
def save_mask(tmp_path: Path) -> Callable[..., Path]:
    """`save_mask(pixels, size)`: an npy of int8 that calls these (y, x) bad."""

    def save(pixels: list[tuple[int, int]], size: int = 16) -> Path:
        mask = np.zeros((size, size), np.int8)
        for y, x in pixels:
            mask[y, x] = 3
        np.save(tmp_path / "mask.npy", mask)
        return tmp_path / "mask.npy"

    return save


def scan_of(size: int, *, at_pixels: bool = False) -> dict[str, Any]:
    """Return the members of a simulated far-field scan in double precision."""
    rng = np.random.default_rng(5)
    at = smooth_object(160, 150)
    positions = np.stack([rng.uniform(60, 100, 30), rng.uniform(55, 95, 30)], 1)
    values = sample(at, 150, 160)
    if at_pixels:
        positions, at = np.rint(positions), by_pixel(values)
    probe = smooth_probe(size, 5.0, tilt=0.2)
    return {
        "diff3d": frames_of(probe, at, positions),
        "xcoords": positions[:, 0],
        "ycoords": positions[:, 1],
        "xcoords_start": positions[:, 0] + 0.25,
        "ycoords_start": positions[:, 1] - 0.5,
        "probeGuess": probe,
        "objectGuess": values,
        "scan_index": None,
    }


def test_frames_of_the_new_store_are_those_of_its_probe_object_and_positions(
    make_scan_store, tmp_path
):
    store = make_scan_store(**scan_of(64, at_pixels=True))
    for number, (flip_x, turns) in enumerate([(True, 0), (False, 1), (True, 3)]):
        config = TransformConfig(flip_x=flip_x, quarter_turns=turns)
        made = transform(store, tmp_path / f"made{number}.zarr", config)
        expected = frames_of(made.probe_guess, by_pixel(made.object_guess), made.positions)
        frames = made.amplitude(np.arange(30))
        assert frames.dtype == np.float64
        np.testing.assert_allclose(frames, expected, rtol=0, atol=1e-12 * expected.max())


def test_cut_frames_are_those_of_the_smaller_probe_on_the_coarser_object(make_scan_store, tmp_path):
    store = make_scan_store(**scan_of(64), object_pixel_m=np.float64(30e-9))
    made = transform(store, tmp_path / "made.zarr", TransformConfig(frame_size=48))
    at, ratio = smooth_object(160, 150), 64 / 48
    expected = frames_of(made.probe_guess, lambda x, y: at(x * ratio, y * ratio), made.positions)
    frames = made.amplitude(np.arange(30))
    np.testing.assert_allclose(frames, expected, rtol=0, atol=2e-7 * expected.max())
    np.testing.assert_allclose(made.frame_power, store.frame_power, rtol=1e-12)
    np.testing.assert_allclose(made.positions, store.positions * 0.75, rtol=1e-15)
    np.testing.assert_allclose(made.positions_start, store.positions_start * 0.75, rtol=1e-15)
    assert made.object_guess.shape == (112, 120)
    assert made.attrs["physics"]["pixel_size_m"] == pytest.approx(40e-9)
    assert float(made.extra["object_pixel_m"][...]) == pytest.approx(40e-9)


def test_counts_stay_counts_and_all_that_is_stored_about_frames_is_made_anew(
    make_scan_store, set_sizes, tmp_path
):
    set_sizes(4, 16)
    store = make_scan_store()
    made = transform(store, tmp_path / "made.zarr", TransformConfig(frame_size=10, flip_y=True))
    orientation = Orientation.of(flip_x=False, flip_y=True, quarter_turns=0)
    expected = move_pixels(store.stored(EVERY), pixel_map(16, 10, orientation))
    assert made.quantity == "counts"
    assert made.stored(EVERY).dtype == store.stored(EVERY).dtype
    assert np.array_equal(made.stored(EVERY), expected)
    assert np.array_equal(made.frame_power, frame_power(made.amplitude(EVERY)))
    assert made.pixel_limits == (int((expected > 0).sum((1, 2)).max()), 0)
    assert np.array_equal(made.scan_index, store.scan_index)
    assert verify(made.path).n_frames == 40


@pytest.mark.parametrize(
    ("overrides", "config"),
    [
        pytest.param({}, IngestConfig(layout="acquisition"), id="counts in another order"),
        pytest.param(
            {"diff3d": np.square(make_arrays()["diff3d"]).astype(np.uint16)},
            IngestConfig(quantity="counts"),
            id="declared counts",
        ),
        pytest.param(
            {"diff3d": make_arrays()["diff3d"].astype(np.uint16)}, None, id="whole amplitudes"
        ),
        pytest.param(
            {"diff3d": np.random.default_rng(6).uniform(0, 9, (40, 16, 16))}, None, id="float64"
        ),
        pytest.param(
            {"diff3d": np.random.default_rng(6).uniform(0, 9, (40, 16, 16)).astype(np.float32)},
            None,
            id="float32 that are no roots",
        ),
    ],
)
def test_any_kind_of_frames_is_moved_bit_for_bit_and_back(
    make_scan_store, tmp_path, overrides, config
):
    store = make_scan_store(config=config, **overrides)
    there = transform(store, tmp_path / "there.zarr", TransformConfig(quarter_turns=3))
    pixels = pixel_map(16, 16, Orientation.of(flip_x=False, flip_y=False, quarter_turns=3))
    frames = store.amplitude(EVERY)
    assert there.amplitude(EVERY).tobytes() == move_pixels(frames, pixels).tobytes()
    back = transform(there, tmp_path / "back.zarr", TransformConfig(quarter_turns=1))
    assert back.frames_digest == store.frames_digest
    for name in ("probe_guess", "object_guess"):
        assert np.array_equal(getattr(back, name), getattr(store, name))
    np.testing.assert_allclose(back.positions, store.positions, rtol=0, atol=np.spacing(64.0))


def test_groups_go_along_with_the_frames(make_scan_store, tmp_path):
    store = make_scan_store()
    made = transform(store, tmp_path / "made.zarr", TURNED)
    assert np.array_equal(neighbors(made, 6).compute(), neighbors(store, 6).compute())
    options = {"N": 16, "K": 6, "nsamples": 20, "seed": 3, "gridsize": 2}
    before = RawDataTorch.from_store(store).generate_grouped_data(**options)
    after = RawDataTorch.from_store(made).generate_grouped_data(**options)
    assert np.array_equal(after["nn_indices"], before["nn_indices"])
    # Flipped in x, then turned: x becomes y, and y the flipped x.
    relative = before["coords_relative"]
    np.testing.assert_allclose(after["coords_relative"][:, :, 0], relative[:, :, 1], atol=1e-13)
    np.testing.assert_allclose(after["coords_relative"][:, :, 1], relative[:, :, 0], atol=1e-13)
    start = before["coords_start_relative"]
    np.testing.assert_allclose(after["coords_start_relative"][:, :, 0], start[:, :, 1], atol=1e-13)


def test_patches_go_along_with_the_frames(make_scan_store, tmp_path):
    store = make_scan_store(**scan_of(16))
    made = transform(store, tmp_path / "made.zarr", TURNED)
    options = {"N": 16, "K": 4, "nsamples": 30, "seed": 3, "gridsize": 1}
    before = RawDataTorch.from_store(store).generate_grouped_data(**options)["Y"][..., 0]
    after = RawDataTorch.from_store(made).generate_grouped_data(**options)["Y"][..., 0]
    orientation = Orientation.of(flip_x=True, flip_y=False, quarter_turns=1)
    moved = move_pixels(before, pixel_map(16, 16, orientation))
    # The row and the column at -N/2 have no partner in the frame, but in the object.
    np.testing.assert_allclose(after[:, 1:, 1:], moved[:, 1:, 1:], rtol=0, atol=2e-6)


def test_bad_pixels_become_zero_and_the_mask_goes_along(make_scan_store, save_mask, tmp_path):
    store = make_scan_store()
    mask = save_mask([(8, 8), (0, 3)])
    config = TransformConfig(frame_size=12, flip_x=True, bad_pixels=mask)
    made = transform(store, tmp_path / "made.zarr", config)
    expected = np.zeros((12, 12), bool)
    expected[6, 6] = True  # the zero frequency; the other one is cut off
    assert made.bad_pixels.dtype == bool
    assert np.array_equal(made.bad_pixels, expected)
    frames = made.amplitude(EVERY)
    assert not frames[:, 6, 6].any()
    assert np.array_equal(made.frame_power, frame_power(frames))
    assert made.quantity == "counts"
    assert store.bad_pixels is None


def test_bad_pixels_may_keep_their_values_and_add_up(make_scan_store, save_mask, tmp_path):
    store = make_scan_store()
    config = TransformConfig(bad_pixels=save_mask([(8, 7)]), bad_pixel_mode="keep")
    made = transform(store, tmp_path / "made.zarr", config)
    assert made.frames_digest == store.frames_digest
    assert made.digest != store.digest
    assert np.argwhere(made.bad_pixels).tolist() == [[8, 7]]
    again = transform(made, tmp_path / "again.zarr", TransformConfig(flip_x=True))
    assert np.argwhere(again.bad_pixels).tolist() == [[8, 9]]
    assert again.amplitude(EVERY)[:, 8, 9].any()
    config = TransformConfig(bad_pixels=save_mask([(8, 8)]))
    both = transform(again, tmp_path / "both.zarr", config)
    assert np.argwhere(both.bad_pixels).tolist() == [[8, 8], [8, 9]]
    assert not both.amplitude(EVERY)[:, 8, 8:10].any()
    assert [step["store"] for step in both.transforms] == ["scan.zarr", "made.zarr", "again.zarr"]
    assert [step["digest"] for step in both.transforms] == [s.digest for s in (store, made, again)]
    assert verify(both.path, again.path).compared_source == again.path


def test_xarray_sees_the_mask_on_the_axes_of_the_frames(make_scan_store, save_mask, tmp_path):
    config = TransformConfig(bad_pixels=save_mask([(3, 4)]))
    transform(make_scan_store(), tmp_path / "made.zarr", config)
    with xr.open_zarr(tmp_path / "made.zarr") as dataset:
        assert dataset["bad_pixels"].dims == ("y", "x")
        assert int(dataset["diffraction"].where(dataset["bad_pixels"], 0).sum()) == 0


def test_the_new_store_says_what_was_done_to_what(make_scan_store, save_mask, tmp_path):
    store = make_scan_store()
    config = TransformConfig(quarter_turns=2, frame_size=20, bad_pixels=save_mask([(1, 2)]))
    made = transform(store.path, tmp_path / "made.zarr", config)
    (step,) = open_store(made.path).transforms
    assert step["frame_size"] == [16, 20]
    assert (step["flip_x"], step["flip_y"], step["quarter_turns"]) == (False, False, 2)
    assert (step["bad_pixels"]["n_bad"], step["bad_pixels"]["mode"]) == (1, "zero")
    assert (step["digest"], step["frames_digest"]) == (store.digest, store.frames_digest)
    assert (made.attrs["source"]["name"], made.attrs["source"]["format"]) == ("scan.zarr", "store")
    assert store.transforms == ()


def test_members_that_no_longer_hold_are_left_out_and_the_others_carried(make_scan_store, tmp_path):
    store = make_scan_store(
        flat=np.ones((16, 16)),
        truth=np.ones((3, *make_arrays()["objectGuess"].shape)),
        title=np.array("a scan"),
        table=np.arange(12.0).reshape(4, 3),
    )
    made = transform(store, tmp_path / "made.zarr", TURNED)
    assert set(made.extra) == {"title", "table"}
    assert made.transforms[0]["left_out"] == ["flat", "truth"]
    assert made.extra["title"] == "a scan"
    assert np.array_equal(made.extra["table"][...], store.extra["table"][...])


def test_members_stay_where_only_pixels_are_masked(make_scan_store, save_mask, tmp_path):
    store = make_scan_store(flat=np.ones((16, 16)))
    made = transform(store, tmp_path / "made.zarr", TransformConfig(bad_pixels=save_mask([(0, 0)])))
    assert set(made.extra) == {"flat"}
    assert made.positions.tobytes() == store.positions.tobytes()
    assert made.probe_guess.tobytes() == store.probe_guess.tobytes()


def test_a_scan_with_modes_and_without_object_is_transformed(make_scan_store, tmp_path):
    modes = np.stack([make_arrays()["probeGuess"]] * 2)
    store = make_scan_store(
        probeGuess=modes, objectGuess=None, xcoords_start=None, ycoords_start=None, scan_index=None
    )
    made = transform(store, tmp_path / "made.zarr", TURNED)
    assert made.probe_guess.shape == (2, 16, 16)
    assert made.object_guess is None
    assert made.positions_start is None
    assert np.array_equal(np.ptp(made.positions, axis=0), np.ptp(store.positions, axis=0)[::-1])
    assert "scan_index" not in made.nodes()


def test_pixels_that_were_not_finite_stay_zero_and_their_originals_in_the_origin(
    make_scan_store, tmp_path
):
    frames = make_arrays()["diff3d"]
    frames[3, 8, 8] = np.nan
    store = make_scan_store(config=IngestConfig(nonfinite="mask"), diff3d=frames)
    made = transform(store, tmp_path / "made.zarr", TransformConfig(flip_y=True))
    assert made.amplitude(EVERY)[3, 8, 8] == 0
    assert not [node for node in made.nodes() if node.startswith("masked")]
    assert verify(made.path, store.path).n_frames == 40


def test_export_gives_an_npz_from_which_the_same_store_is_made(make_scan_store, tmp_path):
    made = transform(make_scan_store(), tmp_path / "made.zarr", TURNED)
    npz = export(made, tmp_path / "made.npz")
    with np.load(npz) as members:
        assert members["diff3d"].tobytes() == made.amplitude(EVERY).tobytes()
        assert members["probeGuess"].tobytes() == made.probe_guess.tobytes()
    assert ingest(npz, tmp_path / "again.zarr").digest == made.digest


def test_the_same_transform_again_changes_nothing_and_another_one_is_refused(
    make_scan_store, tmp_path
):
    store, target = make_scan_store(), tmp_path / "made.zarr"
    transform(store, target, TURNED)
    state, before = tree_state(target), tree_state(Path(store.path))
    moved = tmp_path / "moved.zarr"
    os.rename(store.path, moved)
    transform(moved, target, TURNED)
    assert tree_state(target) == state
    with pytest.raises(ScanExistsError, match="transformed in another way"):
        transform(moved, target, SMALL)
    replaced = transform(moved, target, TransformConfig(frame_size=12, overwrite=True))
    assert replaced.frame_size == 12
    assert tree_state(moved) == before


def test_an_interrupted_transform_leaves_nothing_and_resumes(make_scan_store, set_sizes, tmp_path):
    set_sizes(4, 8)
    store, target = make_scan_store(), tmp_path / "made.zarr"
    with pytest.raises(InterruptedIngestError):
        transform(store, target, TURNED, progress=Interrupt())
    assert not target.exists()
    written = tree_state(Path(f"{target}.staging") / "store")
    assert written
    made = transform(store, target, TURNED)
    after = tree_state(target)
    assert all(after[key] == state for key, state in written.items())
    whole = transform(store, tmp_path / "whole.zarr", TURNED)
    assert made.digest == whole.digest
    assert not Path(f"{target}.staging").exists()


def test_a_damaged_frame_of_the_origin_stops_it_and_nothing_is_published(make_scan_store, tmp_path):
    store, target = make_scan_store(), tmp_path / "made.zarr"
    shard = next(Path(store.path).glob("diffraction/c/0/0/0"))
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedStoreError):
        transform(store.path, target, TURNED)
    assert not target.exists()


def test_verify_compares_every_value_with_the_origin(make_scan_store, tmp_path):
    store, other = make_scan_store(), make_scan_store("other", seed=1)
    made = transform(store, tmp_path / "made.zarr", SMALL)
    report = verify(made.path, store.path)
    assert (report.n_frames, report.compared_source) == (40, store.path)
    with pytest.raises(VerificationError, match="is not the source"):
        verify(made.path, other.path)


@pytest.fixture
def masked(make_scan_store, set_sizes, save_mask, tmp_path) -> tuple[Path, Path]:
    """A store with shards, and one that was made from it with a mask; their folders."""
    set_sizes(2, 16)
    store = make_scan_store()
    config = TransformConfig(frame_size=12, flip_y=True, bad_pixels=save_mask([(8, 9)]))
    transform(store, tmp_path / "made.zarr", config).close()
    return Path(store.path), tmp_path / "made.zarr"


@pytest.mark.parametrize(
    "key", ["diffraction/c/1/0/0", "positions/c/0/0", "probe_guess/zarr.json", "object_guess/c/0/0"]
)
def test_repair_makes_what_is_damaged_again_from_the_origin(masked, key):
    origin, made = masked
    whole = (made / key).read_bytes()
    (made / key).write_bytes(whole[:-1])
    assert repair(made, origin).rewritten == (key,)
    assert (made / key).read_bytes() == whole


@pytest.mark.parametrize("key", ["bad_pixels/c/0/0", "bad_pixels/zarr.json"])
def test_repair_names_the_way_when_the_mask_is_damaged(masked, key):
    origin, made = masked
    (made / key).write_bytes(b"")
    with pytest.raises(DamagedStoreError, match="same transform again with --overwrite"):
        repair(made, origin)


def test_repair_names_the_way_when_the_root_is_damaged(masked):
    origin, made = masked
    root = (made / "zarr.json").read_bytes()
    (made / "zarr.json").write_bytes(root[:-10])
    with pytest.raises(SourceError, match="same transform again with --overwrite"):
        repair(made, origin)


def test_repair_refuses_another_origin(masked, make_scan_store):
    _, made = masked
    (made / "positions/c/0/0").write_bytes(b"")
    with pytest.raises(SourceError, match="is not the source"):
        repair(made, make_scan_store("other", seed=1).path)


def test_frames_travel_to_another_process_and_refuse_another_scan_there(make_scan_store, tmp_path):
    store = make_scan_store()
    pixels = pixel_map(16, 16, Orientation.of(flip_x=True, flip_y=False, quarter_turns=0))
    frames = StoredFrames(store, store.digest, pixels, False, "<f4")
    pickled = pickle.dumps(frames)
    picked = pickle.loads(pickled).read(np.array([7, 3]))
    assert picked.tobytes() == frames.read(np.array([7, 3])).tobytes()
    ingest(make_npz(tmp_path / "b.npz", seed=9), store.path, IngestConfig(overwrite=True))
    with pytest.raises(SourceChangedError, match="another scan"):
        pickle.loads(pickled).read(np.array([7]))


def test_an_origin_that_is_replaced_meanwhile_is_noticed(make_scan_store, tmp_path):
    store = make_scan_store()
    other = make_npz(tmp_path / "b.npz", seed=9)

    class Replace(Interrupt):
        def advance(self, amount: int) -> None:
            if self.stage == "writing":
                ingest(other, store.path, IngestConfig(overwrite=True))

    with pytest.raises(SourceChangedError):
        transform(store.path, tmp_path / "made.zarr", TURNED, progress=Replace())
    assert not (tmp_path / "made.zarr").exists()


@pytest.mark.parametrize(
    ("size", "new_size"), [pytest.param(16, 40, id="padded"), pytest.param(16, 7, id="cut")]
)
def test_frames_are_the_same_whatever_is_read_at_once(
    make_scan_store, monkeypatch, tmp_path, size, new_size
):
    store = make_scan_store(N=size)
    made = [transform(store, tmp_path / "a.zarr", TransformConfig(frame_size=new_size))]
    monkeypatch.setattr("ptyzarr.ingestion.storedframes.PIECE_BYTES", 1)
    config = TransformConfig(frame_size=new_size, n_workers=1, layout="acquisition")
    made.append(transform(store, tmp_path / "b.zarr", config))
    assert made[0].digest == made[1].digest


def test_a_budget_that_is_too_small_is_refused_before_anything_is_made(make_scan_store, tmp_path):
    store = make_scan_store()
    with pytest.raises(BudgetError, match="choose a smaller frame_size"):
        transform(store, tmp_path / "made.zarr", TransformConfig(frame_size=10**6))
    with pytest.raises(BudgetError, match="at least"):
        transform(store, tmp_path / "made.zarr", TransformConfig(flip_x=True, memory="80MiB"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.npz", "scan.zarr"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"frame_size": 0}, "frame_size is 0", id="no pixels"),
        pytest.param({"frame_size": -4}, "frame_size is -4", id="fewer than none"),
        pytest.param({"frame_size": 12.5}, "expected an integer", id="half a pixel"),
        pytest.param({"quarter_turns": 4}, "0, 1, 2 or 3", id="a whole turn"),
        pytest.param({"quarter_turns": -1}, "0 or more", id="backwards"),
        pytest.param({"flip_x": 1}, "True or False", id="flip that is no bool"),
        pytest.param({"bad_pixel_mode": "drop"}, "'zero', 'keep'", id="mode"),
        pytest.param({"bad_pixels": np.zeros((4, 4))}, "save the mask", id="array"),
        pytest.param({"layout": "spiral"}, "layout", id="layout"),
        pytest.param({"memory": "lots"}, "lots", id="memory"),
        pytest.param({"n_workers": 0}, "n_workers", id="workers"),
    ],
)
def test_options_that_cannot_work_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        TransformConfig(**options)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(None, id="nothing"),
        pytest.param(TransformConfig(frame_size=16), id="the same size"),
        pytest.param(TransformConfig(flip_x=True, flip_y=True, quarter_turns=2), id="half a turn"),
    ],
)
def test_a_transform_that_changes_nothing_is_refused(make_scan_store, tmp_path, config):
    with pytest.raises(ConfigError, match=r"nothing of .* would change"):
        transform(make_scan_store(), tmp_path / "made.zarr", config)


def test_flips_and_turns_cancel_in_no_other_way():
    kept = [
        options
        for options in itertools.product([False, True], [False, True], range(4))
        if Orientation.of(flip_x=options[0], flip_y=options[1], quarter_turns=options[2])
        == Orientation()
    ]
    assert kept == [(False, False, 0), (True, True, 2)]


@pytest.mark.parametrize(
    ("destination", "words"),
    [
        pytest.param("scan.zarr", "stays as it is", id="itself"),
        pytest.param("scan.zarr/extra/made.zarr", "stays as it is", id="within"),
        pytest.param("link.zarr", "stays as it is", id="itself by another name"),
        pytest.param("https://example.org/made.zarr", "is a URL", id="URL"),
    ],
)
def test_the_origin_is_never_written_to(make_scan_store, tmp_path, monkeypatch, destination, words):
    monkeypatch.chdir(tmp_path)
    state = tree_state(Path(make_scan_store().path))
    os.symlink("scan.zarr", "link.zarr")
    config = TransformConfig(flip_x=True, overwrite=True)
    with pytest.raises(ConfigError, match=words):
        transform("scan.zarr", destination, config)
    assert tree_state(tmp_path / "scan.zarr") == state


@pytest.mark.parametrize(
    ("path", "error"),
    [
        pytest.param("no.zarr", ScanNotFoundError, id="missing"),
        pytest.param("https://example.org/scan.zarr", ConfigError, id="URL"),
    ],
)
def test_a_store_that_is_not_there_is_refused(tmp_path, path, error):
    with pytest.raises(error):
        transform(path, tmp_path / "made.zarr", TURNED)
    assert not list(tmp_path.iterdir())


def test_a_probe_of_another_width_can_be_turned_but_not_cut(make_scan_store, tmp_path):
    probe = np.random.default_rng(7).normal(size=(20, 20)).astype(np.complex64)
    store = make_scan_store(probeGuess=probe)
    made = transform(store, tmp_path / "made.zarr", TURNED)
    assert made.probe_guess.shape == (20, 20)
    with pytest.raises(ShapeError, match="20 pixels wide, the frames 16"):
        transform(store, tmp_path / "small.zarr", SMALL)


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        pytest.param(np.zeros((15, 16)), ShapeError, "shape", id="shape"),
        pytest.param(np.zeros((16, 16), complex), DtypeError, "complex128", id="dtype"),
        pytest.param(np.full((16, 16), "x"), DtypeError, "<U1", id="text"),
        pytest.param(np.full((16, 16), np.nan), SourceError, "not finite", id="NaN"),
        pytest.param(np.ones((16, 16), bool), SourceError, "every pixel", id="all bad"),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_mask_that_does_not_fit_is_refused(make_scan_store, tmp_path, mask, error, words, suffix):
    path = tmp_path / f"mask.{suffix}"
    np.save(path, mask) if suffix == "npy" else np.savez(path, mask)
    with pytest.raises(error, match=words):
        transform(make_scan_store(), tmp_path / "made.zarr", TransformConfig(bad_pixels=path))
    assert not (tmp_path / "made.zarr").exists()


def misfit(store, *, positions=None) -> float:
    """Return by how much of all amplitude the frames differ from those of probe and object."""
    chosen = np.arange(0, store.n_frames, 10)
    centers = (store.positions if positions is None else positions)[chosen]
    offsets = centers.reshape(-1, 1, 2, 1)
    size = store.frame_size
    patches = object_patches(store.object_guess, offsets, np.zeros_like(offsets), size)[..., 0]
    expected, found = diffract(store.probe_guess * patches), store.amplitude(chosen)
    expected *= np.sum(expected * found) / np.sum(expected**2)
    return float(np.abs(found - expected).sum() / found.sum())


@pytest.mark.slow
def test_a_measured_scan_is_explained_as_well_after_as_before(tmp_path):
    source = resources.files("ptyzarr") / "demo_data" / "siemens_star_516.npz"
    with resources.as_file(source) as path:
        store = ingest(path, tmp_path / "scan.zarr")
    before = misfit(store)
    turned = transform(store, tmp_path / "turned.zarr", TURNED)
    assert misfit(turned) == pytest.approx(before, abs=1e-3)
    assert misfit(turned, positions=store.positions) > 2 * before
    # What is cut off is mostly noise, which no probe and object explain.
    small = transform(store, tmp_path / "small.zarr", TransformConfig(frame_size=96))
    assert misfit(small) < before
    assert misfit(small, positions=store.positions) > 2 * before
