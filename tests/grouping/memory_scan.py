"""A scan in memory that keeps the protocol of a store and counts what is read."""

from __future__ import annotations

import dataclasses
from typing import Any

import dask.array as da
import numpy as np

from ptyzarr.grouping import RawDataTorch
from ptyzarr.scan import frame_power


@dataclasses.dataclass
class MemoryScan:
    """Frames (n, N, N), positions (n, 2) and the rest; `reads` collects the indices asked for."""

    frames: np.ndarray
    positions: np.ndarray
    positions_start: np.ndarray | None = None
    scan_index: np.ndarray | None = None
    probe_guess: np.ndarray | None = None
    object_guess: np.ndarray | None = None
    digest: str = "0" * 32
    path: str = "memory://scan"
    reads: list[np.ndarray] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        if self.scan_index is None:
            self.scan_index = np.zeros(len(self.frames), dtype=np.int64)
        if self.probe_guess is None:
            self.probe_guess = np.ones(self.frames.shape[1:], dtype=np.complex64)

    @property
    def n_frames(self) -> int:
        return len(self.frames)

    @property
    def frame_size(self) -> int:
        return self.frames.shape[1]

    @property
    def amplitude_dtype(self) -> np.dtype[Any]:
        return self.frames.dtype

    @property
    def frame_power(self) -> np.ndarray:
        return frame_power(self.frames)

    def amplitude(self, indices: np.ndarray) -> np.ndarray:
        self.reads.append(np.array(indices))
        return self.frames[indices]


def make_scan(n_frames: int = 50, frame_size: int = 8, seed: int = 0, **fields: Any) -> MemoryScan:
    """Return a scan with random float32 frames at random positions in a square of side 20."""
    rng = np.random.default_rng(seed)
    return MemoryScan(
        frames=rng.random((n_frames, frame_size, frame_size), dtype=np.float32),
        positions=fields.pop("positions", rng.random((n_frames, 2)) * 20),
        object_guess=fields.pop("object_guess", make_object(rng, (30, 34))),
        **fields,
    )


def make_object(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return a random complex64 object."""
    return (rng.random(shape) + 1j * rng.random(shape)).astype(np.complex64)


def make_raw(scan: MemoryScan, source: str) -> RawDataTorch:
    """Return the scan as a "store", or with its frames in a "dask" or "numpy" array."""
    if source == "store":
        return RawDataTorch.from_store(scan)
    frames = scan.frames
    if source == "dask":
        frames = da.from_array(frames, chunks=(7, 8, 8))
    return RawDataTorch(*scan.positions.T, frames, scan.probe_guess, None, scan.object_guess)


class CountingArray:
    """An array that is indexed like NumPy's and remembers the frames asked for."""

    def __init__(self, frames: np.ndarray) -> None:
        self._frames = frames
        self.shape, self.dtype, self.ndim = frames.shape, frames.dtype, frames.ndim
        self.reads: list[np.ndarray] = []

    def __getitem__(self, key: Any) -> np.ndarray:
        self.reads.append(np.array(key))
        return self._frames[key]


def make_counting(source: str, n_frames: int = 50) -> tuple[RawDataTorch, list[np.ndarray]]:
    """Return a scan in a "store" or an "array", and the list that its reads go to."""
    scan = make_scan(n_frames)
    if source == "store":
        return RawDataTorch.from_store(scan), scan.reads
    frames = CountingArray(scan.frames)
    raw = RawDataTorch(*scan.positions.T, frames, scan.probe_guess, None, scan.object_guess)
    return raw, frames.reads


def compute(grouped: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays with the lazy ones computed."""
    return {
        key: value.compute(scheduler="synchronous") if isinstance(value, da.Array) else value
        for key, value in grouped.items()
    }
