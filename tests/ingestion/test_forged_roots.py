"""Root documents changed at random places and digested anew: one line, or the values of before."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import make_arrays, make_npz, member_crcs

from ptyzarr.config import GroupingConfig, IngestConfig, LoaderConfig
from ptyzarr.errors import PtyzarrError
from ptyzarr.ingestion import export, ingest, verify
from ptyzarr.store import ROOT_KEY, ScanStore, open_store
from ptyzarr.streaming import GroupLoader

N_CHANGES = 600
N_STREAMED = 6  # a loader takes longer than everything else
JUNK = (
    None, True, -1, 0, 1, 2, 16, 2**31, 2**62, 2**63, 1.5, float("nan"), "", "x", "../x", "\0",
    "a\nb", [], {}, [1] * 40, "uint16", "float32", "float64", "big", "yxn", "counts", "amplitude",
    "acquisition", "<f8", "extra/table", "positions",
)  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that no test changes; some frames lie beyond the last position."""
    folder = tmp_path_factory.mktemp("forged")
    frames = make_arrays(15, 8)["diff3d"]
    source = make_npz(
        folder / "scan.npz", 12, 8, diff3d=frames, note="x", table=[[1.0, 2.0], [3.0, 4.0]]
    )
    ingest(source, folder / "scan.zarr", IngestConfig(incomplete="truncate")).close()
    return folder / "scan.zarr"


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items: Any = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, entry in items:
        yield from places(entry, (*path, key))


def forge(document: Any, rng: random.Random) -> bytes:
    """Return a root document with one or two places changed and the digest made right."""
    changed = copy.deepcopy(document)
    paths = [path for path in places(document) if path and "files" not in path]
    for _ in range(rng.choice((1, 1, 2))):
        *parents, last = rng.choice(paths)
        place = changed
        try:
            for parent in parents:
                place = place[parent]
            change(place, last, rng)
        except (KeyError, IndexError, TypeError):  # the first change took the place away
            continue
    attributes = changed.get("attributes")
    attributes = attributes.get("ptyzarr") if isinstance(attributes, dict) else None
    if not isinstance(attributes, dict) or not isinstance(attributes.get("manifest"), dict):
        return b""
    attributes["manifest"]["root_sha256"] = "0" * 64
    blank = json.dumps(changed, indent=1).encode()
    digest = hashlib.sha256(blank).hexdigest().encode()
    return blank.replace(b'"root_sha256": "' + b"0" * 64, b'"root_sha256": "' + digest, 1)


def change(place: Any, key: Any, rng: random.Random) -> None:
    old, how = place[key], rng.choice(("junk", "near", "near", "drop", "repeat"))
    if how == "drop":
        del place[key]
    elif how == "repeat" and isinstance(place, list):
        place.append(copy.deepcopy(old))
    elif how == "near" and type(old) is int:
        place[key] = rng.choice((old + 1, old - 1, old * 2, old // 2, -old))
    elif how == "near" and isinstance(old, list):
        place[key] = rng.choice((old[::-1], old + old, old[1:]))
    elif how == "near" and isinstance(old, str):
        place[key] = old + rng.choice(("x", "/../x", "\n"))
    else:
        place[key] = copy.deepcopy(rng.choice(JUNK))


def values(store: ScanStore) -> dict[str, bytes]:
    frames = store.amplitude(np.arange(store.n_frames))
    arrays = {"frames": frames, "rows": store.rows, "index": store.scan_index}
    arrays |= {"positions": store.positions, "probe": store.probe_guess}
    return {name: f"{a.dtype.str}{a.shape}".encode() + a.tobytes() for name, a in arrays.items()}


def stream(store: ScanStore) -> None:
    grouping = GroupingConfig(gridsize=1, n_neighbors=3)
    config = LoaderConfig(device="numpy", memory="256MiB", n_threads=1)
    with GroupLoader(store, grouping, config) as loader:
        for _ in loader:
            pass


def test_changed_roots_give_the_same_values_or_one_error_of_ours(original, tmp_path):
    document = json.loads((original / ROOT_KEY).read_bytes())
    members = member_crcs(export(original, tmp_path / "original.npz"))
    expected = values(open_store(original))
    root = shutil.copytree(original, tmp_path / "scan.zarr")
    rng = random.Random(20)
    messages = []
    n_opened = n_equal = 0
    for number in range(N_CHANGES):
        (root / ROOT_KEY).write_bytes(forge(document, rng))
        try:
            store = open_store(root)
            n_opened += 1
            if n_opened <= N_STREAMED:
                stream(store)
            assert member_crcs(export(store, tmp_path / f"{number}.npz")) == members
            verify(root)
            assert values(store) == expected
            store.close()
            n_equal += 1
        except PtyzarrError as error:
            messages.append(str(error))
    assert not [message for message in messages if "\n" in message or len(message) > 1000]
    assert n_equal > N_CHANGES // 50
    assert N_STREAMED < n_opened < N_CHANGES // 2
