"""The schema on disk; the only room that knows zarr."""

from ptyzarr.store.arrayset import write_array_set
from ptyzarr.store.manifest import (
    check_digests,
    check_sizes,
    file_digest,
    list_keys,
    read_root,
    was_written_here,
)
from ptyzarr.store.nodes import read_node
from ptyzarr.store.scanstore import ScanStore, open_store, open_stores
from ptyzarr.store.schema import (
    COUNT_DTYPES,
    EXTRA,
    MASKED,
    MAX_COUNT,
    ROOT_KEY,
    SCHEMA_VERSION,
    array_bytes,
    array_digest,
    frames_digest,
    member_to_json,
    natural_key,
    source_identity,
    start_array_digest,
    store_digest,
)
from ptyzarr.store.shards import FrameFormat, shard_key
from ptyzarr.store.shardwriter import (
    EncodedChunks,
    checked_chunks,
    decode_frames,
    encode_frames,
    file_checksum,
    write_shard,
)
from ptyzarr.store.writer import StoreWriter, sync_file

__all__ = [
    "COUNT_DTYPES",
    "EXTRA",
    "MASKED",
    "MAX_COUNT",
    "ROOT_KEY",
    "SCHEMA_VERSION",
    "EncodedChunks",
    "FrameFormat",
    "ScanStore",
    "StoreWriter",
    "array_bytes",
    "array_digest",
    "check_digests",
    "check_sizes",
    "checked_chunks",
    "decode_frames",
    "encode_frames",
    "file_checksum",
    "file_digest",
    "frames_digest",
    "list_keys",
    "member_to_json",
    "natural_key",
    "open_store",
    "open_stores",
    "read_node",
    "read_root",
    "shard_key",
    "source_identity",
    "start_array_digest",
    "store_digest",
    "sync_file",
    "was_written_here",
    "write_array_set",
    "write_shard",
]
