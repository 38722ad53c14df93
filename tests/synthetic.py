"""Small synthetic scans in PtychoPINN's NPZ form, for tests in any folder."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]


def make_arrays(n_frames: int = 40, N: int = 16, seed: int = 0, mean: float = 6.0) -> Arrays:
    """Return the members of a scan: amplitudes are roots of Poisson counts, positions jittered.

    Frames differ from one another, neighbouring positions are neither equal nor tied.
    """
    rng = np.random.default_rng(seed)
    r2 = np.square(np.arange(N) - N // 2)
    peak = np.exp(-(r2[:, None] + r2[None, :]) / (N / 4) ** 2)
    counts = rng.poisson(peak * mean * rng.uniform(0.5, 2.0, (n_frames, 1, 1)))
    width = int(np.ceil(np.sqrt(n_frames)))
    y, x = np.divmod(np.arange(n_frames), width)
    jitter = rng.uniform(-0.4, 0.4, (2, n_frames))
    shape = (3 * width + 2 * N, 3 * width + 2 * N)
    return {
        "diff3d": np.sqrt(counts.astype(np.float32)),
        "xcoords": N + 3.0 * (x + jitter[0]),
        "ycoords": N + 3.0 * (y + jitter[1]),
        "xcoords_start": N + 3.0 * x,
        "ycoords_start": N + 3.0 * y,
        "probeGuess": (peak * np.exp(1j * r2 / N)).astype(np.complex64),
        "objectGuess": np.exp(1j * rng.uniform(0, 1, shape)).astype(np.complex64),
        "scan_index": np.arange(n_frames, dtype=np.int64) // max(1, n_frames // 2),
    }


def npy_bytes(array: Any) -> bytes:
    """Return what `numpy.save` writes; bytes pass unchanged."""
    if isinstance(array, bytes):
        return array
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)
    return stream.getvalue()


def write_npz(path: Path, arrays: Mapping[str, Any], *, compressed: bool = False) -> Path:
    """Write members in the order given; a value of bytes is a member under exactly that name."""
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        for key, array in arrays.items():
            name = key if isinstance(array, bytes) else f"{key}.npy"
            archive.writestr(zipfile.ZipInfo(name), npy_bytes(array), method, compresslevel=1)
    return path


def make_npz(
    path: Path,
    n_frames: int = 40,
    N: int = 16,
    seed: int = 0,
    compressed: bool = False,
    **overrides: Any,
) -> Path:
    """Write a synthetic scan; `overrides` replace or add members, None leaves one out."""
    arrays = {**make_arrays(n_frames, N, seed), **overrides}
    kept = {key: value for key, value in arrays.items() if value is not None}
    return write_npz(path, kept, compressed=compressed)


def member_crcs(path: Path) -> dict[str, tuple[int, int]]:
    """Return size and CRC-32 of every member of a zip file by name."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {info.orig_filename: (info.file_size, info.CRC) for info in archive.infolist()}


def tree_state(root: Path) -> dict[str, tuple[int, int]]:
    """Return time of modification and inode of every file under a folder."""
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
