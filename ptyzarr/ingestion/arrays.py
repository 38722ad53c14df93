"""Everything of a store that is not frames: fields, extras, masked pixels, the root document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr._version import __version__
from ptyzarr.ingestion.plan import Plan
from ptyzarr.ingestion.records import FrameRecords, mask_record
from ptyzarr.ingestion.staging import Staging
from ptyzarr.memory import return_freed
from ptyzarr.scan import Scan
from ptyzarr.sources import node_names
from ptyzarr.store import (
    EXTRA,
    MASKED,
    SCHEMA_VERSION,
    StoreWriter,
    frames_digest,
    member_to_json,
    store_digest,
)

PIXEL_SIZE_KEY = "object_pixel_m"
_OBJECT_BYTES = 1024**2  # parts of it are looked at
_BLOCK_BYTES = 8 * 1024**2  # of members that may be as large as the frames, so that files are few
_PLANCK_TIMES_C_EV_M = 1.239841984e-6


def write_arrays(
    writer: StoreWriter, scan: Scan, plan: Plan, records: FrameRecords, staging: Staging
) -> None:
    """Write every array but the frames; the frames get their metadata.

    Parameters
    ----------
    writer
        Of the staged store.
    scan, plan
        What is stored, and how.
    records
        What is known about the frames.
    staging
        Holds the masked pixels.
    """
    # Blocks that were counts at first may be stored as floats in the end.
    is_integer = np.dtype(plan.kind.dtype).kind == "u"
    max_wide = records.largest("n_wide") if is_integer else 0
    limits = records.largest("n_nonzero"), max_wide
    writer.create_frames(plan.format, plan.kind.quantity, limits)
    if scan.object_reader is not None:
        reader = scan.object_reader
        blocks = reader.blocks(_OBJECT_BYTES)
        writer.stream_array(
            "object_guess", reader.shape, reader.dtype, blocks, chunk_bytes=_OBJECT_BYTES
        )
        return_freed()  # what zarr's threads leave of every chunk adds up
    writer.write_array("probe_guess", scan.probe_guess)
    _write_per_frame(writer, scan, plan, records)
    if scan.bad_pixels is not None:
        writer.write_array("bad_pixels", scan.bad_pixels)
    for key, node in node_names(scan.extra).items():
        reader = scan.extra[key]
        attributes: dict[str, Any] = {"raw": True} if reader.is_raw else {}
        if node != key:
            attributes["key"] = key
        writer.stream_array(
            f"{EXTRA}/{node}",
            reader.shape,
            reader.dtype,
            reader.blocks(_BLOCK_BYTES),
            attributes=attributes,
            chunk_bytes=_BLOCK_BYTES,
        )
    _write_masked(writer, scan, records, staging)


def root_attributes(
    writer: StoreWriter, scan: Scan, plan: Plan, records: FrameRecords, layout: str
) -> dict[str, Any]:
    """Return the root attribute ``ptyzarr`` without its manifest."""
    frames = frames_digest(plan.amplitude_dtype, records.field("hash"), plan.frame_size)
    return {
        "schema_version": SCHEMA_VERSION,
        "layout": layout,
        "quantity": plan.kind.quantity,
        "tile_frames": plan.sizes.tile_frames,
        "source": _source_attributes(scan),
        "created_by": f"ptyzarr {__version__}",
        "physics": _physics(scan),
        "frames_digest": frames,
        "contents": dict(writer.contents),
        "digest": store_digest(frames, writer.contents),
    }


def _write_per_frame(writer: StoreWriter, scan: Scan, plan: Plan, records: FrameRecords) -> None:
    fields: Mapping[str, NDArray[Any] | None] = {
        "positions": scan.positions,
        "positions_start": scan.positions_start,
        "scan_index": scan.scan_index,
    }
    units = {"positions": {"unit": "object pixels"}, "positions_start": {"unit": "object pixels"}}
    for node, values in fields.items():
        if values is not None:
            writer.write_array(node, values, order=plan.order, attributes=units.get(node))
    writer.write_array("frame_index", plan.order, in_digest=False)
    for name in ("power", "hash"):
        values = records.field(name)
        writer.write_array(f"frame_{name}", values, order=plan.order, in_digest=False)


def _write_masked(writer: StoreWriter, scan: Scan, records: FrameRecords, staging: Staging) -> None:
    n_masked = int(records.field("n_masked").sum(dtype=np.int64))
    if not n_masked:
        return
    dtype = mask_record(scan.frames.dtype)
    for name in ("index", "value"):
        blocks = (block[name] for block in _file_blocks(staging.masked, dtype))
        writer.stream_array(
            f"{MASKED}/{name}", (n_masked,), dtype[name], blocks, chunk_bytes=_BLOCK_BYTES
        )


def _file_blocks(path: Path, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    with path.open("rb") as file:
        while raw := file.read(_BLOCK_BYTES // dtype.itemsize * dtype.itemsize):
            yield np.frombuffer(raw, dtype)


def _source_attributes(scan: Scan) -> dict[str, Any]:
    frames_key = scan.frames_member.name.removesuffix(".npy")
    trailing = f"{frames_key}__trailing"
    n_frames = scan.lengths[frames_key]
    made = {} if scan.origin is None else {"transforms": list(scan.origin.transforms)}
    return {
        "name": scan.name,
        "format": scan.format,
        "size": scan.size if scan.origin is None else scan.origin.nbytes,
        "mtime_ns": scan.mtime_ns,
        "axes": scan.axes,
        "quantity": scan.quantity,
        "frames_key": frames_key,
        "frame_dtype": scan.frames.dtype.str,
        "n_frames": n_frames,
        "trailing": f"{EXTRA}/{node_names(scan.extra)[trailing]}"
        if n_frames > scan.n_frames
        else None,
        "incomplete": _incomplete(scan),
        "members": [member_to_json(member) for member in scan.members],
        **made,
    }


def _incomplete(scan: Scan) -> dict[str, Any] | None:
    """Return what was found and what was kept of a scan that stopped early; None of a whole one."""
    if set(scan.lengths.values()) == {scan.n_frames}:
        return None
    return {"found": dict(scan.lengths), "kept": scan.n_frames}


def _physics(scan: Scan) -> dict[str, float]:
    """Return pixel size and energy where the source names them."""
    known = {}
    if PIXEL_SIZE_KEY in scan.extra:
        known["pixel_size_m"] = _scalar(scan, PIXEL_SIZE_KEY)
    if "wavelength_m" in scan.extra:
        wavelength = _scalar(scan, "wavelength_m")
        if wavelength > 0:
            known["energy_ev"] = _PLANCK_TIMES_C_EV_M / wavelength
    return {key: value for key, value in known.items() if np.isfinite(value)}


def _scalar(scan: Scan, key: str) -> float:
    reader = scan.extra[key]
    if reader.is_raw or reader.shape != () or reader.dtype.kind not in "iuf":
        return float("nan")
    return float(next(iter(reader.blocks(_BLOCK_BYTES))))
