"""The CUDA sink on a real device."""

import dataclasses

import numpy as np
import pytest

from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.errors import DeviceError
from ptyzarr.streaming import GroupLoader

from .pieces import assert_same_bits

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GROUPING = GroupingConfig(gridsize=2, n_neighbors=5)


@pytest.fixture
def stores(make_scan_store):
    rng = np.random.default_rng(5)
    frames = [
        np.sqrt(rng.integers(0, limit, (60, 16, 16)).astype(np.float32))
        for limit in (200, 60000, 1 << 23)
    ]
    frames.append(frames[-1] * np.float32(1.1))
    return [
        make_scan_store(f"scan{i}", n_frames=60, seed=i, diff3d=diff3d)
        for i, diff3d in enumerate(frames)
    ]


def on_host(batch):
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return {name: array.cpu() for name, array in fields.items() if array is not None}


@pytest.mark.parametrize("channels", ["last", "first"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_batches_have_the_bits_of_the_cpu_sink(stores, channels, dtype):
    options = {"batch_size": 7, "channels": channels, "dtype": dtype, "patches": True}
    with GroupLoader(stores, GROUPING, LoaderConfig(device="cpu", **options)) as loader:
        want = [on_host(batch) for batch in loader]
    with GroupLoader(stores, GROUPING, LoaderConfig(device="cuda", **options)) as loader:
        kept = list(loader)
    assert all(batch.X.is_cuda for batch in kept)
    for batch, expected in zip(kept, want, strict=True):
        assert_same_bits(on_host(batch), expected)


def test_a_busy_receiver_gets_what_an_idle_one_gets(stores):
    config = LoaderConfig(device="cuda", batch_size=5, n_threads=3)
    with GroupLoader(stores, GROUPING, config) as loader:
        want = torch.cat([batch.X for batch in loader]).sum(dim=(1, 2, 3), dtype=torch.float64)
    other = torch.cuda.Stream()
    sums = []
    with GroupLoader(stores, GROUPING, config) as loader, torch.cuda.stream(other):
        for batch in loader:
            torch.cuda._sleep(2_000_000)
            sums.append(batch.X.sum(dim=(1, 2, 3), dtype=torch.float64))
            del batch
    torch.cuda.synchronize()
    assert torch.equal(torch.cat(sums), want)


def test_the_receiving_thread_never_waits_for_the_device(stores):
    config = LoaderConfig(device="cuda", batch_size=5)
    with GroupLoader(stores, GROUPING, config) as loader:
        torch.cuda.set_sync_debug_mode("error")
        try:
            n_batches = sum(1 for _ in loader)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert n_batches == len(loader)


def test_device_memory_is_free_after_closing(stores):
    def run():
        with GroupLoader(stores, GROUPING, LoaderConfig(device="cuda", patches=True)) as loader:
            return sum(len(batch.X) for batch in loader)

    run()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    assert run() == 240
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


def test_a_device_that_is_not_there_is_refused(stores):
    with pytest.raises(DeviceError, match="cuda:0"):
        GroupLoader(stores, GROUPING, LoaderConfig(device="cuda:99"))
