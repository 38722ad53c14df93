"""A PtychoPINN script before and after: peak memory and time to the first grouped batch.

    python benchmarks/migration.py --frames 20000

Every way starts in a fresh process, after its imports, with the NPZ alone (or with the store that
an earlier run made of it), and ends when the first 64 groups are there as normalised float32 with
their patches. The upstream way is made again from its contract: every member is read whole, frames
are cast to float32, and all groups are drawn, gathered, normalised and given patches in one call.
Drawing is one query and one `choice` a group, as there; patches are ours, which are cheaper.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scans import ScanSpec, add_folders, write_scan
from scipy.spatial import cKDTree
from tables import Cell, Table, run_child, save_tables

from ptyzarr import GroupingConfig, GroupLoader, LoaderConfig, open_store
from ptyzarr.config import format_size
from ptyzarr.grouping import group_coords, normalization_factor, object_patches
from ptyzarr.memory import resident_memory
from ptyzarr.ptychopinn import MemmapDatasetBridge
from ptyzarr.scan import frame_power

N_NEIGHBORS, GRIDSIZE, SEED, BATCH = 6, 2, 42, 64
GROUPING = GroupingConfig(gridsize=GRIDSIZE, n_neighbors=N_NEIGHBORS, seed=SEED)
COLUMNS = ("way", "first batch s", "lo..hi", "time ratio", "CPU-s", "CPU ratio", "MiB added",
           "memory ratio", "same bits")  # fmt: skip
#: The first batch of a way: members (B, C), X (B, N, N, C) float32, Y (B, N, N, C) complex64.
First = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def whole_scan(source: str, folder: str, memory: str) -> Iterator[First]:
    """Yield the first groups of all, after all were made at once in memory."""
    del folder, memory
    with np.load(source) as archive:
        members = {name: archive[name] for name in archive.files}
    frames = members["diff3d"].astype(np.float32, copy=False)
    positions = np.stack([members["xcoords"], members["ycoords"]], axis=1)
    size, nn_indices = frames.shape[1], draw_groups(positions)
    diffraction = frames[nn_indices].transpose(0, 2, 3, 1)
    x = normalization_factor(frame_power(frames), nn_indices, size) * diffraction
    _, offsets, relative = group_coords(positions, nn_indices)
    y = object_patches(members["objectGuess"], offsets, relative, size)
    yield nn_indices[:BATCH], x[:BATCH], y[:BATCH]


def draw_groups(positions: NDArray[np.float64]) -> NDArray[np.int32]:
    """Return the canonical groups (n, C), a query and a choice for each."""
    tree = cKDTree(positions)
    rng = np.random.RandomState(SEED)
    groups = np.empty((len(positions), GRIDSIZE**2), np.int32)
    for number, position in enumerate(positions):
        candidates = tree.query(position, k=N_NEIGHBORS + 1)[1][1:]
        groups[number] = rng.choice(candidates, size=GRIDSIZE**2, replace=False)
    return groups


def bridge(source: str, folder: str, memory: str, *, lazy: bool) -> Iterator[First]:
    """Yield the first groups of the drop-in, which gives all as arrays or as lazy ones."""
    del memory
    bridge = MemmapDatasetBridge(source, memmap_dir=folder)
    size, n_frames = bridge.store.frame_size, bridge.store.n_frames
    grouped = bridge.get_grouped_data(
        N=size, K=N_NEIGHBORS, nsamples=n_frames, gridsize=GRIDSIZE, seed=SEED, lazy=lazy
    )
    x, y = (np.asarray(grouped[name][:BATCH]) for name in ("X_full", "Y"))
    yield grouped["nn_indices"][:BATCH], x, y


def loader(source: str, folder: str, memory: str) -> Iterator[First]:
    """Yield the first batch of the loader over the store that the bridge made."""
    del source
    (path,) = Path(folder).glob("*.zarr")
    config = LoaderConfig(
        batch_size=BATCH, shuffle=False, device="numpy", patches=True, memory=memory
    )
    with GroupLoader(open_store(path), GROUPING, config) as batches:
        batch = next(iter(batches))
        yield batch.nn_indices, batch.X, batch.Y


#: Ways by name: their label, whether they start without a store, and what they do.
WAYS: dict[str, tuple[str, bool, Callable[[str, str, str], Iterator[First]]]] = {
    "upstream": ("upstream's bridge, from its contract", False, whole_scan),
    "ingesting": (
        "`MemmapDatasetBridge`, first time (ingests)", True, functools.partial(bridge, lazy=False),
    ),
    "eager": ("`MemmapDatasetBridge`, later", False, functools.partial(bridge, lazy=False)),
    "lazy": ("the same, `lazy=True`", False, functools.partial(bridge, lazy=True)),
    "loader": ("`GroupLoader`", False, loader),
}  # fmt: skip


def run(options: argparse.Namespace) -> Table:
    """Measure every way, rounds interleaved; the ratios are to upstream's."""
    spec = ScanSpec(
        n_frames=options.frames, frame_size=64, columns=round(options.frames**0.5), n_distinct=4096
    )
    source = write_scan(options.cache / f"migration-{options.frames}.npz", spec)
    stores = options.cache / f"migration-{options.frames}"
    MemmapDatasetBridge(source, memmap_dir=stores).store.close()
    for name in ("lazy", "loader"):  # Kernels are compiled once, whatever was before.
        run_child("migration.py", "--child", name, source, stores, options.memory)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    for _ in range(options.rounds):
        for name, (_, starts_empty, _) in WAYS.items():
            folder = tempfile.mkdtemp(dir=options.cache) if starts_empty else stores
            arguments = (name, source, folder, options.memory)
            found[name].append(run_child("migration.py", "--child", *arguments))
            if starts_empty:
                shutil.rmtree(folder)
    frames = options.frames * spec.frame_size**2 * 4
    table = Table(
        name="migration",
        title="From an NPZ to the first 64 groups, all groups of the scan drawn",
        columns=COLUMNS,
        rows=[cells(WAYS[name][0], rounds, found["upstream"]) for name, rounds in found.items()],
        conditions={
            "frames": f"{options.frames:,} of 64 x 64 float32 ({format_size(frames)}), stored",
            "groups": f"{options.frames:,}, {GRIDSIZE**2} of {N_NEIGHBORS}",
            "memory of the loader": options.memory,
            "rounds": options.rounds,
            "process": "fresh, imports done",
            "files": "in the page cache",
        },
    )
    save_tables([table], options.out / "migration.json")
    return table


def cells(label: str, rounds: list[dict[str, Any]], reference: list[dict[str, Any]]) -> list[Cell]:
    """Return the cells of a way: medians."""
    seconds, cpu_s, added = (median(rounds, name) for name in ("seconds", "cpu_s", "added"))
    times = [one["seconds"] for one in rounds]
    is_same = all(one["checksum"] == reference[0]["checksum"] for one in rounds)
    return [
        label,
        seconds,
        f"{min(times):.2f}..{max(times):.2f}",
        seconds / median(reference, "seconds"),
        cpu_s,
        cpu_s / median(reference, "cpu_s"),
        round(added / 2**20),
        added / median(reference, "added"),
        "yes" if is_same else "no",
    ]


def median(rounds: list[dict[str, Any]], name: str) -> float:
    """Return the median of a number over the rounds."""
    return float(statistics.median(one[name] for one in rounds))


def measure(name: str, source: str, folder: str, memory: str) -> dict[str, Any]:
    """Return seconds to the first batch, the memory added till then, and the batch's checksum."""
    before = resident_memory()
    began, cpu_began = time.perf_counter(), time.process_time()
    for members, x, y in WAYS[name][2](source, folder, memory):
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
        after = resident_memory()
        checksum = 0
        for array in (members.astype(np.int64), x, y):
            checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
    if before is None or after is None:
        raise SystemExit("the system does not tell the memory of a process; expected /proc")
    return {"seconds": seconds, "cpu_s": cpu_s, "added": after[1] - before[0], "checksum": checksum}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_folders(parser)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--memory", default="256MiB", help="of the loader")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    options = parse()
    if options.child:
        print(json.dumps(measure(*options.child)))
    else:
        run(options)
