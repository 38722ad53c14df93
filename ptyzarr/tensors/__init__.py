"""Everything that knows torch: sinks, patches, the container, the dataset."""

from ptyzarr.tensors.container import PtychoDataContainerTorch
from ptyzarr.tensors.dataset import Form, GroupDataset
from ptyzarr.tensors.devices import CudaDevice, Device, Transfer
from ptyzarr.tensors.patches import object_patches
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
    "PtychoDataContainerTorch",
    "TorchSink",
    "Transfer",
    "as_tensordict",
    "make_sink",
    "object_patches",
]
