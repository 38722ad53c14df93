"""`ScanStore`: a finished store, opened for reading."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Iterator, Mapping
from typing import Any

import dask.array as da
import numpy as np
import zarr
from numpy.typing import NDArray

from ptyzarr.errors import DamagedStoreError, DtypeError, SchemaError, ShapeError
from ptyzarr.paths import check_path
from ptyzarr.scan import ChunkReader, Member, Quantity
from ptyzarr.store.access import RemoteAccess, is_url
from ptyzarr.store.checkedarray import checked_array, open_group
from ptyzarr.store.checking import read_errors
from ptyzarr.store.native import native_functions
from ptyzarr.store.nodes import differing_nodes
from ptyzarr.store.places import find_place
from ptyzarr.store.schema import (
    ATTRIBUTE,
    EXTRA,
    member_from_json,
)
from ptyzarr.store.shardindex import cure_for
from ptyzarr.store.shards import FallbackReader, FrameFormat
from ptyzarr.store.validation import check_root

DECODE_BYTES = 16 * 1024**2  # decoded chunks held while amplitudes are collected
_NPY_MAGIC = b"\x93NUMPY"
_DASK_BYTES = 16 * 1024**2  # amplitudes in one block of the dask array


class ScanStore:
    """One scan in a zarr v3 group; every public index is an acquisition index.

    Opening checks that the store is complete (every listed file there with its size); reading
    checks every chunk. Equal paths pickle to equal stores: a copy in another process opens the
    path again. At a URL, opening reads the root document alone, and files are checked when they
    are read.

    Parameters
    ----------
    path
        Folder or URL of the store.
    access
        How a URL is reached; the defaults if None.

    Raises
    ------
    ScanNotFoundError
        If there is no finished store.
    SchemaError
        If the store is not of a schema that this version reads.
    DamagedStoreError
        If a file is missing, has the wrong size, or the root does not match its digest.
    StorageError
        If the file system or the server refuses to look.
    """

    def __init__(self, path: str | os.PathLike[str], access: RemoteAccess | None = None) -> None:
        self.path = check_path(path, "a store")
        with read_errors(self.path):
            self._place = find_place(self.path, access)
            if is_url(self.path):
                self.path = self._place.address
            document = self._place.document
            check_root(document, self.path)
            self._attributes: dict[str, Any] = document["attributes"][ATTRIBUTE]
            self._files: dict[str, dict[str, Any]] = self._attributes["manifest"]["files"]
            self._group = open_group(self._place.zarr_store, self.path)
        self._metadata: dict[str, Any] = document["consolidated_metadata"]["metadata"]

    def __reduce__(self) -> tuple[type[ScanStore], tuple[str, RemoteAccess | None]]:
        return ScanStore, (self._place.address, self._place.access)

    def __repr__(self) -> str:
        size = self.frame_size
        return (
            f"<ScanStore {self.path!r}: {self.n_frames} frames {size}x{size}, {self.quantity}, "
            f"{self.layout} order>"
        )

    @property
    def attrs(self) -> Mapping[str, Any]:
        """The root attribute ``ptyzarr``: schema, layout, source, digests, manifest."""
        return self._attributes

    @property
    def files(self) -> Mapping[str, Mapping[str, Any]]:
        """Size and sha256 of every file but the root, by key."""
        return self._files

    @property
    def pixel_limits(self) -> tuple[int, int] | None:
        """Most non-zero pixels and most pixels above 255 of any frame; None if not recorded."""
        recorded = self._metadata["diffraction"].get("attributes", {})
        limits = recorded.get("max_nonzero"), recorded.get("max_wide")
        if not all(type(limit) is int and limit >= 0 for limit in limits):
            return None
        return int(limits[0]), int(limits[1])

    @property
    def quantity(self) -> Quantity:
        """``"counts"`` (amplitude is their float32 root) or ``"amplitude"``."""
        quantity: Quantity = self._attributes["quantity"]
        return quantity

    @property
    def layout(self) -> str:
        """Order of the stored rows: ``"hilbert"`` or ``"acquisition"``."""
        return str(self._attributes["layout"])

    @property
    def tile_frames(self) -> int:
        """Consecutive stored rows that sampling calls a tile."""
        return int(self._attributes["tile_frames"])

    @property
    def digest(self) -> str:
        """Digest of every value of the scan, whatever its chunks, order and codec."""
        return str(self._attributes["digest"])

    @property
    def frames_digest(self) -> str:
        """Digest of the amplitudes in acquisition order."""
        return str(self._attributes["frames_digest"])

    @property
    def bytes_stored(self) -> int:
        """Size of the store on disk: every listed file and the root document."""
        return self._place.root_nbytes + sum(int(entry["size"]) for entry in self._files.values())

    @property
    def bytes_logical(self) -> int:
        """Size of all amplitudes in memory."""
        return self.n_frames * self.frame_size**2 * self.amplitude_dtype.itemsize

    @property
    def source_members(self) -> tuple[Member, ...]:
        """Every member of the source file, in its order."""
        return tuple(member_from_json(entry) for entry in self._attributes["source"]["members"])

    @functools.cached_property
    def format(self) -> FrameFormat:
        """How the frames lie in chunks and shards."""
        array = self._array("diffraction")
        n_frames, size = array.shape[:2]
        shards = array.shards or array.chunks
        dtype = array.dtype.newbyteorder("=")
        return FrameFormat(n_frames, size, dtype, array.chunks[0], shards[0])

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return self.format.n_frames

    @property
    def frame_size(self) -> int:
        """Width of a frame in pixels."""
        return self.format.frame_size

    @property
    def amplitude_dtype(self) -> np.dtype[Any]:
        """Dtype of `amplitude`: float32 where counts are stored, else the source's."""
        return np.dtype(np.float32) if self.quantity == "counts" else self.format.dtype

    @functools.cached_property
    def chunks(self) -> ChunkReader:
        """Reader of whole chunks of stored rows."""
        native = native_functions()
        if native is not None and _is_our_layout(self._metadata["diffraction"]):
            return self._place.shard_reader(self.format, native)
        # The reader names the chunk, so errors are not told of the array.
        array = zarr.Array(self._array("diffraction").async_array)
        what = f"{self.path}: frames"

        def read_rows(start: int, stop: int) -> NDArray[Any]:
            return self._place.read_rows(lambda: np.asarray(array[start:stop]), what)

        return FallbackReader(self.format, read_rows, what)

    @functools.cached_property
    def frame_index(self) -> NDArray[np.int64]:
        """(n,) int64 acquisition index of each stored row; raises `DamagedStoreError`."""
        indices = self._read("frame_index")
        is_there = np.zeros(self.n_frames, np.bool_)
        # Only then is the second look safe: a negative index counts from the end.
        if indices.min() >= 0 and indices.max() < self.n_frames:
            is_there[indices] = True
        if not is_there.all():
            raise DamagedStoreError(
                f"{self.path}: 'frame_index' does not hold every number from 0 to "
                f"{self.n_frames - 1} once; expected a permutation; {cure_for(self.path)}"
            )
        return indices

    @functools.cached_property
    def rows(self) -> NDArray[np.int64]:
        """(n,) int64 stored row of each acquisition index."""
        rows = np.empty(self.n_frames, np.int64)
        rows[self.frame_index] = np.arange(self.n_frames)
        return rows

    @functools.cached_property
    def positions(self) -> NDArray[Any]:
        """(n, 2) x, y in object pixels, source dtype."""
        return self._read("positions")[self.rows]

    @functools.cached_property
    def positions_start(self) -> NDArray[Any] | None:
        """(n, 2) start positions x, y in object pixels, or None."""
        return self._read("positions_start")[self.rows] if self._has("positions_start") else None

    @functools.cached_property
    def scan_index(self) -> NDArray[Any]:
        """(n,) number of the scan each frame belongs to; int64 zeros if the source has none."""
        if self._has("scan_index"):
            return self._read("scan_index")[self.rows]
        return np.zeros(self.n_frames, np.int64)

    @functools.cached_property
    def frame_power(self) -> NDArray[np.float64]:
        """(n,) float64 sum over pixels of squared amplitude."""
        return self._read("frame_power")[self.rows]

    @functools.cached_property
    def frame_hash(self) -> NDArray[np.uint64]:
        """(n,) uint64 hash of each frame's amplitudes."""
        return self._read("frame_hash")[self.rows]

    @functools.cached_property
    def probe_guess(self) -> NDArray[Any]:
        """([mode,] N, N) complex probe."""
        return self._read("probe_guess")

    @functools.cached_property
    def object_guess(self) -> NDArray[Any] | None:
        """(H, W) complex object, or None."""
        return self._read("object_guess") if self._has("object_guess") else None

    @functools.cached_property
    def bad_pixels(self) -> NDArray[np.bool_] | None:
        """(N, N) bool, True where no frame's value means anything; None if nobody said so."""
        return self._read("bad_pixels") if self._has("bad_pixels") else None

    @property
    def transforms(self) -> tuple[Mapping[str, Any], ...]:
        """What was done to the scan since its source file, first step first, as plain JSON."""
        return tuple(self._attributes["source"].get("transforms", ()))

    @property
    def extra(self) -> Mapping[str, zarr.Array[Any] | NDArray[Any]]:
        """Every other member of the source by its key there.

        Members are zarr arrays, read when they are sliced. Those that zarr cannot hold (strings,
        dates, structured arrays) are read whole into NumPy arrays when they are asked for; the
        bytes of a member that is no array are given as uint8.
        """
        keys = {}
        for node, entry in self._metadata.items():
            if node.startswith(f"{EXTRA}/"):
                attributes = entry.get("attributes", {})
                keys[attributes.get("key", node.removeprefix(f"{EXTRA}/"))] = node
        return _Extra(self, keys)

    @property
    def diffraction(self) -> da.Array:
        """(n, N, N) dask array of amplitudes in acquisition order; nothing is read yet."""
        frame_bytes = self.frame_size**2 * self.amplitude_dtype.itemsize
        step = min(self.n_frames, max(1, _DASK_BYTES // frame_bytes))
        shape = (self.n_frames, self.frame_size, self.frame_size)
        frames: da.Array = da.from_array(
            _Frames(self, shape),
            chunks=(step, *shape[1:]),
            name=f"diffraction-{self.digest}",
            asarray=True,
            fancy=False,
        )
        return frames

    def array(self, node: str) -> zarr.Array[Any]:
        """Return a node's zarr array, rows in stored order; raises `SchemaError` if absent."""
        if not self._has(node):
            raise SchemaError(
                f"{self.path} has no array {node!r}; expected one of {', '.join(self.nodes())}"
            )
        return self._array(node)

    def nodes(self) -> tuple[str, ...]:
        """Return the paths of all arrays."""
        return tuple(
            node for node, entry in self._metadata.items() if entry["node_type"] == "array"
        )

    def differing_nodes(self) -> tuple[str, ...]:
        """Return the nodes whose own ``zarr.json`` is not what the root says of them.

        The root is what this package reads; a reader that opens one array of a store reads that
        array's own.

        Raises
        ------
        StorageError, DamagedStoreError
            If a listed file cannot be read.
        """
        return differing_nodes(self._metadata, self._files, self._place.read)

    def amplitude(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return amplitudes of frames in the order asked.

        Parameters
        ----------
        indices : (m,) int64
            Acquisition indices; repeats are decoded once.

        Returns
        -------
        (m, N, N) `amplitude_dtype`

        Raises
        ------
        DtypeError
            If the indices are no integers (a mask, say).
        ShapeError
            If an index is outside the scan.
        DamagedStoreError
            If a chunk that is needed is damaged.
        """
        amplitude = self._gather(indices, self.amplitude_dtype)
        # NumPy's float32 root is correctly rounded; see docs/decisions/0001.
        return np.sqrt(amplitude, out=amplitude) if self.quantity == "counts" else amplitude

    def stored(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return frames as they are stored (counts, or amplitudes), in the order asked.

        Parameters, errors and order as in `amplitude`.
        """
        return self._gather(indices, self.format.dtype)

    def _gather(self, indices: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[Any]:
        indices = np.asarray(indices).reshape(-1)
        if indices.size and indices.dtype.kind not in "iu":
            raise DtypeError(
                f"frame indices have dtype {indices.dtype}; expected integers; turn a mask into "
                "indices with numpy.flatnonzero"
            )
        indices = indices.astype(np.int64, copy=False)
        if len(indices) and (indices.min() < 0 or indices.max() >= self.n_frames):
            bad = indices[(indices < 0) | (indices >= self.n_frames)][0]
            raise ShapeError(f"frame {bad} is not in the scan; expected 0 to {self.n_frames - 1}")
        size = self.frame_size
        out = np.empty((len(indices), size, size), dtype)
        for places, frames in self._decoded(self.rows[indices]):
            out[places] = frames
        return out

    def close(self) -> None:
        """Close the shard files that are open."""
        if "chunks" in self.__dict__:
            self.chunks.close()

    def _decoded(self, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """Yield (places in `rows`, their stored frames), in bounded pieces of whole chunks."""
        reader = self.chunks
        order = np.argsort(rows, kind="stable")
        chunk_of = rows[order] // reader.chunk_frames
        chunks, starts = np.unique(chunk_of, return_index=True)
        stops = np.append(starts[1:], len(rows))
        step = max(1, DECODE_BYTES // reader.chunk_nbytes)
        buffer = np.empty((min(step, max(len(chunks), 1)), reader.chunk_nbytes), np.uint8)
        frames = buffer.view(reader.dtype).reshape(-1, *reader.frame_shape)
        for first in range(0, len(chunks), step):
            piece = chunks[first : first + step]
            reader.read_chunks(piece, np.arange(len(piece)), buffer)
            span = slice(starts[first], stops[first + len(piece) - 1])
            slot = np.searchsorted(piece, chunk_of[span])
            inner = rows[order[span]] % reader.chunk_frames
            yield order[span], frames[slot * reader.chunk_frames + inner]

    def _has(self, node: str) -> bool:
        return node in self._metadata

    def _array(self, node: str) -> zarr.Array[Any]:
        return checked_array(self._group, node, self.path)

    def _read(self, node: str) -> NDArray[Any]:
        values = np.asarray(self._array(node)[...])
        values.flags.writeable = False
        return values


class _Extra(Mapping[str, "zarr.Array[Any] | NDArray[Any]"]):
    """The other members of a source, looked up by key."""

    def __init__(self, store: ScanStore, nodes: Mapping[str, str]) -> None:
        self._store = store
        self._nodes = nodes

    def __getitem__(self, key: str) -> zarr.Array[Any] | NDArray[Any]:
        array = self._store.array(self._nodes[key])
        if not array.attrs.get("raw"):
            return array
        raw = np.asarray(array[...])
        if raw[: len(_NPY_MAGIC)].tobytes() != _NPY_MAGIC:
            return raw
        values: NDArray[Any] = np.load(io.BytesIO(raw.tobytes()), allow_pickle=False)
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)


class _Frames:
    """The frames of a store as dask slices them: reads only what is asked for."""

    ndim = 3

    def __init__(self, store: ScanStore, shape: tuple[int, int, int]) -> None:
        self._store = store
        self.shape = shape
        self.dtype = store.amplitude_dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        first, *rest = key if isinstance(key, tuple) else (key,)
        frames = np.arange(self.shape[0])[first]
        picked = self._store.amplitude(np.atleast_1d(frames))
        picked = picked if np.ndim(frames) else picked[0]
        return picked[(slice(None), *rest)] if np.ndim(frames) else picked[tuple(rest)]


def _is_our_layout(metadata: Mapping[str, Any]) -> bool:
    """Whether the frames' metadata describes the shards that `write_shard` writes."""
    codecs = metadata["codecs"]
    if len(codecs) != 1 or codecs[0]["name"] != "sharding_indexed":
        return False
    shard = codecs[0]["configuration"]
    frame = list(metadata["shape"][1:])
    grid = metadata["chunk_grid"]
    if grid["name"] != "regular" or list(grid["configuration"]["chunk_shape"][1:]) != frame:
        return False
    if list(shard["chunk_shape"][1:]) != frame:
        return False
    inner = [codec["name"] for codec in shard["codecs"]]
    index = [codec["name"] for codec in shard["index_codecs"]]
    keys = metadata["chunk_key_encoding"]
    return (
        inner == ["bytes", "blosc", "crc32c"]
        and shard["codecs"][0].get("configuration", {}).get("endian", "little") == "little"
        and index == ["bytes", "crc32c"]
        and shard.get("index_location", "end") == "end"
        and keys["name"] == "default"
        and keys.get("configuration", {}).get("separator", "/") == "/"
    )
