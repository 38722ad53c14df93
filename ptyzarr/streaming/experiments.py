"""The scans of a loader as one sequence of groups: where frames lie, what batches carry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import xxhash
from numpy.typing import NDArray

from ptyzarr.config import GroupingConfig
from ptyzarr.errors import ConfigError
from ptyzarr.grouping import GroupTable, cached_factor, cached_group_table, group_coords
from ptyzarr.scan import ChunkReader, Quantity, ScanLike
from ptyzarr.streaming.decoder import FrameDecoder
from ptyzarr.streaming.details import Details, coords_dtypes
from ptyzarr.streaming.packing import PackedFrames
from ptyzarr.streaming.sampling import SampledScan
from ptyzarr.streaming.selection import Groups, selected_groups, split_selection
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
    groups
        Which canonical groups are delivered; the factors stay those of all of them.
    details
        Whether batches carry the seeds of the groups and their start positions.

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
    selection
        A hash of the groups selected from each scan, or None, where it is all of them.
    bad_pixels : (n_scans, N, N) bool, or None
        Masks; None if no scan has one.

    Raises
    ------
    ConfigError
        If the scans do not fit together, or `scale` or `groups` does not fit them.
    GroupingError
        As `generate_grouped_data` raises it.
    """

    def __init__(
        self,
        scans: Sequence[StreamableScan],
        grouping: GroupingConfig,
        scale: float | Sequence[float] | None = None,
        groups: Groups = None,
        *,
        details: bool = False,
    ) -> None:
        self.scans = list(scans)
        self.frame_size = _common_frame_size(self.scans)
        self.group_size = grouping.group_size
        self.probe = _stack_probes(self.scans)
        self.bad_pixels = _stack_masks(self.scans, self.frame_size)
        self.decoder = FrameDecoder(self.scans, self.frame_size)
        scales = _given_scales(scale, len(self.scans))
        self.scales = np.full(len(self.scans), np.nan, np.float32) if scales is None else scales
        tables = self._draw(grouping, groups, has_scales=scales is not None)
        self._seeds = [table.seeds for table in tables]
        self.frame_map = self._map_frames(tables)
        forms = [
            (*form, scan.quantity)
            for form, scan in zip(self.decoder.forms, self.scans, strict=True)
        ]
        # The first scan whose frames lie in the pool in the same form.
        self._like = np.array([forms.index(form) for form in forms])
        self._positions = [np.asarray(scan.positions) for scan in self.scans]
        self._details = Details(self.scans, self._seeds, self._positions) if details else None
        self._dtypes = {
            "nn_indices": np.result_type(*(table.nn_indices.dtype for table in tables)),
            **coords_dtypes("coords", self._positions),
            **({} if self._details is None else self._details.dtypes),
        }
        is_alike = len({positions.dtype for positions in self._positions}) == 1
        if self.n_scans > 1 and is_alike and self._details is None:
            # The members of all scans are looked up at once.
            self._positions = [np.concatenate(self._positions)]

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
        positions = sum(scan.positions.nbytes for scan in self.scans)
        if len(self._positions) != self.n_scans:
            positions *= 2  # also one after the other
        positions += 0 if self._details is None else self._details.nbytes
        # frame_index, its inverse and frame_power, 8 bytes each, are kept by a store.
        return int(positions + fm.rows.nbytes + fm.frames.nbytes + 24 * fm.rows.size)

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
        """Yield the groups as a sink gathers them: those of all scans in one form together.

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
        scans = self._scans_of(groups)
        rows, scales = np.arange(first_row, first_row + len(groups)), self.scales[scans]
        for number, members in _split(self._like[scans], int(self._like.max())):
            is_counts = self.scans[number].quantity == "counts"
            yield Piece(views[number], offsets[members], rows[members], scales[members], is_counts)

    def describe(self, groups: NDArray[np.int64]) -> Fields:
        """Return the small arrays of a batch; they have the bits of the eager ones.

        Returns
        -------
        dict
            ``nn_indices`` (B, C), ``coords_nn`` and ``coords_relative`` (B, 1, 2, C),
            ``coords_offsets`` (B, 1, 2, 1), ``scale`` (B,) float32, ``experiment_id`` (B,) int32;
            with details ``seed_indices`` (B,) int64 and ``coords_start_*`` like ``coords_*``.
        """
        scans = self._scans_of(groups)
        frames = self.frame_map.frames[groups]
        fields: Fields = {
            "nn_indices": frames.astype(self._dtypes["nn_indices"], copy=False),
            "scale": self.scales[scans],
            "experiment_id": scans.astype(np.int32),
        }
        if len(self._positions) == 1:
            if self.n_scans > 1:
                frames = frames + self.frame_map.frame_starts[scans, np.newaxis]
            return fields | self._locate(0, groups, frames)
        for number, members in _split(scans, self.n_scans - 1):
            for name, part in self._locate(number, groups[members], frames[members]).items():
                if name not in fields:
                    fields[name] = np.empty((len(groups), *part.shape[1:]), self._dtypes[name])
                fields[name][members] = part
        return fields

    def patch_pieces(self, groups: NDArray[np.int64], fields: Fields) -> Iterator[PatchPiece]:
        """Yield the groups of each scan as a sink draws their patches."""
        rows = np.arange(len(groups))
        for number, members in _split(self._scans_of(groups), self.n_scans - 1):
            object_guess = self.scans[number].object_guess
            if object_guess is not None:
                yield PatchPiece(
                    object_guess,
                    fields["coords_offsets"][members],
                    fields["coords_relative"][members],
                    rows[members],
                )

    def _locate(
        self, number: int, groups: NDArray[np.int64], frames: NDArray[np.integer[Any]]
    ) -> Fields:
        """Return the coordinates, and details, of groups whose members are in one table."""
        nn, offsets, relative = group_coords(self._positions[number], frames)
        fields = {"coords_nn": nn, "coords_offsets": offsets, "coords_relative": relative}
        if self._details is None:
            return fields
        first = self.frame_map.group_starts[number]
        return fields | self._details.describe(number, groups - first, frames)

    def _scans_of(self, groups: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each group's scan."""
        if self.n_scans == 1:
            return np.zeros(len(groups), np.int64)
        return np.searchsorted(self.frame_map.group_starts, groups, side="right") - 1

    def _draw(
        self, grouping: GroupingConfig, groups: Groups, *, has_scales: bool
    ) -> list[GroupTable]:
        """Return the groups that are delivered; set the canonical factors and the selection."""
        if groups is not None and grouping.seed is None:
            raise ConfigError(
                "groups are selected and the seed of the grouping is None, which draws others at "
                "every call; expected a number"
            )
        tables, selection = [], []
        for number, chosen in enumerate(split_selection(groups, self.n_scans)):
            scan = self.scans[number]
            table = cached_group_table(scan, grouping)
            if not has_scales:
                self.scales[number] = cached_factor(scan, grouping, table)
            numbers = selected_groups(chosen, table.n_groups, scan.path)
            if numbers is not None:
                # At once, so that whole tables of several scans are never in memory together.
                table = GroupTable(table.nn_indices[numbers], table.seeds[numbers])
            tables.append(table)
            selection.append(None if numbers is None else xxhash.xxh3_64_hexdigest(numbers.data))
        self.selection = selection if any(selection) else None
        return tables

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


def _split(
    labels: NDArray[np.int64], highest: int
) -> Iterator[tuple[int, slice | NDArray[np.int64]]]:
    """Yield each of the labels, none above `highest`, and the places that have it."""
    if highest == 0:
        yield 0, slice(None)
        return
    for label in np.unique(labels).tolist():
        yield label, np.flatnonzero(labels == label)


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
    try:
        # What float32 cannot hold is no factor either.
        with np.errstate(over="ignore", under="ignore"):
            scales = np.atleast_1d(np.asarray(scale, np.float64)).astype(np.float32)
    except (TypeError, ValueError):
        scales = np.zeros(0, np.float32)
    if scales.shape not in {(1,), (n_scans,)} or not (np.isfinite(scales) & (scales > 0)).all():
        raise ConfigError(
            f"scale is {scale!r}; expected a positive number, or one for each of {n_scans} stores"
        )
    return np.broadcast_to(scales, (n_scans,)).copy()


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
