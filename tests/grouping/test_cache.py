from __future__ import annotations

import dataclasses
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import xxhash

from ptyzarr.config import GroupingConfig
from ptyzarr.errors import GroupingError
from ptyzarr.grouping import cached_group_table, group_table

from .memory_scan import make_scan

CONFIG = GroupingConfig(gridsize=2, n_neighbors=6, seed=3)


class DrawnAgainError(Exception):
    pass


@pytest.fixture
def user_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "user" / "ptyzarr"


@pytest.fixture
def scan(tmp_path, user_cache):
    (tmp_path / "stores").mkdir()
    return make_scan(40, path=str(tmp_path / "stores" / "scan.zarr"))


@pytest.fixture
def beside(tmp_path):
    return tmp_path / "stores" / ".ptyzarr-cache"


@pytest.fixture
def forbid_drawing(monkeypatch):
    def refuse(*args, **kwargs):
        raise DrawnAgainError

    return lambda: monkeypatch.setattr("ptyzarr.grouping.cache.group_table", refuse)


def assert_canonical(table, scan, config=CONFIG):
    wanted = group_table(scan, config)
    np.testing.assert_array_equal(table.nn_indices, wanted.nn_indices, strict=True)
    np.testing.assert_array_equal(table.seeds, wanted.seeds, strict=True)


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(CONFIG, id="groups"),
        pytest.param(GroupingConfig(seed=np.int64(5)), id="single-frames-numpy-seed"),
        pytest.param(
            dataclasses.replace(CONFIG, n_samples=90, enable_oversampling=True), id="oversampled"
        ),
        pytest.param(dataclasses.replace(CONFIG, n_samples=0), id="empty"),
    ],
)
def test_a_table_is_drawn_once_and_then_read(scan, beside, forbid_drawing, config):
    assert_canonical(cached_group_table(scan, config), scan, config)
    forbid_drawing()
    wanted = only_file(beside).read_bytes()
    again = cached_group_table(scan, config)
    assert only_file(beside).read_bytes() == wanted
    assert_canonical(again, scan, config)
    for array in (again.nn_indices, again.seeds):
        assert array.flags.aligned, "kernels are compiled for aligned arrays"
        assert array.flags.owndata, "a view would keep the whole file in memory"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"gridsize": 1}, id="gridsize"),
        pytest.param({"n_neighbors": 5}, id="n_neighbors"),
        pytest.param({"n_samples": 12}, id="n_samples"),
        pytest.param({"seed": 4}, id="seed"),
        pytest.param({"sequential_sampling": True}, id="sequential"),
        pytest.param({"enable_oversampling": True}, id="oversampling"),
        pytest.param({"neighbor_pool_size": 8}, id="pool"),
    ],
)
def test_another_option_misses(scan, forbid_drawing, change):
    cached_group_table(scan, CONFIG)
    forbid_drawing()
    with pytest.raises(DrawnAgainError):
        cached_group_table(scan, dataclasses.replace(CONFIG, **change))


def test_every_option_is_part_of_the_key(scan, beside):
    changes = {
        "gridsize": 1, "n_neighbors": 5, "n_samples": 12, "seed": 4, "sequential_sampling": True,
        "enable_oversampling": True, "neighbor_pool_size": 8,
    }  # fmt: skip
    assert set(changes) == set(CONFIG.deciding_options())
    for name, value in changes.items():
        cached_group_table(scan, dataclasses.replace(CONFIG, **{name: value}))
    assert len(list(beside.iterdir())) == len(changes)


def test_every_option_of_another_strategy_is_part_of_the_key(scan, beside):
    band = GroupingConfig(gridsize=2, n_neighbors=6, strategy="band", max_neighbor_distance=9)
    changes = {
        "gridsize": 3, "n_neighbors": 9, "seed": 4, "n_subsample": 2, "strategy": "nearest",
        "min_neighbor_distance": 0.5, "max_neighbor_distance": None, "x_bounds": (0.1, 0.9),
        "y_bounds": (0, 0.8),
    }  # fmt: skip
    assert set(changes) == set(band.deciding_options())
    for name, value in changes.items():
        options = {"n_neighbors": 9, "max_neighbor_distance": 9.0, name: value}
        if value == "nearest":
            del options["max_neighbor_distance"]
        config = GroupingConfig(**{"gridsize": 2, "strategy": "band", **options})
        assert_canonical(cached_group_table(scan, config), scan, config)
        again = cached_group_table(scan, config)
        assert_canonical(again, scan, config)
    assert len(list(beside.iterdir())) == len(changes)


def test_tables_that_earlier_versions_cached_are_found(scan, beside):
    cached_group_table(scan, CONFIG)
    # What the options of canonical groups were before there were other strategies.
    assert only_file(beside).name == "e59d88aab7a2f9d60adb6cb13b958cc7.groups"


def test_another_scan_misses(scan, beside):
    cached_group_table(scan, CONFIG)
    other = make_scan(40, seed=1, digest="1" * 32, path=scan.path)
    assert_canonical(cached_group_table(other, CONFIG), other)
    assert len(list(beside.iterdir())) == 2


def test_no_seed_is_never_cached(scan, beside, user_cache):
    config = dataclasses.replace(CONFIG, seed=None)
    tables = [cached_group_table(scan, config).nn_indices for _ in range(2)]
    assert (tables[0] != tables[1]).any()
    assert not beside.exists()
    assert not user_cache.exists()


def damage_every_way(content: bytes):
    yield "empty", b""
    yield "magic only", content[:15]
    yield "no arrays", content[:40]
    yield "half", content[: len(content) // 2]
    yield "one byte short", content[:-1]
    yield "one byte more", content + b"\0"
    yield "something else", b"\x93NUMPY" + content
    for position in range(0, len(content), 41):
        flipped = bytearray(content)
        flipped[position] ^= 0x10
        yield f"bit flip at {position}", bytes(flipped)


def test_a_damaged_file_is_drawn_and_written_again(scan, beside):
    cached_group_table(scan, CONFIG)
    path = only_file(beside)
    good = path.read_bytes()
    for name, content in damage_every_way(good):
        path.write_bytes(content)
        assert_canonical(cached_group_table(scan, CONFIG), scan)
        assert path.read_bytes() == good, name


def test_a_pipe_in_the_cache_is_not_waited_for(scan, beside):
    cached_group_table(scan, CONFIG)
    path = only_file(beside)
    path.unlink()
    os.mkfifo(path)
    assert_canonical(cached_group_table(scan, CONFIG), scan)
    assert path.is_file()


def test_a_whole_file_of_another_scan_is_not_trusted(scan, beside):
    other = make_scan(40, seed=1, digest="1" * 32, path=scan.path)
    cached_group_table(other, CONFIG)
    foreign = only_file(beside).read_bytes()
    only_file(beside).unlink()
    cached_group_table(scan, CONFIG)
    only_file(beside).write_bytes(foreign)
    assert_canonical(cached_group_table(scan, CONFIG), scan)


@pytest.mark.parametrize(
    "arrays",
    [
        pytest.param(lambda body: b"", id="none"),
        pytest.param(lambda body: b"\x93NUMPY junk", id="junk"),
        pytest.param(lambda body: body[: body.index(b"\x93NUMPY", 6)], id="one-missing"),
        pytest.param(lambda body: 2 * body[: body.index(b"\x93NUMPY", 6)], id="wrong-shapes"),
    ],
)
def test_a_well_signed_file_with_other_content_is_not_trusted(scan, beside, arrays):
    cached_group_table(scan, CONFIG)
    path = only_file(beside)
    content = path.read_bytes()
    magic, body = content[:15], content[31:]
    start = body.index(b"\n") + 1
    body = body[:start] + arrays(body[start:])
    path.write_bytes(magic + xxhash.xxh3_128_digest(body) + body)
    assert_canonical(cached_group_table(scan, CONFIG), scan)
    assert path.read_bytes() == content


def test_indices_beyond_the_scan_are_not_trusted(scan):
    cached_group_table(scan, CONFIG)
    # The same digest and options, fewer frames: no honest store can say so.
    smaller = make_scan(20, digest=scan.digest, path=scan.path)
    assert_canonical(cached_group_table(smaller, CONFIG), smaller)


def test_a_remote_store_uses_the_users_cache(scan, user_cache, forbid_drawing):
    scan.path = "https://beamline.example/v1/scans/a/zarr"
    cached_group_table(scan, CONFIG)
    assert only_file(user_cache).suffix == ".groups"
    forbid_drawing()
    cached_group_table(scan, CONFIG)


def test_a_read_only_folder_uses_the_users_cache(scan, beside, user_cache, forbid_drawing):
    # A file in the way refuses the folder to any user, the superuser included.
    beside.write_text("in the way")
    assert_canonical(cached_group_table(scan, CONFIG), scan)
    assert only_file(user_cache).suffix == ".groups"
    forbid_drawing()
    cached_group_table(scan, CONFIG)


def test_a_disk_that_takes_nothing_is_no_error(scan, beside, user_cache):
    beside.write_text("in the way")
    user_cache.parent.write_text("in the way")
    assert_canonical(cached_group_table(scan, CONFIG), scan)


def test_a_disk_that_fills_up_is_no_error_and_leaves_nothing(scan, beside, user_cache, monkeypatch):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ptyzarr.grouping.cache.os.fsync", fail)
    assert_canonical(cached_group_table(scan, CONFIG), scan)
    assert not beside.exists()
    assert list(user_cache.iterdir()) == []


def test_no_home_folder_is_no_error(scan, beside, monkeypatch):
    def no_home():
        raise RuntimeError

    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    monkeypatch.setattr("ptyzarr.grouping.cache.Path.home", no_home)
    scan.path = "s3://bucket/scan"
    assert_canonical(cached_group_table(scan, CONFIG), scan)
    assert not beside.exists()


def test_the_home_folder_serves_without_xdg(scan, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("ptyzarr.grouping.cache.Path.home", lambda: tmp_path / "home")
    scan.path = "s3://bucket/scan"
    cached_group_table(scan, CONFIG)
    assert only_file(tmp_path / "home" / ".cache" / "ptyzarr").suffix == ".groups"


def test_a_relative_path_with_a_trailing_slash_finds_the_same_file(
    scan, beside, tmp_path, monkeypatch, forbid_drawing
):
    cached_group_table(scan, CONFIG)
    monkeypatch.chdir(tmp_path)
    scan.path = os.path.join("stores", "scan.zarr") + os.sep
    forbid_drawing()
    cached_group_table(scan, CONFIG)


def test_concurrent_writers_leave_one_whole_file(scan, beside, forbid_drawing):
    tables = []
    start = threading.Barrier(8)

    def draw():
        start.wait()
        tables.append(cached_group_table(scan, CONFIG))

    threads = [threading.Thread(target=draw) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tables) == 8
    for table in tables:
        assert_canonical(table, scan)
    assert only_file(beside).suffix == ".groups"
    forbid_drawing()
    cached_group_table(scan, CONFIG)


def test_groups_that_cannot_be_drawn_are_an_error_and_cache_nothing(scan, beside):
    with pytest.raises(GroupingError, match="n_neighbors is 3"):
        cached_group_table(scan, dataclasses.replace(CONFIG, n_neighbors=3))
    assert not beside.exists()
