"""Paths that cannot be: one error from every function that takes one, before anything is done."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from synthetic import make_npz

from ptyzarr.config import IngestConfig
from ptyzarr.errors import ConfigError, ScanExistsError
from ptyzarr.ingestion import (
    export,
    ingest,
    ingest_many,
    plan_parts,
    publish,
    repair,
    stage,
    transform,
    verify,
    write_part,
)
from ptyzarr.sources import open_source
from ptyzarr.store import open_store, open_stores

SOURCES: dict[str, Callable[[Any, Any], object]] = {
    "open_source": lambda path, _: open_source(path),
    "open_store": lambda path, _: open_store(path),
    "open_stores": lambda path, _: open_stores(path),
    "ingest": lambda path, tmp: ingest(path, tmp / "new.zarr"),
    "plan_parts": lambda path, tmp: plan_parts(path, tmp / "new.zarr"),
    "write_part": lambda path, tmp: write_part(path, tmp / "new.zarr", 0, 2),
    "verify": lambda path, _: verify(path),
    "verify's source": lambda path, tmp: verify(tmp / "scan.zarr", path),
    "repair": lambda path, tmp: repair(path, tmp / "scan.npz"),
    "repair's source": lambda path, tmp: repair(tmp / "scan.zarr", path),
    "export": lambda path, tmp: export(path, tmp / "new.npz"),
    "stage": lambda path, tmp: stage(path, tmp / "new.zarr"),
    "transform": lambda path, tmp: transform(path, tmp / "new.zarr"),
}
DESTINATIONS: dict[str, Callable[[Any, Any], object]] = {
    "ingest": lambda path, tmp: ingest(tmp / "scan.npz", path),
    "plan_parts": lambda path, tmp: plan_parts(tmp / "scan.npz", path),
    "write_part": lambda path, tmp: write_part(tmp / "scan.npz", path, 0, 2),
    "publish": lambda path, _: publish(path),
    "export": lambda path, tmp: export(tmp / "scan.zarr", path),
    "stage": lambda path, tmp: stage(tmp / "scan.zarr", path),
    "transform": lambda path, tmp: transform(tmp / "scan.zarr", path),
}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("", id="empty"),
        pytest.param("scan\0.zarr", id="NUL"),
        pytest.param("s3://bucket/a\0", id="URL"),
    ],
)
@pytest.mark.parametrize(
    "call",
    [pytest.param(call, id=f"from, {name}") for name, call in SOURCES.items()]
    + [pytest.param(call, id=f"to, {name}") for name, call in DESTINATIONS.items()],
)
def test_path_that_cannot_be_is_refused_before_anything_is_done(tmp_path, call, path):
    make_npz(tmp_path / "scan.npz")
    ingest(tmp_path / "scan.npz", tmp_path / "scan.zarr").close()
    before = sorted(os.listdir(tmp_path))
    what = r"(NUL character|empty path).*; expected .*; "
    with pytest.raises(ConfigError, match=what) as caught:
        call(path, tmp_path)
    assert "\0" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before


def test_link_to_an_empty_folder_is_told_before_the_frames_are_read(tmp_path):
    """A folder cannot be renamed onto a link, which would show at the very end."""
    make_npz(tmp_path / "scan.npz")
    (tmp_path / "empty").mkdir()
    (tmp_path / "scan.zarr").symlink_to(tmp_path / "empty")
    for call in (ingest, plan_parts):
        with pytest.raises(
            ScanExistsError, match=r"is a link to the empty folder .*; expected .*;"
        ):
            call(tmp_path / "scan.npz", tmp_path / "scan.zarr")
    (outcome,) = ingest_many([(str(tmp_path / "scan.npz"), str(tmp_path / "scan.zarr"))])
    assert outcome.code == "exists"
    assert sorted(os.listdir(tmp_path)) == ["empty", "scan.npz", "scan.zarr"]
    assert not os.listdir(tmp_path / "empty")


def test_overwrite_replaces_a_link_to_an_empty_folder(tmp_path):
    make_npz(tmp_path / "scan.npz")
    (tmp_path / "empty").mkdir()
    (tmp_path / "scan.zarr").symlink_to(tmp_path / "empty")
    ingest(tmp_path / "scan.npz", tmp_path / "scan.zarr", IngestConfig(overwrite=True)).close()
    assert not (tmp_path / "scan.zarr").is_symlink()
    assert not os.listdir(tmp_path / "empty")
