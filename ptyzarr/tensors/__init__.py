"""Everything that knows torch: sinks, patches, the container, the datasets."""

from ptyzarr.tensors.container import PtychoDataContainerTorch
from ptyzarr.tensors.dataset import GroupDataset
from ptyzarr.tensors.devices import CudaDevice, Device, Transfer
from ptyzarr.tensors.mapstyle import GroupMapDataset
from ptyzarr.tensors.patches import object_patches
from ptyzarr.tensors.ranks import find_rank
from ptyzarr.tensors.sinks import TorchSink, make_sink
from ptyzarr.tensors.staged import CudaSink

__all__ = [
    "CudaDevice",
    "CudaSink",
    "Device",
    "GroupDataset",
    "GroupMapDataset",
    "PtychoDataContainerTorch",
    "TorchSink",
    "Transfer",
    "find_rank",
    "make_sink",
    "object_patches",
]
