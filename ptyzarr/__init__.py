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
from ptyzarr.errors import PtyzarrError
from ptyzarr.grouping import RawDataTorch, neighbors
from ptyzarr.ingestion import export, ingest, verify
from ptyzarr.ptychopinn import MemmapDatasetBridge
from ptyzarr.store import ScanStore, open_store, open_stores
from ptyzarr.streaming import Batch, GroupLoader

if TYPE_CHECKING:
    from ptyzarr.tensors import GroupDataset, PtychoDataContainerTorch

__all__ = [
    "Batch",
    "GroupDataset",
    "GroupLoader",
    "GroupingConfig",
    "IngestConfig",
    "LoaderConfig",
    "MemmapDatasetBridge",
    "PtychoDataContainerTorch",
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
        return getattr(import_module("ptyzarr.tensors"), name)
    raise AttributeError(f"module 'ptyzarr' has no attribute {name!r}")
