"""What batches carry beside the canonical arrays where it is asked for: seeds, start positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.grouping import group_coords
from ptyzarr.scan import ScanLike
from ptyzarr.streaming.sinks import Fields


class Details:
    """Seeds of the groups and start positions of the frames of all scans.

    Parameters
    ----------
    scans
        The scans.
    seeds : (G,) integers for each scan
        The position that each group was drawn for, by acquisition index.
    positions : (n, 2) for each scan, pixels
        Positions, which stand in where a scan has no start positions.

    Attributes
    ----------
    dtypes
        Dtype of each field in batches that mix the scans.
    nbytes
        Memory beside `positions`.
    """

    def __init__(
        self,
        scans: Sequence[ScanLike],
        seeds: Sequence[NDArray[np.int64]],
        positions: Sequence[NDArray[Any]],
    ) -> None:
        self._seeds = list(seeds)
        self._starts = list(positions)
        self.nbytes = sum(array.nbytes for array in seeds)
        for number, scan in enumerate(scans):
            start = scan.positions_start
            if start is not None:
                self._starts[number] = np.asarray(start)
                self.nbytes += self._starts[number].nbytes
        self.dtypes: dict[str, np.dtype[Any]] = {
            **coords_dtypes("coords_start", self._starts),
            "seed_indices": np.dtype(np.int64),
        }

    def describe(
        self, number: int, groups: NDArray[np.int64], frames: NDArray[np.integer[Any]]
    ) -> Fields:
        """Return the fields of some groups of a scan; coordinates have the bits of the eager ones.

        Parameters
        ----------
        number
            The scan.
        groups : (m,) int64
            Numbers of the groups among those of the scan that are delivered.
        frames : (m, C) integers
            Their members.

        Returns
        -------
        dict
            ``seed_indices`` (m,) int64, ``coords_start_nn`` and ``coords_start_relative``
            (m, 1, 2, C), ``coords_start_offsets`` (m, 1, 2, 1).
        """
        nn, offsets, relative = group_coords(self._starts[number], frames)
        return {
            "seed_indices": self._seeds[number][groups],
            "coords_start_nn": nn,
            "coords_start_offsets": offsets,
            "coords_start_relative": relative,
        }


def coords_dtypes(
    prefix: str, positions: Sequence[NDArray[Any]]
) -> Mapping[str, np.dtype[np.generic]]:
    """Return one dtype for each kind of coordinates, whichever scans a batch happens to mix."""
    exact: Any = np.result_type(*positions)
    mean = exact if exact.kind == "f" else np.dtype(np.float64)
    return {f"{prefix}_nn": exact, f"{prefix}_offsets": mean, f"{prefix}_relative": mean}
