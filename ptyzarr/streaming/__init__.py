"""Epochs and batches on the host: sampling, paging, gathering, delivering."""

from ptyzarr.streaming.experiments import StreamableScan
from ptyzarr.streaming.gather import copy_frames, gather_frames
from ptyzarr.streaming.loader import Batch, GroupLoader
from ptyzarr.streaming.lookup import GroupLookup
from ptyzarr.streaming.packing import PackedFrames, choose_packing, pack_frames
from ptyzarr.streaming.ranks import check_seed, count_threads, fill_rank
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
    "GroupLookup",
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
    "check_seed",
    "choose_packing",
    "copy_frames",
    "count_threads",
    "fill_rank",
    "gather_frames",
    "pack_frames",
]
