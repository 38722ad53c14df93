"""An interrupt that comes when the store is there does not undo that the call has succeeded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic import make_npz

from ptyzarr.config import IngestConfig, TransformConfig
from ptyzarr.errors import InterruptedIngestError
from ptyzarr.ingestion import (
    ingest,
    plan_parts,
    publish,
    stage,
    transform,
    verify,
    write_part,
)
from ptyzarr.ingestion.staging import Staging
from ptyzarr.ingestion.upload import upload
from ptyzarr.store import ScanStore

Call = Callable[[], object]


def interrupt_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, when: str) -> list[str]:
    """Interrupt the next call of a function, before or after it; return what was interrupted."""
    inner, seen = getattr(owner, name), []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        is_first = not seen
        if is_first and when == "before":
            seen.append(name)
            raise KeyboardInterrupt
        result = inner(*args, **kwargs)
        if is_first and not seen:
            seen.append(name)
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(owner, name, wrapped)
    return seen


def prepare(kind: str, folder: Path) -> tuple[Call, Path, Path]:
    """Return a call that publishes, its source, and where the store appears."""
    source, path = make_npz(folder / "scan.npz", 20, 8), folder / "scan.zarr"
    if kind == "overwrite":
        ingest(make_npz(folder / "old.npz", 20, 8, seed=1), path).close()
        return lambda: ingest(source, path, IngestConfig(overwrite=True)).close(), source, path
    if kind == "publish":
        plan_parts(source, path)
        write_part(source, path, 0, 1)
        return lambda: publish(path).close(), source, path
    if kind in ("transform", "stage"):
        ingest(source, path).close()
        copy = folder / "copy.zarr"
        if kind == "stage":
            return lambda: stage(path, copy), source, copy
        config = TransformConfig(flip_x=True)
        return lambda: transform(path, copy, config).close(), path, copy
    return lambda: ingest(source, path).close(), source, path


KINDS = ["ingest", "overwrite", "publish", "transform", "stage"]
MOMENTS = [
    pytest.param(os, "rename", "after", id="right-after-the-rename"),
    pytest.param(Staging, "discard", "before", id="before-tidying"),
    pytest.param(Staging, "discard", "after", id="after-tidying"),
    pytest.param(ScanStore, "__init__", "before", id="opening"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("owner", "name", "when"), MOMENTS)
def test_an_interrupt_after_publication_ends_with_success(
    kind: str, owner: Any, name: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, source, path = prepare(kind, tmp_path)
    if name == "__init__":  # the first opening after publication
        if kind == "stage":
            pytest.skip("what was copied is not opened")
        publish_store = Staging.publish

        def arm(*args: Any, **kwargs: Any) -> None:
            publish_store(*args, **kwargs)
            interrupt_once(monkeypatch, owner, name, when)

        monkeypatch.setattr(Staging, "publish", arm)
    elif name == "rename":
        # Of the two renames of an overwrite the second one publishes.
        publishing = os.rename

        def rename(one: Any, other: Any) -> None:
            publishing(one, other)
            if Path(other) == path and not renamed:
                renamed.append(name)
                raise KeyboardInterrupt

        renamed: list[str] = []
        monkeypatch.setattr(os, "rename", rename)
    else:
        interrupt_once(monkeypatch, owner, name, when)
    call()
    verify(path, source)
    assert not path.with_name(path.name + ".staging").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_right_before_the_rename_ends_the_call(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, source, path = prepare(kind, tmp_path)
    seen = interrupt_once(monkeypatch, os, "rename", "before")
    with pytest.raises(InterruptedIngestError):
        call()
    assert seen
    assert path.exists() == (kind == "overwrite")
    call()
    verify(path, source)


def test_an_interrupt_between_the_renames_of_an_overwrite_keeps_the_old_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, source, path = prepare("overwrite", tmp_path)
    interrupt_once(monkeypatch, os, "rename", "after")
    with pytest.raises(InterruptedIngestError):
        call()
    verify(path, tmp_path / "old.npz")
    call()
    verify(path, source)


def test_an_interrupt_while_what_a_killed_call_left_is_tidied_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, source, path = prepare("ingest", tmp_path)
    call()
    left = path.with_name("scan.zarr.staging")
    (left / "scratch").mkdir(parents=True)
    interrupt_once(monkeypatch, Staging, "discard", "before")
    call()
    verify(path, source)
    assert not left.exists()


def test_an_interrupt_after_the_upload_of_a_root_ends_with_success(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_npz(tmp_path / "scan.npz", 20, 8)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    seen: list[str] = []

    def interrupt(*args: Any, **kwargs: Any) -> None:
        upload(*args, **kwargs)
        seen.append("uploaded")
        raise KeyboardInterrupt

    monkeypatch.setattr("ptyzarr.ingestion.destination.upload", interrupt)
    config = IngestConfig(staging=str(tmp_path / "stage"))
    store = ingest(source, f"{bucket}/scan.zarr", config)
    assert store.n_frames == 20
    store.close()
    assert seen == ["uploaded"]
    assert list((tmp_path / "stage").iterdir()) == []
