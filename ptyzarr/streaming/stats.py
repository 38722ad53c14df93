"""What an epoch has done so far, counted and measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What an epoch has done so far.

    Attributes
    ----------
    bytes_read
        Encoded bytes.
    chunks_decoded, frames_decoded
        Chunks, and the frames in them.
    stall_s
        Time for which the receiver waited for a batch, in seconds.
    max_in_flight
        Most batches between opening and delivery.
    """

    bytes_read: int = 0
    chunks_decoded: int = 0
    frames_decoded: int = 0
    stall_s: float = 0.0
    max_in_flight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderStats:
    """What the running or last epoch has done so far.

    Attributes
    ----------
    epoch, batches, groups
        Its number, and what has been delivered.
    elapsed_s
        Time from the first batch asked for to the last one delivered, in seconds.
    stall_s
        Part of it in which the receiver waited for a batch.
    groups_per_s, gb_per_s
        Delivered; 1e9 bytes counted as float32, whatever the dtype of X.
    bytes_read
        Encoded bytes read from the stores.
    chunks_decoded, distinct_chunks
        Chunks decoded, and the distinct chunks among all that the planned batches use.
    decoded_per_delivered
        Frames decoded for each frame delivered.
    peak_buffer_bytes
        Pool and batches in flight at their largest.
    """

    epoch: int = 0
    batches: int = 0
    groups: int = 0
    elapsed_s: float = 0.0
    stall_s: float = 0.0
    groups_per_s: float = 0.0
    gb_per_s: float = 0.0
    bytes_read: int = 0
    chunks_decoded: int = 0
    distinct_chunks: int = 0
    decoded_per_delivered: float = 0.0
    peak_buffer_bytes: int = 0


def measure_epoch(
    counters: Counters,
    *,
    epoch: int,
    batches: int,
    groups: int,
    frames_in_group: int,
    frame_size: int,
    elapsed_s: float,
    distinct_chunks: int,
    peak_buffer_bytes: int,
) -> LoaderStats:
    """Return the figures of an epoch of which at least one group has been delivered."""
    frames = groups * frames_in_group
    nbytes = 4 * frames * frame_size**2
    return LoaderStats(
        epoch=epoch,
        batches=batches,
        groups=groups,
        elapsed_s=elapsed_s,
        stall_s=counters.stall_s,
        groups_per_s=groups / elapsed_s,
        gb_per_s=nbytes / 1e9 / elapsed_s,
        bytes_read=counters.bytes_read,
        chunks_decoded=counters.chunks_decoded,
        distinct_chunks=distinct_chunks,
        decoded_per_delivered=counters.frames_decoded / frames,
        peak_buffer_bytes=peak_buffer_bytes,
    )
