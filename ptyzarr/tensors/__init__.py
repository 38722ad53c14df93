"""Everything that knows torch: sinks, patches, the container, the datasets."""

from ptyzarr.tensors.container import PtychoDataContainerTorch
from ptyzarr.tensors.dataset import Form, GroupDataset
from ptyzarr.tensors.devices import CudaDevice, Device, Transfer
from ptyzarr.tensors.mapstyle import GroupMapDataset
from ptyzarr.tensors.patches import object_patches
from ptyzarr.tensors.ranks import find_rank
from ptyzarr.tensors.sinks import TorchSink, make_sink
from ptyzarr.tensors.staged import CudaSink
from ptyzarr.tensors.tensordict import GroupItem, as_tensordict

__all__ = [
    "CudaDevice",
    "CudaSink",
    "Device",
    "Form",
    "GroupDataset",
    "GroupItem",
    "GroupMapDataset",
    "PtychoDataContainerTorch",
    "TorchSink",
    "Transfer",
    "as_tensordict",
    "find_rank",
    "make_sink",
    "object_patches",
]
