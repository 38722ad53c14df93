"""Scans without frames: positions, order on disk and groups, for what integers alone decide."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scans import SCANS, ScanSpec, scan_positions, sized_spec

from ptyzarr.config import Shuffle
from ptyzarr.grouping import GroupTable, select_groups
from ptyzarr.ingestion.layout import choose_sizes, hilbert_order
from ptyzarr.streaming.sampling import SAMPLERS, SampledScan, Share, share_epoch
from ptyzarr.streaming.window import ChunkPlanner, FrameMap

BATCH_SIZE = 64
#: Batches planned at once, and chunks in a load job, about as the loader has them.
_BLOCK_BATCHES = 32
_JOB_CHUNKS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What sampling and paging know of a scan.

    Attributes
    ----------
    label
        Frames and their size.
    positions : (n, 2) float64, pixels
    rows : (n,) int64
        Stored row of each frame.
    table
        One group for every position, 4 of 6 neighbours.
    chunk_frames, tile_frames
        As ingest chooses them for 16-bit counts.
    """

    label: str
    positions: NDArray[np.float64]
    rows: NDArray[np.int64]
    table: GroupTable
    chunk_frames: int
    tile_frames: int

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.positions)

    @property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return -(-self.n_frames // self.chunk_frames)


def make_layout(spec: ScanSpec) -> Layout:
    """Return the layout of a scan of 16-bit counts."""
    positions = scan_positions(spec)
    order = hilbert_order(positions)
    rows = np.empty(len(order), np.int64)
    rows[order] = np.arange(len(order))
    sizes = choose_sizes(spec.n_frames, spec.frame_size, 2)
    return Layout(
        label=f"{spec.n_frames:,} frames of {spec.frame_size} x {spec.frame_size}",
        positions=positions,
        rows=rows,
        table=select_groups(positions, spec.n_frames, 2, 6, seed=0),
        chunk_frames=sizes.chunk_frames,
        tile_frames=sizes.tile_frames,
    )


def named_layouts(n_frames: int) -> list[Layout]:
    """Return those of `medium`, or `small` if that is larger, and of a scan like `large`."""
    other = "medium" if n_frames >= SCANS["medium"].n_frames else "small"
    return [make_layout(SCANS[other]), make_layout(sized_spec(n_frames))]


def epoch_order(layout: Layout, shuffle: Shuffle, epoch: int) -> tuple[NDArray[np.int64], Share]:
    """Return the groups in the order of an epoch, and the batches it is cut into."""
    tiles = layout.rows[layout.table.seeds] // layout.tile_frames
    scan = SampledScan("a scan", "hilbert", layout.tile_frames, tiles)
    share = share_epoch(layout.table.n_groups, BATCH_SIZE)
    return SAMPLERS[shuffle]([scan], 0).order(epoch, share), share


def count_loads(layout: Layout, shuffle: Shuffle, n_slots: int) -> tuple[int, int]:
    """Return the chunks that a first epoch decodes with a buffer, and how many are distinct."""
    order, share = epoch_order(layout, shuffle, 0)
    planner = ChunkPlanner(
        frame_map(layout),
        n_slots=n_slots,
        batch_size=BATCH_SIZE,
        block_batches=_BLOCK_BATCHES,
        job_chunks=_JOB_CHUNKS,
    )
    planner.start(order, share.edges(), 0, np.full(n_slots, -1, np.int32))
    decoded = 0
    while (block := planner.next_block()) is not None:
        decoded += len(block.chunks)
    return decoded, planner.distinct


def frame_map(layout: Layout) -> FrameMap:
    """Return the layout as paging wants it; pixels have no meaning here."""
    return FrameMap(
        frames=np.ascontiguousarray(layout.table.nn_indices),
        group_starts=np.array([0, layout.table.n_groups]),
        rows=layout.rows.astype(np.int32),
        frame_starts=np.array([0, layout.n_frames]),
        chunk_starts=np.array([0, layout.n_chunks]),
        chunk_frames=np.array([layout.chunk_frames]),
        slot_strides=np.array([layout.chunk_frames]),
        frame_strides=np.array([1]),
    )
