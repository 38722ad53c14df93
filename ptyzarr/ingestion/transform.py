"""`transform`: a store becomes another one, its frames cut, padded, flipped, turned or masked.

The transformed store is a source like a file: what plans, checks, writes and publishes a store
does not know the difference. The origin is only read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.config import IngestConfig, TransformConfig
from ptyzarr.errors import BudgetError, ConfigError, ShapeError, SourceError
from ptyzarr.ingestion.arrays import PIXEL_SIZE_KEY
from ptyzarr.ingestion.geometry import (
    Orientation,
    move_object,
    move_pixels,
    move_positions,
    move_probe,
    object_length,
    pixel_map,
    position_sums,
)
from ptyzarr.ingestion.runner import build_store
from ptyzarr.ingestion.staging import storage_errors
from ptyzarr.ingestion.storedframes import StoredFrames
from ptyzarr.ingestion.targets import check_target
from ptyzarr.paths import check_path
from ptyzarr.progress import Progress
from ptyzarr.scan import Member, MemberReader, Origin, Scan
from ptyzarr.sources import (
    PUBLISHED_KEYS,
    ArrayReader,
    array_member,
    node_names,
    published_members,
    read_bad_pixels,
)
from ptyzarr.store import EXTRA, ROOT_KEY, ScanStore, array_digest, is_url, open_store

STORE_FORMAT = "store"
_BYTES_PER_FRAME = 80  # rows, positions and their like that the origin keeps


def transform(
    store: str | os.PathLike[str] | ScanStore,
    destination: str | os.PathLike[str],
    config: TransformConfig | None = None,
    *,
    progress: Progress | None = None,
) -> ScanStore:
    """Make a store of a store, frames, probe, object and positions transformed together.

    The far field is assumed: frames are moduli of Fourier transforms, the zero frequency at pixel
    N//2. Frames, power and digests are made anew, out of core, as `ingest` makes them; a killed
    call leaves nothing at the destination, and the same call resumes it.

    Parameters
    ----------
    store
        The origin, which stays as it is.
    destination
        Folder of the new store.
    config
        What is done.
    progress
        Receives the stages; silent if None.

    Returns
    -------
    ScanStore
        The new store; its `transforms` say what was done.

    Raises
    ------
    ConfigError
        If nothing would change, or the destination is the store itself.
    ScanNotFoundError, SchemaError
        If there is no store.
    SourceError, DtypeError
        If the mask of bad pixels does not fit (`ShapeError` is a `SourceError`), or the probe has
        another width than the frames and a new size is asked for.
    ScanExistsError
        If the destination holds something else, or is being written.
    BudgetError
        If the memory budget is too small.
    DamagedStoreError
        If the origin is damaged.
    StorageError, InterruptedIngestError
        If the file system fails, or after Ctrl-C; the same call resumes.
    """
    config = config or TransformConfig()
    path = check_path(store.path if isinstance(store, ScanStore) else store, "a store")
    _check_places(path, check_path(destination, "the new store"))
    with storage_errors(f"transform of {path}"):
        check_target(destination, IngestConfig(overwrite=config.overwrite))
    with contextlib.ExitStack() as stack:
        origin = store if isinstance(store, ScanStore) else open_store(store)
        if origin is not store:
            stack.callback(origin.close)
        return build_store(
            functools.partial(_open_transformed, origin, config),
            destination,
            IngestConfig(
                layout=config.layout,
                memory=config.memory,
                n_workers=config.n_workers,
                overwrite=config.overwrite,
            ),
            f"transform of {path}",
            progress,
        )


def repeat_transform(
    origin: ScanStore, step: Mapping[str, Any], bad_pixels: NDArray[np.bool_] | None
) -> Scan:
    """Return the scan that a transformed store was made from, if it was made from `origin`.

    Parameters
    ----------
    origin
        What may be the store that it was made from.
    step
        The last of the transformed store's `transforms`.
    bad_pixels : (N', N') bool or None
        Its mask.
    """
    return _derive(origin, {**step, **_identity(origin)}, bad_pixels)


def _check_places(path: str, destination: str) -> None:
    if is_url(path):
        raise ConfigError(f"{path} is a URL; expected a folder; copy it with 'ptyzarr stage' first")
    if "://" in destination:
        raise ConfigError(f"{destination} is a URL; expected a folder; stores are written to disks")
    source, target = os.path.realpath(path), os.path.realpath(destination)
    if target == source or target.startswith(source + os.sep):
        raise ConfigError(
            f"{destination} is in the store that is to be transformed; expected another folder, "
            "since that store stays as it is"
        )


def _open_transformed(origin: ScanStore, config: TransformConfig) -> Scan:
    """Return the transformed scan; its frames are not read yet."""
    size = origin.frame_size
    new_size = size if config.frame_size is None else int(config.frame_size)
    orientation = Orientation.of(
        flip_x=config.flip_x, flip_y=config.flip_y, quarter_turns=int(config.quarter_turns)
    )
    if new_size == size and orientation == Orientation() and config.bad_pixels is None:
        raise ConfigError(
            f"nothing of {origin.path} would change: its frames are {size} pixels wide and flips "
            "and turns cancel; expected a frame_size, flip_x, flip_y, quarter_turns or bad_pixels"
        )
    _check_probe(origin, new_size)
    _check_memory(origin, new_size, config)
    given = None if config.bad_pixels is None else read_bad_pixels(config.bad_pixels, size)
    step = {
        **_identity(origin),
        "frame_size": [size, new_size],
        "flip_x": config.flip_x,
        "flip_y": config.flip_y,
        "quarter_turns": int(config.quarter_turns),
        "bad_pixels": None
        if given is None
        else {
            "n_bad": int(given.sum()),
            "sha256": array_digest(given),
            "mode": config.bad_pixel_mode,
        },
    }
    return _derive(origin, step, _moved_mask(origin.bad_pixels, given, step))


def _identity(origin: ScanStore) -> dict[str, Any]:
    return {
        "store": os.path.basename(os.path.abspath(origin.path)),
        "digest": origin.digest,
        "frames_digest": origin.frames_digest,
    }


def _geometry(step: Mapping[str, Any]) -> tuple[int, int, Orientation]:
    """Return old and new width, and the orientation, of a recorded step."""
    orientation = Orientation.of(
        flip_x=step["flip_x"], flip_y=step["flip_y"], quarter_turns=step["quarter_turns"]
    )
    return step["frame_size"][0], step["frame_size"][1], orientation


def _moved_mask(
    before: NDArray[np.bool_] | None, given: NDArray[np.bool_] | None, step: Mapping[str, Any]
) -> NDArray[np.bool_] | None:
    """Return the mask of the new frames: what was bad before and what is called so now."""
    masks = [mask for mask in (before, given) if mask is not None]
    if not masks:
        return None
    both = np.logical_or.reduce(masks)
    moved: NDArray[np.bool_] = move_pixels(both[np.newaxis], pixel_map(*_geometry(step)))[0]
    return moved


def _check_probe(origin: ScanStore, new_size: int) -> None:
    width = origin.probe_guess.shape[-1]
    if new_size != origin.frame_size != width:
        raise ShapeError(
            f"{origin.path}: the probe is {width} pixels wide, the frames {origin.frame_size}; "
            "expected equal widths where frames are cut or padded; ingest the scan with a probe "
            "of that width"
        )


def _check_memory(origin: ScanStore, new_size: int, config: TransformConfig) -> None:
    """Refuse a budget that probe and object do not fit in, before they are made."""
    size = origin.frame_size
    n_modes = origin.probe_guess.size // origin.probe_guess.shape[-1] ** 2
    needed = (64 + 16 * n_modes) * max(size, new_size) ** 2 + 64 * 1024**2
    if origin.object_guess is not None:
        lengths = [object_length(length, size, new_size) for length in origin.object_guess.shape]
        itemsize = max(8, origin.object_guess.itemsize)
        needed += 3 * itemsize * (origin.object_guess.size + lengths[0] * lengths[1])
    if needed > config.memory_bytes:
        raise BudgetError(
            f"memory {config.memory!r} is too small for probe and object of {origin.path} with "
            f"frames of {new_size} pixels; expected at least {-(-needed // 1024**2)}MiB; raise "
            "--memory or choose a smaller frame_size"
        )


def _derive(
    origin: ScanStore, step: Mapping[str, Any], bad_pixels: NDArray[np.bool_] | None
) -> Scan:
    """Return the scan that a step makes of a store.

    Parameters
    ----------
    origin
        The store.
    step
        What `ScanStore.transforms` holds; ``left_out`` is found here.
    bad_pixels : (N', N') bool or None
        The mask of the new frames.
    """
    size, new_size, orientation = _geometry(step)
    source = origin.attrs["source"]
    pixels = pixel_map(size, new_size, orientation)
    if bad_pixels is not None and step["bad_pixels"] and step["bad_pixels"]["mode"] == "zero":
        pixels[bad_pixels] = -1
    frames = StoredFrames(
        origin, origin.digest, pixels, source["quantity"] == "counts", source["frame_dtype"]
    )
    fields = _moved_fields(origin, step)
    object_guess = fields.pop("object_guess")
    extra, carried, left_out = _carried(origin, size, new_size, is_moved=_is_moved(step))
    root = os.path.join(os.path.abspath(origin.path), ROOT_KEY)
    status = os.stat(root)
    members = published_members(
        source["frames_key"],
        frames.shape,
        frames.dtype,
        {**fields, "object_guess": object_guess, "bad_pixels": bad_pixels},
    )
    return Scan(
        name=step["store"],
        format=STORE_FORMAT,
        path=root,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        frames=frames,
        axes="nyx",
        quantity=source["quantity"],
        **fields,
        object_reader=None if object_guess is None else ArrayReader(object_guess),
        extra=extra,
        lengths={members[0].name.removesuffix(".npy"): origin.n_frames},
        members=(*members, *carried),
        bad_pixels=bad_pixels,
        origin=Origin(
            nbytes=origin.bytes_stored,
            transforms=(*origin.transforms, {**step, "left_out": left_out}),
            held_nbytes=_BYTES_PER_FRAME * origin.n_frames
            + origin.probe_guess.nbytes
            + sum(a.nbytes for a in (object_guess, origin.object_guess) if a is not None)
            + pixels.nbytes,
            worker_nbytes=frames.worker_nbytes,
        ),
    )


def _is_moved(step: Mapping[str, Any]) -> bool:
    size, new_size, orientation = _geometry(step)
    return new_size != size or orientation != Orientation()


def _moved_fields(origin: ScanStore, step: Mapping[str, Any]) -> dict[str, Any]:
    """Return positions, probe and object of the new scan, by field."""
    size, new_size, orientation = _geometry(step)
    object_guess, start = origin.object_guess, origin.positions_start
    has_index = "scan_index" in origin.nodes()
    width = new_size if new_size != size else origin.probe_guess.shape[-1]
    positions = origin.positions
    if _is_moved(step):
        shape = None if object_guess is None else (object_guess.shape[0], object_guess.shape[1])
        move = functools.partial(
            move_positions,
            sums=position_sums(positions, shape),
            orientation=orientation,
            size=size,
            new_size=new_size,
        )
        positions, start = move(positions), None if start is None else move(start)
        if not np.isfinite(positions).all():
            raise SourceError(
                f"{origin.path}: positions are too large to be moved; expected object pixels; "
                "check their unit"
            )
        if object_guess is not None:
            object_guess = move_object(object_guess, orientation, size, new_size)
    return {
        "positions": positions,
        "positions_start": start,
        "scan_index": origin.scan_index if has_index else None,
        "probe_guess": move_probe(origin.probe_guess, width, orientation),
        "object_guess": object_guess,
    }


def _carried(
    origin: ScanStore, size: int, new_size: int, *, is_moved: bool
) -> tuple[dict[str, MemberReader], list[Member], list[str]]:
    """Return the other members that still hold for the new scan, and the keys of those that do not.

    Left out are other forms of fields, and images of the width of frames or object, which would
    show what is no longer there.
    """
    by_node = {member.node: member for member in origin.source_members}
    stale = {(size, size)} if is_moved else set()
    if is_moved and origin.object_guess is not None:
        stale.add((origin.object_guess.shape[0], origin.object_guess.shape[1]))
    kept: dict[str, MemberReader] = {}
    sources: dict[str, Member] = {}
    left_out = []
    for node in origin.nodes():
        if not node.startswith(f"{EXTRA}/"):
            continue
        array = origin.array(node)
        key = str(array.attrs.get("key", node.removeprefix(f"{EXTRA}/")))
        pairs = set(zip(array.shape[:-1], array.shape[1:], strict=True))
        if key in PUBLISHED_KEYS or node not in by_node or pairs & stale:
            left_out.append(key)
            continue
        reader = ArrayReader(array, is_raw=bool(array.attrs.get("raw")))
        member = by_node[node]
        if key == PIXEL_SIZE_KEY and new_size != size and _is_real_scalar(reader):
            value = np.asarray(np.asarray(array[...]) * (size / new_size))
            reader, member = ArrayReader(value), array_member(key, node, value)
        kept[key], sources[key] = reader, member
    nodes = node_names(kept)
    members = [
        dataclasses.replace(member, node=f"{EXTRA}/{nodes[key]}") for key, member in sources.items()
    ]
    return kept, members, sorted(left_out)


def _is_real_scalar(reader: ArrayReader) -> bool:
    return not reader.is_raw and reader.shape == () and reader.dtype.kind in "iuf"
