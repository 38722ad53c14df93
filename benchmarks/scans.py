"""Named synthetic scans, the same on every machine; made once in a cache folder.

python benchmarks/scans.py small --cache DIR
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import ptyzarr
from ptyzarr.store import ScanStore

_BLOCK_NBYTES = 16 * 1024**2
_SPECKLES = 64
_STEP_PIXELS = 4.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanSpec:
    """What a synthetic scan is like.

    Attributes
    ----------
    n_frames, frame_size
        Its size.
    columns
        Of the raster.
    counts_per_pixel
        Mean photon count.
    n_distinct
        Different frames; they repeat after that.
    compressed
        Whether the NPZ is deflated.
    dtype
        float32 for amplitudes, an unsigned integer for counts.
    seed
        Of everything random.
    """

    n_frames: int
    frame_size: int
    columns: int
    counts_per_pixel: float = 3.0
    n_distinct: int | None = None
    compressed: bool = False
    dtype: str = "float32"
    seed: int = 0


SCANS = {
    "small": ScanSpec(n_frames=2_000, frame_size=64, columns=45),
    "medium": ScanSpec(n_frames=20_000, frame_size=128, columns=141),
    "large": ScanSpec(
        n_frames=1_000_000, frame_size=64, columns=1_000, n_distinct=4_096, dtype="uint16"
    ),
}
REAL = Path(__file__).parent.parent / "ptyzarr" / "demo_data" / "siemens_star_516.npz"
NAMES = (*SCANS, "real")


def default_cache() -> Path:
    """Return the folder where scans are kept if none is given."""
    return Path(tempfile.gettempdir()) / "ptyzarr-benchmarks"


def scan_file(name: str, cache: Path) -> Path:
    """Return the NPZ of a named scan, made if it is not there."""
    if name == "real":
        return REAL
    return write_scan(cache / f"{name}.npz", SCANS[name])


def write_deflated(name: str, cache: Path) -> Path:
    """Return the NPZ of a named synthetic scan, deflated; made if it is not there."""
    spec = dataclasses.replace(SCANS[name], compressed=True)
    return write_scan(cache / f"{name}-deflated.npz", spec)


def scan_store(name: str, cache: Path) -> ScanStore:
    """Return the store of a named scan, ingested if it is not there."""
    if name != "real" and SCANS[name].n_distinct is not None:
        return sized_store(SCANS[name].n_frames, cache)
    cache.mkdir(parents=True, exist_ok=True)
    return ptyzarr.ingest(scan_file(name, cache), cache / f"{name}.zarr")


def sized_store(n_frames: int, cache: Path) -> ScanStore:
    """Return a store like that of `large` with another number of frames, made if not there.

    Its NPZ, 8 GB for a million frames, is written, ingested and removed.
    """
    path = cache / f"frames-{n_frames}.zarr"
    if not path.exists():
        spec = sized_spec(n_frames)
        source = write_scan(path.with_suffix(".npz"), spec)
        ptyzarr.ingest(source, path, ptyzarr.IngestConfig(quantity="counts")).close()
        source.unlink()
    return ptyzarr.open_store(path)


def sized_spec(n_frames: int) -> ScanSpec:
    """Return a scan like `large` with another number of frames, about square."""
    return dataclasses.replace(SCANS["large"], n_frames=n_frames, columns=math.isqrt(n_frames))


def write_scan(path: Path, spec: ScanSpec) -> Path:
    """Write a scan in PtychoPINN's NPZ form, front to back in bounded memory."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"partial-{path.name}")
    method = zipfile.ZIP_DEFLATED if spec.compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(scratch, "w", method, compresslevel=1) as archive:
        with archive.open("diff3d.npy", "w", force_zip64=True) as file:
            shape = (spec.n_frames, spec.frame_size, spec.frame_size)
            header = {
                "descr": np.dtype(spec.dtype).str,
                "fortran_order": False,
                "shape": shape,
            }
            np.lib.format.write_array_header_1_0(file, header)
            for frames in frame_blocks(spec):
                file.write(np.ascontiguousarray(frames).data)
        for name, array in small_members(spec).items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)
    os.replace(scratch, path)
    return path


def frame_blocks(spec: ScanSpec) -> Iterator[NDArray]:
    """Yield all frames in blocks: amplitudes, or counts where the dtype is an integer."""
    step = max(1, _BLOCK_NBYTES // (4 * spec.frame_size**2))
    n_distinct = min(spec.n_distinct or spec.n_frames, spec.n_frames)
    if n_distinct < spec.n_frames:
        distinct = np.concatenate(
            [_frames(spec, f, min(f + step, n_distinct)) for f in range(0, n_distinct, step)]
        )
        for first in range(0, spec.n_frames, step):
            # A stride that is no divisor: neighbours differ, rows of the raster too.
            yield distinct[np.arange(first, min(first + step, spec.n_frames)) * 7 % n_distinct]
        return
    for first in range(0, spec.n_frames, step):
        yield _frames(spec, first, min(first + step, spec.n_frames))


def _frames(spec: ScanSpec, start: int, stop: int) -> NDArray:
    """Return frames that depend on their numbers and the seed only."""
    mean = _mean_patterns(spec)
    frames = np.empty((stop - start, spec.frame_size, spec.frame_size), spec.dtype)
    rng = np.random.Generator(np.random.SFC64([spec.seed, start]))
    for number in range(start, stop):
        pattern = np.roll(mean[number % _SPECKLES], number // _SPECKLES % 3 - 1, axis=0)
        counts = rng.poisson(pattern)
        frames[number - start] = (
            np.sqrt(counts.astype(np.float32)) if frames.dtype.kind == "f" else counts
        )
    return frames


def _mean_patterns(spec: ScanSpec) -> NDArray[np.float64]:
    """Return (64, N, N) mean counts: speckle in a bright core with a power-law tail."""
    size = spec.frame_size
    rng = np.random.default_rng(spec.seed)
    aperture = np.hypot(*np.mgrid[:size, :size] - size / 2) < size / 8
    phases = np.exp(2j * np.pi * rng.random((_SPECKLES, size, size))) * aperture
    speckle = np.abs(np.fft.fft2(phases)) ** 2
    radius = np.hypot(*(np.mgrid[:size, :size] - size / 2))
    envelope = 1 / (1 + (radius / (size / 34)) ** 4)
    patterns = speckle * envelope
    return patterns * (spec.counts_per_pixel / patterns.mean(axis=(1, 2), keepdims=True))


def small_members(spec: ScanSpec) -> dict[str, NDArray]:
    """Return positions, a probe and an object."""
    rng = np.random.default_rng(spec.seed + 1)
    x, y = _raster(spec, rng)
    radius2 = np.sum(
        np.square(np.mgrid[: spec.frame_size, : spec.frame_size] - spec.frame_size / 2), 0
    )
    probe = np.exp(-radius2 / (spec.frame_size / 5) ** 2 * (1 + 1j))
    shape = tuple(min(int(extent.max()) + spec.frame_size, 4096) for extent in (y, x))
    phase = rng.random(shape, np.float32)
    return {
        "xcoords": x,
        "ycoords": y,
        "probeGuess": probe.astype(np.complex64),
        "objectGuess": np.exp(1j * phase).astype(np.complex64),
        "scan_index": np.zeros(spec.n_frames, np.int64),
    }


def scan_positions(spec: ScanSpec) -> NDArray[np.float64]:
    """Return the (n, 2) positions x, y of a scan in acquisition order, in pixels."""
    return np.stack(_raster(spec, np.random.default_rng(spec.seed + 1)), axis=1)


def _raster(
    spec: ScanSpec, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and y of a raster with jitter."""
    row, column = np.divmod(np.arange(spec.n_frames), spec.columns)
    jitter = rng.uniform(-0.3, 0.3, (2, spec.n_frames)) * _STEP_PIXELS
    x = spec.frame_size / 2 + column * _STEP_PIXELS + jitter[0]
    y = spec.frame_size / 2 + row * _STEP_PIXELS + jitter[1]
    return x, y


def add_arguments(parser: argparse.ArgumentParser, default: str = "medium") -> None:
    """Add the arguments of benchmarks of a named scan."""
    parser.add_argument("--scan", choices=NAMES, default=default)
    add_folders(parser)


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add where scans are kept and results are written."""
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder for scans")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="for JSON")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=NAMES)
    parser.add_argument("--cache", type=Path, default=default_cache())
    options = parser.parse_args()
    for scan_name in options.names:
        print(scan_store(scan_name, options.cache))
