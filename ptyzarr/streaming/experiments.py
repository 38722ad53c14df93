"""The scans of a loader as one sequence of groups: where frames lie, what batches carry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ptyzarr.config import GroupingConfig
from ptyzarr.errors import ConfigError
from ptyzarr.grouping import GroupTable, cached_group_table, group_coords, normalization_factor
from ptyzarr.scan import ChunkReader, Quantity, ScanLike
from ptyzarr.streaming.decoder import FrameDecoder
from ptyzarr.streaming.packing import PackedFrames
from ptyzarr.streaming.sampling import SampledScan
from ptyzarr.streaming.sinks import Fields, PatchPiece, Piece
from ptyzarr.streaming.window import FrameMap


@runtime_checkable
class StreamableScan(ScanLike, Protocol):
    """What streaming needs of a store; `ScanStore` meets it."""

    @property
    def chunks(self) -> ChunkReader:
        """Reader of the stored frames."""
        ...

    @property
    def frame_index(self) -> NDArray[np.int64]:
        """(n,) acquisition index of each stored row."""
        ...

    @property
    def tile_frames(self) -> int:
        """Stored rows in a tile."""
        ...

    @property
    def layout(self) -> str:
        """Order of the stored rows."""
        ...

    @property
    def digest(self) -> str:
        """Content digest."""
        ...

    @property
    def quantity(self) -> Quantity:
        """What the stored values are."""
        ...

    @property
    def pixel_limits(self) -> tuple[int, int] | None:
        """Most non-zero pixels and most pixels above 255 of any frame; None if not known."""
        ...

    @property
    def path(self) -> str:
        """Folder or URL, for messages and for the cache of groups."""
        ...


class Experiments:
    """Scans whose canonical groups are delivered together.

    Groups are numbered scan after scan; a scan's number is its `experiment_id`.

    Parameters
    ----------
    scans
        At least one; equal frame sizes, whatever dtypes, quantities and chunks.
    grouping
        Applied to each scan alone.
    scale
        Factors to use instead of the canonical ones: one for all scans or one for each.

    Attributes
    ----------
    frame_map
        Where the frames of every group lie.
    decoder
        Brings the frames of all scans into the pool.
    scales : (n_scans,) float32
        Factor by which X of each scan is multiplied.
    probe : (n_scans, [mode,] N, N) complex64
        Probes; with modes if any scan has them, missing modes zero.
    bad_pixels : (n_scans, N, N) bool, or None
        Masks; None if no scan has one.

    Raises
    ------
    ConfigError
        If the scans do not fit together or `scale` does not fit them.
    GroupingError
        As `generate_grouped_data` raises it.
    """

    def __init__(
        self,
        scans: Sequence[StreamableScan],
        grouping: GroupingConfig,
        scale: float | Sequence[float] | None = None,
    ) -> None:
        self.scans = list(scans)
        self.frame_size = _common_frame_size(self.scans)
        self.group_size = grouping.group_size
        self.probe = _stack_probes(self.scans)
        self.bad_pixels = _stack_masks(self.scans, self.frame_size)
        self.decoder = FrameDecoder(self.scans, self.frame_size)
        scales = _given_scales(scale, len(self.scans))
        tables = [cached_group_table(scan, grouping) for scan in self.scans]
        if scales is None:
            scales = np.array(
                [
                    normalization_factor(scan.frame_power, table.nn_indices, self.frame_size)
                    for scan, table in zip(self.scans, tables, strict=True)
                ],
                np.float32,
            )
        self.scales = scales
        self._seeds = [table.seeds for table in tables]
        self.frame_map = self._map_frames(tables)
        self._positions = [np.asarray(scan.positions) for scan in self.scans]
        # One dtype for all batches, whichever scans a batch happens to mix.
        exact: Any = np.result_type(*self._positions)
        mean = exact if exact.kind == "f" else np.dtype(np.float64)
        self._dtypes = {
            "nn_indices": np.result_type(*(table.nn_indices.dtype for table in tables)),
            "coords_nn": exact,
            "coords_offsets": mean,
            "coords_relative": mean,
        }

    @property
    def n_scans(self) -> int:
        """Number of scans."""
        return len(self.scans)

    @property
    def n_groups(self) -> int:
        """Groups of all scans."""
        return int(self.frame_map.group_starts[-1])

    @property
    def nbytes(self) -> int:
        """Memory that grows with frames and groups: tables, positions, what the scans keep."""
        fm = self.frame_map
        kept = sum(p.nbytes for p in self._positions) + fm.rows.nbytes + fm.frames.nbytes
        # frame_index, its inverse and frame_power, 8 bytes each, are kept by a store.
        return int(kept + 24 * fm.rows.size)

    def sampled(self) -> list[SampledScan]:
        """Return what sampling needs; may be asked for once, the seeds are dropped."""
        sampled = []
        fm = self.frame_map
        for number, (scan, seeds) in enumerate(zip(self.scans, self._seeds, strict=True)):
            rows = fm.rows[fm.frame_starts[number] : fm.frame_starts[number + 1]]
            tiles = rows[seeds] // scan.tile_frames
            sampled.append(SampledScan(scan.digest, scan.layout, scan.tile_frames, tiles))
        self._seeds = []
        return sampled

    def has_patches(self) -> bool:
        """Return whether the scans have objects.

        Raises
        ------
        ConfigError
            If only some have.
        """
        without = [scan.path for scan in self.scans if scan.object_guess is None]
        if without and len(without) < self.n_scans:
            raise ConfigError(
                f"patches=True, but {without[0]} and {len(without) - 1} other scans have no "
                "object while others do; use patches=False or stream them apart"
            )
        return not without

    def pieces(
        self,
        groups: NDArray[np.int64],
        offsets: NDArray[np.int64],
        first_row: int,
        views: Sequence[NDArray[Any] | PackedFrames],
    ) -> Iterator[Piece]:
        """Yield the groups of each scan as a sink gathers them.

        Parameters
        ----------
        groups : (m,) int64
            Consecutive groups of a batch.
        offsets : (m, C) int64
            Where in the pool each frame begins.
        first_row
            Row of the batch that the first group goes to.
        views
            The pool as `pool_views` returns it.
        """
        for number, members in self._split(groups):
            yield Piece(
                views[number],
                offsets[members],
                np.arange(first_row, first_row + len(groups))[members],
                self.scales[number],
                self.scans[number].quantity == "counts",
            )

    def describe(self, groups: NDArray[np.int64]) -> Fields:
        """Return the small arrays of a batch; they have the bits of the eager ones.

        Returns
        -------
        dict
            ``nn_indices`` (B, C), ``coords_nn`` and ``coords_relative`` (B, 1, 2, C),
            ``coords_offsets`` (B, 1, 2, 1), ``scale`` (B,) float32, ``experiment_id`` (B,) int32.
        """
        if self.n_scans == 1:
            fields, experiment = self._describe_scan(0, groups), np.zeros(len(groups), np.int32)
        else:
            parts = [
                (number, members, self._describe_scan(number, groups[members]))
                for number, members in self._split(groups)
            ]
            fields, experiment = self._merge(len(groups), parts)
        return {**fields, "scale": self.scales[experiment], "experiment_id": experiment}

    def patch_pieces(self, groups: NDArray[np.int64], fields: Fields) -> Iterator[PatchPiece]:
        """Yield the groups of each scan as a sink draws their patches."""
        rows = np.arange(len(groups))
        for number, members in self._split(groups):
            object_guess = self.scans[number].object_guess
            if object_guess is not None:
                yield PatchPiece(
                    object_guess,
                    fields["coords_offsets"][members],
                    fields["coords_relative"][members],
                    rows[members],
                )

    def _describe_scan(self, number: int, groups: NDArray[np.int64]) -> Fields:
        frames = self.frame_map.frames[groups]
        nn, offsets, relative = group_coords(self._positions[number], frames)
        return {
            "nn_indices": frames.astype(self._dtypes["nn_indices"], copy=False),
            "coords_nn": nn,
            "coords_offsets": offsets,
            "coords_relative": relative,
        }

    def _merge(
        self, n_groups: int, parts: Sequence[tuple[int, Any, Fields]]
    ) -> tuple[Fields, NDArray[np.int32]]:
        """Return the fields of several scans put together, and the scan of each group."""
        merged: Fields = {
            name: np.empty((n_groups, *array.shape[1:]), self._dtypes[name])
            for name, array in parts[0][2].items()
        }
        experiment = np.empty(n_groups, np.int32)
        for number, members, fields in parts:
            experiment[members] = number
            for name, array in fields.items():
                merged[name][members] = array
        return merged, experiment

    def _split(self, groups: NDArray[np.int64]) -> Iterator[tuple[int, slice | NDArray[np.int64]]]:
        """Yield each scan that has some of the groups, and their places."""
        if self.n_scans == 1:
            yield 0, slice(None)
            return
        experiment = np.searchsorted(self.frame_map.group_starts, groups, side="right") - 1
        for number in np.unique(experiment).tolist():
            yield number, np.flatnonzero(experiment == number)

    def _map_frames(self, tables: Sequence[GroupTable]) -> FrameMap:
        lengths = [scan.n_frames for scan in self.scans]
        dtype: Any = np.int32 if max(lengths) < 2**31 else np.int64
        frames = [table.nn_indices.astype(dtype, copy=False) for table in tables]
        rows = np.empty(sum(lengths), dtype)
        starts = _starts(lengths)
        for scan, start, length in zip(self.scans, starts[:-1], lengths, strict=True):
            rows[start : start + length][scan.frame_index] = np.arange(length, dtype=dtype)
        return FrameMap(
            frames=np.ascontiguousarray(frames[0] if len(frames) == 1 else np.concatenate(frames)),
            group_starts=_starts([len(table) for table in frames]),
            rows=rows,
            frame_starts=starts,
            chunk_starts=self.decoder.chunk_starts,
            chunk_frames=self.decoder.chunk_frames,
            slot_strides=self.decoder.slot_strides,
            frame_strides=self.decoder.frame_strides,
        )


def _starts(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Return where each part begins, and the total."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _common_frame_size(scans: Sequence[StreamableScan]) -> int:
    if not scans:
        raise ConfigError("there are no stores; expected one or more")
    sizes = {scan.frame_size for scan in scans}
    if len(sizes) > 1:
        other = next(scan for scan in scans if scan.frame_size != scans[0].frame_size)
        raise ConfigError(
            f"{other.path} has frames of {other.frame_size} pixels, {scans[0].path} of "
            f"{scans[0].frame_size}; expected equal frame sizes; stream them apart"
        )
    return sizes.pop()


def _given_scales(
    scale: float | Sequence[float] | None, n_scans: int
) -> NDArray[np.float32] | None:
    """Return one factor per scan, or None where they are to be computed."""
    if scale is None:
        return None
    scales = np.atleast_1d(np.asarray(scale, np.float64))
    if scales.shape not in {(1,), (n_scans,)} or not (np.isfinite(scales) & (scales > 0)).all():
        raise ConfigError(
            f"scale is {scale!r}; expected a positive number, or one for each of {n_scans} stores"
        )
    return np.broadcast_to(scales.astype(np.float32), (n_scans,)).copy()


def _stack_probes(scans: Sequence[StreamableScan]) -> NDArray[np.complex64]:
    """Return (n_scans, [mode,] N, N) complex64, missing modes zero."""
    probes = [np.asarray(scan.probe_guess) for scan in scans]
    for scan, probe in zip(scans, probes, strict=True):
        if probe.ndim not in {2, 3} or probe.shape[-2:] != probes[0].shape[-2:]:
            raise ConfigError(
                f"{scan.path} has a probe of shape {probe.shape}, {scans[0].path} of "
                f"{probes[0].shape}; expected ([mode,] y, x) with equal y, x; stream them apart"
            )
    shape = probes[0].shape[-2:]
    if all(probe.ndim == 2 for probe in probes):
        return np.stack(probes).astype(np.complex64)
    modes = [probe.reshape(-1, *shape) for probe in probes]
    stacked = np.zeros((len(probes), max(len(mode) for mode in modes), *shape), np.complex64)
    for target, mode in zip(stacked, modes, strict=True):
        target[: len(mode)] = mode
    return stacked


def _stack_masks(scans: Sequence[StreamableScan], frame_size: int) -> NDArray[np.bool_] | None:
    """Return (n_scans, N, N) bool, all False for a scan without a mask; None without any."""
    # Not every scan that can be streamed knows of masks.
    masks = [getattr(scan, "bad_pixels", None) for scan in scans]
    if all(mask is None for mask in masks):
        return None
    stacked = np.zeros((len(scans), frame_size, frame_size), np.bool_)
    for target, mask in zip(stacked, masks, strict=True):
        if mask is not None:
            target[:] = mask
    return stacked
