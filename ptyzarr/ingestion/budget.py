"""How many threads work and how many frames they handle at once, within the memory budget."""

from __future__ import annotations

import math

from ptyzarr.compiled import available_cores
from ptyzarr.config import IngestConfig
from ptyzarr.errors import BudgetError
from ptyzarr.scan import Scan

_BLOCK_BYTES = 2 * 1024**2  # what a core's cache keeps while a block is looked at several times
_SPARE_BLOCKS = 2  # one being read, one being stored, beside those that workers check
_FIXED_BYTES = 96 * 1024**2  # compiled kernels, codecs, thread stacks, file buffers
_BYTES_PER_MEMBER = 32 * 1024  # metadata of its node, three times while the root is composed
_BYTES_PER_FRAME = 160  # positions, order, spooled pieces, a field of the records, sorted copies


def choose_workers(scan: Scan, config: IngestConfig) -> int:
    """Return how many threads work: as many as asked for, or as cores and memory allow."""
    if config.n_workers is not None:
        return config.n_workers
    in_flight = _bytes_in_flight(scan)
    left = config.memory_bytes - _held_bytes(scan) - _SPARE_BLOCKS * in_flight
    return max(1, min(available_cores(), left // (in_flight + _worker_bytes(scan))))


def block_frames(scan: Scan, config: IngestConfig, n_workers: int) -> int:
    """Return how many frames are handled at once within the budget.

    Raises
    ------
    BudgetError
        If not even one frame fits.
    """
    held = _held_bytes(scan) + n_workers * _worker_bytes(scan)
    for_one_frame = (n_workers + _SPARE_BLOCKS) * _bytes_in_flight(scan)
    if config.memory_bytes < held + for_one_frame:
        least = -(-(held + for_one_frame) // 1024**2)
        raise BudgetError(
            f"memory {config.memory!r} is too small for {scan.name} with {n_workers} workers; "
            f"expected at least {least}MiB; raise --memory or lower --n-workers"
        )
    fitting = (config.memory_bytes - held) // for_one_frame
    return max(1, min(_BLOCK_BYTES // _frame_bytes(scan), fitting))


def _frame_bytes(scan: Scan) -> int:
    return scan.frame_size**2 * max(scan.frames.dtype.itemsize, 4)


def _bytes_in_flight(scan: Scan) -> int:
    """Return what one frame in work takes.

    Itself, its counts, their root or squares, room for its chunk; up to four encoded chunks
    wait to be written in the meantime, no larger than it where nothing can be compressed.
    """
    return 8 * _frame_bytes(scan)


def _worker_bytes(scan: Scan) -> int:
    """Return what reading takes in a thread, beside the frames that it gives."""
    return 0 if scan.origin is None else scan.origin.worker_nbytes


def _held_bytes(scan: Scan) -> int:
    """Return what is in memory whatever the size of a block."""
    # Fortran order is turned in a second array; a row of what is streamed is read at once.
    probe = 2 * scan.probe_guess.nbytes
    streamed = [*scan.extra.values(), *([scan.object_reader] if scan.object_reader else [])]
    rows = (
        math.prod(member.shape[1:]) * member.dtype.itemsize
        for member in streamed
        if 0 not in member.shape
    )
    each = _BYTES_PER_FRAME * scan.n_frames + _BYTES_PER_MEMBER * len(scan.members)
    held = 0 if scan.origin is None else scan.origin.held_nbytes
    return _FIXED_BYTES + each + probe + 3 * max(rows, default=0) + held
