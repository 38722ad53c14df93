"""Small scans and NPZ files, plain and deliberately odd ones."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]


def make_arrays(n: int = 7, size: int = 4, seed: int = 0, dtype: str = "<f4") -> Arrays:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(4.0, (n, size, size))
    return {
        "diff3d": np.sqrt(counts).astype(dtype),
        "xcoords": rng.uniform(5, 20, n),
        "ycoords": rng.uniform(5, 20, n),
        "probeGuess": (rng.normal(size=(size, size)) + 1j).astype(np.complex64),
    }


def npy_bytes(array: Any) -> bytes:
    """Return what `numpy.save` writes; bytes pass unchanged."""
    if isinstance(array, bytes):
        return array
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=True)
    return stream.getvalue()


def write_npz(path: Path, arrays: Arrays, *, is_deflated: bool = False) -> Path:
    """Write members in the given order; a name with a dot is taken as it is."""
    method = zipfile.ZIP_DEFLATED if is_deflated else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        for key, array in arrays.items():
            name = key if "." in key else f"{key}.npy"
            archive.writestr(zipfile.ZipInfo(name), npy_bytes(array), method)
    return path


def join(blocks: Any) -> np.ndarray:
    """Return the blocks of a reader as one array."""
    blocks = list(blocks)
    return np.concatenate(blocks) if blocks[0].ndim else blocks[0]


def npy_with_header(text: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """Return an npy file with any header text."""
    length = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + text.encode("latin1") + data
