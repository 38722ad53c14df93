"""The files that other ways of delivering the same groups read; made once, reused when there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ptyzarr.bench.workload import Workload, shuffled
from ptyzarr.store import ScanStore

RAW: Final = "frames.npy"
SINGLE: Final = "frames-chunk1.zarr"
HDF5: Final = "frames-chunk1.h5"
DUPLICATED: Final = "groups-float32"
BLOCKS: Final = "groups-blocks.zarr"

#: Groups in a chunk of the block store and chunks in a shard.
BLOCK_GROUPS: Final = 16
_SHARD_BLOCKS: Final = 64
#: Number of the shuffle in which blocks are written; no epoch's.
_WRITING: Final = 2**31
_BLOCK_NBYTES: Final = 64 * 1024**2


def amplitude_blocks(store: ScanStore, step: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (first frame, (m, N, N) float32 amplitudes) in acquisition order."""
    for first in range(0, store.n_frames, step):
        indices = np.arange(first, min(first + step, store.n_frames))
        yield first, store.amplitude(indices).astype(np.float32, copy=False)


def build_raw(work: Workload, path: Path) -> None:
    """Write all amplitudes as one float32 npy, acquisition order."""
    store = work.open()
    shape = (store.n_frames, store.frame_size, store.frame_size)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for _, frames in amplitude_blocks(store, _frames_in_block(store)):
            file.write(frames.data)


def build_single(work: Workload, path: Path) -> None:
    """Write the stored integers as a zarr array of one frame a chunk, acquisition order."""
    zarr = import_module("zarr")
    store = work.open()
    size, step = store.frame_size, _frames_in_block(store)
    array = zarr.create_array(
        str(path),
        shape=(store.n_frames, size, size),
        chunks=(1, size, size),
        dtype=store.format.dtype,
        compressors=zarr.codecs.BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"),
    )
    for first in range(0, store.n_frames, step):
        indices = np.arange(first, min(first + step, store.n_frames))
        array[first : first + step] = store.stored(indices)


def build_hdf5(work: Workload, path: Path) -> None:
    """Write the stored integers as an HDF5 dataset of one frame a chunk, acquisition order."""
    h5py = import_module("h5py")
    store = work.open()
    size, step = store.frame_size, _frames_in_block(store)
    with h5py.File(path, "w") as file:
        frames = file.create_dataset(
            "diffraction",
            shape=(store.n_frames, size, size),
            dtype=store.format.dtype,
            chunks=(1, size, size),
            compression="lzf",
            shuffle=True,
        )
        for first in range(0, store.n_frames, step):
            indices = np.arange(first, min(first + step, store.n_frames))
            frames[first : first + step] = store.stored(indices)


def build_duplicated(work: Workload, path: Path) -> None:
    """Write every group out in full as a tensordict memory map, (G, C, N, N) float32."""
    tensordict, torch = import_module("tensordict"), import_module("torch")
    store, members = work.open(), work.members()
    path.mkdir()
    shape = (*members.shape, store.frame_size, store.frame_size)
    images = tensordict.MemoryMappedTensor.empty(
        shape, dtype=torch.float32, filename=str(path / "images.memmap")
    )
    step = max(1, _frames_in_block(store) // members.shape[1])
    for first in range(0, len(members), step):
        part = members[first : first + step]
        frames = store.amplitude(part.reshape(-1)).astype(np.float32, copy=False)
        images[first : first + step] = torch.from_numpy(frames.reshape(len(part), *shape[1:]))


def build_blocks(work: Workload, path: Path) -> None:
    """Write every group out in full, shuffled once, as a sharded zarr array of stored integers."""
    zarr = import_module("zarr")
    store = work.open()
    members = shuffled_once(work)
    n_groups, group_size = members.shape
    frame = (group_size, store.frame_size, store.frame_size)
    shard = BLOCK_GROUPS * min(_SHARD_BLOCKS, -(-n_groups // BLOCK_GROUPS))
    with zarr.config.set(zarrs_pipeline()):
        array = zarr.create_array(
            str(path),
            shape=(n_groups, *frame),
            chunks=(BLOCK_GROUPS, *frame),
            shards=(shard, *frame),
            dtype=store.format.dtype,
            compressors=zarr.codecs.BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"),
        )
        for first in range(0, n_groups, shard):
            part = members[first : first + shard]
            array[first : first + shard] = store.stored(part.reshape(-1)).reshape(-1, *frame)


def shuffled_once(work: Workload) -> NDArray[np.int64]:
    """Return the groups (G, C) in the order in which the block store holds them."""
    return shuffled(work.members(), work.seed, _WRITING)


BUILDERS: Final[Mapping[str, Callable[[Workload, Path], None]]] = {
    RAW: build_raw,
    SINGLE: build_single,
    HDF5: build_hdf5,
    DUPLICATED: build_duplicated,
    BLOCKS: build_blocks,
}


def ensure_file(work: Workload, name: str) -> Path:
    """Return the path of a file, made if it is not there; a half-made one is made again."""
    path = work.path(name)
    if not path.exists():
        scratch = path.with_name(f"partial-{name}")
        _remove(scratch)
        path.parent.mkdir(parents=True, exist_ok=True)
        BUILDERS[name](work, scratch)
        os.replace(scratch, path)
    return path


def read_once(path: Path) -> int:
    """Read a file, or all files under a folder, so that the page cache has them; return bytes."""
    n_read = 0
    for entry in [path] if path.is_file() else sorted(path.rglob("*")):
        if entry.is_file():
            with entry.open("rb", buffering=0) as file:
                while piece := file.read(_BLOCK_NBYTES):
                    n_read += len(piece)
    return n_read


def expected_nbytes(work: Workload, name: str) -> int:
    """Return about how many bytes on disk a file may take, decoded frames counted in full."""
    store = work.open()
    frames = store.n_frames * store.frame_size**2
    if name == RAW:
        return 4 * frames
    if name == DUPLICATED:
        return 4 * frames * work.grouping.group_size
    copies = work.grouping.group_size if name == BLOCKS else 1
    return frames * store.format.dtype.itemsize * copies


def zarrs_pipeline() -> dict[str, str]:
    """Return zarr's setting for the zarrs codecs, empty where they are not installed."""
    try:
        import_module("zarrs")
    except ImportError:
        return {}
    return {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}


def _frames_in_block(store: ScanStore) -> int:
    return max(1, _BLOCK_NBYTES // (4 * store.frame_size**2))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
