"""The schema on disk; the only room that knows zarr."""

from ptyzarr.store.access import RemoteAccess, is_url, remote_access, scan_name
from ptyzarr.store.arrayset import write_array_set
from ptyzarr.store.checking import read_errors
from ptyzarr.store.manifest import (
    check_digests,
    check_sizes,
    file_digest,
    linked_folder,
    list_keys,
    parse_root,
    read_root,
    size_fault,
    was_written_here,
)
from ptyzarr.store.nodes import read_node
from ptyzarr.store.opening import open_store, open_stores
from ptyzarr.store.remote import NoConditionsError, RemoteFolder
from ptyzarr.store.remotefiles import RemoteFiles, check_remote_digests
from ptyzarr.store.rootguard import Stamp, stamp_of
from ptyzarr.store.scanstore import ScanStore
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
from ptyzarr.store.validation import check_root
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
    "NoConditionsError",
    "RemoteAccess",
    "RemoteFiles",
    "RemoteFolder",
    "ScanStore",
    "Stamp",
    "StoreWriter",
    "array_bytes",
    "array_digest",
    "check_digests",
    "check_remote_digests",
    "check_root",
    "check_sizes",
    "checked_chunks",
    "decode_frames",
    "encode_frames",
    "file_checksum",
    "file_digest",
    "frames_digest",
    "is_url",
    "linked_folder",
    "list_keys",
    "member_to_json",
    "natural_key",
    "open_store",
    "open_stores",
    "parse_root",
    "read_errors",
    "read_node",
    "read_root",
    "remote_access",
    "scan_name",
    "shard_key",
    "size_fault",
    "source_identity",
    "stamp_of",
    "start_array_digest",
    "store_digest",
    "sync_file",
    "was_written_here",
    "write_array_set",
    "write_shard",
]
