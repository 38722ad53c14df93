"""The manifest and the root document's digest of itself."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ptyzarr.errors import DamagedStoreError, SchemaError
from ptyzarr.store import (
    ROOT_KEY,
    check_digests,
    check_sizes,
    file_digest,
    list_keys,
    read_root,
    was_written_here,
)
from ptyzarr.store.manifest import compose_root


@pytest.fixture
def root(tmp_path):
    """A folder with two files and a root document that lists them."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"22")
    write_root(tmp_path, {key: file_digest(tmp_path / key) for key in list_keys(tmp_path)})
    return tmp_path


def write_root(root: Path, files: dict[str, Any], **attributes: Any) -> None:
    (root / ROOT_KEY).write_bytes(
        compose_root({"created_by": "ptyzarr 0", **attributes}, {}, files)
    )


def entries(root: Path) -> dict[str, Any]:
    document = read_root(root / ROOT_KEY)
    files: dict[str, Any] = document["attributes"]["ptyzarr"]["manifest"]["files"]
    return files


def test_manifest_lists_every_file_but_the_root(root):
    one = hashlib.sha256(b"1").hexdigest()
    assert entries(root)["a/one"] == {"size": 1, "sha256": one}
    assert list(entries(root)) == ["a/one", "two"]
    check_sizes(root, entries(root))
    assert list(check_digests(root, entries(root))) == [(1, None), (2, None)]


def test_root_digest_is_that_of_its_bytes_with_zeros(root):
    raw = (root / ROOT_KEY).read_bytes()
    digest = json.loads(raw)["attributes"]["ptyzarr"]["manifest"]["root_sha256"]
    assert hashlib.sha256(raw.replace(digest.encode(), b"0" * 64)).hexdigest() == digest


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        pytest.param(lambda path: path.unlink(), "two cannot be read", id="missing"),
        pytest.param(lambda path: path.write_bytes(b"2"), "has 1 bytes, expected 2", id="size"),
        pytest.param(make_folder, "is no file", id="folder"),
        pytest.param(make_pipe, "is no file", id="pipe"),
        pytest.param(lambda path: path.write_bytes(b"23"), "other content", id="content"),
    ],
)
def test_differences_are_named(root, damage, match):
    damage(root / "two")
    (_, first), (_, second) = check_digests(root, entries(root))
    assert first is None
    assert match in str(second)
    if "content" not in match:
        with pytest.raises(DamagedStoreError, match="file 'two'"):
            check_sizes(root, entries(root))


@pytest.mark.parametrize(
    "key", ["../two", "/etc/passwd", "a/../../b", "", "a//b", "./a", "a\\..\\b", "C:x"], ids=repr
)
def test_key_that_leaves_the_store_is_refused(root, key):
    write_root(root, {key: (1, "0" * 64)})
    with pytest.raises(SchemaError, match="manifest that is not understood"):
        read_root(root / ROOT_KEY)


def redigest(root: Path, change: Any) -> None:
    """Change the document as a forger would, with a right digest of itself."""
    document = json.loads((root / ROOT_KEY).read_bytes())
    manifest = document["attributes"]["ptyzarr"]["manifest"]
    change(manifest)
    manifest["root_sha256"] = "0" * 64
    blank = json.dumps(document, indent=1).encode()
    digest = hashlib.sha256(blank).hexdigest().encode()
    (root / ROOT_KEY).write_bytes(blank.replace(b"0" * 64, digest))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: m.pop("files"), id="no files"),
        pytest.param(lambda m: m.__setitem__("files", []), id="a list"),
        pytest.param(lambda m: m["files"].__setitem__("two", 2), id="no entry"),
        pytest.param(lambda m: m["files"]["two"].pop("size"), id="no size"),
        pytest.param(lambda m: m["files"]["two"].__setitem__("sha256", None), id="no digest"),
    ],
)
def test_manifest_of_another_shape_is_refused(root, change):
    redigest(root, change)
    with pytest.raises(SchemaError, match="manifest that is not understood"):
        read_root(root / ROOT_KEY)


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"attributes": {"other": 1}}'], ids=repr
)
def test_what_is_no_root_of_ours_is_refused(tmp_path, raw):
    (tmp_path / ROOT_KEY).write_bytes(raw)
    with pytest.raises(SchemaError, match="is not a ptyzarr store"):
        read_root(tmp_path / ROOT_KEY)
    assert not was_written_here(tmp_path)


def test_root_that_is_cut_off_is_known_to_be_ours(root):
    raw = (root / ROOT_KEY).read_bytes()
    for length in range(len(raw) // 3, len(raw) - 1):
        (root / ROOT_KEY).write_bytes(raw[:length])
        assert was_written_here(root)
        with pytest.raises(DamagedStoreError, match="its own digest"):
            read_root(root / ROOT_KEY)


def test_store_without_a_root_is_known_by_its_arrays(tmp_path):
    assert not was_written_here(tmp_path)
    (tmp_path / "frame_hash").mkdir()
    (tmp_path / "frame_hash" / ROOT_KEY).write_text("{}")
    assert was_written_here(tmp_path)


def test_folder_that_cannot_be_listed_is_not_left_out(tmp_path, monkeypatch):
    (tmp_path / "a/c").mkdir(parents=True)
    (tmp_path / "a/c/0").write_bytes(b"x")
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "c":
            raise OSError(5, "Input/output error")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(OSError, match="Input/output"):
        list(list_keys(tmp_path))


def test_size_that_cannot_be_looked_at_is_no_missing_file(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"x")
    files = {"a": {"size": 1, "sha256": ""}}
    check_sizes(tmp_path, files)

    def refuse(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(PermissionError):
        check_sizes(tmp_path, files)
