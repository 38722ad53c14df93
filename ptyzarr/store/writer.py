"""Writing the arrays of a store that is still being staged; the root comes last."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from ptyzarr.errors import StorageError
from ptyzarr.store.manifest import compose_root, file_digest, file_tail, list_keys
from ptyzarr.store.schema import (
    EXTRA,
    MASKED,
    ROOT_KEY,
    array_bytes,
    array_digest,
    array_dims,
    little_endian,
    start_array_digest,
)
from ptyzarr.store.shards import FrameFormat, is_shard_key
from ptyzarr.store.shardwriter import frame_codec

_SYNC_THREADS = 8
CHUNK_BYTES = 2 * 1024**2  # decoded, of an array that is not frames; zarr holds one three times


class StoreWriter:
    """Writes the nodes of one store into a staging folder.

    Parameters
    ----------
    root
        Folder of the staged store; made if needed. All that an earlier writer left there is
        removed, except the shards of the frames.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._contents: dict[str, str] = {}
        self._files: dict[str, tuple[int, str]] = {}
        root.mkdir(parents=True, exist_ok=True)
        _clear_all_but_shards(root)

    @property
    def contents(self) -> Mapping[str, str]:
        """Digest of every array written, frames excepted."""
        return self._contents

    @property
    def files(self) -> Mapping[str, tuple[int, str]]:
        """Size and sha256 of every file, once `finish` has digested them."""
        return self._files

    def create_frames(self, layout: FrameFormat, quantity: str, limits: tuple[int, int]) -> None:
        """Write the metadata of the frames; their shards are written apart.

        Parameters
        ----------
        layout, quantity
            How and as what they are stored.
        limits
            Most non-zero pixels and most integers above 255 of any frame.
        """
        codec = frame_codec()
        size = layout.frame_size
        self._create(
            "diffraction",
            (layout.n_frames, size, size),
            layout.dtype,
            chunks=(layout.chunk_frames, size, size),
            shards=(layout.shard_frames, size, size),
            compressor=BloscCodec(
                cname=codec.cname,
                clevel=codec.clevel,
                shuffle="shuffle",
                blocksize=0,
                typesize=layout.dtype.itemsize,
            ),
            attributes={
                "quantity": quantity,
                "max_nonzero": limits[0],
                "max_wide": limits[1],
            },
        )

    def write_array(
        self,
        node: str,
        values: NDArray[Any],
        *,
        order: NDArray[np.int64] | None = None,
        attributes: Mapping[str, Any] | None = None,
        in_digest: bool = True,
    ) -> None:
        """Write an array that is in memory.

        Parameters
        ----------
        node
            Path in the store.
        values
            In acquisition order where `order` is given; the digest is made of them as they are.
        order : (n,) int64
            Acquisition index of each stored row.
        attributes
            Attributes of the node.
        in_digest
            Whether the values are content of the scan (an order or a checksum is not).
        """
        array = self._create(node, values.shape, values.dtype, attributes=attributes)
        for rows in row_blocks(array):  # zarr copies all that it is given at once
            array[rows] = values[rows if order is None else order[rows]]
        if in_digest:
            self._contents[node] = array_digest(values)

    def stream_array(
        self,
        node: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        blocks: Iterable[NDArray[Any]],
        *,
        attributes: Mapping[str, Any] | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        """Write an array of any size from blocks along axis 0, in bounded memory.

        Parameters
        ----------
        node
            Path in the store.
        shape, dtype
            Of the array.
        blocks
            Its rows; blocks of whole chunks are written once.
        attributes
            Attributes of the node.
        chunk_bytes
            Decoded bytes in a chunk.

        Raises
        ------
        StorageError
            If the blocks have fewer or more rows than `shape`.
        """
        chunks = chunk_shape(shape, dtype, chunk_bytes)
        array = self._create(node, shape, dtype, chunks=chunks, attributes=attributes)
        state = start_array_digest(dtype, shape)
        row = 0
        for block in blocks:
            state.update(array_bytes(np.asarray(block, dtype)))
            if not shape:
                array[...] = block
            else:
                array[row : row + len(block)] = block
                row += len(block)
        if shape and 0 not in shape and row != shape[0]:
            raise StorageError(
                f"array {node!r} got {row} rows; expected {shape[0]}; a temporary file is cut off, "
                "remove the staging folder and ingest again"
            )
        self._contents[node] = state.hexdigest()

    def finish(self, attributes: Mapping[str, Any], n_threads: int = 1) -> bytes:
        """Write the group documents, digest every file and return the root document's bytes.

        Parameters
        ----------
        attributes
            Of the root, without its manifest.
        n_threads
            Files digested at once.
        """
        for group in (EXTRA, MASKED):
            if (self._root / group).is_dir():
                document = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}})
                (self._root / group / ROOT_KEY).write_text(document)
        keys = list(list_keys(self._root))
        with ThreadPoolExecutor(n_threads) as pool:
            digests = pool.map(file_digest, [self._root / key for key in keys])
            self._files = dict(zip(keys, digests, strict=True))
        metadata = {
            os.path.dirname(key): json.loads((self._root / key).read_bytes())
            for key in keys
            if os.path.basename(key) == ROOT_KEY
        }
        # Many small files: a file system commits what is asked for at once together.
        with ThreadPoolExecutor(_SYNC_THREADS) as pool:
            list(pool.map(sync_file, [self._root / key for key in keys]))
        shards = [key for key in keys if is_shard_key(key)]
        tails = {key: file_tail(self._root / key) for key in shards}
        return compose_root(attributes, metadata, self._files, tails)

    def _create(
        self,
        node: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        chunks: tuple[int, ...] | None = None,
        shards: tuple[int, ...] | None = None,
        compressor: BloscCodec | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> zarr.Array[Any]:
        if compressor is None:
            compressor = BloscCodec(
                cname="zstd", clevel=3, shuffle="shuffle", typesize=dtype.itemsize
            )
        # Created at its own path: with a name, zarr would write the root document at once.
        return zarr.create_array(
            store=str(self._root / node),
            shape=shape,
            dtype=little_endian(dtype),
            chunks=chunks if chunks is not None else chunk_shape(shape, dtype),
            shards=shards,
            compressors=[compressor, Crc32cCodec()],
            fill_value=np.zeros((), dtype)[()],
            dimension_names=array_dims(node, len(shape)),
            attributes=dict(attributes) if attributes else None,
            config={"write_empty_chunks": True},
            zarr_format=3,
        )


def _clear_all_but_shards(root: Path) -> None:
    for entry in [*root.iterdir(), *(root / "diffraction").glob("*")]:
        if entry.name in ("diffraction", "c") and entry.is_dir():
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def sync_file(path: Path) -> None:
    """Force a file's bytes to the disk."""
    # Some platforms flush only what is open for writing.
    fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def row_blocks(array: zarr.Array[Any]) -> Iterator[Any]:
    """Yield keys that cut an array along axis 0 into rows of whole chunks."""
    if not array.shape:
        yield ...
        return
    for start in range(0, array.shape[0], array.chunks[0]):
        yield slice(start, start + array.chunks[0])


def chunk_shape(
    shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int = CHUNK_BYTES
) -> tuple[int, ...]:
    """Return whole rows along axis 0 up to the chunk size; other axes are cut if a row is larger.

    A chunk never exceeds the chunk size by more than one element.
    """
    chunks = [max(1, length) for length in shape]
    for axis in range(len(chunks)):
        rest = int(np.prod(chunks[axis + 1 :], dtype=np.int64)) * dtype.itemsize
        chunks[axis] = max(1, min(chunks[axis], nbytes // max(rest, 1)))
        if chunks[axis] > 1:
            break
    return tuple(chunks)
