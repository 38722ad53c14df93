"""Codecs and chunk lengths by frame size and dose: what encoding, decoding and disk cost.

    python benchmarks/codecs.py

16-bit counts, one thread, every chunk decoded once in turn so that the processor cannot learn it;
processor time, medians. Decoding is c-blosc's whole, pixels put together again.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable

import numpy as np
from numcodecs import Blosc, blosc
from numpy.typing import NDArray
from scans import SCANS, add_folders, frame_blocks
from tables import Cell, Table, save_tables

FRAME_SIZES = (64, 128, 256, 512)
#: Mean counts a pixel: faint, as in `medium`, bright.
COUNTS_PER_PIXEL = (0.06, 3.0, 60.0)
CHUNK_NBYTES = (8, 16, 32, 64, 128, 512)
CODECS = {
    "lz4 5, byte shuffle": ("lz4", 5, Blosc.SHUFFLE),
    "lz4 5, bit shuffle": ("lz4", 5, Blosc.BITSHUFFLE),
    "lz4hc 1, byte shuffle": ("lz4hc", 1, Blosc.SHUFFLE),
    "lz4hc 5, byte shuffle": ("lz4hc", 5, Blosc.SHUFFLE),
    "zstd 1, byte shuffle": ("zstd", 1, Blosc.SHUFFLE),
}
#: 16-bit pixels of frames that are encoded for one row.
_PIXELS = 8 * 1024**2
_UNITS = ("encode us", "decode us", "ratio")


def run(options: argparse.Namespace) -> list[Table]:
    """Measure codecs at the default chunk, and chunk lengths with the default codec."""
    blosc.use_threads = False
    codecs = [codec_row(options, name, counts) for name in CODECS for counts in COUNTS_PER_PIXEL]
    chunks = [chunk_row(options, nbytes) for nbytes in CHUNK_NBYTES]
    sized = [f"{size}: {unit}" for size in FRAME_SIZES for unit in _UNITS]
    tables = [
        Table(
            name="codecs",
            title="Codecs, a frame of N x N, by N and mean counts a pixel",
            columns=["codec, counts", *sized],
            rows=codecs,
            conditions={"chunk": "16 KiB, one frame at least"},
        ),
        Table(
            name="chunks",
            title="Chunk lengths, LZ4 behind a byte shuffle, a frame of N x N, by N",
            columns=["chunk, KiB", *sized],
            rows=chunks,
            conditions={"counts a pixel": 3.0},
        ),
    ]
    save_tables(tables, options.out / "codecs.json")
    return tables


def codec_row(options: argparse.Namespace, name: str, counts: float) -> list[Cell]:
    """Return encode, decode and ratio of a codec for every frame size."""
    cells: list[Cell] = [f"{name}, {counts:g}"]
    for size in FRAME_SIZES:
        frames = make_frames(size, counts, options.pixels)
        cells += measure(frames, max(1, 16 * 1024 // frames[0].nbytes), CODECS[name])
    return cells


def chunk_row(options: argparse.Namespace, kib: int) -> list[Cell]:
    """Return encode, decode and ratio of a chunk length for every frame size."""
    cells: list[Cell] = [f"{kib}"]
    for size in FRAME_SIZES:
        frames = make_frames(size, 3.0, options.pixels)
        n_frames = kib * 1024 // frames[0].nbytes
        if n_frames < 1:
            cells += [None] * len(_UNITS)
            continue
        cells += measure(frames, n_frames, CODECS["lz4 5, byte shuffle"])
    return cells


def measure(
    frames: NDArray[np.uint16], chunk_frames: int, settings: tuple[str, int, int]
) -> list[float]:
    """Return microseconds a frame to encode and to decode, and how much smaller it is."""
    codec = Blosc(*settings)
    n_chunks = len(frames) // chunk_frames
    chunks = frames[: n_chunks * chunk_frames].reshape(n_chunks, -1)
    out = np.empty(chunks.shape[1], np.uint16)
    encoded: list[bytes] = []

    def encode() -> None:
        encoded[:] = [bytes(codec.encode(chunk)) for chunk in chunks]

    def decode() -> None:
        for chunk in encoded:
            codec.decode(chunk, out)

    per_frame = 1e6 / (n_chunks * chunk_frames)
    times = [processor_seconds(call) * per_frame for call in (encode, decode)]
    return [*times, chunks.nbytes / sum(map(len, encoded))]


def processor_seconds(call: Callable[[], None]) -> float:
    """Return the median of three calls."""
    seconds = []
    for _ in range(3):
        started = time.process_time()
        call()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds)


@functools.cache
def make_frames(size: int, counts: float, n_pixels: int) -> NDArray[np.uint16]:
    """Return counts like those of `medium` in another size and dose."""
    spec = dataclasses.replace(
        SCANS["medium"],
        frame_size=size,
        n_frames=max(16, n_pixels // size**2),
        n_distinct=max(16, min(512, n_pixels // size**2)),
        counts_per_pixel=counts,
        dtype="uint16",
    )
    return np.concatenate(list(frame_blocks(spec)))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_folders(parser)
    parser.add_argument("--pixels", type=int, default=_PIXELS, help="of the frames of one cell")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(parse())
