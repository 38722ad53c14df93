"""Epochs and batches on the host: sampling, paging, gathering, delivering."""

from ptyzarr.streaming.experiments import StreamableScan
from ptyzarr.streaming.gather import copy_frames, gather_frames
from ptyzarr.streaming.loader import Batch, GroupLoader, count_threads
from ptyzarr.streaming.packing import PackedFrames, choose_packing, pack_frames
from ptyzarr.streaming.recycling import aligned_bytes
from ptyzarr.streaming.selection import Groups
from ptyzarr.streaming.sinks import (
    BatchShape,
    Fields,
    HostSink,
    NumpySink,
    PatchPiece,
    Piece,
    Sink,
)
from ptyzarr.streaming.staging import SlotRing

__all__ = [
    "Batch",
    "BatchShape",
    "Fields",
    "GroupLoader",
    "Groups",
    "HostSink",
    "NumpySink",
    "PackedFrames",
    "PatchPiece",
    "Piece",
    "Sink",
    "SlotRing",
    "StreamableScan",
    "aligned_bytes",
    "choose_packing",
    "copy_frames",
    "count_threads",
    "gather_frames",
    "pack_frames",
]
