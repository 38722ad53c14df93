import dataclasses
import gc
import itertools
import threading
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.errors import DtypeError
from ptyzarr.streaming import GroupLoader, GroupLookup, NumpySink, SlotRing
from ptyzarr.tensors import CudaSink, TorchSink

from .host_twin import POISON, HostTwin, TwinTransfer
from .pieces import MemoryBatch, MemoryScan, assert_same_bits, make_shape

SIZE, BATCH = 6, 5

STORED = [
    pytest.param([(np.uint8, True)], id="counts8"),
    pytest.param([(np.uint16, True)], id="counts16"),
    pytest.param([(np.uint32, True)], id="counts32"),
    pytest.param([(np.float32, False)], id="float32"),
    pytest.param([(np.float64, False)], id="float64"),
    pytest.param([(np.float16, False)], id="float16"),
    pytest.param([(np.uint16, False)], id="amplitude16"),
    pytest.param([(np.uint32, False)], id="amplitude32"),
    pytest.param([(np.int16, False), (np.int8, False), (np.int32, False)], id="signed"),
    pytest.param([(np.int64, False), (np.uint64, False)], id="wide_integers"),
    pytest.param([(np.uint8, True), (np.uint8, True)], id="two_alike"),
    pytest.param(
        [(np.uint8, True), (np.uint16, True), (np.uint32, True), (np.float32, False)], id="mixed"
    ),
    pytest.param([(np.uint8, True), (np.float64, False), (np.uint8, False)], id="narrowed"),
]


def make_scans(kinds):
    return [MemoryScan(dtype, counts, SIZE, seed) for seed, (dtype, counts) in enumerate(kinds)]


def make_sinks(scans, n_channels, device=None, **options):
    patches = options.get("patches", False)
    config = LoaderConfig(batch_size=BATCH, **options)
    shape = make_shape(scans, n_channels, BATCH, patches)
    host = TorchSink if config.dtype == "bfloat16" else NumpySink
    return CudaSink(config, shape, device or HostTwin()), host(config, shape)


@pytest.mark.parametrize("channels", ["last", "first"])
@pytest.mark.parametrize("n_channels", [pytest.param(1, id="C1"), pytest.param(4, id="C4")])
@pytest.mark.parametrize("kinds", STORED)
def test_batches_have_the_bits_of_the_host_sink(kinds, n_channels, channels):
    scans = make_scans(kinds)
    staged, host = make_sinks(scans, n_channels, channels=channels, patches=True)
    for seed, n_groups in enumerate((BATCH, BATCH, 2)):
        batch = MemoryBatch(scans, n_groups, n_channels, seed)
        got = staged.deliver(batch.fill(staged))
        assert_same_bits(got, host.deliver(batch.fill(host)))
    staged.close()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kinds", [STORED[1], STORED[3], STORED[11]])
def test_short_floats_have_the_bits_of_the_host_sink(kinds, dtype):
    scans = make_scans(kinds)
    staged, host = make_sinks(scans, 4, dtype=dtype)
    batch = MemoryBatch(scans, BATCH, 4, 0)
    got = staged.deliver(batch.fill(staged))
    assert got["X"].dtype == getattr(torch, dtype)
    assert_same_bits(got, host.deliver(batch.fill(host)))


def test_patches_may_come_group_by_group():
    scans = make_scans([(np.uint16, True), (np.uint16, True)])
    staged, host = make_sinks(scans, 4, patches=True)
    batch = MemoryBatch(scans, BATCH, 4, 0)
    want = host.deliver(batch.fill(host))
    batch.patches = [
        dataclasses.replace(
            piece,
            offsets=piece.offsets[i : i + 1],
            relative=piece.relative[i : i + 1],
            rows=piece.rows[i : i + 1],
        )
        for piece in batch.patches
        for i in range(len(piece.rows))
    ]
    assert len(batch.patches) == BATCH
    assert_same_bits(staged.deliver(batch.fill(staged)), want)


def test_without_patches_there_is_no_y():
    scans = make_scans([(np.uint16, True)])
    staged, _ = make_sinks(scans, 1)
    batch = MemoryBatch(scans, 2, 1, 0)
    assert not staged.wants_patches
    assert staged.deliver(batch.fill(staged))["Y"] is None


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(st.sampled_from(["open", "finish", "deliver", "discard"]), max_size=30),
    kinds=st.sampled_from([[(np.uint16, True)], [(np.uint8, True), (np.float32, False)]]),
)
def test_any_interleaving_delivers_the_right_batches(steps, kinds):
    scans = make_scans(kinds)
    device = HostTwin()
    staged, host = make_sinks(scans, 4, device, patches=True)
    opened, finished, most_open = [], [], 0
    for seed, step in enumerate(steps):
        if step == "open":
            batch = MemoryBatch(scans, BATCH, 4, seed)
            output = staged.open(BATCH)
            batch.gather(staged, output)
            opened.append((batch, output))
            most_open = max(most_open, len(opened))
        elif step == "finish" and opened:
            batch, output = opened.pop(seed % len(opened))
            finished.append((batch, batch.finish(staged, output)))
        elif step == "deliver" and finished:
            batch, transfer = finished.pop(0)
            assert_same_bits(staged.deliver(transfer), host.deliver(batch.fill(host)))
        elif step == "discard" and opened:
            staged.discard(opened.pop()[1])
    assert len(device.slots) <= most_open + 2
    for _, output in opened:
        staged.discard(output)
    for batch, transfer in finished:
        assert_same_bits(staged.deliver(transfer), host.deliver(batch.fill(host)))
    staged.close()


def test_the_twin_notices_a_slot_that_is_reused_too_early(monkeypatch):
    release = SlotRing.release
    monkeypatch.setattr(SlotRing, "release", lambda ring, slot, wait=None: release(ring, slot))
    scans = make_scans([(np.uint16, True)])
    staged, _ = make_sinks(scans, 4)
    batches = [MemoryBatch(scans, BATCH, 4, seed).fill(staged) for seed in range(4)]
    with pytest.raises(AssertionError, match="rewritten before it was copied"):
        staged.deliver(batches[0])


def test_opening_waits_for_the_oldest_copy_only():
    scans = make_scans([(np.uint16, True)])
    device = HostTwin()
    staged, _ = make_sinks(scans, 4, device)
    for seed in range(3):
        MemoryBatch(scans, BATCH, 4, seed).fill(staged)
    # Two slots serve batches that are opened one after the other: the third took the first's.
    assert len(device.slots) == 2
    assert [transfer.is_copied for transfer in device.transfers] == [True, False, False]
    staged.close()
    assert [transfer.is_copied for transfer in device.transfers] == [True, True, True]


def test_a_failed_batch_gives_its_slot_back_after_copies_under_way():
    class Failing(HostTwin):
        def submit(self, sources, work):
            super().submit(sources, work)
            raise RuntimeError("out of memory")

    scans = make_scans([(np.uint16, True)])
    device = Failing()
    staged, _ = make_sinks(scans, 4, device)
    batch = MemoryBatch(scans, BATCH, 4, 0)
    output = staged.open(BATCH)
    batch.gather(staged, output)
    with pytest.raises(RuntimeError, match="out of memory"):
        batch.finish(staged, output)
    staged.discard(output)
    staged.discard(output)
    for _ in range(3):
        staged.discard(staged.open(BATCH))
    assert len(device.slots) == 2
    assert device.slots[0][0] == POISON


def test_slots_that_cannot_be_pinned_leave_the_count_right():
    class Full(HostTwin):
        is_full = True

        def allocate(self, nbytes):
            if self.is_full:
                raise MemoryError
            return super().allocate(nbytes)

    scans = make_scans([(np.uint16, True)])
    device = Full()
    staged, host = make_sinks(scans, 4, device)
    for _ in range(5):
        with pytest.raises(MemoryError):
            staged.open(BATCH)
    device.is_full = False
    batches = [MemoryBatch(scans, BATCH, 4, seed) for seed in range(4)]
    for batch in batches:
        got = staged.deliver(batch.fill(staged))
        assert_same_bits(got, host.deliver(batch.fill(host)))
    assert len(device.slots) == 2


def test_closing_leaves_no_slot_and_no_object():
    scans = make_scans([(np.uint16, True)])
    device = HostTwin()
    staged, _ = make_sinks(scans, 4, device, patches=True)
    kept = staged.deliver(MemoryBatch(scans, BATCH, 4, 0).fill(staged))
    MemoryBatch(scans, BATCH, 4, 1).fill(staged)
    staged.discard(staged.open(BATCH))
    alive = [weakref.ref(slot) for slot in device.slots]
    alive.append(weakref.ref(scans[0].object_guess))
    staged.close()
    device.slots.clear()
    device.transfers.clear()
    scans.clear()
    gc.collect()
    assert [ref() for ref in alive] == [None] * len(alive)
    assert torch.isfinite(kept["X"]).all()


def test_fields_of_a_batch_do_not_keep_its_frames():
    scans = make_scans([(np.uint16, True)])
    staged, _ = make_sinks(scans, 4)
    got = staged.deliver(MemoryBatch(scans, BATCH, 4, 0).fill(staged))
    assert got["nn_indices"].untyped_storage().nbytes() < got["X"].nbytes / 2


def test_coordinates_that_torch_does_not_have_are_refused():
    scans = make_scans([(np.uint16, True)])
    staged, _ = make_sinks(scans, 1)
    batch = MemoryBatch(scans, BATCH, 1, 0)
    batch.fields["coords_nn"] = batch.fields["coords_nn"].astype(np.longdouble)
    with pytest.raises(DtypeError, match="torch does not have") as caught:
        batch.fill(staged)
    assert caught.value.code == "dtype"


@pytest.fixture
def four_stores(make_scan_store):
    """Stores of 8, 16 and 32-bit counts and of float32 amplitudes."""
    rng = np.random.default_rng(5)
    stores = []
    for i, limit in enumerate((200, 60000, 1 << 23)):
        counts = rng.integers(0, limit, (40, 16, 16))
        counts[0, 0, 0] = limit
        frames = np.sqrt(counts.astype(np.float32))
        stores.append(make_scan_store(f"counts{i}", seed=i, diff3d=frames))
    stores.append(make_scan_store("amplitude", seed=9, diff3d=frames * np.float32(1.1)))
    dtypes = [store.chunks.dtype.name for store in stores]
    assert dtypes == ["uint8", "uint16", "uint32", "float32"]
    return stores


def as_dict(batch):
    return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}


def use_twin(monkeypatch, module="loader"):
    device = HostTwin()
    monkeypatch.setattr(
        f"ptyzarr.streaming.{module}.make_sink",
        lambda config, shape: CudaSink(config, shape, device),
    )
    return device


@pytest.mark.parametrize("channels", ["last", "first"])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_loader_delivers_what_the_host_delivers(four_stores, monkeypatch, channels, n_threads):
    grouping = GroupingConfig(gridsize=2, n_neighbors=5)
    options = {"batch_size": 7, "channels": channels, "patches": True, "n_threads": n_threads}
    options["details"] = channels == "first"
    with GroupLoader(four_stores, grouping, LoaderConfig(device="numpy", **options)) as loader:
        want = list(loader)
    device = use_twin(monkeypatch)
    with GroupLoader(four_stores, grouping, LoaderConfig(device="cuda", **options)) as loader:
        for epoch in range(2):
            loader.set_epoch(epoch)
            got = list(loader)
            for ours, theirs in zip(got, want if epoch == 0 else [], strict=False):
                assert_same_bits(as_dict(ours), as_dict(theirs))
            assert len(got) == len(want)
    assert len(device.slots) <= n_threads + 2 + 2


@pytest.mark.parametrize("dtype", ["?", "i1", "i8", "u8", "f2", "f8"])
def test_stores_of_every_dtype_are_what_the_host_delivers(make_scan_store, monkeypatch, dtype):
    frames = np.random.default_rng(1).integers(0, 100, (40, 16, 16)) % 3
    store = make_scan_store(diff3d=frames.astype(dtype))
    assert store.chunks.dtype == np.dtype(dtype)
    grouping, options = GroupingConfig(gridsize=2, n_neighbors=5), {"shuffle": False}
    with GroupLoader(store, grouping, LoaderConfig(device="numpy", **options)) as loader:
        want = list(loader)
    use_twin(monkeypatch)
    with GroupLoader(store, grouping, LoaderConfig(device="cuda", **options)) as loader:
        for ours, theirs in zip(loader, want, strict=True):
            assert_same_bits(as_dict(ours), as_dict(theirs))


def test_the_receiving_thread_neither_waits_nor_copies(four_stores, monkeypatch):
    """What it does for a batch is to let its stream wait; the twin's own lateness apart."""
    device = use_twin(monkeypatch)
    calls, receiving = [], threading.local()
    receive, wait = TwinTransfer.receive, TwinTransfer.wait_copied

    def note(name, function):
        def call(*arguments):
            if not getattr(receiving, "is_on", False):
                calls.append((threading.get_ident(), name))
            return function(*arguments)

        return call

    def receive_apart(transfer):
        receiving.is_on = True
        try:
            return receive(transfer)
        finally:
            receiving.is_on = False

    grouping = GroupingConfig(gridsize=2, n_neighbors=5)
    config = LoaderConfig(device="cuda", batch_size=7, patches=True, n_threads=2)
    with GroupLoader(four_stores, grouping, config) as loader:
        iterator = iter(loader)
        next(iterator)
        monkeypatch.setattr(TwinTransfer, "receive", receive_apart)
        monkeypatch.setattr(TwinTransfer, "wait_copied", note("wait", wait))
        for name in ("allocate", "upload", "submit", "synchronize"):
            monkeypatch.setattr(device, name, note(name, getattr(device, name)))
        n_batches = 1 + sum(1 for _ in iterator)
        # Closing waits for what is under way.
        in_the_loop = set(calls)
    assert n_batches == len(loader)
    assert {name for _, name in in_the_loop} >= {"wait", "submit"}
    assert threading.get_ident() not in {thread for thread, _ in in_the_loop}


def test_groups_by_number_are_what_the_host_delivers(four_stores, monkeypatch):
    grouping = GroupingConfig(gridsize=2, n_neighbors=5)
    options = {"batch_size": 7, "patches": True}
    host = GroupLookup(four_stores, grouping, LoaderConfig(device="numpy", **options))
    device = use_twin(monkeypatch, "lookup")
    staged = GroupLookup(four_stores, grouping, LoaderConfig(device="cuda", **options))
    rng = np.random.default_rng(3)
    requests = [rng.integers(0, 160, size) for size in (7, 1, 3, 7, 7)]
    kept = [staged.fetch(numbers) for numbers in requests]
    for numbers, batch in zip(requests, kept, strict=True):
        assert_same_bits(as_dict(batch), as_dict(host.fetch(numbers)))
    assert len(device.slots) <= 3
    staged.close()
    assert_same_bits(as_dict(staged.fetch(requests[0])), as_dict(host.fetch(requests[0])))
    staged.close()


def test_closing_a_loader_early_leaves_nothing_under_way(four_stores, monkeypatch):
    device = use_twin(monkeypatch)
    grouping = GroupingConfig(gridsize=2, n_neighbors=5)
    loader = GroupLoader(four_stores, grouping, LoaderConfig(device="cuda", batch_size=3))
    batches = list(itertools.islice(loader, 4))
    loader.close()
    slots = [weakref.ref(slot) for slot in device.slots]
    device.slots.clear()
    device.transfers.clear()
    gc.collect()
    assert [ref() for ref in slots] == [None] * len(slots)
    assert all(torch.isfinite(batch.X).all() for batch in batches)
