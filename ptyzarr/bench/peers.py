"""Readers of chunked files: zarr-python, zarrs, TensorStore, HDF5, worker processes.

All read the same integers as we do, and make batches of them with our own kernel, so that the
reader is what differs.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.bench.contender import BatchTrial, Deliveries, Delivery
from ptyzarr.bench.files import HDF5, SINGLE
from ptyzarr.bench.gathering import BatchGather
from ptyzarr.bench.ram import cut
from ptyzarr.bench.workload import Workload, shuffled
from ptyzarr.memory import resident_memory

ReadFrames = Callable[[NDArray[np.int64]], NDArray[Any]]


def make_reader_trial(
    work: Workload,
    read: ReadFrames,
    rows: NDArray[np.int64] | None = None,
    close: Callable[[], None] = lambda: None,
) -> BatchTrial:
    """Return a trial that reads the distinct frames of each batch in ascending order.

    That is the best that an index gives these readers: each frame is decoded once a batch, and
    neighbours in the file come together.

    Parameters
    ----------
    read
        ``(m,) ascending rows -> (m, N, N)`` stored values.
    rows
        Row of each acquisition index; None where they are equal.
    close
        Called at the end.
    """
    groups, batch = work.members(), BatchGather(work)

    def batches(epoch: int) -> Deliveries:
        for members in cut(shuffled(groups, work.seed, epoch), work.batch_size):
            wanted = members if rows is None else rows[members]
            distinct, places = np.unique(wanted.reshape(-1), return_inverse=True)
            x = batch.gather(read(distinct), places.reshape(members.shape))
            yield Delivery(x=x, members=members)

    return BatchTrial(batches, work, close=close)


def amplitude(values: NDArray[Any], *, is_counts: bool) -> NDArray[np.float32]:
    """Return stored values as float32 amplitudes."""
    out: NDArray[np.float32] = (
        np.sqrt(values, dtype=np.float32) if is_counts else values.astype(np.float32, copy=False)
    )
    return out


def make_store_trial(work: Workload, pipeline: str | None = None) -> BatchTrial:
    """Return a trial of zarr's orthogonal index on our own store."""
    frames = open_zarr(Path(work.store) / "diffraction", pipeline, work)
    return make_reader_trial(work, lambda rows: frames.oindex[rows], work.open().rows)


def make_single_trial(work: Workload, pipeline: str | None = None) -> BatchTrial:
    """Return a trial of zarr's orthogonal index on a store of one frame a chunk."""
    frames = open_zarr(work.path(SINGLE), pipeline, work)
    return make_reader_trial(work, lambda rows: frames.oindex[rows])


def open_zarr(path: Path, pipeline: str | None, work: Workload) -> Any:
    """Return a zarr array, its codecs run by `pipeline` and by as many threads as we have."""
    zarr = import_module("zarr")
    settings: dict[str, Any] = {"threading.max_workers": work.n_threads}
    if pipeline is not None:
        settings["codec_pipeline.path"] = pipeline
    zarr.config.set(settings)
    return zarr.open_array(str(path), mode="r")


def make_tensorstore_trial(work: Workload, name: str | None = None) -> BatchTrial:
    """Return a trial of TensorStore's index arrays, the whole budget a cache of decoded chunks.

    Metadata and chunks are checked once: asking the file system again costs half of the rate.
    """
    tensorstore = import_module("tensorstore")
    path = Path(work.store) / "diffraction" if name is None else work.path(name)
    context = tensorstore.Context(
        {
            "cache_pool": {"total_bytes_limit": work.memory_bytes},
            "data_copy_concurrency": {"limit": work.n_threads},
            "file_io_concurrency": {"limit": 4 * work.n_threads},
        }
    )
    driver = {"driver": "file", "path": str(path)}
    spec = {
        "driver": "zarr3",
        "kvstore": driver,
        "recheck_cached_data": "open",
        "recheck_cached_metadata": "open",
    }
    frames = tensorstore.open(spec, context=context, open=True, read=True).result()
    rows = work.open().rows if name is None else None
    return make_reader_trial(work, lambda index: frames[index].read().result(), rows)


def make_hdf5_trial(work: Workload) -> BatchTrial:
    """Return a trial of one h5py read a frame: an index list of as many frames takes 9 times it."""
    h5py = import_module("h5py")
    file = h5py.File(work.path(HDF5), "r")
    frames = file["diffraction"]
    most = work.batch_size * work.grouping.group_size
    buffer = np.empty((most, *frames.shape[1:]), frames.dtype)

    def read(rows: NDArray[np.int64]) -> NDArray[Any]:
        for place, row in enumerate(rows.tolist()):
            buffer[place] = frames[row]
        return buffer[: len(rows)]

    return make_reader_trial(work, read, close=file.close)


class GroupItems:
    """A dataset of one group an item, as ``torch.utils.data`` wants it; opened where it is used."""

    def __init__(self, work: Workload, pipeline: str | None) -> None:
        self._work, self._pipeline = work, pipeline
        self._members = work.members()
        self._is_counts = work.open().quantity == "counts"
        self._frames: Any = None

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self._members)

    def __getitem__(self, group: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return (C, N, N) or (N, N, C) amplitudes and their (C,) acquisition indices."""
        if self._frames is None:
            self._frames = open_zarr(self._work.path(SINGLE), self._pipeline, self._work)
        members = self._members[group]
        x = amplitude(self._frames.oindex[members], is_counts=self._is_counts)
        if self._work.channels == "last":
            x = np.ascontiguousarray(x.transpose(1, 2, 0))
        return x, members


def make_workers_trial(work: Workload, pipeline: str | None = None) -> BatchTrial:
    """Return a trial of ``DataLoader`` worker processes that live through all epochs."""
    torch = import_module("torch")
    data = import_module("torch.utils.data")
    loader = data.DataLoader(
        GroupItems(work, pipeline),
        batch_size=work.batch_size,
        shuffle=True,
        num_workers=work.n_threads,
        persistent_workers=True,
        generator=torch.Generator().manual_seed(work.seed),
        multiprocessing_context="forkserver",
    )

    def batches(epoch: int) -> Deliveries:
        del epoch
        for x, members in loader:
            yield Delivery(x=x, members=members.numpy())

    return BatchTrial(batches, work, _children_memory)


def _children_memory() -> dict[str, Any]:
    """Return the largest resident memory of the worker processes, added up."""
    pids = [child.pid for child in multiprocessing.active_children() if child.pid]
    peaks = [memory[1] for pid in pids if (memory := resident_memory(pid)) is not None]
    return {"worker_processes": len(pids), "worker_peak_bytes": sum(peaks)}


ZARRS = "zarrs.ZarrsCodecPipeline"
make_store_zarrs_trial = partial(make_store_trial, pipeline=ZARRS)
make_single_zarrs_trial = partial(make_single_trial, pipeline=ZARRS)
make_workers_zarrs_trial = partial(make_workers_trial, pipeline=ZARRS)
make_tensorstore_single_trial = partial(make_tensorstore_trial, name=SINGLE)
