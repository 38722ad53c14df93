"""A plain zarr group of arrays that are no scan, written chunk by chunk; any reader opens it."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from ptyzarr.progress import Progress
from ptyzarr.store.schema import ROOT_KEY, little_endian
from ptyzarr.store.writer import chunk_shape, row_blocks

_BLOCKS_AT_ONCE = 256  # of which dask has a graph


def write_array_set(
    root: Path,
    arrays: Mapping[str, Any],
    dims: Mapping[str, tuple[str, ...]],
    attributes: Mapping[str, Any],
    *,
    n_threads: int,
    progress: Progress,
) -> None:
    """Write arrays as one zarr v3 group with consolidated metadata.

    Parameters
    ----------
    root
        An empty folder.
    arrays
        NumPy arrays, or dask arrays cut along axis 0 alone: each block becomes a chunk, and
        `n_threads` of them are in work at once.
    dims
        Dimension names of each array.
    attributes
        Of the group.
    n_threads
        Blocks in work at once.
    progress
        Receives the bytes of the dask arrays.
    """
    lazy = [values for values in arrays.values() if isinstance(values, da.Array)]
    progress.start("writing", sum(int(values.nbytes) for values in lazy), "bytes")
    for name, values in arrays.items():
        array = _create(root / name, values, dims[name])
        if isinstance(values, da.Array):
            _store_blocks(values, _CountedArray(array, progress), n_threads)
        else:
            for rows in row_blocks(array):
                array[rows] = values[rows]
    progress.finish()
    document = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": dict(attributes),
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            "metadata": {name: json.loads((root / name / ROOT_KEY).read_text()) for name in arrays},
        },
    }
    (root / ROOT_KEY).write_text(json.dumps(document))


def _create(path: Path, values: Any, dims: tuple[str, ...]) -> zarr.Array[Any]:
    dtype, shape = np.dtype(values.dtype), values.shape
    is_lazy = isinstance(values, da.Array)
    # No groups make a block of none, which is no chunk.
    chunks = tuple(max(1, int(length)) for length in values.chunksize) if is_lazy else None
    return zarr.create_array(
        store=str(path),
        shape=shape,
        dtype=little_endian(dtype),
        chunks=chunks or chunk_shape(shape, dtype),
        compressors=[
            BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=dtype.itemsize),
            Crc32cCodec(),
        ],
        fill_value=np.zeros((), dtype)[()],
        dimension_names=dims,
        config={"write_empty_chunks": True},
        zarr_format=3,
    )


def _store_blocks(values: Any, target: Any, n_threads: int) -> None:
    """Let dask write blocks, some hundred at a time: a graph of all of them grows with the scan."""
    step = _BLOCKS_AT_ONCE * max(1, values.chunksize[0])
    # Of its own: after an error dask leaves its threads at work, and they would make files again.
    with ThreadPoolExecutor(n_threads, thread_name_prefix="ptyzarr-groups") as pool:
        for start in range(0, values.shape[0], step):
            rows = slice(start, min(start + step, values.shape[0]))
            da.store(
                [values[rows]], [target], regions=[(rows,)], lock=False,
                scheduler="threads", pool=pool, num_workers=n_threads,
            )  # fmt: skip


class _CountedArray:
    """A zarr array as dask writes to it; tells how much was written."""

    def __init__(self, array: zarr.Array[Any], progress: Progress) -> None:
        self._array = array
        self._progress = progress
        self._alone = threading.Lock()
        self.shape, self.dtype = array.shape, array.dtype

    def __setitem__(self, key: Any, values: Any) -> None:
        self._array[key] = values
        with self._alone:
            self._progress.advance(values.nbytes)
