import dataclasses
import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.errors import BudgetError, ConfigError, DamagedStoreError
from ptyzarr.grouping import group_coords, group_table, normalization_factor, object_patches
from ptyzarr.streaming import Batch, GroupLoader
from ptyzarr.streaming.sampling import SAMPLERS

from .fakes import FakeScan

PAIRS = GroupingConfig(gridsize=2, n_neighbors=6)
POLICIES = [pytest.param(name, id=str(name)) for name in SAMPLERS]


def options(**changes):
    return LoaderConfig(**{"device": "numpy", "batch_size": 16, "n_threads": 2, **changes})


def make_loader(scans=None, grouping=PAIRS, *, scale=None, **changes):
    return GroupLoader(
        FakeScan() if scans is None else scans, grouping, options(**changes), scale=scale
    )


def eager(scan, grouping=PAIRS, N=8):
    """The whole of the canonical arrays, made by NumPy."""
    table = group_table(scan, grouping)
    factor = normalization_factor(scan.frame_power, table.nn_indices, N)
    nn, offsets, relative = group_coords(scan.positions, table.nn_indices)
    amplitude = scan.amplitude(table.nn_indices).astype(np.float32)
    return {
        "X": np.ascontiguousarray(np.moveaxis(factor * amplitude, 1, -1)),
        "Y": object_patches(scan.object_guess, offsets, relative, N),
        "coords_nn": nn,
        "coords_offsets": offsets,
        "coords_relative": relative,
        "nn_indices": table.nn_indices,
    }


def joined(batches, name):
    return np.concatenate([getattr(batch, name) for batch in batches])


def row_bytes(batches, names=("X", "nn_indices", "experiment_id", "coords_relative")):
    return [
        tuple(getattr(batch, name)[row].tobytes() for name in names)
        for batch in batches
        for row in range(len(batch.X))
    ]


def our_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ptyzarr-")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    if our_threads():
        gc.collect()
    assert not our_threads()


@pytest.mark.parametrize("quantity", ["counts", "amplitude"])
@pytest.mark.parametrize("channels", ["last", "first"])
@pytest.mark.parametrize("gridsize", [1, 2, 3])
def test_canonical_order_gives_the_eager_arrays(gridsize, channels, quantity):
    dtype = np.uint16 if quantity == "counts" else np.float64
    scan = FakeScan(quantity=quantity, dtype=dtype)
    grouping = GroupingConfig(gridsize=gridsize, n_neighbors=12, n_samples=150, seed=3)
    loader = make_loader(scan, grouping, shuffle=False, channels=channels, patches=True)
    batches = list(loader)
    for name, expected in eager(scan, grouping).items():
        result = joined(batches, name)
        if channels == "first" and name in ("X", "Y"):
            assert result.shape == (150, gridsize**2, 8, 8)
            result = np.ascontiguousarray(np.moveaxis(result, 1, -1))
        assert result.dtype == expected.dtype
        assert result.tobytes() == np.ascontiguousarray(expected).tobytes()
    assert [len(batch.X) for batch in batches] == [16] * 9 + [6]
    assert len(loader) == 10


@pytest.mark.parametrize("policy", POLICIES)
def test_each_group_is_delivered_once_an_epoch(policy):
    scan = FakeScan()
    loader = make_loader(scan, shuffle=policy, channels="last")
    expected = {
        (x.tobytes(), nn.tobytes())
        for x, nn in zip(eager(scan)["X"], eager(scan)["nn_indices"], strict=True)
    }
    for _ in range(2):
        rows = row_bytes(loader, ("X", "nn_indices"))
        assert len(rows) == 200
        assert set(rows) == expected


@settings(max_examples=25, deadline=None)
@given(
    chunk_frames=st.integers(1, 9),
    n_threads=st.integers(1, 4),
    slots=st.integers(0, 60),
    policy=st.sampled_from(list(SAMPLERS)),
)
def test_batches_depend_on_nothing_that_only_makes_them_fast(
    chunk_frames, n_threads, slots, policy
):
    reference = list(make_loader(shuffle=policy, n_threads=1))
    minimum = minimum_memory(FakeScan(chunk_frames=chunk_frames), n_threads=n_threads)
    scan = FakeScan(chunk_frames=chunk_frames)
    memory = minimum + slots * scan.chunks.chunk_nbytes
    loader = make_loader(scan, shuffle=policy, n_threads=n_threads, memory=memory)
    assert row_bytes(loader) == row_bytes(reference)


@pytest.fixture(autouse=True)
def first_run(monkeypatch):
    """Divide budgets as where the system does not tell what has been taken already."""
    monkeypatch.setattr("ptyzarr.streaming.loader.resident_memory", lambda: None)


def minimum_memory(scans, grouping=PAIRS, **changes):
    with pytest.raises(BudgetError) as caught:
        make_loader(scans, grouping, **{**changes, "memory": 1})
    return int(str(caught.value).split("at least")[1].split("(")[1].split(" bytes")[0])


def test_the_least_memory_serves_batches_in_parts():
    scan = FakeScan(chunk_frames=1)
    memory = minimum_memory(scan)
    loader = make_loader(scan, memory=memory)
    assert loader.projected_memory <= memory
    assert row_bytes(loader) == row_bytes(make_loader())
    assert loader.stats.chunks_decoded > loader.stats.distinct_chunks
    with pytest.raises(BudgetError, match="raise memory") as caught:
        make_loader(FakeScan(chunk_frames=1), memory=memory - 1)
    assert caught.value.code == "budget"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_small_buffer_decodes_again_and_gives_the_same_batches(policy):
    scan = FakeScan(chunk_frames=1)
    # Ten of the 200 frames, beside one batch.
    limit = 10 * scan.chunks.chunk_nbytes + 16 * 4 * 8 * 8 * 4
    loader, ample = make_loader(scan, shuffle=policy, buffer=limit), make_loader(shuffle=policy)
    for _ in range(2):
        assert row_bytes(loader) == row_bytes(ample)
        assert loader.stats.chunks_decoded > loader.stats.distinct_chunks
        assert 0.9 * limit < loader.stats.peak_buffer_bytes <= limit
    assert ample.stats.peak_buffer_bytes > 2 * limit
    assert ample.stats.chunks_decoded == 0


@pytest.mark.parametrize(
    ("buffer", "error"),
    [
        pytest.param("1KiB", BudgetError, id="too small"),
        pytest.param("some", ConfigError, id="no size"),
        pytest.param(0, ConfigError, id="nothing"),
    ],
)
def test_a_buffer_that_cannot_be_is_refused(buffer, error):
    with pytest.raises(error, match=r"buffer is 1\.0 KiB|memory size"):
        make_loader(buffer=buffer)


def test_what_the_start_did_not_take_goes_to_the_pool(monkeypatch):
    scan = FakeScan(chunk_frames=1)
    memory, expected = minimum_memory(scan), row_bytes(make_loader())
    sizes = iter([(0, 0), (0, 0)])
    monkeypatch.setattr("ptyzarr.streaming.loader.resident_memory", lambda: next(sizes))
    loader = make_loader(scan, memory=memory)
    assert loader.projected_memory <= memory
    assert row_bytes(loader) == expected
    assert loader.stats.chunks_decoded == loader.stats.distinct_chunks


def test_a_start_that_took_too_much_is_an_error(monkeypatch):
    scan = FakeScan(chunk_frames=1)
    memory = minimum_memory(scan)
    sizes = iter([(0, 0), (memory, memory)])
    monkeypatch.setattr("ptyzarr.streaming.loader.resident_memory", lambda: next(sizes))
    with pytest.raises(BudgetError, match="starting took"):
        make_loader(scan, memory=memory)


def test_the_order_differs_from_epoch_to_epoch_and_returns():
    loader = make_loader()
    first, second = row_bytes(loader), row_bytes(loader)
    assert first != second
    loader.set_epoch(0)
    assert row_bytes(loader) == first
    assert row_bytes(loader) == second
    assert loader.stats.epoch == 1


def test_building_a_loader_reads_no_frames():
    scan = FakeScan()
    make_loader(scan)
    assert scan.chunks.calls == []


def test_a_scan_that_fits_is_decoded_once_for_all_epochs():
    scan = FakeScan()
    loader = make_loader(scan)
    for _ in range(3):
        for _ in loader:
            pass
    assert sorted(scan.chunks.decoded) == list(range(50))


def test_stats_tell_what_was_done():
    scan = FakeScan()
    loader = make_loader(scan)
    assert loader.stats.batches == 0
    kept = list(loader)
    stats = loader.stats
    assert (stats.epoch, stats.batches, stats.groups) == (0, 13, 200)
    assert (stats.chunks_decoded, stats.distinct_chunks) == (50, 50)
    assert stats.bytes_read == scan.frames.nbytes
    assert stats.decoded_per_delivered == 200 / 800
    assert stats.groups_per_s == pytest.approx(200 / stats.elapsed_s)
    assert stats.gb_per_s == pytest.approx(800 * 8 * 8 * 4e-9 / stats.elapsed_s)
    assert 0 <= stats.stall_s <= stats.elapsed_s
    assert stats.peak_buffer_bytes >= scan.frames.nbytes + kept[0].X.nbytes
    assert json.loads(json.dumps(dataclasses.asdict(stats)))["groups"] == 200


def test_kept_batches_never_change():
    loader = make_loader()
    copies, kept = [], []
    for epoch in range(3):
        loader.set_epoch(epoch)
        for batch in loader:
            kept.append(batch.X)
            copies.append(batch.X.copy())
    assert all((x == copy).all() for x, copy in zip(kept, copies, strict=True))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        pytest.param("float32", np.float32, id="float32"),
        pytest.param("float16", np.float16, id="float16"),
    ],
)
def test_x_has_the_dtype_that_was_asked_for(dtype, expected):
    (reference,) = make_loader(batch_size=200)
    (batch,) = make_loader(batch_size=200, dtype=dtype)
    assert batch.X.dtype == expected
    assert batch.X.tobytes() == reference.X.astype(expected).tobytes()


@pytest.mark.parametrize("patches", [True, False])
def test_y_needs_patches_and_an_object(patches):
    with_object, without = FakeScan(), FakeScan(with_object=False)
    assert (next(iter(make_loader(with_object, patches=patches))).Y is not None) == patches
    assert next(iter(make_loader(without, patches=patches))).Y is None


def mixed_scans():
    return [
        FakeScan(120, seed=1, dtype=np.uint8, chunk_frames=3),
        FakeScan(75, seed=2, quantity="amplitude", dtype=np.float32, chunk_frames=5, n_modes=2),
        FakeScan(50, seed=3, dtype=np.uint32, chunk_frames=1, layout="acquisition"),
        FakeScan(40, seed=4, quantity="amplitude", dtype=np.float16, chunk_frames=7),
    ]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("memory", ["1GiB", None])
def test_scans_of_any_dtype_quantity_and_chunks_are_mixed(policy, memory):
    scans = mixed_scans()
    memory = memory or minimum_memory(mixed_scans(), patches=True)
    batches = list(make_loader(scans, shuffle=policy, patches=True, memory=memory))
    ids, nn = joined(batches, "experiment_id"), joined(batches, "nn_indices")
    assert np.bincount(ids).tolist() == [120, 75, 50, 40]
    if policy:
        assert len(np.unique(batches[0].experiment_id)) > 1
    for number, scan in enumerate(scans):
        reference = eager(scan)
        mine = ids == number
        order = np.array(
            [
                np.flatnonzero((reference["nn_indices"] == members).all(axis=1))[0]
                for members in nn[mine]
            ]
        )
        for name in ("X", "Y", "coords_nn", "coords_offsets", "coords_relative"):
            result = joined(batches, name)[mine]
            assert result.tobytes() == np.ascontiguousarray(reference[name][order]).tobytes()
    assert batches[0].probe.shape == (4, 2, 8, 8)
    assert batches[0].probe is batches[-1].probe


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_share_an_epoch(policy, drop_last):
    parts = [
        list(make_loader(shuffle=policy, rank=rank, world_size=3, drop_last=drop_last))
        for rank in range(3)
    ]
    sizes = np.array([[len(batch.X) for batch in part] for part in parts])
    groups = [row for part in parts for row in row_bytes(part, ("coords_nn", "nn_indices"))]
    assert len(set(groups)) == len(groups) == (192 if drop_last else 200)
    assert sizes.shape == (3, 4 if drop_last else 5)
    assert (np.ptp(sizes, axis=0) <= 1).all()


def sparse_scans(*, limits_known):
    common = {"frame_size": 16, "mean_count": 0.1, "limits_known": limits_known}
    return [
        FakeScan(60, seed=1, chunk_frames=3, **common),
        FakeScan(50, seed=2, quantity="amplitude", dtype=np.float32, **common),
        FakeScan(40, seed=3, frame_size=16, chunk_frames=1),
    ]


@pytest.mark.parametrize("channels", ["first", "last"])
@pytest.mark.parametrize("policy", POLICIES)
def test_packed_scans_give_the_same_batches(policy, channels, monkeypatch):
    monkeypatch.setattr("ptyzarr.streaming.packing.expands", lambda: True)
    memory = minimum_memory(sparse_scans(limits_known=True)) + 8000
    loaders = [
        make_loader(sparse_scans(limits_known=known), shuffle=policy, channels=channels, **extra)
        for known, extra in ((True, {"memory": memory}), (True, {}), (False, {}))
    ]
    tight, packed, plain = (row_bytes(loader) for loader in loaders)
    assert tight == packed == plain
    buffers = [loader.stats.peak_buffer_bytes for loader in loaders]
    assert buffers[0] < buffers[1] < buffers[2]


def test_frames_with_more_pixels_than_the_store_says_are_an_error(monkeypatch):
    monkeypatch.setattr("ptyzarr.streaming.packing.expands", lambda: True)
    scan = FakeScan(60, frame_size=16, mean_count=0.1, limits_known=True)
    scan.pixel_limits = scan.pixel_limits[0] - 1, 0
    with pytest.raises(DamagedStoreError, match="more non-zero pixels than the store says"):
        list(make_loader(scan))


def test_the_scale_may_be_given():
    batch = next(iter(make_loader(shuffle=False, scale=0.5)))
    reference = next(iter(make_loader(shuffle=False)))
    assert batch.scale.dtype == np.float32
    assert (batch.scale == np.float32(0.5)).all()
    amplitude = FakeScan().amplitude(batch.nn_indices)
    assert (
        batch.X.tobytes()
        == np.ascontiguousarray(np.moveaxis(np.float32(0.5) * amplitude, 1, -1)).tobytes()
    )
    assert (reference.scale != batch.scale).all()


@pytest.mark.parametrize("n_threads", [1, 3])
def test_closing_early_ends_the_threads(n_threads):
    loader = make_loader(n_threads=n_threads)
    iterator = iter(loader)
    next(iterator)
    assert our_threads()
    loader.close()
    assert not our_threads()
    with pytest.raises(ConfigError, match="closed"):
        next(iterator)
    with pytest.raises(ConfigError, match="closed"):
        iter(loader)
    loader.close()


def test_leaving_the_loop_ends_the_threads():
    for number, _ in enumerate(make_loader()):
        if number == 3:
            break
    assert not our_threads()


def test_an_exception_in_the_loop_ends_the_threads():
    def train():
        for _ in make_loader():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert not our_threads()


def exhaust(iterator):
    for _ in iterator:
        pass


def test_an_interrupt_while_waiting_ends_the_threads():
    scan = FakeScan()
    scan.chunks.gate.clear()
    scan.chunks.on_read = lambda: signal.pthread_kill(receiver, signal.SIGINT)
    receiver = threading.get_ident()

    def interrupt(number, frame):
        # Only now may the chunk be decoded: until here the receiver can only wait.
        scan.chunks.gate.set()
        raise KeyboardInterrupt

    iterator = iter(make_loader(scan, n_threads=1))
    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(iterator)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert not our_threads()
    with pytest.raises(StopIteration):
        next(iterator)


def test_an_interrupt_while_threads_start_ends_those_that_run(monkeypatch):
    original, started = threading.Thread.start, []

    def start(thread):
        if started:
            raise KeyboardInterrupt
        started.append(thread)
        original(thread)

    loader = make_loader(n_threads=3)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(KeyboardInterrupt):
            next(iter(loader))
    assert started
    assert not our_threads()
    assert len(list(loader)) == 13


def test_a_dropped_iterator_ends_its_threads():
    loader = make_loader()
    iterator = iter(loader)
    next(iterator)
    del iterator
    assert not our_threads()
    assert len(list(loader)) == 13


def test_an_exhausted_iterator_stays_exhausted():
    iterator = iter(make_loader())
    assert len(list(iterator)) == 13
    assert not our_threads()
    assert list(iterator) == []


@pytest.mark.parametrize("n_threads", [1, 3])
def test_an_error_in_a_thread_is_raised_once_in_its_own_type(n_threads):
    scan = FakeScan()
    scan.chunks.broken = 17
    loader = make_loader(scan, n_threads=n_threads)
    iterator = iter(loader)
    with pytest.raises(OSError, match="broken chunk"):
        exhaust(iterator)
    assert not our_threads()
    with pytest.raises(StopIteration):
        next(iterator)
    # What was half decoded is not trusted afterwards.
    scan.chunks.broken = None
    loader.set_epoch(0)
    assert row_bytes(loader) == row_bytes(make_loader())


def test_slots_that_a_failed_load_began_to_write_are_not_trusted():
    scan = FakeScan(chunk_frames=1)
    memory = minimum_memory(FakeScan(chunk_frames=1)) + 60 * scan.chunks.chunk_nbytes
    loader = make_loader(scan, memory=memory)
    exhaust(loader)
    # The whole pool is in use now; this epoch fails in the middle of a job.
    for broken in range(100, 200, 10):
        scan.chunks.broken = broken
        loader.set_epoch(1)
        with pytest.raises(OSError, match="broken chunk"):
            exhaust(loader)
        scan.chunks.broken = None
        loader.set_epoch(1)
        reference = make_loader()
        reference.set_epoch(1)
        assert row_bytes(loader) == row_bytes(reference)


def test_a_second_iterator_closes_the_first():
    loader = make_loader()
    first = iter(loader)
    next(first)
    second = iter(loader)
    assert not our_threads()
    next(second)
    with pytest.raises(ConfigError, match="one iterator at a time") as caught:
        next(first)
    assert caught.value.code == "config"
    assert len(list(second)) == 12


def test_a_loader_closes_itself_as_a_context():
    with make_loader() as loader:
        next(iter(loader))
    with pytest.raises(ConfigError, match="closed"):
        iter(loader)


@pytest.mark.parametrize("delivered", [0, 1, 5, 12])
@pytest.mark.parametrize("policy", POLICIES)
def test_an_epoch_is_resumed_where_it_was(policy, delivered):
    reference = [row_bytes([batch]) for batch in make_loader(shuffle=policy)]
    loader = make_loader(shuffle=policy)
    iterator = iter(loader)
    for _ in range(delivered):
        next(iterator)
    state = json.loads(json.dumps(loader.state_dict()))
    resumed = make_loader(shuffle=policy)
    resumed.load_state_dict(state)
    assert [row_bytes([batch]) for batch in resumed] == reference[delivered:]
    loader.close()


def test_resuming_reads_nothing_that_was_delivered():
    scan = FakeScan()
    loader = make_loader(shuffle=False)
    iterator = iter(loader)
    for _ in range(10):
        next(iterator)
    resumed = make_loader(scan, shuffle=False)
    resumed.load_state_dict(loader.state_dict())
    rest = joined(list(resumed), "nn_indices")
    row_of = np.argsort(scan.frame_index)
    assert sorted(scan.chunks.decoded) == np.unique(row_of[rest] // 4).tolist()
    loader.close()


def test_setting_the_restored_epoch_keeps_the_restored_batch():
    loader = make_loader()
    loader.set_epoch(4)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    assert (state["epoch"], state["next_batch"]) == (4, 1)
    resumed = make_loader()
    resumed.load_state_dict(state)
    resumed.set_epoch(4)
    assert len(list(resumed)) == 12
    resumed.set_epoch(4)
    assert len(list(resumed)) == 13
    loader.close()


def test_the_state_after_an_epoch_is_the_next_one():
    loader = make_loader()
    list(loader)
    state = loader.state_dict()
    assert (state["epoch"], state["next_batch"]) == (1, 0)
    resumed = make_loader()
    resumed.load_state_dict(state)
    assert row_bytes(resumed) == row_bytes(loader)


def test_one_state_fits_all_ranks():
    loaders = [make_loader(rank=rank, world_size=2) for rank in range(2)]
    iterators = [iter(loader) for loader in loaders]
    for iterator in iterators:
        next(iterator)
    assert loaders[0].state_dict() == loaders[1].state_dict()
    for loader in loaders:
        loader.close()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        pytest.param({"seed": 1}, "seed", id="seed"),
        pytest.param({"shuffle": "full"}, "shuffle", id="shuffle"),
        pytest.param({"batch_size": 8}, "batch_size", id="batch-size"),
        pytest.param({"scans": FakeScan(seed=5)}, "stores", id="store"),
        pytest.param({"grouping": GroupingConfig(gridsize=2, seed=1)}, "grouping", id="grouping"),
    ],
)
def test_a_state_of_another_order_is_refused(changes, name):
    state = make_loader().state_dict()
    with pytest.raises(ConfigError, match=name):
        make_loader(**changes).load_state_dict(state)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"version": 2}, id="version"),
        pytest.param({"next_batch": 13}, id="batch"),
        pytest.param({"epoch": -1}, id="epoch"),
    ],
)
def test_a_state_that_cannot_be_is_refused(changes):
    loader = make_loader()
    with pytest.raises(ConfigError, match="expected"):
        loader.load_state_dict({**loader.state_dict(), **changes})


def test_speed_options_may_differ_when_an_epoch_is_resumed():
    state = make_loader().state_dict()
    make_loader(n_threads=1, memory="2GiB", channels="first").load_state_dict(state)


def test_a_negative_epoch_is_refused():
    with pytest.raises(ConfigError, match="0 or more"):
        make_loader().set_epoch(-1)


def test_too_few_groups_are_refused_when_the_loader_is_made():
    with pytest.raises(ConfigError, match="batch_size"):
        make_loader(batch_size=500, drop_last=True)


def test_a_batch_may_be_larger_than_the_scan():
    (batch,) = make_loader(batch_size=1000)
    assert isinstance(batch, Batch)
    assert len(batch.X) == 200


def test_the_interpreter_exits_with_an_iterator_left_open(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from fakes import FakeScan\n"
        "from ptyzarr.config import GroupingConfig, LoaderConfig\n"
        "from ptyzarr.streaming import GroupLoader\n"
        "loader = GroupLoader(FakeScan(), GroupingConfig(gridsize=2, n_neighbors=6),\n"
        "    LoaderConfig(device='numpy', batch_size=2, n_threads=2))\n"
        "iterator = iter(loader)\n"
        "next(iterator)\n"
        "print('done')\n"
    )
    search = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    result = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout == "done\n"
    assert result.stderr == ""


def test_many_threads_and_tiny_pools_never_deadlock():
    scans = [FakeScan(300, chunk_frames=2, seed=seed) for seed in (1, 2)]
    memory = minimum_memory([FakeScan(300, chunk_frames=2, seed=1)] * 2, n_threads=6, batch_size=4)
    for extra in (0, 3, 40, 200):
        loader = make_loader(
            scans, n_threads=6, batch_size=4, memory=memory + extra * 1024, shuffle="full"
        )
        assert sum(len(batch.X) for batch in loader) == 600


@pytest.mark.parametrize("strategy", ["nearest", "band", "quadrant"])
def test_groups_of_every_strategy_arrive_once_and_as_the_eager_ones(strategy):
    limits = {} if strategy == "nearest" else {"max_neighbor_distance": 12.0}
    grouping = GroupingConfig(
        strategy=strategy, gridsize=2, n_neighbors=12, n_subsample=3, x_bounds=(0.1, 1), **limits
    )
    scan = FakeScan()
    wanted = eager(scan, grouping)
    with make_loader(scan, grouping, shuffle=False) as loader:
        batches = list(loader)
        state = loader.state_dict()
    for name in ("X", "nn_indices", "coords_nn", "coords_offsets", "coords_relative"):
        np.testing.assert_array_equal(joined(batches, name), wanted[name], strict=True)
    with make_loader(scan, grouping, shuffle="window") as loader:
        shuffled = list(loader)
    assert sorted(row_bytes(shuffled)) == sorted(row_bytes(batches))
    other = dataclasses.replace(grouping, x_bounds=(0.2, 1))
    with (
        make_loader(scan, other, shuffle=False) as loader,
        pytest.raises(ConfigError, match="another grouping"),
    ):
        loader.load_state_dict(json.loads(json.dumps(state)))


def test_states_saved_before_there_were_strategies_still_fit():
    with make_loader() as loader:
        order = loader.state_dict()["order"]
    assert order["grouping"] == {
        "gridsize": 2,
        "n_neighbors": 6,
        "n_samples": None,
        "seed": 0,
        "sequential_sampling": False,
        "enable_oversampling": False,
        "neighbor_pool_size": None,
    }


@pytest.mark.parametrize(
    ("stores", "grouping", "config", "message"),
    [
        pytest.param([None], PAIRS, options(), "is None; expected a store", id="store"),
        pytest.param(FakeScan(), None, options(), "grouping is None", id="grouping"),
        pytest.param(FakeScan(), options(), PAIRS, "grouping is a LoaderConfig", id="swapped"),
        pytest.param(FakeScan(), PAIRS, {}, "config is a dict", id="config"),
    ],
)
def test_what_is_handed_over_in_the_wrong_place_is_named(stores, grouping, config, message):
    with pytest.raises(ConfigError, match=message):
        GroupLoader(stores, grouping, config)


def test_a_loader_says_that_it_cannot_be_pickled():
    with make_loader() as loader, pytest.raises(ConfigError, match="pickle its stores"):
        pickle.dumps(loader)


@pytest.mark.parametrize("scale", ["a", 1e60, 1e-60, [1.0, 2.0], None.__class__])
def test_factors_that_float32_cannot_hold_are_refused(scale):
    with pytest.raises(ConfigError, match="expected a positive number"):
        make_loader(scale=scale)
