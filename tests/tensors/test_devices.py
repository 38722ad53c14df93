"""The CUDA device where it can be tested without one: names, refusals, order of calls."""

import contextlib

import pytest
import torch

from ptyzarr.errors import DeviceError
from ptyzarr.tensors import CudaDevice
from ptyzarr.tensors.devices import find_cuda


class FakeStream:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def wait_event(self, event):
        self.log.append(f"{self.name} waits for {event.name}")

    def synchronize(self):
        self.log.append(f"wait for {self.name}")


class FakeEvent:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def record(self, stream):
        self.log.append(f"record {self.name} on {stream.name}")

    def synchronize(self):
        self.log.append(f"wait for {self.name}")


class FakeTensor:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def to(self, device, non_blocking):
        assert non_blocking
        self.log.append(f"copy {self.name} to {device}")
        return FakeTensor(self.log, f"copy of {self.name}")

    def record_stream(self, stream):
        self.log.append(f"{self.name} is used on {stream.name}")


@pytest.fixture
def log(monkeypatch):
    """What is called of torch.cuda, with two devices that do nothing."""
    calls = []

    @contextlib.contextmanager
    def on_stream(stream):
        calls.append(f"begin {stream.name}")
        yield
        calls.append(f"end {stream.name}")

    def make_event(blocking=False):
        return FakeEvent(calls, "copied" if blocking else "ready")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"Card {number}")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream(calls, "side"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream(calls, "current"))
    monkeypatch.setattr(torch.cuda, "Event", make_event)
    monkeypatch.setattr(torch.cuda, "stream", on_stream)
    return calls


@pytest.mark.usefixtures("log")
def test_devices_are_found_by_name():
    assert find_cuda("cuda:0") == torch.device("cuda", 0)
    assert find_cuda("cuda") == torch.device("cuda", 1)


@pytest.mark.usefixtures("log")
def test_a_device_number_that_does_not_exist_is_refused():
    with pytest.raises(DeviceError, match=r"'cuda:2'.*cuda:0 \(Card 0\), cuda:1 \(Card 1\)"):
        CudaDevice("cuda:2")


def test_the_slot_is_free_after_the_copies_and_the_receiver_waits_for_the_work(log):
    device = CudaDevice("cuda:0")

    def work(copies):
        log.append(f"work on {', '.join(copy.name for copy in copies)}")
        return {"X": FakeTensor(log, "X"), "Y": None}

    transfer = device.submit([FakeTensor(log, "frames"), FakeTensor(log, "small")], work)
    assert log == [
        "begin side",
        "copy frames to cuda:0",
        "copy small to cuda:0",
        "record copied on side",
        "work on copy of frames, copy of small",
        "record ready on side",
        "end side",
    ]
    log.clear()
    made = transfer.receive()
    assert log == ["current waits for ready", "X is used on current"]
    assert made["Y"] is None
    log.clear()
    transfer.wait_copied()
    device.synchronize()
    assert log == ["wait for copied", "wait for side"]


def test_memory_that_cannot_be_pinned_is_an_error_that_says_so(log, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(DeviceError, match=r"1024 bytes.*cannot be pinned for cuda:0.*batch_size"):
        CudaDevice("cuda:0").allocate(1024)


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize(("asked", "taken"), [(0, 1), (1, 1), (5, 8), (1 << 20, 1 << 20)])
def test_pinned_memory_counts_as_torch_rounds_it(asked, taken):
    assert CudaDevice("cuda").staging_nbytes(asked) == taken
