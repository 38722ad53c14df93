"""From a source file to a store published in a folder, resumable at every step."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ptyzarr.config import IngestConfig
from ptyzarr.errors import (
    ConfigError,
    DamagedStoreError,
    PtyzarrError,
    ScanExistsError,
    SourceError,
    StorageError,
)
from ptyzarr.ingestion.arrays import root_attributes, write_arrays
from ptyzarr.ingestion.budget import block_frames, choose_workers
from ptyzarr.ingestion.execution import write_shards
from ptyzarr.ingestion.landing import Landing
from ptyzarr.ingestion.lock import lock
from ptyzarr.ingestion.plan import Plan, is_spool_whole, make_plan, plan_key
from ptyzarr.ingestion.records import FrameRecords, mask_record, merge_masked
from ptyzarr.ingestion.spool import SpoolReader
from ptyzarr.ingestion.staging import Staging, storage_errors
from ptyzarr.ingestion.threads import worker_threads
from ptyzarr.ingestion.write import ShardJob
from ptyzarr.memory import return_freed
from ptyzarr.progress import Progress, Silent
from ptyzarr.scan import FrameReader, Scan
from ptyzarr.sources import open_source, source_unchanged
from ptyzarr.store import (
    MASKED,
    ScanStore,
    StoreWriter,
    check_digests,
    is_url,
    member_to_json,
    open_store,
    source_identity,
    was_written_here,
)

_MAX_ROUNDS = 3  # a shard that is damaged between writing and publishing is written again


def ingest_to_folder(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    config: IngestConfig,
    *,
    progress: Progress | None = None,
    landing: Landing | None = None,
) -> ScanStore:
    """Make a store of a source file in a folder; see `ptyzarr.ingestion.ingest`."""
    folder = Path(os.path.abspath(destination)).parent
    return build_store(
        functools.partial(open_scan, source, folder, config),
        destination,
        config,
        f"ingest of {os.fspath(source)}",
        progress,
        landing,
    )


def build_store(
    make_scan: Callable[[], Scan],
    destination: str | os.PathLike[str],
    config: IngestConfig,
    what: str,
    progress: Progress | None,
    landing: Landing | None = None,
) -> ScanStore:
    """Make a store of a scan in a folder, as `ingest` does of a source file.

    Parameters
    ----------
    make_scan
        Opens the scan.
    destination, config, progress
        As for `ingest`.
    what
        What is being done, for messages.
    landing
        Tells afterwards whether an interrupt came after publication.

    Raises
    ------
    ConfigError
        If the destination is a URL.
    """
    if is_url(destination):
        raise ConfigError(
            f"{os.fspath(destination)} is a URL; expected a folder; 'ptyzarr ingest' alone writes "
            "to buckets"
        )
    # Workers of a cluster have working directories of their own.
    target = Path(os.path.abspath(destination))
    staging = Staging.beside(target)
    landing = landing or Landing()
    existing = None
    with landing.interruptible(), storage_errors(what):
        scan = make_scan()
        existing = existing_store(scan, target, config)
        if existing is None:
            with lock(staging.root):
                build = functools.partial(
                    _build, scan, target, config, staging, progress or Silent(), landing
                )
                build_locked(scan, target, config, staging, build)
        else:
            landing.approach(lambda: True)
    landing.finish(functools.partial(tidy, staging))
    return existing or landing.finish(functools.partial(open_store, target))


def open_scan(source: str | os.PathLike[str], spool_dir: Path, config: IngestConfig) -> Scan:
    """Return the scan in a source file, opened as the options say."""
    return open_source(
        source,
        frames_key=config.frames_key,
        quantity=config.quantity,
        incomplete=config.incomplete,
        spool_dir=spool_dir,
        max_resident=config.memory_bytes,
    )


def build_locked(
    scan: Scan, target: Path, config: IngestConfig, staging: Staging, build: Callable[[], None]
) -> None:
    """Build and publish a store in a staging folder that is locked, unless it is there already.

    Parameters
    ----------
    scan, target, config, staging
        What becomes a store, where, how, and the locked folder; it is empty afterwards.
    build
        Builds and publishes. After a refused value nothing of its work is kept.
    """
    staging.check_ours()
    staging.restore(target)
    # Somebody else may have published between the look and the lock.
    if existing_store(scan, target, config) is None:
        try:
            build()
        except SourceError:
            staging.discard()
            source_unchanged(scan)  # a source that changed is the better reason
            raise
    staging.discard()


def tidy(staging: Staging) -> None:
    """Remove what a call left that was killed right after publishing."""
    if not staging.root.is_dir():
        return
    with contextlib.suppress(ScanExistsError, OSError), lock(staging.root):
        staging.check_ours()
        staging.discard()


def existing_store(scan: Scan, target: Path, config: IngestConfig) -> ScanStore | None:
    """Return the store at the destination if it is this source's; None if it may be written."""
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return None
    try:
        store = open_store(target)
    except StorageError:
        raise  # what is there cannot be judged
    except PtyzarrError as error:
        _refuse_unreadable(target, error, overwrite=config.overwrite)
        return None
    difference = store_difference(scan, store, config)
    if difference is None:
        # Only a store that is whole makes an overwrite superfluous; opening looks at sizes alone.
        if config.overwrite and any(wrong for _, wrong in check_digests(target, store.files)):
            return None
        return store
    if config.overwrite:
        return None
    raise ScanExistsError(
        f"{target} holds a store {difference}; choose another destination, or replace it with "
        "--overwrite"
    )


def _refuse_unreadable(target: Path, error: PtyzarrError, *, overwrite: bool) -> None:
    """Refuse what is no readable store; a damaged one alone may be overwritten."""
    if not target.is_dir() or not was_written_here(target):
        raise ScanExistsError(
            f"{target} exists and is no store ({error}); expected nothing there; remove it, or "
            "choose another destination"
        ) from error
    if not overwrite:
        raise ScanExistsError(
            f"{target} is no finished store ({error}); expected nothing there; remove it, or "
            "replace it with --overwrite"
        ) from error


def store_difference(scan: Scan, store: ScanStore, config: IngestConfig) -> str | None:
    """Return how a store differs from what is asked for, or None."""
    if not is_same_scan(scan, store):
        name = store.attrs["source"]["name"]
        how = "read" if scan.origin is None else "transformed"
        return f"of another source ({name}, here {scan.name}) or of one {how} in another way"
    if store.layout != config.layout:
        return f"in {store.layout} order (asked: {config.layout})"
    if config.nonfinite == "refuse" and f"{MASKED}/index" in store.nodes():
        return "with masked pixels (asked: refuse them)"
    return None


def is_same_scan(scan: Scan, store: ScanStore) -> bool:
    """Return whether a store was made from this source, read in the same way.

    Compared are each member's name, size and CRC-32, so a copied or touched file is the same.
    """
    return is_same_source(scan, store.attrs["source"], store.n_frames)


def is_same_source(scan: Scan, source: Mapping[str, Any], n_frames: int) -> bool:
    """Return whether a scan is what a store's attribute ``source`` and frame number describe."""
    members = [member_to_json(member) for member in scan.members]
    transforms = () if scan.origin is None else scan.origin.transforms
    return (
        source_identity(members) == source_identity(source["members"])
        and [(m["node"], m["column"]) for m in members]
        == [(m["node"], m["column"]) for m in source["members"]]
        and source["quantity"] == scan.quantity
        and n_frames == scan.n_frames
        and _without_names(source.get("transforms", ())) == _without_names(transforms)
    )


def _without_names(transforms: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return steps without the names of stores, which may be moved as files may be copied."""
    return [{key: step[key] for key in step if key != "store"} for step in transforms]


def _build(
    scan: Scan,
    target: Path,
    config: IngestConfig,
    staging: Staging,
    progress: Progress,
    landing: Landing,
) -> None:
    n_workers = choose_workers(scan, config)
    block_frames(scan, config, n_workers)  # refuses a budget that is too small
    plan = Plan.load(staging, plan_key(scan, config))
    if plan is None:
        staging.prepare()
        plan = make_plan(scan, config, staging, n_workers, progress)
    document = write_store(scan, plan, config, staging, progress)
    landing.approach(functools.partial(staging.has_published, target, document))
    staging.publish(target, document, overwrite=config.overwrite)


def write_store(
    scan: Scan, plan: Plan, config: IngestConfig, staging: Staging, progress: Progress
) -> bytes:
    """Write every file of the staged store but the root document, whose bytes are returned.

    Raises
    ------
    SourceError
        At a value that is refused, or if the source changed.
    DamagedStoreError
        If what was written keeps changing.
    """
    n_workers = choose_workers(scan, config)
    n_block = block_frames(scan, config, n_workers)
    for _ in range(_MAX_ROUNDS):
        plan = _write_all_shards(scan, plan, n_block, config, staging, progress)
        document = assemble(scan, plan, config, staging, n_workers)
        if document is not None:
            break
    else:
        raise DamagedStoreError(
            f"{staging.root}: shards keep changing after they were written; expected none to; "
            "check the disk"
        )
    source_unchanged(scan)
    return document


def assemble(
    scan: Scan, plan: Plan, config: IngestConfig, staging: Staging, n_workers: int
) -> bytes | None:
    """Write all that is not frames beside the shards; return the bytes of the root document.

    None if a shard or its records are not what was written.

    Raises
    ------
    SourceError
        If the source changed, or the checksum of its frames is wrong.
    """
    source_unchanged(scan)
    return_freed()
    records = _gather(plan, staging)
    if records is None:
        return None
    if plan.pieces is None:
        scan.frames.check_sums(records.field("crc32"))
    writer = StoreWriter(staging.store)
    write_arrays(writer, scan, plan, records, staging)
    return_freed()
    attributes = root_attributes(writer, scan, plan, records, config.layout)
    document = writer.finish(attributes, n_workers)
    return_freed()
    # The manifest has just digested the files: what was written must be what is there.
    if not is_spool_whole(staging):
        raise DamagedStoreError(
            f"files in {staging.spool} changed after they were written; expected what was found "
            "when the frames were checked; check the disk, and run the same command again"
        )
    return None if damaged_shards(plan, staging, n_workers) else document


def _write_all_shards(
    scan: Scan,
    plan: Plan,
    n_block: int,
    config: IngestConfig,
    staging: Staging,
    progress: Progress,
) -> Plan:
    """Write all shards, again for a wider kind where the guess was too small; return the plan."""
    while True:
        job = make_job(scan, plan, n_block, config, staging)
        shards = range(plan.format.n_shards)
        needs = write_shards(job, shards, config, choose_workers(scan, config), progress)
        if needs is None:
            return plan
        staging.prepare()
        plan = plan.with_kind(needs)
        plan.save(staging)


def make_job(
    scan: Scan, plan: Plan, n_block: int, config: IngestConfig, staging: Staging
) -> ShardJob:
    """Return what the tasks of all shards share."""
    return ShardJob(
        staging,
        plan,
        _row_source(scan, plan, staging),
        scan.quantity,
        scan.frames_origin,
        n_block,
        config.nonfinite == "mask",
    )


def _row_source(scan: Scan, plan: Plan, staging: Staging) -> FrameReader | SpoolReader:
    if plan.pieces is None:
        return scan.frames
    return SpoolReader(str(staging.spool / "frames.bin"), plan.frame_size, plan.source_dtype)


def _gather(plan: Plan, staging: Staging) -> FrameRecords | None:
    """Return the records of all frames, masked pixels beside; None if some are damaged."""
    if plan.pieces is not None:
        return FrameRecords(plan.n_frames, [(staging.spooled_records, None)])
    shards = range(plan.format.n_shards)
    if not all(staging.has_records(shard, plan.stamp) for shard in shards):
        return None
    rows = [plan.format.shard_rows(shard) for shard in shards]
    sides = [
        (staging.records(shard), plan.order[part.start : part.stop])
        for shard, part in zip(shards, rows, strict=True)
    ]
    records = FrameRecords(plan.n_frames, sides)
    n_masked = records.field("n_masked").astype(np.int64)
    if n_masked.any():
        itemsize = mask_record(np.dtype(plan.source_dtype)).itemsize
        merge_masked(sides, n_masked, itemsize, staging.masked)
    return records


def damaged_shards(plan: Plan, staging: Staging, n_workers: int) -> list[int]:
    """Return the shards whose files are not what was written."""
    shards = range(plan.format.n_shards)
    with worker_threads(n_workers, "check") as pool:
        finished = pool.map(staging.finished, shards, itertools.repeat(plan.stamp))
        return [shard for shard, is_whole in zip(shards, finished, strict=True) if not is_whole]
