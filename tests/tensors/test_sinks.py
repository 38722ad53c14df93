import numpy as np
import pytest
import torch

from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.errors import DeviceError
from ptyzarr.streaming import GroupLoader, NumpySink
from ptyzarr.tensors import TorchSink, make_sink

from .pieces import MemoryBatch, MemoryScan, assert_same_bits, make_shape

SIZE, BATCH = 6, 5
SCANS = [MemoryScan(np.uint16, True, SIZE, 0), MemoryScan(np.float32, False, SIZE, 1)]


def make_sinks(n_channels=4, **options):
    config = LoaderConfig(batch_size=BATCH, **options)
    shape = make_shape(SCANS, n_channels, BATCH, config.patches)
    return TorchSink(config, shape), shape, config


def deliver(sink, seed=0, n_groups=BATCH):
    return sink.deliver(MemoryBatch(SCANS, n_groups, 4, seed).fill(sink))


@pytest.mark.parametrize("channels", ["last", "first"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_tensors_have_the_bits_of_the_arrays(dtype, channels):
    sink, shape, config = make_sinks(dtype=dtype, channels=channels, patches=True)
    arrays = deliver(NumpySink(config, shape))
    tensors = deliver(sink)
    assert tensors["X"].dtype == getattr(torch, dtype)
    inner = (SIZE, SIZE, 4) if channels == "last" else (4, SIZE, SIZE)
    assert tensors["X"].shape == tensors["Y"].shape == (BATCH, *inner)
    assert_same_bits(tensors, arrays)


@pytest.mark.parametrize("channels", ["last", "first"])
def test_bfloat16_is_float32_rounded_once(channels):
    exact = deliver(make_sinks(channels=channels)[0])["X"]
    short = deliver(make_sinks(channels=channels, dtype="bfloat16")[0])["X"]
    assert short.dtype == torch.bfloat16
    assert short.is_contiguous()
    assert torch.equal(short, exact.to(torch.bfloat16))


KEEPERS = [
    pytest.param(lambda x: x, id="tensor"),
    pytest.param(lambda x: x[1, 2:4], id="view"),
    pytest.param(lambda x: x.permute(3, 0, 1, 2), id="permuted"),
    pytest.param(lambda x: x.numpy(), id="array"),
    pytest.param(lambda x: x.numpy()[0].T, id="array_view"),
    pytest.param(lambda x: x.detach(), id="detached"),
    pytest.param(lambda x: x.untyped_storage(), id="storage"),
    pytest.param(lambda x: np.from_dlpack(x), id="dlpack"),
    pytest.param(lambda x: memoryview(x.numpy()), id="memoryview"),
]


@pytest.mark.parametrize("keep", KEEPERS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_memory_is_used_again_only_when_nothing_refers_to_it(keep, dtype):
    sink, _, _ = make_sinks(dtype=dtype)
    x = deliver(sink)["X"]
    address = x.data_ptr()
    kept = keep(x if dtype != "bfloat16" else x.view(torch.float16))
    del x
    later = [deliver(sink, seed)["X"].data_ptr() for seed in range(1, 4)]
    assert address not in later
    del kept
    assert deliver(sink, 9)["X"].data_ptr() in {address, *later}
    held = [deliver(sink, seed)["X"] for seed in range(4)]
    assert address in {tensor.data_ptr() for tensor in held}


def test_tensors_that_are_kept_keep_their_values():
    sink, _, _ = make_sinks(patches=True)
    batches = [deliver(sink, seed) for seed in range(12)]
    for seed, batch in enumerate(batches):
        assert_same_bits(batch, deliver(make_sinks(patches=True)[0], seed))


def test_a_tensor_outlives_its_sink_and_may_be_written():
    sink, _, _ = make_sinks()
    x = deliver(sink)["X"]
    want = x.clone()
    sink.close()
    del sink
    assert torch.equal(x, want)
    x.zero_().requires_grad_()
    assert not x.any()


def test_a_loader_delivers_tensors(make_scan_store):
    store = make_scan_store()
    grouping = GroupingConfig(gridsize=2, n_neighbors=5)
    options = {"batch_size": 8, "shuffle": "full", "patches": True}
    with GroupLoader(store, grouping, LoaderConfig(device="numpy", **options)) as loader:
        arrays = list(loader)
    with GroupLoader(store, grouping, LoaderConfig(**options)) as loader:
        tensors = list(loader)
    assert len(tensors) == len(arrays) == 5
    for ours, theirs in zip(tensors, arrays, strict=True):
        for name in ("X", "Y", "coords_relative", "nn_indices", "scale", "probe"):
            assert_same_bits({"": getattr(ours, name)}, {"": getattr(theirs, name)})
    assert tensors[0].probe is tensors[1].probe


def test_a_cuda_device_without_one_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _, shape, _ = make_sinks()
    with pytest.raises(DeviceError, match=r"'cuda:1'.*no CUDA device.*device='cpu'") as caught:
        make_sink(LoaderConfig(device="cuda:1"), shape)
    assert caught.value.code == "device"
    assert isinstance(caught.value, RuntimeError)
