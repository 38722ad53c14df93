"""What is computed from a store: positions, groups, frames, means, batches, pictures of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptyzarr.config import GroupingConfig, ServiceConfig, parse_size
from ptyzarr.grouping import GroupTable, cached_group_table
from ptyzarr.service.answers import Refusal, npz_pieces
from ptyzarr.service.pictures import MAX_SIZE, Picture, PictureOptions, draw
from ptyzarr.store import ScanStore
from ptyzarr.view import intensity

BLOCK_BYTES: Final = 16 * 1024**2
_TABLE_ENTRY_BYTES: Final = 16  # a distance and an index for each candidate


def digest_of(*parts: Any) -> str:
    """Return a strong entity tag of what an answer depends on."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return f'"{hashlib.sha256(text.encode()).hexdigest()}"'


def scan_map(store: ScanStore) -> NDArray[np.float64]:
    """Return the positions (n, 2) float64, x and y in object pixels, in acquisition order."""
    return np.asarray(store.positions, np.float64)


def group_config(query: dict[str, Any], n_frames: int, config: ServiceConfig) -> GroupingConfig:
    """Return the options of a group table that is not too large to draw.

    Raises
    ------
    Refusal
        If it is.
    ConfigError
        If the options contradict each other.
    """
    n_samples = query["n_samples"]
    if query["gridsize"] == 1 and n_samples is not None:
        # Groups of one frame are capped there, with a warning, which is no matter for our log.
        n_samples = min(n_samples, n_frames)
    grouping = GroupingConfig(
        gridsize=query["gridsize"],
        n_neighbors=query["n_neighbors"],
        n_samples=n_samples,
        seed=query["seed"],
    )
    n_groups = min(n_frames, n_frames if grouping.n_samples is None else grouping.n_samples)
    candidates = n_frames * (min(grouping.n_neighbors + 1, n_frames) + grouping.group_size)
    nbytes = _TABLE_ENTRY_BYTES * candidates + 8 * n_groups * grouping.group_size
    if nbytes > parse_size(config.max_table_size):
        raise Refusal(
            413, "too_large",
            f"the table takes about {nbytes} bytes; expected at most "
            f"{parse_size(config.max_table_size)}; ask for fewer neighbours or smaller groups",
        )  # fmt: skip
    return grouping


@dataclasses.dataclass(frozen=True)
class SharedTable:
    """A group table that several answers are made of."""

    table: GroupTable

    @property
    def nbytes(self) -> int:
        """Memory of both arrays."""
        return int(self.table.nn_indices.nbytes + self.table.seeds.nbytes)


def draw_groups(store: ScanStore, grouping: GroupingConfig) -> SharedTable:
    """Return the canonical groups, from the cache on disk where they were drawn before."""
    return SharedTable(cached_group_table(store, grouping))


def groups_at(table: GroupTable, position: int) -> dict[str, Any]:
    """Return the groups that were drawn for one position: their numbers and members."""
    numbers = np.flatnonzero(table.seeds == position)
    return {
        "position": position,
        "groups": numbers.tolist(),
        "members": table.nn_indices[numbers].tolist(),
    }


def amplitude_frame(store: ScanStore, index: int) -> NDArray[Any]:
    """Return one frame (N, N) of amplitudes in the dtype of the store."""
    frame: NDArray[Any] = store.amplitude(np.array([index]))[0]
    return frame


def intensity_picture(store: ScanStore, index: int, options: PictureOptions) -> Picture:
    """Return a picture of the intensity (squared amplitude, counts) of one frame."""
    return draw(intensity(store, np.array([index]))[0], options)


def mean_intensity(store: ScanStore) -> NDArray[np.float64]:
    """Return the mean over all frames of their intensity (N, N) float64, in bounded memory.

    Counts are summed exactly (below 2^53), amplitudes as float64 squares in stored order.
    """
    n_frames, size = store.n_frames, store.frame_size
    total = np.zeros((size, size))
    step = max(1, BLOCK_BYTES // (8 * size * size))
    for start in range(0, n_frames, step):
        total += intensity(store, store.frame_index[start : start + step]).sum(axis=0)
    return total / n_frames


def array_picture(values: NDArray[Any], part: str, options: PictureOptions) -> Picture:
    """Return a picture of the amplitude or the phase (radians) of a complex array (h, w)."""
    if part == "amplitude":
        return draw(np.abs(values), options)
    shown = dataclasses.replace(options, vmin=-np.pi, vmax=np.pi, scale="linear")
    # Phases have no mean: large arrays are thinned out instead.
    step = max(1, -(-max(values.shape) // (options.size or MAX_SIZE)))
    return draw(np.angle(values[::step, ::step]), shown)


def probe_mode(store: ScanStore, mode: int) -> NDArray[Any]:
    """Return one mode (N, N) of the probe; raises `Refusal` if there is no such mode."""
    probe = store.probe_guess
    modes = probe.reshape(-1, *probe.shape[-2:])
    if mode >= len(modes):
        raise Refusal(404, "not_found", f"there is no mode {mode}; expected 0 to {len(modes) - 1}")
    chosen: NDArray[Any] = modes[mode]
    return chosen


def object_array(store: ScanStore) -> NDArray[Any]:
    """Return the object (h, w); raises `Refusal` if the scan has none."""
    if store.object_guess is None:
        raise Refusal(404, "not_found", "the scan has no object; expected one in its source")
    return store.object_guess


def check_indices(document: Any, n_frames: int, config: ServiceConfig) -> NDArray[np.int64]:
    """Return the indices (m,) of a batch request.

    Raises
    ------
    Refusal
        If the document is not ``{"indices": [...]}``, or asks for too many frames.
    """
    expected = 'expected {"indices": [integers from 0 to ' + f"{n_frames - 1}" + "]}"
    indices = document.get("indices") if isinstance(document, dict) else None
    if not isinstance(indices, list) or set(document) != {"indices"}:
        raise Refusal(400, "request", f"the batch is not understood; {expected}")
    if len(indices) > config.max_batch_frames:
        raise Refusal(
            413, "too_large",
            f"the batch has {len(indices)} indices; expected at most {config.max_batch_frames}",
        )  # fmt: skip
    for index in indices:
        if type(index) is not int or not 0 <= index < n_frames:
            raise Refusal(400, "request", f"index {str(index)[:40]} cannot be; {expected}")
    return np.array(indices, np.int64)


def batch_pieces(
    store: ScanStore, indices: NDArray[np.int64], config: ServiceConfig
) -> list[bytes | memoryview]:
    """Return an npz file of the frames asked for, as pieces.

    Its members are ``frames`` (u, N, N), each frame once, in the dtype of the amplitudes, and
    ``inverse`` (m,) int64: ``frames[inverse]`` is what was asked for.

    Raises
    ------
    Refusal
        If the frames take too much memory.
    """
    unique, inverse = np.unique(indices, return_inverse=True)
    nbytes = len(unique) * store.frame_size**2 * store.amplitude_dtype.itemsize
    limit = parse_size(config.max_batch_size)
    if nbytes > limit:
        raise Refusal(
            413, "too_large",
            f"{len(unique)} frames take {nbytes} bytes; expected at most {limit}; ask for fewer",
        )  # fmt: skip
    return npz_pieces({"frames": store.amplitude(unique), "inverse": inverse.astype(np.int64)})
