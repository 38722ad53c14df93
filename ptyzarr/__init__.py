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
from ptyzarr.config import GroupingConfig, IngestConfig, LoaderConfig, ServiceConfig
from ptyzarr.errors import DeviceError, PtyzarrError

if TYPE_CHECKING:
    from ptyzarr.client import catalog
    from ptyzarr.grouping import RawDataTorch, neighbors
    from ptyzarr.ingestion import export, ingest, repair, stage, verify
    from ptyzarr.ptychopinn import MemmapDatasetBridge
    from ptyzarr.store import ScanStore, open_store, open_stores
    from ptyzarr.streaming import Batch, GroupLoader
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
    "ServiceConfig",
    "__version__",
    "catalog",
    "export",
    "ingest",
    "neighbors",
    "open_store",
    "open_stores",
    "repair",
    "stage",
    "verify",
]

# Rooms are loaded when a name of theirs is asked for: importing them takes a second or two, in
# which the command line must already be able to answer an interrupt.
_ROOMS = (
    "grouping",
    "ingestion",
    "ptychopinn",
    "service",
    "sources",
    "store",
    "streaming",
    "tensors",
)
_HOMES = {
    "Batch": "streaming",
    "GroupDataset": "tensors",
    "GroupLoader": "streaming",
    "MemmapDatasetBridge": "ptychopinn",
    "PtychoDataContainerTorch": "tensors",
    "RawDataTorch": "grouping",
    "ScanStore": "store",
    "catalog": "client",
    "export": "ingestion",
    "ingest": "ingestion",
    "neighbors": "grouping",
    "open_store": "store",
    "open_stores": "store",
    "repair": "ingestion",
    "stage": "ingestion",
    "verify": "ingestion",
}


def __getattr__(name: str) -> Any:
    """Load a public name, or a room, when it is asked for."""
    if name in _ROOMS:
        return import_module(f"ptyzarr.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'ptyzarr' has no attribute {name!r}")
    try:
        return getattr(import_module(f"ptyzarr.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if _HOMES[name] != "tensors":
            raise
        raise DeviceError(
            f"{name} needs torch, and {error.name} is not installed; install 'ptyzarr[torch]'"
        ) from error


def __dir__() -> list[str]:
    """Return the public names and rooms, loaded or not."""
    return sorted({*globals(), *_HOMES, *_ROOMS})
