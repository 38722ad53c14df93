"""Train a small physics-informed network on a measured ptychography scan, out of core, on a CPU.

    python examples/siemens_star.py --out star

The scan is the one that ships with ptyzarr: 516 frames of 128 x 128 of a Siemens star. A network
sees the diffraction frames of a group and says what the object looks like under each of them; the
object patches are made to agree where they overlap, lit by the known probe and propagated to the
detector, where they are compared with what was measured. Nothing else teaches the network: the
object that others reconstructed from this scan is read to score the result, and for nothing else.

Frames come from a `GroupLoader` that may hold less of the scan than its float32 frames take. The
lines that matter for that are in `open_scan`, `make_loader` and the ``for`` loop of `train`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from scipy import ndimage
from torch import Tensor, nn

import ptyzarr
from ptyzarr.memory import resident_memory

#: Part of the largest illumination above which a pixel of the object counts as scanned.
SCANNED = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is trained, and within which limits.

    Attributes
    ----------
    out
        Folder for the store, the pictures and ``report.json``.
    epochs, batch_size, learning_rate, width
        Passes over all groups, groups in a step, largest step of Adam, channels of the network's
        first stage.
    n_groups
        Groups in an epoch; None is one for every position.
    memory
        All that the loader may add to the process, compiled code included.
    buffer
        The part of it that may hold frames and batches.
    seed
        Of groups, order and network: the same numbers again on the same machine.
    """

    out: Path
    epochs: int = 6
    batch_size: int = 4
    learning_rate: float = 4e-3
    width: int = 8
    n_groups: int | None = None
    memory: str = "192MiB"
    buffer: str = "8MiB"
    seed: int = 0


def open_scan(folder: Path) -> ptyzarr.ScanStore:
    """Return the scan that ships with ptyzarr as a store; it is made if it is not there yet."""
    source = resources.files("ptyzarr") / "demo_data" / "siemens_star_516.npz"
    with resources.as_file(source) as path:
        return ptyzarr.ingest(path, folder / "siemens_star_516.zarr")


def make_loader(store: ptyzarr.ScanStore, options: Options) -> ptyzarr.GroupLoader:
    """Return the loader: groups of 4 among 6 neighbours, channel first, no object patches."""
    return ptyzarr.GroupLoader(
        store,
        ptyzarr.GroupingConfig(
            gridsize=2, n_neighbors=6, n_samples=options.n_groups, seed=options.seed
        ),
        ptyzarr.LoaderConfig(
            batch_size=options.batch_size,
            seed=options.seed,
            channels="first",
            memory=options.memory,
            buffer=options.buffer,
            n_threads=1,
        ),
    )


class PatchNetwork(nn.Module):
    """Amplitude and phase of the object under a frame, from the frame.

    An encoder-decoder with shortcuts, the same for all frames. The probe is out of focus, so a
    frame is a blurred shadow of the object with its features about where they are in the patch.

    Parameters
    ----------
    width
        Channels of the first stage, a multiple of 4; each of three more has twice as many.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        steps = list(pairwise(widths))
        # Every stage has half the resolution of the one before, the first that of the frame.
        self.first = _stage(3 * 4, width)
        self.down = nn.ModuleList(
            nn.Sequential(_stage(few, many, stride=2), _stage(many, many)) for few, many in steps
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(many, few, 2, stride=2) for few, many in steps[::-1]
        )
        self.join = nn.ModuleList(_stage(2 * few, few) for few, _ in steps[::-1])
        self.last = nn.Conv2d(width, 2 * 4, 3, padding=1)
        # An untrained network says that the object is nearly even, not that it is noise.
        nn.init.normal_(self.last.weight, std=0.01)

    def forward(self, frames: Tensor, empty: Tensor) -> Tensor:
        """Return object patches.

        Parameters
        ----------
        frames : (B, C, N, N) float32
            Normalised diffraction amplitudes; N is a multiple of 16.
        empty : (B, 1, N, N) float32
            What they would be without an object.

        Returns
        -------
        (B, C, N, N) complex64
            Transmission, of amplitude below 1.2 and phase between -pi and pi.
        """
        empty = empty.expand_as(frames)
        seen = torch.stack([frames, empty, (frames - empty) / (empty + 0.1)], dim=2)
        values = nn.functional.pixel_unshuffle(seen.flatten(0, 1), 2)
        values = self.first(values.contiguous(memory_format=torch.channels_last))
        shortcuts = []
        for down in self.down:
            shortcuts.append(values)
            values = down(values)
        for up, join in zip(self.up, self.join, strict=True):
            values = join(torch.cat([up(values), shortcuts.pop()], dim=1))
        parts = nn.functional.pixel_shuffle(self.last(values), 2).contiguous()
        amplitude, phase = parts.unflatten(0, frames.shape[:2]).unbind(dim=2)
        # X-rays are delayed more than absorbed. A network that learns both at one pace first takes
        # for absorption what is phase, and needs longer to find out.
        return torch.polar(1.2 * torch.sigmoid(1 + 0.1 * amplitude), torch.pi * torch.tanh(phase))


def _stage(n_in: int, n_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1),
        nn.GroupNorm(4, n_out),
        nn.ReLU(inplace=True),
    )


def merge_patches(patches: Tensor, positions: Tensor, weight: Tensor) -> Tensor:
    """Average the patches of each group where they overlap, and cut them out again.

    Parameters
    ----------
    patches : (B, C, N, N) complex64
        Patches; pixel (N//2, N//2) of each lies at its position.
    positions : (B, 2, C) float64, pixels
        x, y of each patch, rounded to whole pixels here.
    weight : (N, N) float32
        What each pixel of a patch counts, above 0.

    Returns
    -------
    (B, C, N, N) complex64
        Patches that agree wherever they show the same pixel of the object.
    """
    n_groups, size = patches.shape[0], patches.shape[-1]
    corners = torch.round(positions).long()
    corners = corners - corners.amin(dim=2, keepdim=True)
    side = size + int(corners.amax())
    pixel = torch.arange(size)
    rows = corners[:, 1, :, None] + pixel
    columns = corners[:, 0, :, None] + pixel
    index = (rows[..., :, None] * side + columns[..., None, :]).reshape(n_groups, -1)
    weights = weight.expand_as(patches).reshape(n_groups, -1)
    values = patches.reshape(n_groups, -1) * weights
    total = values.new_zeros(n_groups, side * side).scatter_add(1, index, values)
    norm = weights.new_zeros(n_groups, side * side).scatter_add(1, index, weights)
    return (total.gather(1, index) / norm.gather(1, index)).view_as(patches)


def diffract(patches: Tensor, probe: Tensor) -> Tensor:
    """Return what the detector sees of lit patches in the far field.

    Parameters
    ----------
    patches : (..., N, N) complex64
        Transmission of the object.
    probe : (N, N) complex64
        Illumination; the sum of its squares is the number of photons in a frame.

    Returns
    -------
    (..., N, N) float32
        Diffraction amplitudes, the undiffracted beam at pixel (N//2, N//2).
    """
    field = torch.fft.fft2(patches * probe, norm="ortho")
    return torch.fft.fftshift(field, dim=(-2, -1)).abs()


def predict(network: nn.Module, batch: ptyzarr.Batch) -> Tensor:
    """Return the merged object patches of a batch, (B, C, N, N) complex64."""
    # coords_relative has the reference's minus sign: members lie at offsets - relative, which is
    # coords_nn. Patches at offsets + relative would be those of the mirrored group.
    positions = (batch.coords_offsets - batch.coords_relative)[:, 0]
    probe = batch.probe[0]
    empty = batch.scale[:, None, None, None] * diffract(torch.ones_like(probe), probe)
    light = probe.abs().square()
    return merge_patches(network(batch.X, empty), positions, light / light.max() + 1e-3)


def measure_error(network: nn.Module, batch: ptyzarr.Batch) -> Tensor:
    """Return the squared difference of predicted and measured amplitudes over the squared ones.

    Noise of amplitudes does not depend on their size, so plain squares weigh all pixels alike.
    `X` is the measured amplitude times `scale`, with a mean square of 1/4 over the scan.
    """
    expected = diffract(predict(network, batch), batch.probe[0])
    return 4 * (expected * batch.scale[:, None, None, None] - batch.X).square().mean()


def train(
    network: nn.Module, loader: ptyzarr.GroupLoader, options: Options, console: Console
) -> tuple[NDArray[np.float64], float]:
    """Train a network on all groups, epoch after epoch.

    Returns
    -------
    errors : (epochs, steps) float64
        `measure_error` of each step.
    stall_s
        Seconds in which training waited for the loader.
    """
    n_steps = options.epochs * len(loader)
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, total_steps=n_steps, pct_start=0.15
    )
    errors: list[float] = []
    stall_s = 0.0
    with _progress(console) as bar:
        task = bar.add_task("training", total=n_steps, error=float("nan"))
        for _ in range(options.epochs):
            for batch in loader:
                error = measure_error(network, batch)
                optimizer.zero_grad()
                error.backward()
                optimizer.step()
                schedule.step()
                errors.append(error.item())
                bar.update(task, advance=1, error=np.mean(errors[-len(loader) :]))
            stall_s += loader.stats.stall_s
    return np.reshape(errors, (options.epochs, len(loader))), stall_s


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps, error {task.fields[error]:.4f}"),
        TimeRemainingColumn(),
        console=console,
    )


@torch.no_grad()
def stitch(
    network: nn.Module, loader: ptyzarr.GroupLoader, positions: NDArray[np.float64]
) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
    """Put the patches of all groups together, each pixel weighted by the light on it.

    Parameters
    ----------
    network, loader
        What predicts, and from what; the loader delivers one epoch.
    positions : (n, 2) float64, pixels
        x, y of all frames, which say how large the object is.

    Returns
    -------
    object_map : (H, W) complex128
        Mean of the predicted transmissions; 1 where no light fell.
    illumination : (H, W) float64
        Light on each pixel, relative to the brightest.
    """
    total = light = np.zeros((0, 0))
    for batch in loader:
        size = batch.X.shape[-1]
        if not total.size:
            width, height = np.rint(positions.max(axis=0)).astype(int) - size // 2 + size
            total, light = np.zeros((height, width), np.complex128), np.zeros((height, width))
        weight = batch.probe[0].abs().square().double().numpy()
        corners = torch.round(batch.coords_nn[:, 0]).int().numpy() - size // 2
        for patches, places in zip(predict(network, batch).numpy(), corners, strict=True):
            for patch, (x, y) in zip(patches, places.T, strict=True):
                total[y : y + size, x : x + size] += weight * patch
                light[y : y + size, x : x + size] += weight
    object_map = np.divide(total, light, out=np.ones_like(total), where=light > 0)
    return object_map, light / light.max()


def phase_correlation(
    found: NDArray[np.complexfloating],
    reference: NDArray[np.complexfloating],
    mask: NDArray[np.bool_],
    max_shift: float = 8.0,
) -> tuple[float, NDArray[np.complex128]]:
    """Correlate the phases of two objects after registering the first to the second.

    Diffraction does not tell the global phase of an object; a probe that is tilted or off its
    centre trades a linear phase or a shift with it. Those three are fitted and undone. Nothing
    else is: not scale, contrast, rotation or mirroring.

    Parameters
    ----------
    found, reference : (H, W) complex
        The two objects.
    mask : (H, W) bool
        Pixels that count, some distance from the edges.
    max_shift
        The most that `found` may be moved in each direction, in pixels.

    Returns
    -------
    correlation
        Pearson's coefficient of the two phases inside the mask: 1 is equal but for contrast, 0
        is unrelated. The best plane is taken from each of them.
    registered : (H, W) complex128
        `found`, moved and levelled.
    """
    target = _phase(reference.astype(np.complex128), mask)
    shift = np.zeros(2)
    registered = _level(found.astype(np.complex128), reference, mask)
    for _ in range(3):
        shift += _find_shift(_phase(registered, mask), target, mask, shift, max_shift)
        moved = ndimage.shift(found.real, shift, order=1, mode="nearest") + 1j * ndimage.shift(
            found.imag, shift, order=1, mode="nearest"
        )
        registered = _level(moved, reference, mask)
    # A plane that both had in common would count as likeness.
    terms = _plane_terms(mask.shape)[mask]
    pair = np.stack([_phase(registered, mask)[mask], target[mask]], axis=1)
    pair -= terms @ np.linalg.lstsq(terms, pair, rcond=None)[0]
    return float(np.corrcoef(pair.T)[0, 1]), registered


def _phase(image: NDArray[np.complex128], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the phase relative to that of the mean inside a mask."""
    return np.angle(image * np.conj(image[mask].mean()))


def _level(
    image: NDArray[np.complex128], reference: NDArray[np.complexfloating], mask: NDArray[np.bool_]
) -> NDArray[np.complex128]:
    """Remove the plane by which the phase differs from that of a reference."""
    turn = np.exp(1j * (np.angle(reference) - np.angle(image)))
    # The strongest frequency is the plane to within half a turn over the picture.
    spectrum = np.abs(np.fft.fft2(np.where(mask, turn, 0)))
    peak = np.unravel_index(spectrum.argmax(), spectrum.shape)
    steps = [2 * np.pi * np.fft.fftfreq(n)[at] for n, at in zip(mask.shape, peak, strict=True)]
    terms = _plane_terms(mask.shape)
    plane = terms @ np.array([*steps, 0])
    for _ in range(3):
        left = turn * np.exp(-1j * plane)
        constant = np.angle(left[mask].mean())
        fitted = np.angle(left[mask] * np.exp(-1j * constant))
        plane += constant + terms @ np.linalg.lstsq(terms[mask], fitted, rcond=None)[0]
    return np.asarray(image * np.exp(1j * plane))


def _plane_terms(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return row, column and 1 of every pixel, on the last axis."""
    rows, columns = np.indices(shape)
    return np.stack([rows, columns, np.ones(shape)], axis=-1)


def _find_shift(
    image: NDArray[np.float64],
    target: NDArray[np.float64],
    mask: NDArray[np.bool_],
    moved: NDArray[np.float64],
    max_shift: float,
) -> NDArray[np.float64]:
    """Return by how many rows and columns an image must be moved to fit best.

    The peak of the cross-correlation, between pixels by a parabola; no further than `max_shift`
    together with what it has been `moved` already.
    """
    spectra = [np.fft.fft2(np.where(mask, part - part[mask].mean(), 0)) for part in (image, target)]
    products = np.fft.fftshift(np.fft.ifft2(np.conj(spectra[0]) * spectra[1]).real)
    centre = np.array(mask.shape) // 2
    reach = int(max_shift)
    window = tuple(slice(middle - reach, middle + reach + 1) for middle in centre)
    near = products[window]
    peak = np.array(np.unravel_index(near.argmax(), near.shape)) + centre - reach
    shift = peak - centre + [_vertex(products, peak, axis) for axis in (0, 1)]
    return np.clip(moved + shift, -max_shift, max_shift) - moved


def _vertex(values: NDArray[np.float64], peak: NDArray[np.int64], axis: int) -> float:
    """Return where a parabola through a peak and its neighbours has its top, from the peak."""
    step = np.eye(2, dtype=int)[axis]
    low, top, high = (values[tuple(peak + offset * step)] for offset in (-1, 0, 1))
    curve = low - 2 * top + high
    return 0.0 if curve >= 0 else float(np.clip((low - high) / (2 * curve), -0.5, 0.5))


@dataclass(frozen=True, slots=True)
class Score:
    """How near a network's object is to the reference guess.

    Attributes
    ----------
    correlation
        `phase_correlation` inside the scanned region.
    registered : (H, W) complex128
        The network's object in the place of the guess.
    mask : (H, W) bool
        The scanned region.
    """

    correlation: float
    registered: NDArray[np.complex128]
    mask: NDArray[np.bool_]


def score(network: nn.Module, loader: ptyzarr.GroupLoader, store: ptyzarr.ScanStore) -> Score:
    """Compare a network's object with the guess in the file, which nothing else reads."""
    object_map, illumination = stitch(network, loader, store.positions)
    reference = store.object_guess
    height, width = np.minimum(object_map.shape, reference.shape)
    mask = illumination[:height, :width] >= SCANNED
    correlation, registered = phase_correlation(
        object_map[:height, :width], reference[:height, :width], mask
    )
    return Score(correlation, registered, mask)


def draw_object(path: Path, trained: Score, untrained: Score, store: ptyzarr.ScanStore) -> None:
    """Draw the stitched object beside the reference guess and what an untrained network gives."""
    mask = trained.mask
    height, width = mask.shape
    reference = store.object_guess[:height, :width].astype(np.complex128)
    columns = {
        f"trained network\ncorrelation {trained.correlation:.3f}": trained.registered,
        "reference guess (ePIE)\nread for this picture only": reference,
        f"untrained network\ncorrelation {untrained.correlation:.3f}": untrained.registered,
    }
    figure = Figure(figsize=(11, 7.6), layout="constrained")
    axes = figure.subplots(2, 3)
    for column, (title, image) in zip(axes.T, columns.items(), strict=True):
        shown = [(_phase(image, mask), -0.8, 0.5, "phase, rad"), (abs(image), 0.5, 1.2, "modulus")]
        for axis, (values, low, high, label) in zip(column, shown, strict=True):
            drawn = axis.imshow(np.where(mask, values, np.nan), "viridis", vmin=low, vmax=high)
            axis.set(xticks=[], yticks=[])
            if axis in axes[:, -1]:
                figure.colorbar(drawn, ax=axis, label=label)
        column[0].set_title(title)
    figure.savefig(path, dpi=100)


def draw_errors(path: Path, errors: NDArray[np.float64]) -> None:
    """Draw the error of each step, and its mean over each epoch."""
    n_epochs, n_steps = errors.shape
    steps = np.arange(1, errors.size + 1) / n_steps
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.semilogy(steps, errors.ravel(), color="#9db7d5", linewidth=0.6, label="step")
    middles = np.arange(n_epochs) + 0.5
    axis.semilogy(middles, errors.mean(axis=1), "o-", color="#1f4e8c", label="mean of the epoch")
    axis.set(xlabel="epoch", ylabel="squared error of amplitudes, relative")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


def run(options: Options, console: Console) -> dict[str, float]:
    """Train, score, draw, and return the figures of ``report.json``."""
    torch.manual_seed(options.seed)
    store = open_scan(options.out)
    network = PatchNetwork(options.width).to(memory_format=torch.channels_last)
    with make_loader(store, options) as loader:
        untrained = score(network, loader, store)
        began = time.perf_counter()
        errors, stall_s = train(network, loader, options, console)
        seconds = time.perf_counter() - began
        epoch = loader.stats
        trained = score(network, loader, store)
    draw_object(options.out / "object.png", trained, untrained, store)
    draw_errors(options.out / "loss.png", errors)
    resident = resident_memory()
    report = {
        "phase correlation, trained": trained.correlation,
        "phase correlation, untrained": untrained.correlation,
        "error, first epoch": float(errors[0].mean()),
        "error, last epoch": float(errors[-1].mean()),
        "training, s": seconds,
        "waited for data, s": stall_s,
        "threads": torch.get_num_threads(),
        "weights": sum(values.numel() for values in network.parameters()),
        "scan as float32, MB": 4e-6 * store.n_frames * store.frame_size**2,
        "limit of frames and batches in the loader, MB": 1e-6 * (loader.config.buffer_bytes or 0),
        "most of them, MB": 1e-6 * epoch.peak_buffer_bytes,
        "read in the last epoch, MB": 1e-6 * epoch.bytes_read,
        "limit of all that the loader adds, MB": 1e-6 * loader.config.memory_bytes,
        "whole process, torch and network included, MB": 1e-6 * resident[1] if resident else 0.0,
    }
    (options.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def parse_options(arguments: Sequence[str] | None) -> Options:
    """Return the options of a command line."""
    defaults = Options(out=Path("siemens-star"))
    parser = argparse.ArgumentParser(description="Train a network on a measured scan, on a CPU.")
    parser.add_argument("--out", type=Path, default=defaults.out, help="folder for the results")
    parser.add_argument("--epochs", type=int, default=defaults.epochs)
    parser.add_argument("--buffer", default=defaults.buffer, help="limit of frames and batches")
    parser.add_argument("--memory", default=defaults.memory, help="limit of all the loader adds")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--quick", action="store_true", help="seconds: it runs, and learns little")
    given = vars(parser.parse_args(arguments))
    if given.pop("quick"):
        return replace(Options(**given), epochs=3, n_groups=32)
    return Options(**given)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example and print its figures; return the exit status."""
    console, options = Console(highlight=False), parse_options(arguments)
    try:
        report = run(options, console)
    except ptyzarr.PtyzarrError as error:
        Console(stderr=True, style="red").print(error)
        return 1
    table = Table("", "", show_header=False)
    for name, value in report.items():
        table.add_row(name, f"{value:.4f}" if value < 1 else f"{value:,.1f}")
    console.print(table, f"Pictures and report.json are in {options.out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
