"""`verify`: whether a store is what its manifest says, and what its source says."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import (
    DamagedStoreError,
    MissingFieldError,
    ScanNotFoundError,
    ShapeError,
    VerificationError,
)
from ptyzarr.ingestion.hashing import hash_frames
from ptyzarr.ingestion.masks import MaskCursor
from ptyzarr.ingestion.records import pixel_limits
from ptyzarr.ingestion.runner import is_same_scan
from ptyzarr.ingestion.staging import storage_errors
from ptyzarr.ingestion.transform import STORE_FORMAT, repeat_transform
from ptyzarr.ingestion.values import amplitude_of, check_block
from ptyzarr.paths import check_path
from ptyzarr.progress import Progress, Silent
from ptyzarr.scan import Scan
from ptyzarr.sources import node_names, open_source
from ptyzarr.store import (
    EXTRA,
    MASKED,
    ROOT_KEY,
    RemoteFiles,
    ScanStore,
    array_bytes,
    array_digest,
    check_digests,
    check_remote_digests,
    frames_digest,
    is_url,
    list_keys,
    open_store,
    read_errors,
    read_root,
    remote_access,
    start_array_digest,
    store_digest,
)

_BLOCK_BYTES = 16 * 1024**2
_PER_FRAME = ("positions", "positions_start", "scan_index")
_SHOWN = 5
_EQUAL = "expected equal bits; look which of them changed, and ingest the source again"
_FILES_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` looked at.

    Attributes
    ----------
    n_files, n_bytes
        Files of the store and their size.
    n_frames
        Frames decoded and hashed.
    digest
        Digest of the whole scan.
    compared_source
        Path of the source whose every value was compared, or None.
    unlisted
        Files in the folder that the manifest does not list; they are not part of the store.
    """

    n_files: int
    n_bytes: int
    n_frames: int
    digest: str
    compared_source: str | None
    unlisted: tuple[str, ...]


def verify(
    store: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    *,
    key: str | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check every byte and every value of a store.

    At a URL every file is fetched, and its frames once more.

    Parameters
    ----------
    store
        Folder or URL of the store.
    source
        Its source file, or the store that it was transformed from; then every value is compared
        with it too.
    key
        Key of the server at a URL; ``PTYZARR_KEY`` if None.
    progress
        Receives the stages; silent if None.

    Raises
    ------
    ScanNotFoundError, SchemaError
        If there is no store to verify.
    VerificationError
        If anything differs; the message names the first differences.
    StorageError
        If the file system fails otherwise than by not giving a file's bytes.
    """
    progress = progress or Silent()
    name = check_path(store, "a store")
    if source is not None:
        check_path(source, "the source")
    with storage_errors(f"verify of {name}", "nothing was changed; look at the disk"):
        if is_url(name):
            n_bytes, unlisted = _verify_far_files(name, key, progress)
        else:
            n_bytes, unlisted = _verify_files(Path(name), progress)
        opened = open_store(name, key)
        try:
            _verify_nodes(opened)
            _verify_frames(opened, progress)
            _verify_contents(opened)
            if source is not None:
                _verify_source(opened, source, progress)
        except DamagedStoreError as error:
            raise VerificationError(str(error)) from error
        finally:
            opened.close()
    return VerifyReport(
        len(opened.files) + 1,
        n_bytes,
        opened.n_frames,
        opened.digest,
        None if source is None else os.fspath(source),
        unlisted,
    )


def _verify_files(root: Path, progress: Progress) -> tuple[int, tuple[str, ...]]:
    """Compare every file with the manifest; return the bytes read and the unlisted files."""
    if not (root / ROOT_KEY).is_file():
        open_store(root)  # raises the error that says what is there instead
        raise ScanNotFoundError(f"{root} holds no store; expected one that ingest wrote; name it")
    try:
        document = read_root(root / ROOT_KEY)
    except DamagedStoreError as error:
        raise VerificationError(str(error)) from error
    files = document["attributes"]["ptyzarr"]["manifest"]["files"]
    n_bytes = _compare_files(root, files, check_digests(root, files), progress)
    unlisted = tuple(key for key in list_keys(root) if key not in files)
    return n_bytes + (root / ROOT_KEY).stat().st_size, unlisted


def _verify_far_files(url: str, key: str | None, progress: Progress) -> tuple[int, tuple[str, ...]]:
    """Do what `_verify_files` does for a URL; what is unlisted is found in buckets only."""
    try:
        far = RemoteFiles(url, remote_access(key))
    except DamagedStoreError as error:
        raise VerificationError(str(error)) from error
    checks = check_remote_digests(far, _FILES_AT_ONCE)
    n_bytes = _compare_files(far.url, far.files, checks, progress)
    keys = far.folder.list() if far.folder.is_s3 else {}
    unlisted = tuple(name for name in sorted(keys) if name not in far.files and name != ROOT_KEY)
    return n_bytes + len(far.root), unlisted


def _compare_files(
    where: object,
    files: Mapping[str, Mapping[str, Any]],
    checks: Iterator[tuple[int, str | None]],
    progress: Progress,
) -> int:
    """Report what is wrong with files; return the bytes read."""
    progress.start("files", sum(entry["size"] for entry in files.values()), "bytes")
    problems = []
    n_bytes = 0
    for size, wrong in checks:
        problems += [wrong] if wrong else []
        n_bytes += size
        progress.advance(size)
    progress.finish()
    _report(where, problems)
    return n_bytes


def _verify_nodes(store: ScanStore) -> None:
    """Compare the metadata beside each array, which readers of that array alone use."""
    nodes = store.differing_nodes()
    if nodes:
        shown = ", ".join(f"{node}/{ROOT_KEY}" for node in nodes[:_SHOWN])
        raise VerificationError(
            f"{store.path}: {shown} and the consolidated metadata of the root differ; expected "
            "the same in both; ingest the source again with --overwrite"
        )


def _verify_frames(store: ScanStore, progress: Progress) -> None:
    hashes = np.empty(store.n_frames, np.uint64)
    limits = (0, 0)
    progress.start("frames", store.n_frames, "frames")
    # In stored order, so that each chunk is decoded once.
    for rows in _blocks(store):
        indices = store.frame_index[rows]
        stored = store.stored(indices)
        amplitude = amplitude_of(stored) if store.quantity == "counts" else stored
        hashes[indices] = hash_frames(amplitude)
        found = pixel_limits(stored)
        limits = max(limits[0], found[0]), max(limits[1], found[1])
        progress.advance(len(indices))
    progress.finish()
    wrong = np.flatnonzero(hashes != store.frame_hash)
    problems = [f"frame {frame} differs from its hash" for frame in wrong[:_SHOWN]]
    if frames_digest(store.amplitude_dtype, hashes, store.frame_size) != store.frames_digest:
        problems.append("the frames differ from their digest")
    if store.pixel_limits is not None and store.pixel_limits != limits:
        problems.append(
            f"max_nonzero and max_wide are {store.pixel_limits}; the frames have {limits}"
        )
    _report(store.path, problems)


def _verify_contents(store: ScanStore) -> None:
    contents = store.attrs["contents"]
    problems = [
        f"array {node} differs from its digest"
        for node, expected in contents.items()
        if _content_digest(store, node) != expected
    ]
    if store_digest(store.frames_digest, contents) != store.digest:
        problems.append("the digests of the arrays differ from the digest of the scan")
    _report(store.path, problems)


def _content_digest(store: ScanStore, node: str) -> str:
    if node in _PER_FRAME:
        return array_digest(getattr(store, node))
    array = store.array(node)
    state = start_array_digest(array.dtype, array.shape)
    with read_errors(f"{store.path}: array {node!r}"):
        for block in _array_blocks(array):
            state.update(array_bytes(block))
    return state.hexdigest()


def _verify_source(store: ScanStore, path: str | os.PathLike[str], progress: Progress) -> None:
    """Compare every value with the source."""
    other = VerificationError(
        f"{os.fspath(path)} is not the source of {store.path}: members, sizes or checksums "
        f"differ; expected those of {store.attrs['source']['name']}; give that file"
    )
    try:
        scan = _open_again(store, path)
    except (MissingFieldError, ShapeError) as error:
        raise other from error
    if not is_same_scan(scan, store):
        raise other
    _compare_frames(store, scan, progress)
    for node in (*_PER_FRAME, "probe_guess", "object_guess", "bad_pixels"):
        expected = getattr(scan, node)
        if expected is not None and not _same_bits(getattr(store, node), expected):
            raise VerificationError(f"{store.path}: {node} differs from the source; {_EQUAL}")
    for key, node in node_names(scan.extra).items():
        stored = store.array(f"{EXTRA}/{node}")
        expected = start_array_digest(stored.dtype, stored.shape)
        for block in scan.extra[key].blocks(_BLOCK_BYTES):
            expected.update(array_bytes(block))
        if expected.hexdigest() != store.attrs["contents"][f"{EXTRA}/{node}"]:
            raise VerificationError(
                f"{store.path}: member {key!r} differs from the source; {_EQUAL}"
            )


def _open_again(store: ScanStore, path: str | os.PathLike[str]) -> Scan:
    """Return the scan that a file, or another store, would become this store by."""
    source = store.attrs["source"]
    if source["format"] == STORE_FORMAT:
        return repeat_transform(open_store(path), store.transforms[-1], store.bad_pixels)
    return open_source(
        path,
        frames_key=source["frames_key"],
        quantity=source["quantity"],
        incomplete="truncate",  # no difference where nothing was cut
    )


def _compare_frames(store: ScanStore, scan: Scan, progress: Progress) -> None:
    masks = MaskCursor(store)
    mask = f"{MASKED}/index" in store.nodes()
    what = scan.frames_origin
    row = 0
    progress.start("source", store.n_frames, "frames")
    for frames in scan.frames.blocks(_block_frames(store)):
        numbers = np.arange(row, row + len(frames))
        block = check_block(frames, numbers, scan.quantity, what, mask=mask, counts=None)
        found = store.amplitude(numbers)
        for i, (one, other) in enumerate(zip(found, block.amplitude, strict=True)):
            if not _same_bits(one, other):
                raise VerificationError(
                    f"{store.path}: frame {row + i} differs from the source; {_EQUAL}"
                )
        first, row = row, row + len(frames)
        pixels = frames[0].size
        masks.compare(block.masked_index + first * pixels, block.masked_value, row * pixels)
        progress.advance(len(frames))
    progress.finish()


def _same_bits(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return (
        one.shape == other.shape
        and one.dtype == other.dtype
        and bool(
            np.array_equal(
                np.ascontiguousarray(one).reshape(-1).view(np.uint8),
                np.ascontiguousarray(other).reshape(-1).view(np.uint8),
            )
        )
    )


def _block_frames(store: ScanStore) -> int:
    return max(1, _BLOCK_BYTES // (store.frame_size**2 * max(store.amplitude_dtype.itemsize, 4)))


def _blocks(store: ScanStore) -> Iterator[slice]:
    """Yield slices of stored rows."""
    step = _block_frames(store)
    for start in range(0, store.n_frames, step):
        yield slice(start, start + step)


def _array_blocks(array: Any) -> Iterator[NDArray[Any]]:
    """Yield an array of a store in C order, cut along axis 0."""
    if not array.shape:
        yield np.asarray(array[...])
        return
    step = max(1, _BLOCK_BYTES * array.shape[0] // max(array.nbytes, 1))
    for start in range(0, array.shape[0], step):
        yield np.asarray(array[start : start + step])


def _report(where: object, problems: list[str]) -> None:
    if not problems:
        return
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    remedy = "'ptyzarr repair' makes such files again from the source"
    if is_url(str(where)):
        remedy = "publish the store again with 'ptyzarr ingest --overwrite'"
    raise VerificationError(f"{where}: {'; '.join(problems[:_SHOWN])}{more}; {remedy}")
