"""What packing frames in the pool saves, and what it costs, from faint to bright scans.

    python benchmarks/packing.py

Synthetic counts of 128 x 128; one thread; every variant gathers the same groups of 4 from frames
in memory to float32, the rounds of all variants interleaved.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scans import SCANS, add_folders, frame_blocks
from tables import Cell, Table, save_tables

from ptyzarr.streaming.gather import gather_frames
from ptyzarr.streaming.packing import FramePacking, PackedFrames, choose_packing, pack_frames
from ptyzarr.streaming.recycling import aligned_bytes

PHOTONS = (1e3, 1e4, 5e4, 1e5, 1e6, 1e7)
_N_GROUPS = 64
_SCALE = np.float32(0.37)


def run(options: argparse.Namespace) -> Table:
    """Measure one row for each dose."""
    rows = [measure(photons, options.frames, options.rounds) for photons in PHOTONS]
    table = Table(
        name="packing",
        title="Frames packed in the pool, by photons a frame",
        columns=[
            "photons",
            "non-zero %",
            "above 255",
            "16-bit bytes",
            "packed bytes",
            "smaller",
            "16-bit groups/s",
            "packed groups/s",
            "faster",
            "packing us",
            "chosen",
        ],
        rows=rows,
        conditions={"frames": options.frames, "groups": "4 frames, (B, C, N, N)", "threads": 1},
    )
    save_tables([table], options.out / "packing.json")
    return table


def measure(photons: float, n_frames: int, n_rounds: int) -> list[Cell]:
    """Return the row of one dose."""
    frames = make_frames(photons, n_frames)
    n_pixels = frames.shape[1]
    limits = int((frames != 0).sum(1).max()), int((frames > 255).sum(1).max())
    packing = FramePacking(frames.dtype, n_pixels, *limits)
    packed = PackedFrames.over(aligned_bytes(n_frames * packing.frame_nbytes), packing)
    places = np.arange(n_frames, dtype=np.int64) * packing.frame_nbytes
    flat = aligned_bytes(frames.nbytes).view(np.uint16)
    flat[:] = frames.reshape(-1)
    starts = np.arange(n_frames, dtype=np.int64) * n_pixels
    pack_s = median_seconds([lambda: pack_frames(frames, places, packed)], n_rounds)[0]
    out = aligned_bytes(_N_GROUPS * 4 * n_pixels * 4).view(np.float32).reshape(-1, n_pixels)
    chosen = np.random.default_rng(0).integers(0, n_frames, len(out))

    def gather(source: NDArray[np.uint16] | PackedFrames, offsets: NDArray[np.int64]) -> None:
        picked = offsets[chosen][:, np.newaxis]
        gather_frames(source, picked, np.arange(len(out)), _SCALE, out, is_counts=True)

    plain_s, packed_s = median_seconds(
        [lambda: gather(flat, starts), lambda: gather(packed, places)], n_rounds
    )
    is_chosen = choose_packing(frames.dtype, n_pixels, limits) is not None
    return [
        f"{photons:.0e}",
        100 * float((frames != 0).mean()),
        limits[1],
        n_pixels * 2,
        packing.frame_nbytes,
        n_pixels * 2 / packing.frame_nbytes,
        _N_GROUPS / plain_s,
        _N_GROUPS / packed_s,
        plain_s / packed_s,
        1e6 * pack_s / n_frames,
        "yes" if is_chosen else "no",
    ]


def make_frames(photons: float, n_frames: int) -> NDArray[np.uint16]:
    """Return (n_frames, pixels) counts like those of `medium` at another dose."""
    size = SCANS["medium"].frame_size
    spec = dataclasses.replace(
        SCANS["medium"], counts_per_pixel=photons / size**2, dtype="uint16", n_frames=n_frames
    )
    return np.concatenate(list(frame_blocks(spec))).reshape(n_frames, -1)


def median_seconds(calls: list[Callable[[], object]], n_rounds: int) -> list[float]:
    """Return the median time of each call, rounds interleaved, the first one not counted."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(n_rounds + 1):
        for call, seconds in zip(calls, times, strict=True):
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds[1:]) for seconds in times]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_folders(parser)
    parser.add_argument("--frames", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=15)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(parse())
