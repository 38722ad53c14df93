"""The CUDA sink: stored integers cross the bus, the device does the rest.

A batch is gathered into a slot of pinned memory, frames as they are stored. Two copies and the
work on them are queued on a side stream; the slot is written again only after its copies are
complete, and the receiver's stream waits for the work, so no thread of the loop ever does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from ptyzarr.config import LoaderConfig
from ptyzarr.streaming import (
    BatchShape,
    Fields,
    PatchPiece,
    Piece,
    SlotRing,
    copy_frames,
    gather_frames,
)
from ptyzarr.tensors.amplitudes import CARRIERS, root_table, widen_pixels
from ptyzarr.tensors.arrays import as_tensor
from ptyzarr.tensors.devices import Device, Tensors, Transfer
from ptyzarr.tensors.patches import pad_object, patch_centers, sample_windows

_DTYPES: Final = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
# Where arrays begin in staging memory; a tensor of any dtype may begin there.
_ALIGNMENT: Final = 64
# Slots beyond those being gathered into: one whose copy is under way, one to go on with.
_SPARE_SLOTS: Final = 2


@dataclass(frozen=True, slots=True)
class PixelKind:
    """What staged pixels are: the dtype they are staged in, and whether they are counts."""

    dtype: np.dtype[Any]
    is_counts: bool


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """Staging memory of one batch.

    Attributes
    ----------
    memory : (nbytes,) uint8
        Pinned.
    bytes
        The same memory for NumPy.
    """

    memory: torch.Tensor
    bytes: NDArray[np.uint8]


@dataclass(slots=True, eq=False)
class StagedBatch:
    """A batch that is being gathered.

    Attributes
    ----------
    n_groups
        Groups in the batch.
    slot
        Where the frames go.
    scales : (n_groups,) float32
        Factor of each group.
    pieces
        Kind and rows of what has been gathered; threads append.
    patches
        Groups whose patches are wanted; threads append.
    is_held
        Whether the slot is this batch's own.
    """

    n_groups: int
    slot: Slot
    scales: NDArray[np.float32]
    pieces: list[tuple[PixelKind, NDArray[np.int64]]] = field(default_factory=list)
    patches: list[PatchPiece] = field(default_factory=list)
    is_held: bool = True


@dataclass(frozen=True, slots=True)
class Placed:
    """Where an array lies among the small ones: first byte, shape, dtype."""

    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def find(self, memory: torch.Tensor) -> torch.Tensor:
        """Return the array out of (nbytes,) uint8, sharing memory."""
        nbytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        return memory[self.start : self.start + nbytes].view(self.dtype).view(self.shape)


class CudaSink:
    """Delivers tensors on a device, bit for bit those of the host's sinks.

    Frames wider than 32 bits are narrowed to float32 amplitudes on the host, everything else
    crosses the bus as it is stored.

    Parameters
    ----------
    config
        Layout and dtype of X.
    shape
        Sizes of the batches.
    device
        The device's own operations.

    Attributes
    ----------
    max_open
        None: slots are made as batches are opened, at most two more than are open at once.
    batch_nbytes
        Host memory of a slot.
    wants_patches
        Whether the batches carry Y.
    """

    max_open: int | None = None

    def __init__(self, config: LoaderConfig, shape: BatchShape, device: Device) -> None:
        self._dtype = _DTYPES[config.dtype]
        self._is_last = config.channels == "last"
        self._shape, self._device = shape, device
        self._n_pixels = shape.frame_size**2
        self._itemsize = max(staged_dtype(dtype).itemsize for dtype in shape.stored_dtypes)
        self._group_nbytes = shape.group_size * self._n_pixels * self._itemsize
        self._small_start = _round_up(shape.batch_size * self._group_nbytes)
        self._slot_nbytes = self._small_start + _small_nbytes(shape)
        self.batch_nbytes = device.staging_nbytes(self._slot_nbytes)
        self.wants_patches = shape.has_patches
        self._table = device.upload(root_table())
        self._objects: dict[int, tuple[NDArray[Any], torch.Tensor]] = {}
        self._lock = threading.Lock()
        self._ring: SlotRing[Slot] = SlotRing(())
        self._n_slots = self._n_held = 0

    def open(self, n_groups: int) -> StagedBatch:
        """Return a slot to gather into; waits at most for a copy that is under way."""
        return StagedBatch(n_groups, self._take_slot(), np.empty(n_groups, np.float32))

    def gather(self, output: StagedBatch, piece: Piece) -> None:
        """Copy frames into the slot, channel after channel."""
        dtype = staged_dtype(piece.frames.dtype)
        is_narrowed = dtype != piece.frames.dtype
        # A group's place is as wide as the widest kind of pixels needs: a whole number of groups
        # of this kind, of which it takes the first.
        rows = piece.rows * (self._itemsize // dtype.itemsize)
        area = output.slot.bytes[: output.n_groups * self._group_nbytes].view(dtype)
        if is_narrowed:
            self._narrow_frames(piece, rows, area)
        else:
            channels = area.reshape(-1, self._shape.group_size, self._n_pixels)
            copy_frames(piece.frames, piece.offsets, rows, channels)
        output.scales[piece.rows] = piece.scales
        kind = PixelKind(dtype, piece.is_counts and not is_narrowed)
        output.pieces.append((kind, piece.rows))

    def draw_patches(self, output: StagedBatch, piece: PatchPiece) -> None:
        """Take note of the patches; the device makes them."""
        if self.wants_patches:
            output.patches.append(piece)

    def finish(self, output: StagedBatch, fields: Fields) -> Transfer:
        """Queue the copies and everything that makes the batch of them."""
        kinds = _join_pieces(output.pieces)
        small = {**fields, "scales": output.scales}
        if len(kinds) > 1:
            small.update({f"rows {i}": rows for i, rows in enumerate(kinds.values())})
        objects = []
        for i, pieces in enumerate(_group_by_object(output.patches)):
            objects.append(self._object(pieces[0].object_guess))
            small[f"centers {i}"] = np.concatenate([_centers(piece) for piece in pieces])
            small[f"patch rows {i}"] = np.concatenate([piece.rows for piece in pieces])
        memory = output.slot.memory
        end, places = self._place_small(memory, small)
        sources = (
            memory[: output.n_groups * self._group_nbytes],
            memory[self._small_start : end],
        )
        work = partial(self._complete, output.n_groups, list(kinds), objects, list(fields), places)
        transfer = self._device.submit(sources, work)
        self._give_back(output, transfer.wait_copied)
        return transfer

    def deliver(self, finished: Transfer) -> Fields:
        """Return the tensors; the receiver's stream waits for them."""
        return finished.receive()

    def convert(self, array: NDArray[Any]) -> torch.Tensor:
        """Return a copy on the device."""
        return self._device.upload(array)

    def discard(self, output: StagedBatch) -> None:
        """Give the slot back, after copies out of it that a failure may have left under way."""
        if output.is_held:
            self._give_back(output, self._device.synchronize)

    def close(self) -> None:
        """Wait for everything under way and let go of staging memory and objects."""
        self._ring.drain()
        self._device.synchronize()
        with self._lock:
            self._ring, self._n_slots = SlotRing(()), 0
            self._objects.clear()

    def _take_slot(self) -> Slot:
        """Return a slot that may be written."""
        with self._lock:
            is_new = self._n_slots < self._n_held + _SPARE_SLOTS
            self._n_slots += is_new
            self._n_held += 1
        try:
            slot = None if is_new else self._ring.acquire()
            if slot is None:
                memory = self._device.allocate(self._slot_nbytes)
                slot = Slot(memory, memory.numpy())
        except BaseException:
            with self._lock:
                self._n_slots -= is_new
                self._n_held -= 1
            raise
        return slot

    def _give_back(self, output: StagedBatch, wait: Callable[[], None]) -> None:
        output.is_held = False
        self._ring.release(output.slot, wait)
        with self._lock:
            self._n_held -= 1

    def _narrow_frames(self, piece: Piece, rows: NDArray[np.int64], area: NDArray[Any]) -> None:
        """Gather float32 amplitudes, unscaled: one row per frame is channel after channel."""
        group_size = self._shape.group_size
        frame_rows = rows[:, np.newaxis] * group_size + np.arange(group_size)
        gather_frames(
            piece.frames,
            piece.offsets.reshape(-1, 1),
            frame_rows.reshape(-1),
            np.float32(1),
            area.reshape(-1, self._n_pixels),
            is_counts=piece.is_counts,
        )

    def _place_small(
        self, memory: torch.Tensor, arrays: Mapping[str, NDArray[Any]]
    ) -> tuple[int, dict[str, Placed]]:
        """Write the small arrays to a slot; return where they end and where each lies."""
        places = {}
        end = self._small_start
        for name, array in arrays.items():
            tensor = as_tensor(array)
            start, end = end, end + tensor.nbytes
            memory[start:end].view(tensor.dtype).view(tensor.shape).copy_(tensor)
            places[name] = Placed(start - self._small_start, tuple(tensor.shape), tensor.dtype)
            end = _round_up(end)
        return end, places

    def _object(self, object_guess: NDArray[Any]) -> torch.Tensor:
        """Return a scan's object on the device, padded; a scan always hands out one array."""
        with self._lock:
            held = self._objects.get(id(object_guess))
            if held is None:
                is_double = np.result_type(object_guess.dtype, np.complex64).itemsize > 8
                whole = object_guess.astype(np.complex128 if is_double else np.complex64)
                # Padded here: work outside the side stream would not be waited for. Holding the
                # array keeps its id from being given to another one.
                padded = pad_object(as_tensor(whole)).numpy()
                held = object_guess, self._device.upload(padded)
                self._objects[id(object_guess)] = held
            return held[1]

    def _complete(
        self,
        n_groups: int,
        kinds: Sequence[PixelKind],
        objects: Sequence[torch.Tensor],
        names: Sequence[str],
        places: Mapping[str, Placed],
        copies: Sequence[torch.Tensor],
    ) -> Tensors:
        """Make the batch of its copies; runs on the device, in stream order."""
        frames, memory = copies
        small = {name: place.find(memory) for name, place in places.items()}
        fields: Tensors = {name: small[name] for name in names}
        fields["X"] = self._amplitudes(n_groups, frames, kinds, small)
        fields["Y"] = self._patches(n_groups, objects, small) if self.wants_patches else None
        return fields

    def _amplitudes(
        self,
        n_groups: int,
        frames: torch.Tensor,
        kinds: Sequence[PixelKind],
        small: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Return X."""
        scales = small["scales"]
        size, n_channels = self._shape.frame_size, self._shape.group_size
        inner = (size, size, n_channels) if self._is_last else (n_channels, size, size)
        if len(kinds) == 1:
            return self._scale_pixels(frames, kinds[0], None, scales).view(n_groups, *inner)
        x = torch.empty(n_groups, *inner, dtype=self._dtype, device=frames.device)
        for i, kind in enumerate(kinds):
            numbers = small[f"rows {i}"]
            scaled = self._scale_pixels(frames, kind, numbers, scales[numbers])
            x.index_copy_(0, numbers, scaled.view(-1, *inner))
        return x

    def _scale_pixels(
        self,
        frames: torch.Tensor,
        kind: PixelKind,
        rows: torch.Tensor | None,
        scales: torch.Tensor,
    ) -> torch.Tensor:
        """Return some or all groups of one kind, (m, P, C) or (m, C, P)."""
        n_values = self._shape.group_size * self._n_pixels
        groups = frames.view(-1, self._group_nbytes).view(CARRIERS[kind.dtype])[:, :n_values]
        if rows is not None:
            groups = groups.index_select(0, rows)
        pixels = groups.view(-1, self._shape.group_size, self._n_pixels)
        if self._is_last:
            # Before they are widened: half the traffic or less.
            pixels = pixels.transpose(1, 2)
        amplitudes = widen_pixels(
            pixels.contiguous(), kind.dtype, self._table, is_counts=kind.is_counts
        )
        return amplitudes.mul_(scales.view(-1, 1, 1)).to(self._dtype)

    def _patches(
        self, n_groups: int, objects: Sequence[torch.Tensor], small: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return Y."""
        size, n_channels = self._shape.frame_size, self._shape.group_size
        y = torch.empty(
            n_groups, n_channels, size, size, dtype=torch.complex64, device=self._table.device
        )
        for i, padded in enumerate(objects):
            patches = sample_windows(padded, small[f"centers {i}"], size)
            y.index_copy_(0, small[f"patch rows {i}"], patches.view(-1, *y.shape[1:]))
        return y.permute(0, 2, 3, 1).contiguous() if self._is_last else y


def staged_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in which stored frames cross the bus: their own up to 32 bits."""
    return dtype if dtype in CARRIERS else np.dtype(np.float32)


def _join_pieces(
    pieces: Sequence[tuple[PixelKind, NDArray[np.int64]]],
) -> dict[PixelKind, NDArray[np.int64]]:
    """Return the rows of every kind."""
    rows: dict[PixelKind, list[NDArray[np.int64]]] = {}
    for kind, numbers in pieces:
        rows.setdefault(kind, []).append(numbers)
    return {kind: np.concatenate(parts) for kind, parts in rows.items()}


def _group_by_object(pieces: Sequence[PatchPiece]) -> list[list[PatchPiece]]:
    grouped: dict[int, list[PatchPiece]] = {}
    for piece in pieces:
        grouped.setdefault(id(piece.object_guess), []).append(piece)
    return list(grouped.values())


def _centers(piece: PatchPiece) -> NDArray[np.float32]:
    """Return what the patches of a piece are centred on, (m * C, 2) x, y in pixels."""
    centers = patch_centers(as_tensor(piece.offsets), as_tensor(piece.relative))
    return np.asarray(centers)


def _round_up(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def _small_nbytes(shape: BatchShape) -> int:
    """Return the room for the small arrays: at most 64-bit coordinates and indices."""
    n_scans, n_channels = len(shape.stored_dtypes), shape.group_size
    fields = 8 * (5 * n_channels + 2) + 4 + 4
    details = 8 * (4 * n_channels + 3) if shape.has_details else 0
    # Scale, rows, and for patches the rows again and float32 centres.
    ours = 4 + 8 + 8 + 8 * n_channels
    n_arrays = 8 + 3 * n_scans + 4 * shape.has_details
    return shape.batch_size * (fields + details + ours) + n_arrays * _ALIGNMENT
