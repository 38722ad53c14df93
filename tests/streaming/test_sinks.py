import sys

import numpy as np
import pytest

from ptyzarr.config import LoaderConfig
from ptyzarr.errors import ConfigError, DeviceError
from ptyzarr.streaming.sinks import NumpySink, make_sink

from .sink_contract import SinkContract, make_shape


class TestNumpySink(SinkContract):
    def make_sink(self, config, shape):
        return make_sink(config, shape)

    def to_numpy(self, array):
        assert isinstance(array, np.ndarray)
        return array


def test_numpy_delivers_contiguous_aligned_arrays():
    sink = NumpySink(LoaderConfig(device="numpy"), make_shape())
    x = sink.deliver(sink.finish(sink.open(3), {}))["X"]
    assert x.flags.c_contiguous
    assert x.ctypes.data % 64 == 0


def test_memory_of_a_dropped_batch_is_used_again():
    sink = NumpySink(LoaderConfig(device="numpy"), make_shape())
    first = sink.open(6)
    where = first.x.ctypes.data
    del first
    assert sink.open(6).x.ctypes.data == where


def test_numpy_has_no_bfloat16():
    with pytest.raises(ConfigError, match="torch") as caught:
        make_sink(LoaderConfig(device="numpy", dtype="bfloat16"), make_shape())
    assert caught.value.code == "config"


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_torch_devices_are_made_by_the_tensors_room(device, monkeypatch):
    class Room:
        @staticmethod
        def make_sink(config, shape):
            return config.device, shape.frame_size

    monkeypatch.setitem(sys.modules, "ptyzarr.tensors", Room)
    assert make_sink(LoaderConfig(device=device), make_shape()) == (device, 8)


def test_the_extra_is_named_where_torch_is_missing(monkeypatch):
    def import_module(name):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("importlib.import_module", import_module)
    with pytest.raises(DeviceError, match=r"ptyzarr\[torch\]") as caught:
        make_sink(LoaderConfig(device="cpu"), make_shape())
    assert caught.value.code == "device"


def test_an_error_inside_our_own_room_is_not_taken_for_a_missing_torch(monkeypatch):
    def import_module(name):
        raise ModuleNotFoundError("No module named 'ptyzarr.nowhere'", name="ptyzarr.nowhere")

    monkeypatch.setattr("importlib.import_module", import_module)
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        make_sink(LoaderConfig(device="cpu"), make_shape())
