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
from ptyzarr.config import (
    GroupingConfig,
    IngestConfig,
    LoaderConfig,
    ServiceConfig,
    TransformConfig,
)
from ptyzarr.errors import DeviceError, PtyzarrError

if TYPE_CHECKING:
    from ptyzarr.client import catalog
    from ptyzarr.datamodule import GroupDataModule as GroupDataModule
    from ptyzarr.grouping import RawDataTorch, neighbors, split_groups, split_scans
    from ptyzarr.ingestion import export, ingest, repair, stage, transform, verify
    from ptyzarr.ptychopinn import MemmapDatasetBridge
    from ptyzarr.store import ScanStore, open_store, open_stores
    from ptyzarr.streaming import Batch, GroupLoader
    from ptyzarr.tensors import GroupDataset as GroupDataset
    from ptyzarr.tensors import GroupMapDataset as GroupMapDataset
    from ptyzarr.tensors import PtychoDataContainerTorch as PtychoDataContainerTorch
    from ptyzarr.tensors import as_tensordict as as_tensordict

# The names that need torch or Lightning are not listed: ``import *`` must work without it.
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
    "TransformConfig",
    "__version__",
    "catalog",
    "export",
    "ingest",
    "neighbors",
    "open_store",
    "open_stores",
    "repair",
    "split_groups",
    "split_scans",
    "stage",
    "transform",
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
# What the names of a home need beside the package, and the extra that installs it.
_EXTRAS = {"datamodule": ("Lightning", "lightning"), "tensors": ("torch", "torch")}
_HOMES = {
    "Batch": "streaming",
    "GroupDataModule": "datamodule",
    "GroupDataset": "tensors",
    "GroupLoader": "streaming",
    "GroupMapDataset": "tensors",
    "MemmapDatasetBridge": "ptychopinn",
    "PtychoDataContainerTorch": "tensors",
    "RawDataTorch": "grouping",
    "ScanStore": "store",
    "as_tensordict": "tensors",
    "catalog": "client",
    "export": "ingestion",
    "ingest": "ingestion",
    "neighbors": "grouping",
    "open_store": "store",
    "open_stores": "store",
    "repair": "ingestion",
    "split_groups": "grouping",
    "split_scans": "grouping",
    "stage": "ingestion",
    "transform": "ingestion",
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
        package, extra = _EXTRAS.get(_HOMES[name], ("", ""))
        if not extra:
            raise
        raise DeviceError(
            f"{name} needs {package}, and {error.name} is not installed; install 'ptyzarr[{extra}]'"
        ) from error


def __dir__() -> list[str]:
    """Return the public names and rooms, loaded or not."""
    return sorted({*globals(), *_HOMES, *_ROOMS})
