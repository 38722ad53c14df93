"""Groups by number: bit for bit the eager ones, in bounded memory, decoding what is needed."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyzarr.config import GroupingConfig, LoaderConfig
from ptyzarr.errors import (
    BudgetError,
    ConfigError,
    DamagedStoreError,
    DeviceError,
    GroupIndexError,
)
from ptyzarr.streaming import GroupLoader, GroupLookup

from .fakes import FakeScan

PAIRS = GroupingConfig(gridsize=2, n_neighbors=6)
FIELDS = ("X", "coords_nn", "coords_offsets", "coords_relative", "nn_indices", "scale")


@pytest.fixture(autouse=True)
def first_run(monkeypatch):
    """Divide budgets as where the system does not tell what has been taken already."""
    for module in ("lookup", "loader"):
        monkeypatch.setattr(f"ptyzarr.streaming.{module}.resident_memory", lambda: None)


def options(**changes):
    return LoaderConfig(**{"device": "numpy", "batch_size": 16, **changes})


def make_lookup(scans=None, grouping=PAIRS, *, scale=None, **changes):
    return GroupLookup(
        FakeScan() if scans is None else scans, grouping, options(**changes), scale=scale
    )


def eager(scans, grouping=PAIRS, **changes):
    """All groups in canonical order, in one batch of the loader."""
    n_groups = sum(scan.n_frames for scan in scans)
    config = options(**{"shuffle": False, **changes, "batch_size": n_groups})
    (batch,) = GroupLoader(scans, grouping, config)
    return batch


def assert_rows(batch, whole, numbers, names=FIELDS):
    for name in (*names, "experiment_id"):
        want = getattr(whole, name)[numbers]
        got = getattr(batch, name)
        assert got.dtype == want.dtype
        assert got.tobytes() == np.ascontiguousarray(want).tobytes(), name


def fetch_all(lookup):
    for first in range(0, len(lookup), 10):
        lookup.fetch(np.arange(first, first + 10))


def smallest_memory(scans, **changes):
    with pytest.raises(BudgetError, match="raise memory") as caught:
        make_lookup(scans, **{**changes, "memory": 1})
    return int(str(caught.value).split("at least")[1].split("(")[1].split(" bytes")[0])


def mixed_scans():
    return [
        FakeScan(60, seed=1, dtype=np.uint8, chunk_frames=3),
        FakeScan(50, seed=2, quantity="amplitude", dtype=np.float32, chunk_frames=5, n_modes=2),
        FakeScan(40, seed=3, dtype=np.uint32, chunk_frames=1, layout="acquisition"),
    ]


WHOLE = eager(mixed_scans(), patches=True)


@settings(max_examples=30, deadline=None)
@given(
    requests=st.lists(
        st.lists(st.integers(-150, 149), min_size=1, max_size=16), min_size=1, max_size=12
    ),
    slots=st.integers(0, 40),
)
def test_groups_are_the_eager_ones_whatever_was_asked_before(requests, slots):
    scans = mixed_scans()
    memory = smallest_memory(scans, patches=True) + slots * 700
    lookup = make_lookup(scans, patches=True, memory=memory)
    assert lookup.projected_memory <= memory
    for numbers in requests:
        batch = lookup.fetch(np.array(numbers))
        assert_rows(batch, WHOLE, numbers, (*FIELDS, "Y"))
        assert batch.probe.tobytes() == WHOLE.probe.tobytes()


@pytest.mark.parametrize("channels", ["first", "last"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_options_of_the_batch_are_kept(channels, dtype):
    changes = {"channels": channels, "dtype": dtype}
    whole = eager([FakeScan()], **changes)
    lookup = make_lookup(**changes)
    assert len(lookup) == 200
    assert_rows(lookup.fetch(np.array([7, 190, 7])), whole, [7, 190, 7])


def test_packed_scans_give_the_same_groups(monkeypatch):
    monkeypatch.setattr("ptyzarr.streaming.packing.expands", lambda: True)
    sparse = {"frame_size": 16, "mean_count": 0.1}
    whole = eager([FakeScan(60, **sparse)])
    lookup = make_lookup(FakeScan(60, limits_known=True, **sparse))
    assert_rows(lookup.fetch(np.arange(10, 26)), whole, np.arange(10, 26))


def test_a_chunk_that_is_there_is_not_decoded_again():
    scan = FakeScan()
    fetch_all(make_lookup(scan))
    assert sorted(scan.chunks.decoded) == list(range(50))


def test_only_the_chunks_of_the_groups_are_decoded():
    scan = FakeScan()
    lookup = make_lookup(scan)
    assert scan.chunks.calls == []
    batch = lookup.fetch(np.array([5, 17]))
    row_of = np.argsort(scan.frame_index)
    assert sorted(scan.chunks.decoded) == np.unique(row_of[batch.nn_indices] // 4).tolist()


def test_chunks_in_use_stay_and_the_others_make_room():
    scan = FakeScan(chunk_frames=1)
    memory = smallest_memory([FakeScan(chunk_frames=1)], batch_size=1) + 60 * 200
    lookup = make_lookup(scan, batch_size=1, memory=memory)
    busy = lookup.fetch(np.array([3])).nn_indices.reshape(-1).tolist()
    for other in range(10, 190):
        lookup.fetch(np.array([3]))
        lookup.fetch(np.array([other]))
    row_of = np.argsort(scan.frame_index)
    counts = np.bincount(scan.chunks.decoded, minlength=200)
    assert counts.max() > 1, "the pool holds all of the scan"
    assert (counts[row_of[busy]] == 1).all()


def test_a_failed_call_leaves_nothing_that_is_not_there():
    scan = FakeScan()
    lookup = make_lookup(scan)
    lookup.fetch(np.arange(10))
    scan.chunks.broken = 17
    with pytest.raises(OSError, match="broken chunk"):
        fetch_all(lookup)
    scan.chunks.broken = None
    whole = eager([FakeScan()])
    for first in range(0, 200, 10):
        numbers = np.arange(first, first + 10)
        assert_rows(lookup.fetch(numbers), whole, numbers)


def test_a_damaged_chunk_is_an_error_of_its_own_type(monkeypatch):
    monkeypatch.setattr("ptyzarr.streaming.packing.expands", lambda: True)
    scan = FakeScan(60, frame_size=16, mean_count=0.1, limits_known=True)
    scan.pixel_limits = scan.pixel_limits[0] - 1, 0
    lookup = make_lookup(scan)
    with pytest.raises(DamagedStoreError, match="more non-zero pixels"):
        fetch_all(lookup)


def test_kept_batches_never_change():
    lookup = make_lookup()
    kept = [lookup.fetch(np.arange(first, first + 10)) for first in range(0, 100, 10)]
    whole = eager([FakeScan()])
    for first, batch in zip(range(0, 100, 10), kept, strict=True):
        assert_rows(batch, whole, np.arange(first, first + 10))


def test_threads_take_turns():
    lookup, whole, failures = make_lookup(), eager([FakeScan()]), []

    def ask(seed):
        rng = np.random.default_rng(seed)
        try:
            for _ in range(20):
                numbers = rng.integers(0, 200, 12)
                assert_rows(lookup.fetch(numbers), whole, numbers)
        except AssertionError as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("number", [200, -201, 10**12])
def test_a_group_that_there_is_not_is_an_index_error(number):
    with pytest.raises(GroupIndexError, match=rf"no group {number}; expected 0 to 199") as caught:
        make_lookup().fetch(np.array([1, number]))
    assert caught.value.code == "group_index"
    assert isinstance(caught.value, IndexError)


@pytest.mark.parametrize("count", [0, 17])
def test_none_and_too_many_are_refused(count):
    with pytest.raises(ConfigError, match=rf"{count} groups .*expected 1 to 16.*batch_size"):
        make_lookup().fetch(np.zeros(count, np.int64))


def test_ranks_are_left_to_samplers():
    with pytest.raises(ConfigError, match=r"rank 1 of 2.*DistributedSampler"):
        make_lookup(rank=1, world_size=2)
    assert len(make_lookup(rank=0, world_size=1)) == 200


def test_a_path_is_no_store():
    with pytest.raises(ConfigError, match="open it first"):
        make_lookup("scan.zarr")


def test_a_closed_lookup_takes_its_memory_anew():
    scan = FakeScan()
    lookup = make_lookup(scan)
    lookup.fetch(np.arange(4))
    lookup.close()
    assert_rows(lookup.fetch(np.arange(4)), eager([FakeScan()]), np.arange(4))
    assert len(scan.chunks.calls) == 2


def test_the_identity_is_that_of_scans_and_groups():
    same = make_lookup(memory="2GiB", shuffle="full").identity
    assert make_lookup().identity == same
    assert make_lookup(FakeScan(seed=1)).identity != same
    assert make_lookup(grouping=GroupingConfig(gridsize=2, n_neighbors=5)).identity != same


def test_a_device_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceError, match="no CUDA device"):
        make_lookup(device="cuda")
