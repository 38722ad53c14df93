"""`repair`: what is damaged in a store is made again from its source, and nothing else.

The root document decides what is damaged: its manifest has the size and sha256 of every file. A
root that fails its own digest is made again too, if every other file but the shards is byte for
byte what the source gives; then nothing but the source can have been the origin of the store.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ptyzarr.config import IngestConfig, Layout
from ptyzarr.errors import (
    ConfigError,
    DamagedStoreError,
    InterruptedIngestError,
    MissingFieldError,
    ScanExistsError,
    SchemaError,
    ShapeError,
    SourceError,
)
from ptyzarr.ingestion.budget import block_frames, choose_workers
from ptyzarr.ingestion.kinds import Kind
from ptyzarr.ingestion.layout import ORDERS, Sizes
from ptyzarr.ingestion.lock import lock
from ptyzarr.ingestion.plan import Plan, make_plan
from ptyzarr.ingestion.runner import is_same_source, make_job, open_scan, write_store
from ptyzarr.ingestion.staging import Staging, storage_errors, sync_folder
from ptyzarr.ingestion.threads import worker_threads
from ptyzarr.ingestion.transform import STORE_FORMAT, repeat_transform
from ptyzarr.ingestion.verify import verify
from ptyzarr.ingestion.write import write_one_shard
from ptyzarr.paths import check_path
from ptyzarr.progress import Progress, Silent
from ptyzarr.scan import Quantity, Scan
from ptyzarr.sources import source_unchanged
from ptyzarr.store import (
    MASKED,
    ROOT_KEY,
    SCHEMA_VERSION,
    FrameFormat,
    StoreWriter,
    check_digests,
    check_root,
    file_digest,
    is_url,
    linked_folder,
    list_keys,
    open_store,
    read_node,
    read_root,
    sync_file,
    was_written_here,
)

_SHARD = re.compile(r"diffraction/c/(\d+)/0/0")
_FRAMES = "diffraction/zarr.json"
_BAD_PIXELS = "bad_pixels"
_OUTCOME = "files that were replaced are whole; remove the cause and run the same command again"


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What `repair` did.

    Attributes
    ----------
    rewritten
        Keys of the files that were made again; empty if the store was whole.
    n_files
        Files of the store, all of them verified after the repair.
    digest
        Digest of the whole scan.
    """

    rewritten: tuple[str, ...]
    n_files: int
    digest: str


def repair(
    store: str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
) -> RepairReport:
    """Make the damaged files of a store again from its source and verify the result.

    Damaged is what differs from the manifest in size or sha256, or cannot be read. Each file is
    written aside, compared with the manifest and replaced in one step; all others keep their
    inodes. If only shards are damaged, only their frames are read; anything else takes as long,
    and as much room beside the store, as an ingest.

    Parameters
    ----------
    store
        Folder of the store.
    source
        The file it was made from, or the store it was transformed from.
    progress
        Receives the stages; silent if None.

    Raises
    ------
    ScanNotFoundError, SchemaError
        If there is no store of a schema that this version writes.
    SourceError
        If the source is broken, or is not the one of this store; nothing is changed.
    DamagedStoreError
        If this version does not write the bytes that the manifest lists, or if root document and
        other files are damaged at once; nothing is changed.
    VerificationError
        If the store is not whole afterwards.
    ScanExistsError
        If another process writes to this store, or a planned ingest to it is not published yet.
    StorageError, InterruptedIngestError
        If the file system fails, or after Ctrl-C; the same call goes on.
    """
    progress = progress or Silent()
    check_path(store, "the store")
    check_path(source, "the source")
    if is_url(store):
        raise ConfigError(
            f"{os.fspath(store)} is a URL; expected a folder; publish the store again with "
            "'ptyzarr ingest --overwrite'"
        )
    target = Path(os.path.realpath(store))
    staging = Staging.beside(target)
    if not staging.root.is_dir() and not was_written_here(target):
        open_store(target)  # raises the error that says what is there instead
    with _interruptible(), storage_errors(f"repair of {os.fspath(store)}", _OUTCOME):
        with lock(staging.root):
            staging.check_ours()
            staging.restore(target)
            _refuse_parts(target, staging)
            try:
                rewritten = _repair_locked(target, Path(source), staging, progress)
            finally:
                staging.discard()  # what is not in place yet is soon made again
        report = verify(target, source, progress=progress)
    return RepairReport(rewritten, report.n_files, report.digest)


def _refuse_parts(target: Path, staging: Staging) -> None:
    """Refuse a staging folder in which parts, which need no lock, may be writing a new store."""
    if staging.request.is_file():
        raise ScanExistsError(
            f"{staging.root} holds a planned ingest to {target}; expected none while the store is "
            f"repaired; finish it with 'ptyzarr publish {target}', or remove that folder"
        )


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptedIngestError(
            "repair was interrupted; expected it to end; run the same command to go on"
        ) from error


def _repair_locked(
    target: Path, source: Path, staging: Staging, progress: Progress
) -> tuple[str, ...]:
    """Replace what is damaged; return the keys of these files."""
    document = _trusted_root(target)
    if document is None:
        return _repair_root(target, source, staging, progress)
    attributes = document["attributes"]["ptyzarr"]
    recorded, files = attributes["source"], attributes["manifest"]["files"]
    config = IngestConfig(
        layout=attributes["layout"],
        quantity=recorded["quantity"],
        frames_key=recorded["frames_key"],
        incomplete="truncate",  # no difference where nothing was cut
        nonfinite="mask" if f"{MASKED}/index/{ROOT_KEY}" in files else "refuse",
    )
    metadata = document["consolidated_metadata"]["metadata"]["diffraction"]
    is_transformed = recorded["format"] == STORE_FORMAT
    scan = (
        _open_origin(source, target, recorded, files)
        if is_transformed
        else _open(source, config, staging)
    )
    if scan is None or not is_same_source(scan, recorded, metadata["shape"][0]):
        raise _not_the_source(source, target)
    damaged = _find_damaged(target, files, progress)
    _refuse_folders(damaged, target)
    if damaged:
        plan = _plan(scan, config, metadata, staging, progress, attributes["tile_frames"])
        shards = [_SHARD.fullmatch(key) for key in damaged]
        if all(shards):
            numbers = [int(shard[1]) for shard in shards if shard is not None]
            _write_some(scan, plan, numbers, config, staging, progress)
        else:
            write_store(scan, plan, config, staging, progress)
        _check_fresh(damaged, files, staging)
        _install(damaged, staging, target)
    return tuple(damaged)


def _trusted_root(target: Path) -> dict[str, Any] | None:
    """Return the root document, or None if it is damaged.

    Raises
    ------
    SchemaError, ScanNotFoundError
        If there never was a store of this schema.
    """
    try:
        document = read_root(target / ROOT_KEY)
    except (OSError, SchemaError):
        if not was_written_here(target):
            open_store(target)
        return None
    if document["attributes"]["ptyzarr"].get("schema_version") != SCHEMA_VERSION:
        open_store(target)
    try:
        check_root(document, target / ROOT_KEY)
    except SchemaError:
        return None
    return document


def _open(source: Path, config: IngestConfig, staging: Staging) -> Scan | None:
    """Return the scan; None if it lacks what the store was made from."""
    try:
        return open_scan(source, staging.root, config)
    except (MissingFieldError, ShapeError):
        return None


def _open_origin(
    source: Path,
    target: Path,
    recorded: Mapping[str, Any],
    files: Mapping[str, Mapping[str, Any]],
) -> Scan:
    """Return the scan that a store was transformed from; the mask is the one that it has.

    Raises
    ------
    DamagedStoreError
        If the mask is damaged: the origin does not have it.
    """
    masks = {key: entry for key, entry in files.items() if key.startswith(f"{_BAD_PIXELS}/")}
    if any(wrong for _, wrong in check_digests(target, masks)):
        raise DamagedStoreError(
            f"{target}: the mask of bad pixels is damaged, and {source} does not have it; expected "
            "it to be whole; run the same transform again with --overwrite"
        )
    bad_pixels = read_node(target, _BAD_PIXELS) if masks else None
    return repeat_transform(open_store(source), recorded["transforms"][-1], bad_pixels)


def _find_damaged(
    target: Path, files: Mapping[str, Mapping[str, Any]], progress: Progress
) -> list[str]:
    progress.start("files", sum(entry["size"] for entry in files.values()), "bytes")
    damaged = []
    for key, (size, wrong) in zip(files, check_digests(target, files), strict=True):
        damaged += [key] if wrong else []
        progress.advance(size)
    progress.finish()
    return damaged


def _refuse_folders(keys: list[str], target: Path) -> None:
    """Refuse what a file cannot replace in one step, or what is not in the store's own folders."""
    for key in keys:
        place = target / key
        if place.is_dir() and not place.is_symlink():
            raise ScanExistsError(
                f"{place} is a folder; expected a file of the store; move it away, then repair "
                "again"
            )
        linked = linked_folder(target, key)
        if linked is not None:
            raise ScanExistsError(
                f"{target / linked} is a link; expected a folder of the store; remove the link, "
                "then repair again"
            )


def _plan(
    scan: Scan,
    config: IngestConfig,
    metadata: Mapping[str, Any],
    staging: Staging,
    progress: Progress,
    tile_frames: int | None = None,
) -> Plan:
    """Return the plan by which the store was made, whatever would be chosen for it today."""
    staging.prepare()
    plan = make_plan(scan, config, staging, choose_workers(scan, config), progress)
    layout = FrameFormat.from_metadata(metadata)
    tile = plan.sizes.tile_frames if tile_frames is None else tile_frames
    plan = dataclasses.replace(
        plan,
        key=f"repair-{plan.key}",  # an ingest must not resume it
        kind=Kind(cast("Quantity", metadata["attributes"]["quantity"]), layout.dtype.str),
        sizes=Sizes(layout.chunk_frames, layout.shard_frames, tile),
    )
    plan.save(staging)
    return plan


def _write_some(
    scan: Scan,
    plan: Plan,
    shards: list[int],
    config: IngestConfig,
    staging: Staging,
    progress: Progress,
) -> None:
    """Write some shards of the staged store."""
    n_workers = choose_workers(scan, config)
    job = make_job(scan, plan, block_frames(scan, config, n_workers), config, staging)
    progress.start("writing", sum(len(plan.format.shard_rows(n)) for n in shards), "frames")
    with worker_threads(n_workers, "repair") as pool:
        try:
            for report in pool.map(functools.partial(write_one_shard, job), shards):
                progress.advance(report.n_frames)
        except BaseException:
            job.stop.set()
            raise
    source_unchanged(scan)
    progress.finish()


def _check_fresh(keys: list[str], files: Mapping[str, Mapping[str, Any]], staging: Staging) -> None:
    """Refuse bytes that the manifest does not list; a shard that was not written is one too."""
    for key in keys:
        path = staging.store / key
        expected = files[key]["size"], files[key]["sha256"]
        if not path.is_file() or file_digest(path) != expected:
            raise DamagedStoreError(
                f"file {key!r} made from the source is not the one in the manifest; expected the "
                "same bytes, which the version that wrote the store would give; ingest the source "
                "again with --overwrite"
            )


def _install(keys: list[str], staging: Staging, target: Path) -> None:
    """Move files of the staged store into place, each in one step."""
    for key in keys:
        place = target / key
        place.parent.mkdir(parents=True, exist_ok=True)
        sync_file(staging.store / key)
        os.replace(staging.store / key, place)
        sync_folder(place.parent)


def _repair_root(
    target: Path, source: Path, staging: Staging, progress: Progress
) -> tuple[str, ...]:
    """Make the root document again, and shards that differ from the source's."""
    if source.is_dir():
        raise SourceError(
            f"{target}: {ROOT_KEY}, which says by which transform it was made from {source}, is "
            "damaged; expected it to be whole; run the same transform again with --overwrite"
        )
    config = _guess_config(target)
    scan = _open(source, config, staging)
    if scan is None:  # the name of the member may be what is damaged
        config = dataclasses.replace(config, frames_key=None)
        scan = _open(source, config, staging)
    layout = None if scan is None else _find_layout(target, scan, config.layout, staging)
    if scan is None or layout is None:
        raise _not_the_source(source, target)
    config = dataclasses.replace(config, layout=layout)
    plan = _plan(scan, config, _frames_metadata(target), staging, progress)
    document = write_store(scan, plan, config, staging, progress)
    fresh = list(list_keys(staging.store))
    differing = [key for key in fresh if not _is_same_file(staging.store / key, target / key)]
    if any(_SHARD.fullmatch(key) is None for key in differing):
        raise _not_the_source(source, target)
    _refuse_folders([*differing, ROOT_KEY], target)
    (staging.store / ROOT_KEY).write_bytes(document)
    # The root comes last, so the store can be opened when all of it is whole.
    _install([*differing, ROOT_KEY], staging, target)
    return (*differing, ROOT_KEY)


def _guess_config(target: Path) -> IngestConfig:
    """Return the options that the text of a damaged root names; defaults for what it does not."""
    try:
        text = (target / ROOT_KEY).read_bytes().decode("latin-1")
    except OSError:
        text = ""
    source = text[text.find('"source":') :]
    quantity = re.search(r'"quantity": "(amplitude|counts)"', source)
    frames_key = re.search(r'"frames_key": "([^"\\]+)"', source)
    layout = re.search(rf'"layout": "({"|".join(ORDERS)})"', text)
    return IngestConfig(
        layout=cast("Layout", layout[1]) if layout else "hilbert",
        quantity=cast("Quantity", quantity[1]) if quantity else "amplitude",
        frames_key=frames_key[1] if frames_key else None,
        incomplete="truncate",
        nonfinite="mask" if (target / MASKED).is_dir() else "refuse",
    )


def _find_layout(target: Path, scan: Scan, likely: Layout, staging: Staging) -> Layout | None:
    """Return the layout whose order of this scan's frames is the one in the store."""
    for layout in sorted(ORDERS, key=lambda name: name != likely):
        staging.prepare()
        order = ORDERS[layout](scan.positions)
        StoreWriter(staging.store).write_array("frame_index", order, in_digest=False)
        keys = list(list_keys(staging.store))
        if all(_is_same_file(staging.store / key, target / key) for key in keys):
            return cast("Layout", layout)
    return None


def _frames_metadata(target: Path) -> dict[str, Any]:
    try:
        metadata: dict[str, Any] = json.loads((target / _FRAMES).read_bytes())
        if metadata["attributes"]["quantity"] in ("amplitude", "counts"):
            return metadata
        reason: object = "no quantity"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error
    raise DamagedStoreError(
        f"{target}: both {ROOT_KEY} and {_FRAMES} are damaged ({reason}); expected one of them to "
        "be whole; ingest the source again with --overwrite"
    )


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return file_digest(one) == file_digest(other)
    except OSError:  # missing or unreadable
        return False


def _not_the_source(source: Path, target: Path) -> SourceError:
    return SourceError(
        f"{source} is not the source of {target}, or too much of the store is damaged to tell; "
        "expected the file it was made from; nothing was changed; give that file, or ingest it "
        "again with --overwrite"
    )
