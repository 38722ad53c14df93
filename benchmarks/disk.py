"""What the frames of one scan take on disk, in every form that a contender reads.

python benchmarks/disk.py --scan medium
"""

from __future__ import annotations

import argparse
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from scans import add_arguments, scan_file, scan_store, write_deflated
from tables import Table, new_figure, save_tables

from ptyzarr.bench import Workload
from ptyzarr.bench.files import (
    BLOCKS,
    DUPLICATED,
    HDF5,
    RAW,
    SINGLE,
    amplitude_blocks,
    ensure_file,
    expected_nbytes,
)
from ptyzarr.store import ScanStore

_ZARR_CHUNK = 16
_ZARR_SHARD = 4096


def run(options: argparse.Namespace) -> Table:
    """Make each form that fits and measure its files."""
    store = scan_store(options.scan, options.cache)
    work = Workload(store=store.path, folder=str(options.cache / f"{options.scan}-peers"))
    forms: dict[str, Path] = {"ptyzarr store (all of the scan)": Path(store.path)}
    forms["NPZ as it comes (all of the scan)"] = scan_file(options.scan, options.cache)
    if options.scan != "real":
        forms["NPZ deflated (all of the scan)"] = write_deflated(options.scan, options.cache)
    forms["zarr float32, lz4 bit shuffle, 16 a chunk"] = float32_zarr(
        store, options.cache / f"{options.scan}-float32.zarr"
    )
    others = [
        ("zarr counts, lz4, a file for each frame", SINGLE, "zarr"),
        ("HDF5 counts, lzf, 1 a chunk", HDF5, "h5py"),
        ("float32 npy", RAW, "numpy"),
        ("groups in full, counts, lz4 (annbatch's way)", BLOCKS, "zarr"),
        ("groups in full, float32 map (PtychoPINN's way)", DUPLICATED, "tensordict"),
    ]
    for label, name, package in others:
        if find_spec(package) and expected_nbytes(work, name) <= options.max_disk:
            forms[label] = ensure_file(work, name)
    sizes = {label: measure(path) for label, path in forms.items()}
    floats = 4 * store.n_frames * store.frame_size**2
    table = Table(
        name=f"disk-{options.scan}",
        title="Bytes on disk",
        columns=("form", "MiB", "MiB of blocks", "files", "% of float32"),
        rows=[
            [label, nbytes / 2**20, blocks / 2**20, files, 100 * nbytes / floats]
            for label, (nbytes, blocks, files) in sizes.items()
        ],
        conditions={"frames": store.n_frames, "frame_size": store.frame_size},
    )
    save_tables([table], options.out / f"disk-{options.scan}.json")
    draw({label: size[0] for label, size in sizes.items()}, options)
    return table


def float32_zarr(store: ScanStore, path: Path) -> Path:
    """Return one zarr array of the amplitudes, made if it is not there."""
    if path.exists():
        return path
    zarr = import_module("zarr")
    size, scratch = store.frame_size, path.with_name(f"partial-{path.name}")
    array = zarr.create_array(
        str(scratch),
        shape=(store.n_frames, size, size),
        chunks=(_ZARR_CHUNK, size, size),
        shards=(_ZARR_SHARD, size, size),
        dtype="float32",
        compressors=zarr.codecs.BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),
        overwrite=True,
    )
    for first, frames in amplitude_blocks(store, _ZARR_SHARD):
        array[first : first + len(frames)] = frames
    os.replace(scratch, path)
    return path


def measure(path: Path) -> tuple[int, int, int]:
    """Return bytes, bytes of the file system's blocks and number of files."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    found = [file.stat() for file in files]
    return sum(f.st_size for f in found), sum(512 * f.st_blocks for f in found), len(found)


def draw(sizes: dict[str, int], options: argparse.Namespace) -> None:
    """Draw the bytes as bars."""
    figure = new_figure(8, 0.9 + 0.38 * len(sizes))
    if figure is None:
        return
    axes = figure.subplots()
    labels = sorted(sizes, key=lambda label: sizes[label], reverse=True)
    values = [sizes[label] / 2**20 for label in labels]
    colors = ["C0" if label.startswith("ptyzarr") else "0.7" for label in labels]
    bars = axes.barh(labels, values, color=colors)
    names = [f"{value:,.0f} MiB" if value >= 10 else f"{value:.1f} MiB" for value in values]
    axes.bar_label(bars, names, padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 2, max(values) * 4)
    axes.set_xlabel("MiB, logarithmic")
    axes.set_title(f"The frames of {options.scan} on disk")
    figure.savefig(options.out / f"disk-{options.scan}.png")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--max-disk", type=int, default=16 * 1024**3, help="largest file to make")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(parse())
