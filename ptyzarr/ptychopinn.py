"""Drop-ins under PtychoPINN's names: a script runs after changing the import alone."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.config import IngestConfig
from ptyzarr.errors import DamagedStoreError, ScanExistsError
from ptyzarr.grouping import GroupedData, RawDataTorch
from ptyzarr.ingestion import ingest
from ptyzarr.scan import frame_power
from ptyzarr.sources import member_keys
from ptyzarr.store import ScanStore

if TYPE_CHECKING:
    from ptyzarr.tensors import PtychoDataContainerTorch

__all__ = ["MemmapDatasetBridge", "PtychoDataContainerTorch", "RawDataTorch"]

_BLOCK_BYTES = 16 * 1024**2


def __getattr__(name: str) -> Any:
    """Load what needs torch when it is asked for."""
    if name == "PtychoDataContainerTorch":
        return getattr(import_module("ptyzarr"), name)  # which says what to do without torch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class MemmapDatasetBridge:
    """Groups from an NPZ file that does not have to fit into memory.

    The first construction ingests the file into `memmap_dir`; later ones open that store after
    comparing the file's members with it (names, sizes and CRC-32, so a copied or touched file is
    read no second time). A changed file, an unfinished or a damaged store is ingested again.

    What the reference's bridge casts is cast here too: positions to float64, frames to float32,
    probe and object to complex64, `scan_index` to int32; start positions equal the positions.
    Other than there, a scan without an object is accepted, and oversampling is reachable.

    Parameters
    ----------
    npz_path
        The file; of two frame members ``diffraction`` is taken.
    config
        The reference's ``TrainingConfig`` or ``InferenceConfig``, anything with such fields, or
        a `GroupingConfig`: its gridsize is the default of the group size. If PtychoPINN is
        installed, its parameter dictionary is updated, as the reference does.
    memmap_dir
        Folder of the stores, one for each file path.

    Raises
    ------
    ScanNotFoundError, SourceError, MissingFieldError, ShapeError
        If the file is missing, broken or no scan.
    StorageError
        If `memmap_dir` cannot be written.

    References
    ----------
    PtychoPINN, ``ptycho_torch/memmap_bridge.py``.
    """

    def __init__(
        self,
        npz_path: str | os.PathLike[str],
        config: Any = None,
        memmap_dir: str | os.PathLike[str] = "data/memmap",
    ) -> None:
        self.npz_path = Path(npz_path)
        self.config = config
        self.memmap_dir = Path(memmap_dir)
        _update_legacy_parameters(config)
        self._open(self._ingest())

    @property
    def store(self) -> ScanStore:
        """The store behind the bridge."""
        return self._store

    @property
    def raw_data_torch(self) -> RawDataTorch:
        """The scan with the bridge's casts."""
        return self._raw

    def get_grouped_data(
        self,
        N: int,
        K: int,
        nsamples: int,
        gridsize: int | None = None,
        seed: int | None = None,
        *,
        sequential_sampling: bool = False,
        enable_oversampling: bool = False,
        neighbor_pool_size: int | None = None,
        lazy: bool = False,
    ) -> GroupedData:
        """Return the arrays of the canonical groups; see `RawDataTorch.generate_grouped_data`.

        A store that turns out to be damaged is ingested again once.
        """
        options: dict[str, Any] = {
            "K": K,
            "nsamples": nsamples,
            "seed": seed,
            "sequential_sampling": sequential_sampling,
            "gridsize": gridsize,
            "enable_oversampling": enable_oversampling,
            "neighbor_pool_size": neighbor_pool_size,
            "lazy": lazy,
        }
        try:
            return self._raw.generate_grouped_data(N, **options)
        except DamagedStoreError:
            shutil.rmtree(self._store.path, ignore_errors=True)
            self._open(self._ingest())
            return self._raw.generate_grouped_data(N, **options)

    def _open(self, store: ScanStore) -> None:
        self._store = store
        self._raw = RawDataTorch.from_store(_BridgeScan(store), config=self.config)

    def _ingest(self) -> ScanStore:
        path = os.path.abspath(self.npz_path)
        name = f"{self.npz_path.stem}-{hashlib.sha256(path.encode()).hexdigest()[:12]}.zarr"
        key = "diffraction" if "diffraction" in member_keys(path) else None
        config = IngestConfig(frames_key=key)
        try:
            # Without `overwrite` a store that opens is taken as it is: no frame is read.
            return ingest(path, self.memmap_dir / name, config)
        except ScanExistsError:
            return ingest(path, self.memmap_dir / name, replace(config, overwrite=True))


class _BridgeScan:
    """A store as the reference's bridge sees a file: cast, and without start positions."""

    positions_start = None
    amplitude_dtype = np.dtype(np.float32)

    def __init__(self, store: ScanStore) -> None:
        self._store = store
        self.n_frames = store.n_frames
        self.frame_size = store.frame_size
        self.path = store.path
        self.digest = store.digest

    @functools.cached_property
    def positions(self) -> NDArray[np.float64]:
        return self._store.positions.astype(np.float64)

    @functools.cached_property
    def scan_index(self) -> NDArray[np.int32]:
        if "scan_index" in self._store.nodes():
            return self._store.scan_index.astype(np.int32)
        return np.arange(self.n_frames, dtype=np.int32)

    @functools.cached_property
    def probe_guess(self) -> NDArray[np.complex64]:
        return self._store.probe_guess.astype(np.complex64)

    @functools.cached_property
    def object_guess(self) -> NDArray[np.complex64] | None:
        guess = self._store.object_guess
        return None if guess is None else guess.astype(np.complex64)

    @functools.cached_property
    def frame_power(self) -> NDArray[np.float64]:
        """Power of the cast frames; the stored one where casting changes no value."""
        if np.can_cast(self._store.amplitude_dtype, np.float32):
            return self._store.frame_power
        step = max(1, _BLOCK_BYTES // (self.frame_size**2 * 8))
        power = np.empty(self.n_frames, np.float64)
        for start in range(0, self.n_frames, step):
            frames = self._store.frame_index[start : start + step]
            power[frames] = frame_power(self.amplitude(frames))
        return power

    def amplitude(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return amplitudes (m, N, N) as float32, in the order asked."""
        return self._store.amplitude(indices).astype(np.float32, copy=False)


def _update_legacy_parameters(config: Any) -> None:
    """Update PtychoPINN's parameter dictionary if it is installed and the config is its own."""
    if config is None or not hasattr(config, "model"):
        return  # only upstream's own configurations have one
    try:
        update = import_module("ptycho.config.config").update_legacy_dict
        parameters = import_module("ptycho.params").cfg
    except (ImportError, AttributeError):
        return  # not installed, or another package of that name
    update(parameters, config)
