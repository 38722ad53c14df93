"""The contract of all sinks, for those of torch."""

import pytest
import torch
from streaming.sink_contract import SinkContract

from ptyzarr.tensors import CudaSink, TorchSink, make_sink

from .host_twin import HostTwin


class TensorContract(SinkContract):
    dtypes = ("float32", "float16", "bfloat16")

    def to_numpy(self, array):
        tensor = array.cpu()
        assert tensor.is_contiguous()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


class TestTorchSink(TensorContract):
    device = "cpu"

    def make_sink(self, config, shape):
        sink = make_sink(config, shape)
        assert isinstance(sink, TorchSink)
        return sink


class TestCudaSinkOnHostTwin(TensorContract):
    device = "cuda"

    def make_sink(self, config, shape):
        return CudaSink(config, shape, HostTwin())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestCudaSink(TensorContract):
    device = "cuda"

    def make_sink(self, config, shape):
        return make_sink(config, shape)
