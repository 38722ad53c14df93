"""The sinks of torch devices."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from ptyzarr.config import LoaderConfig
from ptyzarr.errors import ConfigError
from ptyzarr.streaming import BatchShape, HostSink, Sink
from ptyzarr.tensors.arrays import as_tensor
from ptyzarr.tensors.devices import CudaDevice
from ptyzarr.tensors.staged import CudaSink


class TorchSink(HostSink):
    """Delivers CPU tensors in recycled host memory.

    A tensor keeps its batch's memory; that is used again once no tensor, view or array refers to
    it any more.
    """

    def convert(self, array: NDArray[Any]) -> torch.Tensor:
        """Return an array as a tensor of its dtype.

        Raises
        ------
        DtypeError
            If torch has no such dtype.
        """
        return as_tensor(array)

    def convert_x(self, x: NDArray[Any]) -> torch.Tensor:
        """Return X in its dtype, given float32 or the bits of sixteen-bit floats."""
        if x.dtype == np.float32:
            return torch.from_numpy(x)
        is_half = self._dtype == "float16"
        return torch.from_numpy(x.view(np.int16)).view(torch.float16 if is_half else torch.bfloat16)


def make_sink(config: LoaderConfig, shape: BatchShape) -> Sink:
    """Return the sink for ``config.device``, ``"cpu"`` or a CUDA device.

    Raises
    ------
    DeviceError
        If there is no such device.
    ConfigError
        If a CUDA device is asked for in a worker process of a ``DataLoader``.
    """
    if config.device == "cpu":
        return TorchSink(config, shape)
    if get_worker_info() is not None:
        raise ConfigError(
            f"device is {config.device!r} in a worker process of a DataLoader; expected 'cpu' "
            "there; use num_workers=0, which reads ahead in threads, or move batches in the main "
            "process"
        )
    return CudaSink(config, shape, CudaDevice(config.device))
