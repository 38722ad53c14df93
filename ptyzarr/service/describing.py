"""What a scan is, as JSON: in a line of the catalogue and in full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import numpy as np

from ptyzarr.config import GroupingConfig
from ptyzarr.scan import FIELDS
from ptyzarr.store import ScanStore
from ptyzarr.view import intensity_unit

#: What groups are drawn by where a request does not say.
_GROUPING: Final = GroupingConfig()
#: Units of what a source says of its physics.
_UNITS: Final = {"pixel_size_m": "m", "energy_ev": "eV"}


def summary(store: ScanStore, scan_id: str) -> dict[str, Any]:
    """Return what the catalogue says of a scan."""
    return {
        "id": scan_id,
        "n_frames": store.n_frames,
        "frame_size": store.frame_size,
        "quantity": store.quantity,
        "dtype": str(store.format.dtype),
        "amplitude_dtype": str(store.amplitude_dtype),
        "digest": store.digest,
        "frames_digest": store.frames_digest,
        "bytes_stored": store.bytes_stored,
        "bytes_logical": store.bytes_logical,
        "url": f"{scan_url(scan_id)}/zarr",
    }


def broken(scan_id: str, code: str, message: str) -> dict[str, Any]:
    """Return what the catalogue says of a store that cannot be opened."""
    return {"id": scan_id, "error": {"code": code, "message": message}}


def metadata(store: ScanStore, scan_id: str) -> dict[str, Any]:
    """Return everything but the arrays: shapes, units, chunks, provenance, links."""
    source = store.attrs["source"]
    positions = store.positions
    return {
        **summary(store, scan_id),
        "layout": store.layout,
        "chunk_frames": store.format.chunk_frames,
        "shard_frames": store.format.shard_frames,
        "tile_frames": store.tile_frames,
        "schema_version": store.attrs["schema_version"],
        "intensity_unit": intensity_unit(store),
        "positions": {
            "unit": "object pixels",
            "minimum": positions.min(axis=0).astype(np.float64).tolist(),
            "maximum": positions.max(axis=0).astype(np.float64).tolist(),
        },
        "arrays": {node: _array(store, node) for node in store.nodes()},
        "probe_modes": 1 if store.probe_guess.ndim == 2 else len(store.probe_guess),
        "physics": {
            key: {"value": value, "unit": _UNITS.get(key, "")}
            for key, value in store.attrs["physics"].items()
        },
        "source": {key: source.get(key) for key in ("name", "format", "size", "incomplete")},
        "created_by": store.attrs["created_by"],
        "grouping": {
            name: getattr(_GROUPING, name)
            for name in ("gridsize", "n_neighbors", "n_samples", "seed")
        },
        "links": _links(scan_id, "object_guess" in store.nodes()),
    }


def scan_url(scan_id: str) -> str:
    """Return the path of a scan."""
    return f"/v1/scans/{quote(scan_id, safe='')}"


def _array(store: ScanStore, node: str) -> dict[str, Any]:
    array = store.array(node)
    field = FIELDS.get(node)
    named: tuple[str | None, ...] | None = array.metadata.to_dict().get("dimension_names")  # type: ignore[assignment]
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "dimensions": list(named or ()),
        "unit": field.unit if field else "",
    }


def _links(scan_id: str, has_object: bool) -> Mapping[str, str]:
    base = scan_url(scan_id)
    links = {
        "zarr": f"{base}/zarr",
        "map": f"{base}/map",
        "power": f"{base}/power",
        "groups": f"{base}/groups",
        "frame": f"{base}/frames/{{index}}.png",
        "mean": f"{base}/mean.png",
        "probe": f"{base}/probe/amplitude.png",
        "batch": f"{base}/batch",
    }
    return {**links, "object": f"{base}/object/amplitude.png"} if has_object else links
