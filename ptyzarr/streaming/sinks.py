"""Destinations of batches: what makes the arrays and fills them from decoded chunks."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ptyzarr.config import LoaderConfig
from ptyzarr.errors import ConfigError, DeviceError
from ptyzarr.grouping import object_patches
from ptyzarr.streaming.gather import gather_frames
from ptyzarr.streaming.packing import PackedFrames
from ptyzarr.streaming.recycling import BatchMemory

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """What a sink must know to make its memory.

    Attributes
    ----------
    batch_size
        Groups in a full batch; some batches are smaller.
    frame_size
        N, width of a frame.
    group_size
        C, frames in a group.
    stored_dtypes
        Dtypes of the stored frames of all scans.
    has_patches
        Whether the batches carry Y.
    has_details
        Whether the batches carry seeds and start positions.
    max_kept
        Batches that are in flight at once, those being delivered included.
    """

    batch_size: int
    frame_size: int
    group_size: int
    stored_dtypes: tuple[np.dtype[Any], ...]
    has_patches: bool
    max_kept: int
    has_details: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Groups whose frames lie in the pool in one form, ready to be gathered.

    Attributes
    ----------
    frames : 1-D, the stored dtype; or packed frames
        The pool.
    offsets : (m, C) int64
        Element of `frames`, or byte of the packed memory, at which each frame begins.
    rows : (m,) int64
        Rows of the batch that the groups go to.
    scales : (m,) float32
        Normalisation factor of each group.
    is_counts
        Whether the values are counts, whose square root is the amplitude.
    """

    frames: NDArray[Any] | PackedFrames
    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    scales: NDArray[np.float32]
    is_counts: bool


@dataclass(frozen=True, slots=True, eq=False)
class PatchPiece:
    """Groups of one scan whose object patches are wanted.

    Attributes
    ----------
    object_guess : (H, W) complex
    offsets : (m, 1, 2, 1) real, pixels
    relative : (m, 1, 2, C) real, pixels
    rows : (m,) int64
        Rows of the batch that the groups go to.
    """

    object_guess: NDArray[Any]
    offsets: NDArray[Any]
    relative: NDArray[Any]
    rows: NDArray[np.int64]


class Sink(Protocol):
    """Makes the arrays of a batch, fills them and turns them into what the user gets.

    For every batch the loader calls `open` once, `gather` once or more (its pieces, from any
    worker threads, on disjoint rows), `draw_patches` likewise where patches are wanted, `finish`
    once when all is in, all in worker threads; then `deliver` in the thread that iterates.
    Batches are opened about in order, maybe by two threads at once. A *staged* sink gathers into
    a staging slot, starts an asynchronous copy in `finish` and lets the receiver's stream wait
    for it in `deliver`.
    """

    @property
    def max_open(self) -> int | None:
        """Most batches between `open` and `finish` at a time; None where it does not matter.

        `open` may wait for a copy to complete, but never for another call of the loader.
        """
        ...

    @property
    def batch_nbytes(self) -> int:
        """Host memory of one full batch in flight."""
        ...

    @property
    def wants_patches(self) -> bool:
        """Whether `draw_patches` is to be called."""
        ...

    def open(self, n_groups: int) -> Any:
        """Return the sink's own record of a new batch of `n_groups` groups."""
        ...

    def gather(self, output: Any, piece: Piece) -> None:
        """Take the frames of some groups; the pool may change once this returns."""
        ...

    def draw_patches(self, output: Any, piece: PatchPiece) -> None:
        """Make the object patches of some groups."""
        ...

    def finish(self, output: Any, fields: Fields) -> Any:
        """Return what `deliver` needs, having started whatever copies there are.

        Parameters
        ----------
        output
            What `open` returned.
        fields
            The other arrays of the batch: ``coords_offsets``, ``coords_relative``,
            ``coords_nn``, ``nn_indices``, ``scale``, ``experiment_id``, and with details
            ``seed_indices`` and ``coords_start_*``.
        """
        ...

    def deliver(self, finished: Any) -> Fields:
        """Return `X`, `Y` (or None) and the other fields as the user gets them."""
        ...

    def convert(self, array: NDArray[Any]) -> Any:
        """Return an array that is the same for all batches (the probes) as the user gets it."""
        ...

    def discard(self, output: Any) -> None:
        """Forget an opened batch that will never be finished."""
        ...

    def close(self) -> None:
        """Wait for copies under way; no batch is open."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class HostOutput:
    """A batch in host memory: X, with sixteen-bit floats as their bits, and Y or None."""

    x: NDArray[Any]
    y: NDArray[np.complex64] | None


class HostSink:
    """Fills recycled host memory with the fused kernels; what is common to all host sinks.

    Parameters
    ----------
    config
        Layout and dtype of X.
    shape
        Sizes of the batches.
    """

    max_open: ClassVar[int | None] = None

    def __init__(self, config: LoaderConfig, shape: BatchShape) -> None:
        self._dtype = config.dtype
        self._is_last = config.channels == "last"
        self._shape = shape
        self.wants_patches = shape.has_patches
        self._n_values = shape.group_size * shape.frame_size**2
        self._bits = np.dtype(np.float32 if config.dtype == "float32" else np.uint16)
        x_nbytes = shape.batch_size * self._n_values * self._bits.itemsize
        y_nbytes = shape.batch_size * self._n_values * 8 if shape.has_patches else 0
        self._x_memory = BatchMemory(x_nbytes, shape.max_kept)
        self._y_memory = BatchMemory(y_nbytes, shape.max_kept)
        self.batch_nbytes = x_nbytes + y_nbytes

    def open(self, n_groups: int) -> HostOutput:
        """Return memory for a batch; the channels are interleaved or not as configured."""
        x = self._x_memory.empty(self._batch_shape(n_groups), self._bits)
        y: NDArray[np.complex64] | None = None
        if self._shape.has_patches:
            y = self._y_memory.empty(self._batch_shape(n_groups), np.complex64)
        return HostOutput(x, y)

    def gather(self, output: HostOutput, piece: Piece) -> None:
        """Widen, root, scale and lay out the frames in one pass."""
        offsets, rows, scales = piece.offsets, piece.rows, piece.scales
        if not self._is_last:
            # One row per frame with a single channel is the channels-first layout.
            group_size = self._shape.group_size
            rows = (rows[:, np.newaxis] * group_size + np.arange(group_size)).reshape(-1)
            offsets, scales = offsets.reshape(-1, 1), np.repeat(scales, group_size)
        n_pixels = self._shape.frame_size**2
        gather_frames(
            piece.frames,
            offsets,
            rows,
            scales,
            output.x.reshape(-1, n_pixels * offsets.shape[1]),
            is_counts=piece.is_counts,
            rounding=self._dtype,
        )

    def draw_patches(self, output: HostOutput, piece: PatchPiece) -> None:
        """Sample the object by NumPy."""
        if output.y is None:
            return
        patches = object_patches(
            piece.object_guess, piece.offsets, piece.relative, self._shape.frame_size
        )
        output.y[piece.rows] = patches if self._is_last else np.moveaxis(patches, 3, 1)

    def finish(self, output: HostOutput, fields: Fields) -> tuple[HostOutput, Fields]:
        """Return everything as it is: the host has nothing to copy."""
        return output, fields

    def deliver(self, finished: tuple[HostOutput, Fields]) -> Fields:
        """Return the batch's fields, arrays turned by `convert` and X by `convert_x`."""
        output, fields = finished
        converted = {name: self.convert(array) for name, array in fields.items()}
        converted["X"] = self.convert_x(output.x)
        converted["Y"] = None if output.y is None else self.convert(output.y)
        return converted

    def convert(self, array: NDArray[Any]) -> Any:
        """Return an array unchanged."""
        return array

    def convert_x(self, x: NDArray[Any]) -> Any:
        """Return X in its dtype, given float32 or the bits of sixteen-bit floats."""
        return x if self._dtype == "float32" else x.view(np.float16)

    def discard(self, output: HostOutput) -> None:
        """Do nothing: memory without references comes back by itself."""

    def close(self) -> None:
        """Do nothing: there are no copies."""

    def _batch_shape(self, n_groups: int) -> tuple[int, ...]:
        size, channels = self._shape.frame_size, self._shape.group_size
        if self._is_last:
            return n_groups, size, size, channels
        return n_groups, channels, size, size


class NumpySink(HostSink):
    """Delivers NumPy arrays."""

    def __init__(self, config: LoaderConfig, shape: BatchShape) -> None:
        if config.dtype == "bfloat16":
            raise ConfigError(
                "dtype is 'bfloat16', which NumPy does not have; use device='cpu' (torch) or "
                "dtype='float32'"
            )
        super().__init__(config, shape)


def load_device(config: LoaderConfig) -> None:
    """Import what drives ``config.device``, so that it is not counted as memory of a loader.

    Raises
    ------
    DeviceError
        If it is not installed.
    """
    if config.device != "numpy":
        _load_tensors(config)


def _make_torch_sink(config: LoaderConfig, shape: BatchShape) -> Sink:
    """Return the sink of a torch device."""
    sink: Sink = _load_tensors(config).make_sink(config, shape)
    return sink


def _load_tensors(config: LoaderConfig) -> ModuleType:
    """Return the room that knows torch, which is loaded nowhere else."""
    try:
        return importlib.import_module("ptyzarr.tensors")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "ptyzarr":
            raise
        raise DeviceError(
            f"device is {config.device!r}, which needs torch, and {error.name} is not installed; "
            "install 'ptyzarr[torch]' or use device='numpy'"
        ) from error


SINKS: Final[Mapping[str, Callable[[LoaderConfig, BatchShape], Sink]]] = {
    "numpy": NumpySink,
    "cpu": _make_torch_sink,
    "cuda": _make_torch_sink,
}


def make_sink(config: LoaderConfig, shape: BatchShape) -> Sink:
    """Return the sink for ``config.device``.

    Raises
    ------
    DeviceError
        If the device, or the package that drives it, is not available.
    ConfigError
        If the device has no such dtype.
    """
    return SINKS[config.device.partition(":")[0]](config, shape)
