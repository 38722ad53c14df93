"""ptyzarr: a zarr-backed chunked array service that feeds large ptychography data to GPUs.

Three verbs: `ingest` a scan, open its store, iterate over batches of groups.

    store = ptyzarr.ingest("scan.npz", "scan.zarr")
    loader = ptyzarr.GroupLoader(store, ptyzarr.GroupingConfig(gridsize=2, n_neighbors=6))
    for batch in loader:
        ...
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ptyzarr._version import __version__
from ptyzarr.config import GroupingConfig, IngestConfig, LoaderConfig
from ptyzarr.errors import DeviceError, PtyzarrError
from ptyzarr.grouping import RawDataTorch, neighbors
from ptyzarr.ingestion import export, ingest, verify
from ptyzarr.ptychopinn import MemmapDatasetBridge
from ptyzarr.store import ScanStore, open_store, open_stores
from ptyzarr.streaming import Batch, GroupLoader

if TYPE_CHECKING:
    from ptyzarr.tensors import GroupDataset as GroupDataset
    from ptyzarr.tensors import PtychoDataContainerTorch as PtychoDataContainerTorch

# The names that need torch are not listed: ``import *`` must work without it.
__all__ = [
    "Batch",
    "GroupLoader",
    "GroupingConfig",
    "IngestConfig",
    "LoaderConfig",
    "MemmapDatasetBridge",
    "PtyzarrError",
    "RawDataTorch",
    "ScanStore",
    "__version__",
    "export",
    "ingest",
    "neighbors",
    "open_store",
    "open_stores",
    "verify",
]

_NEED_TORCH = {"GroupDataset", "PtychoDataContainerTorch"}


def __getattr__(name: str) -> Any:
    """Load what needs torch when it is asked for."""
    if name in _NEED_TORCH:
        try:
            return getattr(import_module("ptyzarr.tensors"), name)
        except ModuleNotFoundError as error:
            raise DeviceError(
                f"{name} needs torch, and {error.name} is not installed; install 'ptyzarr[torch]'"
            ) from error
    raise AttributeError(f"module 'ptyzarr' has no attribute {name!r}")
