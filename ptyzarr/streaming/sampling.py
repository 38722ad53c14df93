"""Epoch orders: which group is delivered when, for every rank. Integers only, no stores.

An order depends on the scans' digests, the tiles of their groups, the seed, the epoch, the rank
and the number of ranks; never on chunks, threads, memory or the machine. Groups are numbered
through all scans, scan after scan.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ptyzarr.compiled import kernel
from ptyzarr.config import Shuffle
from ptyzarr.errors import ConfigError

# A window of 24 tiles, dealt from as many parts of the scan, mixes distant regions of the sample:
# the groups of its batches are as far apart as those of a uniform shuffle.
MIN_WINDOW_TILES: Final = 24

# Streams of one epoch; never renumber, orders would change.
_TILES_STREAM: Final = 0
_WINDOWS_STREAM: Final = 1
_FULL_STREAM: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class SampledScan:
    """What sampling knows of one scan's groups.

    Attributes
    ----------
    digest
        Content digest of the scan.
    layout
        Order of the stored rows.
    tile_frames
        Stored rows in a tile.
    tiles : (G,) integers
        Tile of each group: that of the stored row of its seed position.
    """

    digest: str
    layout: str
    tile_frames: int
    tiles: NDArray[np.integer[Any]]

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return int(self.tiles.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One rank's part of an epoch and the batches it is cut into.

    Every rank has the same number of batches, and for the same batch number their sizes differ
    by at most one group.

    Attributes
    ----------
    rank, world_size
        This process among all.
    start, stop
        The rank's part of the whole epoch's sequence of groups.
    batch_size
        Groups in a full batch.
    n_batches
        Batches of every rank.
    """

    rank: int
    world_size: int
    start: int
    stop: int
    batch_size: int
    n_batches: int

    def edges(self) -> NDArray[np.int64]:
        """Return the (n_batches + 1,) positions in the part at which batches begin and end."""
        n_groups = self.stop - self.start
        edges = np.minimum(np.arange(self.n_batches + 1) * self.batch_size, n_groups)
        if self.n_batches and edges[-2] == edges[-1]:
            # The longer ranks end with a batch of one group: give up one of the batch before.
            edges[-2] -= 1
        return edges.astype(np.int64)


def share_epoch(
    n_groups: int, batch_size: int, *, rank: int = 0, world_size: int = 1, drop_last: bool = False
) -> Share:
    """Return rank's contiguous part of `n_groups` and its batches.

    Each of W ranks yields ceil(ceil(G / W) / B) batches, or floor(floor(G / W) / B) full ones
    with `drop_last`.

    Raises
    ------
    ConfigError
        If some rank would have an empty batch, or no batch at all.
    """
    short, longer = divmod(n_groups, world_size)
    start = rank * short + min(rank, longer)
    stop = start + short + (rank < longer)
    if drop_last:
        n_batches = short // batch_size
        stop = start + n_batches * batch_size
    else:
        n_batches = -(-(short + (longer > 0)) // batch_size)
    if n_batches == 0 or n_batches > short:
        remedy = "a smaller batch_size" if drop_last else "drop_last=True or another batch_size"
        raise ConfigError(
            f"{n_groups} groups on {world_size} ranks in batches of {batch_size} leave a rank "
            f"with an empty batch; use {remedy}, more groups (n_samples) or fewer ranks"
        )
    return Share(
        rank=rank,
        world_size=world_size,
        start=start,
        stop=stop,
        batch_size=batch_size,
        n_batches=n_batches,
    )


class Sampler(Protocol):
    """A policy: puts the groups of an epoch in order."""

    def order(self, epoch: int, share: Share) -> NDArray[np.int64]:
        """Return the (stop - start,) group numbers of the rank's part, in order of delivery.

        The parts of all ranks together hold each group exactly once.
        """
        ...


class CanonicalSampler:
    """Delivers the groups in canonical order, scan after scan; ranks take contiguous parts."""

    def __init__(self, scans: Sequence[SampledScan], seed: int) -> None:
        del scans, seed  # nothing is drawn

    def order(self, epoch: int, share: Share) -> NDArray[np.int64]:
        """Return the rank's groups; the same in every epoch."""
        del epoch
        return np.arange(share.start, share.stop, dtype=np.int64)


class FullSampler:
    """Delivers the groups in uniformly random order; independent of layout and tiles."""

    def __init__(self, scans: Sequence[SampledScan], seed: int) -> None:
        self._n_groups = sum(scan.n_groups for scan in scans)
        self._entropy = _entropy("full", seed, [(scan.digest,) for scan in scans])

    def order(self, epoch: int, share: Share) -> NDArray[np.int64]:
        """Return the rank's part of one permutation that all ranks draw alike."""
        generator = _generator(self._entropy, epoch, _FULL_STREAM)
        permuted = generator.permutation(self._n_groups)[share.start : share.stop]
        return np.ascontiguousarray(permuted, dtype=np.int64)


class WindowSampler:
    """Delivers groups from windows of random tiles, so that each chunk is decoded about once.

    The tiles of all scans, one scan after the other, are cut into `MIN_WINDOW_TILES` equal parts;
    a random tile of each part is dealt in turn, so that any so many consecutive tiles are spread
    over the samples. Ranks take contiguous parts of this sequence, cut between groups. In a
    rank's part `MIN_WINDOW_TILES` or more consecutive tiles make a window (fewer in all make
    one), and the groups of a window are permuted.
    """

    def __init__(self, scans: Sequence[SampledScan], seed: int) -> None:
        described = [(scan.digest, scan.layout, scan.tile_frames) for scan in scans]
        self._entropy = _entropy("window", seed, described)
        self._groups, self._starts = _sort_by_tile(scans)

    def order(self, epoch: int, share: Share) -> NDArray[np.int64]:
        """Return the rank's groups, window after window."""
        generator = _generator(self._entropy, epoch, _TILES_STREAM)
        tiles = _deal_tiles(generator, len(self._starts) - 1)
        order, edges = _concatenate_tiles(
            self._groups, self._starts, tiles, share.start, share.stop
        )
        generator = _generator(self._entropy, epoch, _WINDOWS_STREAM, share.world_size, share.rank)
        for start, stop in _window_edges(edges):
            generator.shuffle(order[start:stop])
        return order


SAMPLERS: Final[Mapping[Shuffle, Callable[[Sequence[SampledScan], int], Sampler]]] = {
    False: CanonicalSampler,
    "full": FullSampler,
    "window": WindowSampler,
}


def _entropy(policy: str, seed: int, described: Sequence[tuple[Any, ...]]) -> int:
    """Return an integer for `SeedSequence` made of everything an order depends on."""
    text = json.dumps([policy, int(seed), [list(entry) for entry in described]])
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "little")


def _generator(entropy: int, epoch: int, *stream: int) -> np.random.Generator:
    """Return the generator of one stream of an epoch, its algorithm fixed."""
    sequence = np.random.SeedSequence(entropy, spawn_key=(epoch, *stream))
    return np.random.Generator(np.random.PCG64(sequence))


def _deal_tiles(generator: np.random.Generator, n_tiles: int) -> NDArray[np.int64]:
    """Return the tiles in random order, a tile of each part of the scans after the other.

    Windows whose tiles come from anywhere have middles that differ more, and their batches with
    them, than windows that have a tile of each part.
    """
    n_parts = min(MIN_WINDOW_TILES, n_tiles)
    n_rounds, n_extra = divmod(n_tiles, max(n_parts, 1))
    sizes = np.full(n_parts, n_rounds)
    sizes[generator.permutation(n_parts)[:n_extra]] += 1
    parts = np.split(np.arange(n_tiles), np.cumsum(sizes)[:-1])
    drawn = [generator.permutation(part) for part in parts]
    rounds = np.array([part[:n_rounds] for part in drawn]).reshape(n_parts, n_rounds).T
    return np.concatenate([rounds.reshape(-1), *(part[n_rounds:] for part in drawn)])


def _sort_by_tile(
    scans: Sequence[SampledScan],
) -> tuple[NDArray[np.integer[Any]], NDArray[np.int64]]:
    """Return group numbers sorted by tile, canonical inside one, and where each tile starts.

    Tiles without groups are left out; the scans' tiles follow one another.
    """
    n_groups = sum(scan.n_groups for scan in scans)
    dtype: Any = np.int32 if n_groups < 2**31 else np.int64
    groups = np.empty(n_groups, dtype)
    starts: list[NDArray[np.int64]] = []
    first = 0
    for scan in scans:
        counts = np.bincount(scan.tiles)
        edges = np.concatenate([[0], np.cumsum(counts)])
        _counting_sort(scan.tiles, edges[:-1].copy(), first, groups[first : first + scan.n_groups])
        starts.append(first + edges[:-1][counts > 0])
        first += scan.n_groups
    return groups, np.concatenate([*starts, [n_groups]]).astype(np.int64)


@kernel
def _counting_sort(  # pragma: no cover - compiled
    tiles: NDArray[Any], places: NDArray[np.int64], first: int, groups: NDArray[Any]
) -> None:
    """Write group numbers in the order of their tiles; `places` holds each tile's next place."""
    for group in range(tiles.size):
        tile = tiles[group]
        groups[places[tile]] = first + group
        places[tile] += 1


@kernel
def _concatenate_tiles(  # pragma: no cover - compiled
    groups: NDArray[Any],
    starts: NDArray[np.int64],
    tiles: NDArray[np.int64],
    start: int,
    stop: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return part ``start .. stop`` of the tiles' concatenation and the edges of its tiles."""
    order = np.empty(stop - start, np.int64)
    edges = np.empty(tiles.size + 1, np.int64)
    n_edges = 0
    end = 0
    for tile in tiles:
        begin, end = end, end + starts[tile + 1] - starts[tile]
        if end <= start or begin >= stop:
            continue
        low, high = max(begin, start), min(end, stop)
        edges[n_edges] = low - start
        n_edges += 1
        for place in range(low, high):
            order[place - start] = groups[starts[tile] + place - begin]
    edges[n_edges] = stop - start
    return order, edges[: n_edges + 1].copy()


def _window_edges(tile_edges: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the (start, stop) of each window, a short rest joined to the last one."""
    n_windows = max(1, (len(tile_edges) - 1) // MIN_WINDOW_TILES)
    edges = tile_edges[: n_windows * MIN_WINDOW_TILES : MIN_WINDOW_TILES].tolist()
    edges.append(int(tile_edges[-1]))
    return list(itertools.pairwise(edges))
