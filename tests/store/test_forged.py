"""Stores whose digests are right and whose content is not: told, never wrong rows or a crash."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from synthetic import make_npz
from zarr.codecs import BloscCodec, Crc32cCodec

from ptyzarr.errors import DamagedStoreError, PtyzarrError
from ptyzarr.ingestion import ingest, verify
from ptyzarr.store import ROOT_KEY, open_store

INDEX_KEY, SHARD_KEY = "frame_index/c/0", "diffraction/c/0/0/0"
PLACES = {"flags": 0, "nbytes": 4, "blocksize": 8, "cbytes": 12}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that no test changes."""
    folder = tmp_path_factory.mktemp("forged")
    ingest(make_npz(folder / "scan.npz"), folder / "scan.zarr").close()
    return folder / "scan.zarr"


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "scan.zarr"))


def seal(root: Path) -> None:
    """Make manifest and root digest agree with what the files hold."""
    document = json.loads((root / ROOT_KEY).read_bytes())
    manifest = document["attributes"]["ptyzarr"]["manifest"]
    for key, entry in manifest["files"].items():
        raw = (root / key).read_bytes()
        entry.update(size=len(raw), sha256=hashlib.sha256(raw).hexdigest())
        if "tail" in entry:
            entry["tail"] = raw[-4:].hex()
    manifest["root_sha256"] = "0" * 64
    digest = hashlib.sha256(json.dumps(document, indent=1).encode()).hexdigest()
    manifest["root_sha256"] = digest
    (root / ROOT_KEY).write_bytes(json.dumps(document, indent=1).encode())


def checksummed(raw: bytes) -> bytes:
    return raw + int(google_crc32c.value(raw)).to_bytes(4, "little")


def write_index(root: Path, values: np.ndarray) -> None:
    scratch = root.parent / "index"
    array = zarr.create_array(
        store=str(scratch),
        shape=values.shape,
        dtype=values.dtype,
        chunks=values.shape,
        compressors=[BloscCodec(cname="zstd", clevel=3, typesize=8), Crc32cCodec()],
        config={"write_empty_chunks": True},
    )
    array[...] = values
    shutil.copyfile(scratch / "c" / "0", root / INDEX_KEY)
    seal(root)


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(lambda index: index[[0, 0, *range(2, len(index))]], id="twice"),
        pytest.param(lambda index: index - 1, id="from -1"),
        pytest.param(lambda index: index + 1, id="to n"),
        pytest.param(lambda index: -index - 1, id="negative"),
        pytest.param(lambda index: index * 2**57, id="huge"),
        pytest.param(np.zeros_like, id="zeros"),
    ],
)
def test_frame_index_that_is_no_permutation_is_told(
    copy: Path, forge: Callable[[Any], Any]
) -> None:
    with closing(open_store(copy)) as store:
        index = store.frame_index.copy()
    write_index(copy, forge(index))
    with closing(open_store(copy)) as store:
        for read in (
            lambda: store.rows,
            lambda: store.frame_index,
            lambda: store.amplitude(np.arange(3)),
            lambda: store.positions,
        ):
            with pytest.raises(DamagedStoreError, match=r"'frame_index'.*expected a permutation"):
                read()
    with pytest.raises(PtyzarrError, match="frame_index"):
        verify(copy)


def test_another_permutation_is_found_by_verify(copy: Path) -> None:
    with closing(open_store(copy)) as store:
        write_index(copy, store.frame_index[::-1].copy())
    with pytest.raises(PtyzarrError):
        verify(copy)


def forged_headers(n: int) -> list[Any]:
    rng = np.random.default_rng(7)
    cases = []
    for number in range(n):
        place = list(PLACES)[number % len(PLACES)]
        value = int(rng.choice([0, 1, 15, 16, 2**16, 2**30, 2**31 - 1, 2**31, 2**32 - 1]))
        value = value if number % 3 else int(rng.integers(2**32))
        cases.append((PLACES[place], value))
    return cases


def edited(chunk: bytes, place: int, value: int) -> bytes:
    raw = bytearray(chunk[:-4])
    raw[place : place + 4] = value.to_bytes(4, "little")
    return checksummed(bytes(raw))


def test_forged_header_of_a_chunk_of_frames_never_gives_other_frames(copy: Path) -> None:
    shard = (copy / SHARD_KEY).read_bytes()
    with closing(open_store(copy)) as store:
        layout, index = store.format, store.frame_index[:1]
        expected = store.stored(index)
    entries = np.frombuffer(shard[-16 * layout.shard_chunks - 4 : -4], "<u8").reshape(-1, 2)
    start, length = map(int, entries[0])
    refused = 0
    for place, value in forged_headers(60):
        chunk = edited(shard[start : start + length], place, value)
        (copy / SHARD_KEY).write_bytes(shard[:start] + chunk + shard[start + length :])
        seal(copy)
        with closing(open_store(copy)) as store:
            try:
                np.testing.assert_array_equal(store.stored(index), expected)
            except DamagedStoreError:
                refused += 1
    assert refused > 40


def test_forged_header_of_an_array_never_gives_other_values(copy: Path) -> None:
    path = copy / "positions/c/0/0"
    raw = path.read_bytes()
    with closing(open_store(copy)) as store:
        expected = store.positions
    refused = 0
    for place, value in [*forged_headers(60), (12, len(raw) + 500)]:
        path.write_bytes(edited(raw, place, value))
        seal(copy)
        with closing(open_store(copy)) as store:
            try:
                np.testing.assert_array_equal(store.positions, expected)
            except DamagedStoreError:
                refused += 1
    assert refused > 40
