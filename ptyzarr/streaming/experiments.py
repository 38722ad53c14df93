"""The scans of a loader as one sequence of groups: where frames lie, what batches carry."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ptyzarr.config import GroupingConfig
from ptyzarr.errors import ConfigError, DamagedStoreError
from ptyzarr.grouping import GroupTable, cached_group_table, group_coords, normalization_factor
from ptyzarr.scan import ChunkReader, PlaneReader, Quantity, ScanLike
from ptyzarr.streaming.packing import PackedFrames, choose_packing, pack_frames, pack_planes
from ptyzarr.streaming.sampling import SampledScan
from ptyzarr.streaming.sinks import Fields, PatchPiece, Piece
from ptyzarr.streaming.vectors import ALIGNMENT
from ptyzarr.streaming.window import FrameMap

# Decoded chunks that wait in a thread's cache to be packed.
UNPACKED_NBYTES: Final = 1024**2


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
    slot_nbytes
        Size of a slot that holds a decoded chunk of any scan.
    scales : (n_scans,) float32
        Factor by which X of each scan is multiplied.
    probe : (n_scans, [mode,] N, N) complex64
        Probes; with modes if any scan has them, missing modes zero.

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
        self._readers = [scan.chunks for scan in self.scans]
        self._packings = [
            choose_packing(reader.dtype, self.frame_size**2, scan.pixel_limits)
            for scan, reader in zip(self.scans, self._readers, strict=True)
        ]
        largest = max(
            reader.chunk_frames * packing.frame_nbytes if packing else reader.chunk_nbytes
            for reader, packing in zip(self._readers, self._packings, strict=True)
        )
        self.slot_nbytes = -(-largest // ALIGNMENT) * ALIGNMENT
        self._unpacked = threading.local()
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
    def stored_dtypes(self) -> tuple[np.dtype[Any], ...]:
        """Dtype of each scan's stored frames."""
        return tuple(reader.dtype for reader in self._readers)

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

    def read_chunks(
        self, chunks: NDArray[np.int64], slots: NDArray[np.int64], pool: NDArray[np.uint8]
    ) -> tuple[int, int]:
        """Decode chunks into slots of the pool; return (bytes read, frames decoded).

        Parameters
        ----------
        chunks : (m,) int64, ascending
            Numbered through all scans.
        slots : (m,) int64
        pool : (n_slots, slot_nbytes) uint8

        Raises
        ------
        DamagedStoreError
            If a chunk cannot be read.
        """
        starts = self.frame_map.chunk_starts
        edges = np.searchsorted(chunks, starts).tolist()
        n_read = n_frames = 0
        for number, (reader, packing) in enumerate(zip(self._readers, self._packings, strict=True)):
            part = slice(edges[number], edges[number + 1])
            if part.start < part.stop:
                wanted = chunks[part] - starts[number]
                if packing is None:
                    n_read += reader.read_chunks(wanted, slots[part], pool)
                else:
                    packed = PackedFrames.over(pool.reshape(-1), packing)
                    n_read += self._read_packed(number, wanted, slots[part], packed)
                n_frames += (part.stop - part.start) * reader.chunk_frames
        return n_read, n_frames

    def _read_packed(
        self,
        number: int,
        chunks: NDArray[np.int64],
        slots: NDArray[np.int64],
        packed: PackedFrames,
    ) -> int:
        """Decode chunks of one scan, few enough at a time to stay in the cache, and pack them."""
        reader = self._readers[number]
        step = max(1, UNPACKED_NBYTES // reader.chunk_nbytes)
        scratch = self._scratch(min(step, len(chunks)) * reader.chunk_nbytes)
        within = np.arange(reader.chunk_frames) * packed.packing.frame_nbytes
        n_read = 0
        for first in range(0, len(chunks), step):
            some = chunks[first : first + step]
            decoded = scratch[: len(some) * reader.chunk_nbytes].reshape(len(some), -1)
            # What fills up the last chunk of a scan is no frame.
            missing = max(int(some[-1] + 1) * reader.chunk_frames - reader.n_frames, 0)
            places = slots[first : first + step, np.newaxis] * self.slot_nbytes + within
            places = places.reshape(-1)[: places.size - missing]
            nbytes, fits = _decode_and_pack(reader, some, decoded, places, packed)
            n_read += nbytes
            if not fits:
                raise DamagedStoreError(
                    f"{self.scans[number].path}: frames of chunks {some[0]} to {some[-1]} have "
                    f"more non-zero pixels than the store says ({packed.packing.max_nonzero}, "
                    f"{packed.packing.max_wide} of them above 255); run 'ptyzarr verify', or "
                    "ingest the source again with --overwrite"
                )
        return n_read

    @property
    def thread_nbytes(self) -> int:
        """Memory that grows with frames and chunks in each thread that decodes and gathers."""
        most = 0
        for reader, packing in zip(self._readers, self._packings, strict=True):
            # Encoded, as planes, and decoded to be packed; then the amplitudes of a group.
            chunks = 3 * reader.chunk_nbytes + reader.chunk_nbytes // 8
            values = packing.max_nonzero if packing else 0
            most = max(most, chunks + 4 * self.group_size * values)
        return most

    def pack_empty(self, pool: NDArray[np.uint8]) -> None:
        """Read nothing of each scan; pack an empty frame of each packed one into the first slot."""
        nothing = np.empty(0, np.int64)
        for reader, packing in zip(self._readers, self._packings, strict=True):
            reader.prepare()
            if packing is None:
                continue
            packed = PackedFrames.over(pool.reshape(-1), packing)
            if packing.wants_planes:
                pack_planes(np.empty((0, reader.chunk_nbytes), np.uint8), 1, nothing, packed)
            empty = np.zeros((1, packing.n_pixels), reader.dtype)
            pack_frames(empty, np.zeros(1, np.int64), packed)

    def _scratch(self, nbytes: int) -> NDArray[np.uint8]:
        """Return this thread's memory for decoded chunks."""
        scratch: NDArray[np.uint8] | None = getattr(self._unpacked, "memory", None)
        if scratch is None or scratch.size < nbytes:
            scratch = self._unpacked.memory = np.empty(nbytes, np.uint8)
        return scratch

    def pool_views(self, pool: NDArray[np.uint8]) -> list[NDArray[Any] | PackedFrames]:
        """Return the pool as each scan's frames lie in it: a flat array of its dtype, or packed."""
        memory = pool.reshape(-1)
        return [
            memory.view(reader.dtype) if packing is None else PackedFrames.over(memory, packing)
            for reader, packing in zip(self._readers, self._packings, strict=True)
        ]

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
            chunk_starts=_starts([reader.n_chunks for reader in self._readers]),
            chunk_frames=np.array([reader.chunk_frames for reader in self._readers], np.int64),
            slot_strides=np.array(
                [
                    self.slot_nbytes // (1 if packing else reader.dtype.itemsize)
                    for reader, packing in zip(self._readers, self._packings, strict=True)
                ],
                np.int64,
            ),
            frame_strides=np.array(
                [
                    packing.frame_nbytes if packing else self.frame_size**2
                    for packing in self._packings
                ],
                np.int64,
            ),
        )


def _decode_and_pack(
    reader: ChunkReader,
    chunks: NDArray[np.int64],
    decoded: NDArray[np.uint8],
    places: NDArray[np.int64],
    packed: PackedFrames,
) -> tuple[int, bool]:
    """Decode chunks and pack their frames; return bytes read and whether the frames fitted.

    Parameters
    ----------
    decoded : (n, chunk_nbytes) uint8
        Scratch for the n chunks.
    places : (m,) int64
        Byte of the packed memory for each frame.
    """
    rows = np.arange(len(chunks))
    if packed.packing.wants_planes and isinstance(reader, PlaneReader) and reader.has_planes:
        n_read = reader.read_planes(chunks, rows, decoded)
        return n_read, pack_planes(decoded, reader.chunk_frames, places, packed)
    n_read = reader.read_chunks(chunks, rows, decoded)
    frames = decoded.reshape(-1).view(reader.dtype).reshape(-1, packed.packing.n_pixels)
    return n_read, pack_frames(frames, places, packed)


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
