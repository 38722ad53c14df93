"""Batches of random groups as the loader hands them to a sink."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ptyzarr.streaming import BatchShape, PatchPiece, Piece

COUNTS = {np.dtype(np.uint8): 256, np.dtype(np.uint16): 1 << 16, np.dtype(np.uint32): 1 << 24}


class MemoryScan:
    """One scan's pool of frames of any dtype, with an object."""

    def __init__(self, dtype: Any, is_counts: bool, size: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.dtype, self.is_counts, self.size = np.dtype(dtype), is_counts, size
        n_values = 40 * size * size + 7
        if self.dtype.kind == "f":
            self.pool = rng.normal(3.0, 1.0, n_values).astype(dtype)
        else:
            limit = min(COUNTS.get(self.dtype, 1 << 15), np.iinfo(dtype).max + 1)
            self.pool = rng.integers(0, limit, n_values).astype(dtype)
        self.scale = np.float32(rng.uniform(0.1, 3.0))
        values = rng.normal(size=(30, 40)) + 1j * rng.normal(size=(30, 40))
        self.object_guess = values.astype(np.complex64)
        self.object_guess.flags.writeable = False  # as stores hand it out


def make_shape(scans: list[MemoryScan], n_channels: int, batch_size: int, patches: bool) -> Any:
    return BatchShape(
        batch_size=batch_size,
        frame_size=scans[0].size,
        group_size=n_channels,
        stored_dtypes=tuple(scan.dtype for scan in scans),
        has_patches=patches,
        max_kept=4,
    )


class MemoryBatch:
    """Random groups of the scans, in pieces as they would come."""

    def __init__(self, scans: list[MemoryScan], n_groups: int, n_channels: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.n_groups = n_groups
        experiment = rng.integers(0, len(scans), n_groups)
        centers = rng.uniform(-5.0, 45.0, (n_groups, 1, 2, 1))
        relative = rng.uniform(-3.0, 3.0, (n_groups, 1, 2, n_channels))
        self.fields = {
            "coords_offsets": centers,
            "coords_relative": relative,
            "coords_nn": centers - relative,
            "nn_indices": rng.integers(0, 999, (n_groups, n_channels)).astype(np.int32),
            "scale": np.array([scans[number].scale for number in experiment], np.float32),
            "experiment_id": experiment.astype(np.int32),
        }
        self.pieces, self.patches = [], []
        n_pixels = scans[0].size ** 2
        for number, scan in enumerate(scans):
            rows = np.flatnonzero(experiment == number)
            offsets = rng.integers(0, scan.pool.size - n_pixels, (n_groups, n_channels))
            for part in np.array_split(rows, 2):
                if len(part):
                    pool, counts = scan.pool, scan.is_counts
                    scales = np.full(len(part), scan.scale, np.float32)
                    self.pieces.append(Piece(pool, offsets[part], part, scales, counts))
            if len(rows):
                self.patches.append(
                    PatchPiece(scan.object_guess, centers[rows], relative[rows], rows)
                )

    def gather(self, sink: Any, output: Any) -> None:
        for piece in self.pieces:
            sink.gather(output, piece)

    def finish(self, sink: Any, output: Any) -> Any:
        if sink.wants_patches:
            for piece in self.patches:
                sink.draw_patches(output, piece)
        return sink.finish(output, dict(self.fields))

    def fill(self, sink: Any) -> Any:
        output = sink.open(self.n_groups)
        self.gather(sink, output)
        return self.finish(sink, output)


def assert_same_bits(got: Any, want: Any) -> None:
    """Compare two dicts of arrays or CPU tensors to the last bit."""
    assert set(got) == set(want)
    for name in want:
        if want[name] is None:
            assert got[name] is None
            continue
        a, b = as_bytes(got[name]), as_bytes(want[name])
        assert tuple(got[name].shape) == tuple(want[name].shape), name
        assert str(got[name].dtype).removeprefix("torch.") == str(want[name].dtype).removeprefix(
            "torch."
        ), name
        np.testing.assert_array_equal(a, b, err_msg=name)


def as_bytes(array: Any) -> np.ndarray:
    if not isinstance(array, np.ndarray):
        assert array.is_contiguous()
        array = array.view(-1).view(torch.uint8).numpy()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
