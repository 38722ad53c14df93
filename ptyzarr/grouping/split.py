"""Training and validation groups of a scan, or of many, without a frame or a neighbour in both.

Overlapping frames see the same part of the object: a random choice of groups would let a network
be tested on what it was trained on. So regions of the scan are held out, with a band around them.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from ptyzarr.config import GroupingConfig
from ptyzarr.errors import ConfigError
from ptyzarr.grouping.arguments import as_scans, check_options
from ptyzarr.grouping.cache import StoredScan, cached_group_table
from ptyzarr.grouping.neighbors import as_points


@runtime_checkable
class OrderedScan(StoredScan, Protocol):
    """A scan in a store whose rows have an order; `ScanStore` is one."""

    @property
    def frame_index(self) -> NDArray[np.int64]:
        """(n,) acquisition index of each stored row."""
        ...


class Identified(Protocol):
    """What has a digest of its content."""

    @property
    def digest(self) -> str:
        """What identifies the content."""
        ...


Scan = TypeVar("Scan", bound=Identified)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class GroupSplit:
    """Which groups of a scan are for training and which for validation.

    Attributes
    ----------
    training, validation : (m,) int64, ascending
        Group numbers, for the `groups` of a loader.
    n_dropped
        Groups that are for neither: they reach into the band, or across an edge.
    guard
        Pixels; every training frame is farther than this from every validation frame.
    training_frames, validation_frames : (n,) bool, in acquisition order
        Frames that groups of each kind may have. No frame is in both; those in the band are in
        neither.
    """

    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    n_dropped: int
    guard: float
    training_frames: NDArray[np.bool_]
    validation_frames: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Options:
    """The checked options of a split."""

    validation: float
    guard: float | None
    seed: int
    n_regions: int

    def __post_init__(self) -> None:
        _check_fraction(self.validation)
        _check_seed(self.seed)
        if self.guard is not None and not (
            isinstance(self.guard, int | float | np.number) and 0 <= self.guard < math.inf
        ):
            raise ConfigError(
                f"guard is {self.guard!r}; expected a distance of 0 or more pixels, or None for "
                "the diameter of the illumination"
            )
        if not hasattr(self.n_regions, "__index__") or self.n_regions < 1:
            raise ConfigError(f"n_regions is {self.n_regions!r}; expected an integer of 1 or more")


def split_groups(
    store: OrderedScan,
    grouping: GroupingConfig,
    *,
    validation: float = 0.1,
    guard: float | None = None,
    seed: int = 0,
    n_regions: int = 1,
) -> GroupSplit:
    """Divide the canonical groups of a scan into those for training and those for validation.

    Validation regions are runs of consecutive stored rows: compact pieces of the sample where
    frames are stored along a Hilbert curve, which is the default of ingest. A group is for
    validation if all its frames lie in the regions, for training if each of its frames is farther
    than `guard` from every frame of the regions, and is dropped otherwise.

    Parameters
    ----------
    store
        The scan; its frames are not read.
    grouping
        Which groups are drawn; its seed must be given.
    validation
        Share of the frames that the regions take, above 0 and below 1.
    guard
        Width of the band in object pixels; by default `illumination_diameter` of the probe guess,
        so that no training frame and validation frame are lit in the same place.
    seed
        Where the regions lie; the same for the same scan, in every process.
    n_regions
        Regions among which the validation frames are divided evenly. More regions sample more of
        the object, and cost more groups in their bands.

    Returns
    -------
    split
        The same for the same digest, layout and arguments.

    Raises
    ------
    ConfigError
        If an option is out of range, the grouping has no seed, there is no group left for training
        or validation, or the default guard drops more than half of all groups.
    GroupingError
        As `generate_grouped_data` raises it.
    """
    as_scans([store])
    check_options(grouping, GroupingConfig, "grouping")
    options = _Options(validation, guard, seed, n_regions)
    if grouping.seed is None:
        raise ConfigError(
            "the seed of the grouping is None, which draws other groups at every call; expected a "
            "number, so that those of the split are those that a loader delivers"
        )
    table = cached_group_table(store, grouping)
    width = illumination_diameter(store.probe_guess) if guard is None else float(guard)
    is_validation = _hold_out(store, options)
    is_training = _are_beyond(store.positions, is_validation, width)
    in_validation = is_validation[table.nn_indices].all(axis=1)
    in_training = is_training[table.nn_indices].all(axis=1)
    split = GroupSplit(
        training=np.flatnonzero(in_training),
        validation=np.flatnonzero(in_validation),
        n_dropped=int(table.n_groups - in_training.sum() - in_validation.sum()),
        guard=width,
        training_frames=is_training,
        validation_frames=is_validation,
    )
    _check_split(split, store.path, table.n_groups, is_default_guard=guard is None)
    return split


def split_scans(
    stores: Sequence[Scan], *, validation: float = 0.1, seed: int = 0
) -> tuple[list[Scan], list[Scan]]:
    """Divide whole scans into those for training and those for validation.

    The choice depends on the scans' digests and the seed, not on their order; copies of a scan
    stay together.

    Parameters
    ----------
    stores
        At least two different scans.
    validation
        Share of the different scans that are for validation, at least one of them and at most
        all but one.
    seed
        Which scans are chosen.

    Returns
    -------
    training, validation : list of stores, in the order given

    Raises
    ------
    ConfigError
        If an option is out of range or there are fewer than two different scans.
    """
    as_scans(stores)
    _check_fraction(validation)
    _check_seed(seed)
    digests = sorted({store.digest for store in stores}, key=lambda digest: _entropy(seed, digest))
    if len(digests) < 2:
        raise ConfigError(
            f"there are {len(digests)} different scans among {len(stores)}; expected two or more "
            "to split by whole scans; use split_groups to split a scan by regions"
        )
    n_validation = min(max(round(validation * len(digests)), 1), len(digests) - 1)
    held_out = set(digests[:n_validation])
    training = [store for store in stores if store.digest not in held_out]
    return training, [store for store in stores if store.digest in held_out]


def illumination_diameter(probe: ArrayLike) -> float:
    """Return the diameter of a disc of the area that a probe lights.

    With the intensity I = sum over modes of abs(probe)**2 the lit area is sum(I)**2 / sum(I**2)
    pixels: that of the disc for an evenly lit disc; the diameter is 4 sigma for an intensity that
    is Gaussian with standard deviation sigma.

    Parameters
    ----------
    probe : ([mode,] N, N) complex or real

    Returns
    -------
    diameter : float, pixels

    Raises
    ------
    ConfigError
        If the probe is zero or not finite.
    """
    amplitude = np.abs(np.asarray(probe)).astype(np.float64)
    peak = amplitude.max(initial=0.0)
    if not 0 < peak < math.inf:
        raise ConfigError(
            f"the probe guess has a largest amplitude of {peak}; expected a finite one above 0 to "
            "take the diameter of the illumination from; give guard, in pixels"
        )
    intensity = np.square(amplitude / peak)
    intensity = intensity.sum(axis=tuple(range(intensity.ndim - 2)))
    area = intensity.sum() ** 2 / np.square(intensity).sum()
    return float(2 * np.sqrt(area / np.pi))


def _hold_out(store: OrderedScan, options: _Options) -> NDArray[np.bool_]:
    """Return (n,) whether each frame, by acquisition index, lies in a validation region."""
    n_frames, n_regions = store.n_frames, operator.index(options.n_regions)
    n_held = min(max(round(options.validation * n_frames), 1), n_frames)
    if n_regions > n_held:
        raise ConfigError(
            f"n_regions is {n_regions} for {n_held} validation frames of {store.path}; expected "
            "at most as many; lower n_regions or raise validation"
        )
    sequence = np.random.SeedSequence(_entropy(options.seed, store.digest))
    generator = np.random.Generator(np.random.PCG64(sequence))
    lengths = np.full(n_regions, n_held // n_regions)
    lengths[: n_held % n_regions] += 1
    # Rows before each region that are not held out; regions may touch.
    before = np.sort(generator.integers(0, n_frames - n_held, n_regions, endpoint=True))
    is_held = np.zeros(n_frames, np.bool_)
    starts = before + np.cumsum(lengths) - lengths
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        is_held[store.frame_index[start : start + length]] = True
    return is_held


def _are_beyond(
    positions: NDArray[Any], is_held: NDArray[np.bool_], guard: float
) -> NDArray[np.bool_]:
    """Return (n,) whether each frame is farther than `guard` from all that are held out."""
    points = as_points(positions)
    # Looking no farther than needed is eight times as fast; the bound must be above the guard,
    # and well above zero, whose square it is compared with.
    nearest, _ = cKDTree(points[is_held]).query(points, distance_upper_bound=2 * guard + 1)
    # Infinite beyond the bound; zero for what is held out, and no guard is below that.
    beyond: NDArray[np.bool_] = np.asarray(nearest) > guard
    return beyond


def _check_split(split: GroupSplit, path: str, n_groups: int, *, is_default_guard: bool) -> None:
    is_mostly_dropped = is_default_guard and 2 * split.n_dropped > n_groups
    if split.training.size and split.validation.size and not is_mostly_dropped:
        return
    origin = ", the diameter of the illumination," if is_default_guard else ""
    raise ConfigError(
        f"{path} is left with {split.training.size} groups for training and "
        f"{split.validation.size} for validation of {n_groups}: {split.validation_frames.sum()} "
        f"frames are held out and the guard of {split.guard:.1f} pixels{origin} drops "
        f"{split.n_dropped} groups; expected "
        f"{'at most half dropped' if is_mostly_dropped else 'some of both'}; give a smaller guard, "
        "another validation, fewer n_regions, or hold out whole scans"
    )


def _check_fraction(validation: float) -> None:
    if not isinstance(validation, float | int | np.number) or not 0 < validation < 1:
        raise ConfigError(f"validation is {validation!r}; expected a share above 0 and below 1")


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or seed < 0:
        raise ConfigError(f"seed is {seed!r}; expected an integer of 0 or more")


def _entropy(seed: int, digest: str) -> int:
    text = f"split {operator.index(seed)} {digest}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "little")
