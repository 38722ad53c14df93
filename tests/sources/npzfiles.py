"""Small scans and NPZ files, plain and deliberately odd ones."""

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A zip member written field by field, so that every field may lie."""

    name: bytes
    packed: bytes
    size: int
    crc32: int
    method: int = 8
    flags: int = 0x0800


def deflated(data: bytes, level: int = 6, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    """Return a raw deflate stream."""
    engine = zlib.compressobj(level, zlib.DEFLATED, -15, 8, strategy)
    return engine.compress(data) + engine.flush()


def packed_member(name: str, data: bytes, **lies: Any) -> Packed:
    """Return an honest deflated member but for the fields given."""
    fields = {"packed": deflated(data), "size": len(data), "crc32": zlib.crc32(data)}
    return Packed(name=name.encode(), **(fields | lies))


def write_zip(path: Path, members: list[Packed]) -> Path:
    """Write a zip file of these members whatever they claim (PKWARE APPNOTE 6.3, 4.3.7 to 16)."""
    body, directory = b"", b""
    for member in members:
        fields = (member.flags, member.method, 0, 0, member.crc32, len(member.packed), member.size)
        lengths = (len(member.name), 0)
        local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, *fields, *lengths)
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, *fields, *lengths, 0, 0, 0, 0, len(body)
        )
        directory += member.name
        body += local + member.name + member.packed
    n = len(members)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, n, n, len(directory), len(body), 0)
    path.write_bytes(body + directory + end)
    return path
