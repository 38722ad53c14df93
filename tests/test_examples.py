"""The example in ``examples/``: its physics, its score, and that it runs in seconds."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import ptyzarr

pytest.importorskip("matplotlib")
torch = pytest.importorskip("torch")

SCRIPT = Path(__file__).parent.parent / "examples" / "siemens_star.py"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("siemens_star", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules["siemens_star"] = module
    spec.loader.exec_module(module)
    return module


star = load_script()


@pytest.fixture(scope="module")
def scan():
    with np.load(Path(ptyzarr.__file__).parent / "demo_data" / "siemens_star_516.npz") as members:
        return dict(members)


def smooth_object(seed, shape=(160, 150)):
    """An object of blobs: smooth, of no symmetry, with phases of some 0.3 rad."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    return np.exp(0.3j * noise / noise.std())


def middle(shape=(160, 150)):
    mask = np.zeros(shape, bool)
    mask[12:-12, 12:-12] = True
    return mask


def correlate(found, reference):
    return star.phase_correlation(found, reference, middle())[0]


@settings(max_examples=20)
@given(
    phase=st.floats(-3, 3),
    ramp=st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2)),
    shift=st.tuples(st.integers(-6, 6), st.integers(-6, 6)),
    contrast=st.floats(0.5, 2),
)
def test_the_score_is_1_whatever_diffraction_cannot_tell(phase, ramp, shift, contrast):
    reference = smooth_object(0)
    rows, columns = np.indices(reference.shape)
    plane = phase + ramp[0] * rows + ramp[1] * columns
    found = contrast * np.roll(reference, shift, (0, 1)) * np.exp(1j * plane)
    assert correlate(found, reference) > 0.995


def test_the_score_finds_a_shift_by_part_of_a_pixel():
    reference = smooth_object(0)
    found = ndimage.shift(reference.real, (1.4, -2.3), mode="nearest") + 1j * ndimage.shift(
        reference.imag, (1.4, -2.3), mode="nearest"
    )
    assert correlate(found, reference) > 0.995


def test_the_score_of_the_object_itself_is_1_and_leaves_it_where_it_is():
    reference = smooth_object(0)
    score, registered = star.phase_correlation(reference, reference, middle())
    assert score == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(registered, reference, atol=1e-3)


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(smooth_object(1), id="another object"),
        pytest.param(np.conj(smooth_object(0)), id="opposite phases"),
        pytest.param(smooth_object(0)[::-1], id="mirrored"),
        pytest.param(smooth_object(0)[::-1, ::-1].conj(), id="twin image"),
        pytest.param(np.ones((160, 150)), id="nothing"),
        pytest.param(np.roll(smooth_object(0), 20, axis=1), id="farther off than it may be"),
        pytest.param(
            np.exp(1j * np.random.default_rng(2).uniform(-3, 3, (160, 150))), id="white noise"
        ),
    ],
)
def test_the_score_of_a_wrong_object_is_low(found):
    assert correlate(found, smooth_object(0)) < 0.3


def test_the_score_counts_the_mask_only():
    reference = smooth_object(0)
    found = np.where(middle(), reference, smooth_object(1))
    assert correlate(found, reference) > 0.999


def test_the_reference_guess_explains_the_frames_of_the_scan(scan):
    positions = np.stack([scan["xcoords"], scan["ycoords"]], axis=1)
    squares = 0.0
    for index in range(0, 516, 43):
        x, y = np.rint(positions[index]).astype(int) - 64
        patch = torch.from_numpy(scan["objectGuess"][y : y + 128, x : x + 128])
        frame = star.diffract(patch, torch.from_numpy(scan["probeGuess"])).numpy()
        measured = scan["diff3d"][index]
        squares += np.square(frame - measured).sum() / np.square(measured).sum() / 12
    # The relative Fourier error that the scan's origin states.
    assert np.sqrt(squares) == pytest.approx(0.124, abs=0.01)


def test_patches_of_one_object_are_not_changed_by_merging():
    shown = torch.from_numpy(smooth_object(0).astype(np.complex64))
    positions = torch.tensor([[[30.0, 37.2, 41.0, 33.9], [40.0, 40.4, 28.0, 45.6]]])
    patches = torch.stack(
        [shown[y - 8 : y + 8, x - 8 : x + 8] for x, y in positions[0].round().int().T]
    )[None]
    weight = torch.rand(16, 16) + 0.1
    merged = star.merge_patches(patches, positions, weight)
    torch.testing.assert_close(merged, patches)


def test_merging_averages_what_overlaps_by_weight():
    patches = torch.zeros(1, 2, 4, 4, dtype=torch.complex64)
    patches[0, 0], patches[0, 1] = 1, 4j
    weight = torch.ones(4, 4)
    weight[:, 3] = 3
    merged = star.merge_patches(patches, torch.tensor([[[10.0, 13.0], [5.0, 5.0]]]), weight)
    # The last column of the first patch lies on the first column of the second.
    torch.testing.assert_close(merged[0, 0, :, :3], patches[0, 0, :, :3])
    torch.testing.assert_close(merged[0, 1, :, 1:], patches[0, 1, :, 1:])
    for column in (merged[0, 0, :, 3], merged[0, 1, :, 0]):
        torch.testing.assert_close(column, torch.full((4,), 3 / 4 + 1j))


class Copier(torch.nn.Module):
    """Gives what is under the frames of a scan whose frames are copies of the object."""

    def forward(self, frames, empty):
        return torch.polar(torch.ones_like(frames), frames)


def test_patches_lie_at_the_positions_of_their_frames():
    positions = np.random.default_rng(3).uniform(20, 60, (40, 2))
    shown = np.angle(smooth_object(0)) + 1
    corners = np.rint(positions).astype(int) - 8
    frames = np.stack([shown[y : y + 16, x : x + 16] for x, y in corners])
    members = np.random.default_rng(4).integers(0, 40, (6, 4))
    nn = np.moveaxis(positions[members], 1, 2)[:, None]
    offsets = nn.mean(axis=-1, keepdims=True)
    batch = SimpleNamespace(
        X=torch.from_numpy(frames[members]),
        coords_nn=torch.from_numpy(nn),
        coords_offsets=torch.from_numpy(offsets),
        coords_relative=torch.from_numpy(offsets - nn),
        probe=torch.ones(1, 16, 16, dtype=torch.complex64),
        scale=torch.ones(6),
    )
    expected = torch.polar(torch.ones_like(batch.X), batch.X)
    torch.testing.assert_close(star.predict(Copier(), batch), expected)
    stitched, light = star.stitch(Copier(), [batch], positions)
    is_lit = light > 0
    assert is_lit.mean() > 0.2
    height, width = light.shape
    np.testing.assert_allclose(np.angle(stitched)[is_lit], shown[:height, :width][is_lit])


def test_the_quick_run_trains_within_its_buffer_and_writes_its_results(tmp_path, capsys):
    out = tmp_path / "star"
    assert star.main(["--quick", "--out", str(out), "--buffer", "2MiB"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["error, last epoch"] < 0.8 * report["error, first epoch"]
    limit = report["limit of frames and batches in the loader, MB"]
    assert report["most of them, MB"] <= limit == pytest.approx(2 * 1.024**2)
    assert report["scan as float32, MB"] == pytest.approx(516 * 128**2 * 4e-6)
    # Not all frames fit, so that each epoch reads some again.
    assert report["read in the last epoch, MB"] > 0
    assert -1 <= report["phase correlation, trained"] <= 1
    for picture in ("object.png", "loss.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    assert "phase correlation" in capsys.readouterr().out


def test_the_object_guess_has_no_part_in_training(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("training reads the object guess")

    options = star.Options(out=tmp_path, epochs=1, n_groups=8)
    store = star.open_scan(tmp_path)
    monkeypatch.setattr(ptyzarr.ScanStore, "object_guess", property(refuse))
    torch.manual_seed(0)
    network = star.PatchNetwork(4)
    with star.make_loader(store, options) as loader:
        star.train(network, loader, options, star.Console(quiet=True))
        stitched, _ = star.stitch(network, loader, store.positions)
        with pytest.raises(AssertionError, match="object guess"):
            star.score(network, loader, store)
    assert np.isfinite(stitched).all()


def test_an_error_is_one_line(tmp_path, capsys):
    assert star.main(["--quick", "--out", str(tmp_path), "--buffer", "1KiB"]) == 1
    assert "buffer is 1.0 KiB" in capsys.readouterr().err
