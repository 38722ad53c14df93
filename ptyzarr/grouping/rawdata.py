"""`RawDataTorch`: a scan in memory, in a store or in a file, grouped as the reference does."""

from __future__ import annotations

import os
from typing import Any, TypedDict

import dask.array as da
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptyzarr.config import GroupingConfig
from ptyzarr.errors import ConfigError, DtypeError, ShapeError, SourceError
from ptyzarr.grouping.cache import StoredScan, cached_group_table
from ptyzarr.grouping.coords import group_coords
from ptyzarr.grouping.draws import Seed
from ptyzarr.grouping.frames import ArrayStack, FrameStack, ScanStack, gather_normalized
from ptyzarr.grouping.lazy import (
    lazy_frames,
    lazy_normalized,
    lazy_normalized_dask,
    lazy_patches,
)
from ptyzarr.grouping.neighbors import as_integer, as_positions
from ptyzarr.grouping.patches import object_patches
from ptyzarr.grouping.select import GroupTable, select_groups
from ptyzarr.grouping.strategies import STRATEGIES
from ptyzarr.scan import FrameReader, ScanLike
from ptyzarr.sources import open_source

# The reference's own default, from its parameter dictionary.
_DEFAULT_GRIDSIZE = 2


class GroupedData(TypedDict):
    """The published arrays of one selection of groups.

    Attributes
    ----------
    diffraction : (G, N, N, C) as stored
        Amplitudes; NumPy, or dask where lazy (and so are `X_full` and `Y`).
    Y : (G, N, N, C) complex64 or None
        Object patches.
    coords_offsets, coords_start_offsets : (G, 1, 2, 1), pixels
        Mean position of each group; axis 2 is x, y.
    coords_relative, coords_start_relative : (G, 1, 2, C), pixels
        ``-(position - mean)``.
    coords_nn, coords_start_nn : (G, 1, 2, C), pixels
        Positions of the members.
    nn_indices : (G, C) int32 or int64
        Acquisition indices of the members.
    objectGuess : (H, W) complex or None
    X_full : (G, N, N, C) float32
        Normalized amplitudes.
    """

    diffraction: Any
    Y: Any
    coords_offsets: NDArray[Any]
    coords_relative: NDArray[Any]
    coords_start_offsets: NDArray[Any]
    coords_start_relative: NDArray[Any]
    coords_nn: NDArray[Any]
    coords_start_nn: NDArray[Any]
    nn_indices: NDArray[np.integer[Any]]
    objectGuess: NDArray[Any] | None
    X_full: Any


class RawDataTorch:
    """A ptychography scan from which canonical groups are drawn.

    Parameters
    ----------
    xcoords, ycoords : (n,) real, pixels
        Positions in acquisition order.
    diff3d : (n, N, N) real
        Amplitudes: NumPy, dask or zarr (or anything that is indexed like them). They are read
        when groups are asked for, and then only the frames needed.
    probeGuess : (N, N) complex
    scan_index : (n,) integers or None
        Carried, not used; None means zeros.
    objectGuess : (H, W) complex or None
        Without it there are no patches ``Y``.
    config
        Options whose ``model.gridsize`` or ``gridsize`` is the default of the group size; ours,
        or the reference's ``TrainingConfig`` or ``InferenceConfig``.
    xcoords_start, ycoords_start : (n,) real or None, pixels
        Start positions (default: the positions).

    Raises
    ------
    ShapeError
        If the shapes do not make a scan. It is a `ValueError` and an `AssertionError`.
    DtypeError
        If positions or frames are not real numbers.

    References
    ----------
    PtychoPINN, ``ptycho/raw_data.py``, ``RawData``; ``ptycho_torch/raw_data_bridge.py``.
    """

    _store: StoredScan | None = None

    def __init__(
        self,
        xcoords: ArrayLike,
        ycoords: ArrayLike,
        diff3d: Any,
        probeGuess: ArrayLike,
        scan_index: ArrayLike | None,
        objectGuess: ArrayLike | None = None,
        config: Any = None,
        *,
        xcoords_start: ArrayLike | None = None,
        ycoords_start: ArrayLike | None = None,
    ) -> None:
        self._set_positions(xcoords, ycoords, xcoords_start, ycoords_start)
        self._diff3d = diff3d if _is_array(diff3d) else np.asarray(diff3d)
        self._set_frames(ArrayStack(self._diff3d), None)
        self._set_guesses(probeGuess, objectGuess, probe_dims=(2,))
        self._scan_index = _as_scan_index(scan_index, len(self._xcoords))
        self._config = config

    @classmethod
    def from_store(cls, store: ScanLike, config: Any = None) -> RawDataTorch:
        """Return the scan in `store`; no frame is read, now or for the normalization.

        Parameters
        ----------
        store
            A `ScanStore`, or anything that keeps the protocol `ScanLike`. A probe may have a
            leading mode axis.
        config
            As for the constructor.

        Raises
        ------
        ShapeError, DtypeError
            As the constructor.
        """
        raw = cls.__new__(cls)
        raw._set_columns(store.positions, store.positions_start)
        stack = ScanStack(store)
        raw._diff3d = lazy_frames(stack)
        raw._set_frames(stack, store.frame_power)
        raw._set_guesses(store.probe_guess, store.object_guess, probe_dims=(2, 3))
        raw._scan_index = _as_scan_index(store.scan_index, store.n_frames)
        raw._config = config
        raw._store = store if isinstance(store, StoredScan) else None
        return raw

    @classmethod
    def from_npz(cls, path: str | os.PathLike[str], config: Any = None) -> RawDataTorch:
        """Return the scan in an NPZ file; of two frame members ``diff3d`` is taken.

        Frames of an uncompressed file are read from it when groups are asked for. Those of a
        compressed one can only be read front to back: they are read whole into memory here, so
        ingest a large file instead and use `from_store`.

        Raises
        ------
        SourceError, MissingFieldError, ShapeError, ScanNotFoundError, DtypeError
            As `open_source`, whose checks apply.
        """
        scan = open_source(os.fspath(path), prefer="diff3d")
        if scan.quantity != "amplitude":
            raise SourceError(
                f"{scan.path} holds {scan.quantity}; expected amplitudes; ingest the file"
            )
        raw = cls.__new__(cls)
        raw._set_columns(scan.positions, scan.positions_start)
        if scan.frames.has_random_access:
            stack: FrameStack = scan.frames
            raw._diff3d = lazy_frames(stack)
        else:
            raw._diff3d = _read_whole(scan.frames)
            stack = ArrayStack(raw._diff3d)
        raw._set_frames(stack, None)
        raw._set_guesses(scan.probe_guess, scan.object_guess, probe_dims=(2, 3))
        raw._scan_index = _as_scan_index(scan.scan_index, scan.n_frames)
        raw._config = config
        return raw

    @property
    def xcoords(self) -> NDArray[Any]:
        """Coordinate x of every position, (n,), pixels."""
        return self._xcoords

    @property
    def ycoords(self) -> NDArray[Any]:
        """Coordinate y of every position, (n,), pixels."""
        return self._ycoords

    @property
    def xcoords_start(self) -> NDArray[Any]:
        """Coordinate x of every start position, (n,), pixels."""
        return self._xcoords_start

    @property
    def ycoords_start(self) -> NDArray[Any]:
        """Coordinate y of every start position, (n,), pixels."""
        return self._ycoords_start

    @property
    def diff3d(self) -> Any:
        """Amplitudes (n, N, N) in acquisition order: the array given, else NumPy or dask."""
        return self._diff3d

    @property
    def probeGuess(self) -> NDArray[Any]:
        """Probe, ([mode,] N, N) complex."""
        return self._probe_guess

    @property
    def objectGuess(self) -> NDArray[Any] | None:
        """Object, (H, W) complex, or None."""
        return self._object_guess

    @property
    def scan_index(self) -> NDArray[Any]:
        """Scan that each frame belongs to, (n,) integers."""
        return self._scan_index

    def generate_grouped_data(
        self,
        N: int,
        K: int = 4,
        nsamples: int = 1,
        seed: Seed = None,
        sequential_sampling: bool = False,
        gridsize: int | None = None,
        dataset_path: str | os.PathLike[str] | None = None,
        enable_oversampling: bool = False,
        neighbor_pool_size: int | None = None,
        lazy: bool = False,
    ) -> GroupedData:
        """Draw groups of neighbouring frames and return their arrays.

        Parameters
        ----------
        N
            Width that the normalization and the patches assume; not compared with the frames.
        K
            Nearest neighbours among which a group is drawn.
        nsamples
            Number of groups.
        seed
            Seed of the legacy stream; None for fresh entropy.
        sequential_sampling
            Take the first positions in order.
        gridsize
            Groups have gridsize**2 frames (default: the config's, else 2).
        dataset_path
            Has no effect; the reference's signature has it.
        enable_oversampling, neighbor_pool_size
            Allow more groups than positions, from combinations of that many neighbours.
        lazy
            Make ``diffraction``, ``X_full`` and ``Y`` dask arrays and read no frame now.
            Computing a slice along the groups reads the frames of these groups; ``X_full`` needs
            every selected frame for its factor unless the scan is in a store.

        Returns
        -------
        dict
            See `GroupedData`.

        Raises
        ------
        GroupingError, DtypeError
            As `select_groups`.
        """
        frame_size = as_integer("N", N, minimum=1)
        table = self._select(
            n_samples=nsamples,
            gridsize=self._default_gridsize() if gridsize is None else gridsize,
            n_neighbors=K,
            seed=seed,
            sequential_sampling=sequential_sampling,
            enable_oversampling=enable_oversampling,
            neighbor_pool_size=neighbor_pool_size,
        )
        return self._grouped(table.nn_indices, frame_size, lazy=lazy)

    def draw_grouped_data(
        self, grouping: GroupingConfig, N: int | None = None, *, lazy: bool = False
    ) -> GroupedData:
        """Draw groups by any strategy and return the arrays of `generate_grouped_data`.

        Parameters
        ----------
        grouping
            Which groups; ``n_samples=None`` is every position.
        N
            Width that the normalization and the patches assume (default: that of the frames).
        lazy
            As in `generate_grouped_data`.

        Returns
        -------
        dict
            See `GroupedData`.

        Raises
        ------
        GroupingError, DtypeError
            As `group_table`.
        """
        frame_size = as_integer("N", self._stack.shape[1] if N is None else N, minimum=1)
        if self._store is not None:
            table = cached_group_table(self._store, grouping)
        else:
            table = STRATEGIES[grouping.strategy](self._positions, grouping)
        return self._grouped(table.nn_indices, frame_size, lazy=lazy)

    def _grouped(self, indices: NDArray[Any], frame_size: int, *, lazy: bool) -> GroupedData:
        """Return the published arrays of groups (G, C)."""
        nn, offsets, relative = group_coords(self._positions, indices)
        start_nn, start_offsets, start_relative = group_coords(self._positions_start, indices)
        diffraction, normalized = self._assemble(indices, frame_size, lazy=lazy)
        return GroupedData(
            diffraction=diffraction,
            Y=self._cut_patches(offsets, relative, frame_size, lazy=lazy),
            coords_offsets=offsets,
            coords_relative=relative,
            coords_start_offsets=start_offsets,
            coords_start_relative=start_relative,
            coords_nn=nn,
            coords_start_nn=start_nn,
            nn_indices=indices,
            objectGuess=self._object_guess,
            X_full=normalized,
        )

    def _select(self, **options: Any) -> GroupTable:
        """Return the groups, those of a store from its cache."""
        if self._store is not None and not isinstance(options["seed"], np.random.RandomState):
            try:
                config = GroupingConfig(**options)
            except ConfigError:
                pass  # the reference accepts some values that a config refuses
            else:
                return cached_group_table(self._store, config)
        return select_groups(self._positions, **options)

    def _assemble(self, indices: NDArray[Any], N: int, *, lazy: bool) -> tuple[Any, Any]:
        """Return the grouped frames as stored and normalized."""
        if isinstance(self._diff3d, da.Array) and isinstance(self._stack, ArrayStack):
            if lazy:
                return lazy_normalized_dask(self._diff3d, indices, N)
            # All at once: dask would compute a chunk again for every read that touches it.
            needed, numbers = np.unique(indices, return_inverse=True)
            frames = np.asarray(self._diff3d[needed])
            return gather_normalized(ArrayStack(frames), numbers.reshape(indices.shape), N)
        assemble = lazy_normalized if lazy else gather_normalized
        return assemble(self._stack, indices, N, self._frame_power)

    def _cut_patches(
        self, offsets: NDArray[Any], relative: NDArray[Any], N: int, *, lazy: bool
    ) -> Any:
        if self._object_guess is None:
            return None
        make_patches = lazy_patches if lazy else object_patches
        return make_patches(self._object_guess, offsets, relative, N)

    def _default_gridsize(self) -> int:
        config = getattr(self._config, "model", self._config)
        return int(getattr(config, "gridsize", _DEFAULT_GRIDSIZE))

    def _set_positions(
        self, x: ArrayLike, y: ArrayLike, x_start: ArrayLike | None, y_start: ArrayLike | None
    ) -> None:
        self._xcoords, self._ycoords = np.asarray(x), np.asarray(y)
        self._xcoords_start = self._xcoords if x_start is None else np.asarray(x_start)
        self._ycoords_start = self._ycoords if y_start is None else np.asarray(y_start)
        columns = {
            "xcoords": self._xcoords,
            "ycoords": self._ycoords,
            "xcoords_start": self._xcoords_start,
            "ycoords_start": self._ycoords_start,
        }
        for name, column in columns.items():
            if column.ndim != 1 or column.shape != self._xcoords.shape:
                raise ShapeError(
                    f"field {name!r} has shape {column.shape} beside xcoords "
                    f"{self._xcoords.shape}; expected (n,) for all positions"
                )
            if column.dtype.kind not in "fiu":
                raise DtypeError(f"field {name!r} has dtype {column.dtype}; expected real numbers")
        self._positions = np.stack([self._xcoords, self._ycoords], axis=1)
        self._positions_start = np.stack([self._xcoords_start, self._ycoords_start], axis=1)

    def _set_columns(self, positions: NDArray[Any], start: NDArray[Any] | None) -> None:
        positions = as_positions(positions)
        start = positions if start is None else as_positions(start)
        self._set_positions(positions[:, 0], positions[:, 1], start[:, 0], start[:, 1])

    def _set_frames(self, stack: FrameStack, power: NDArray[np.float64] | None) -> None:
        shape = stack.shape
        if len(shape) != 3 or shape[1] != shape[2]:
            raise ShapeError(f"field 'diff3d' has shape {shape}; expected (n_frames, N, N)")
        if shape[0] != len(self._xcoords):
            raise ShapeError(
                f"field 'diff3d' has {shape[0]} frames for {len(self._xcoords)} positions; "
                "expected one frame for each position"
            )
        if stack.dtype.kind not in "fiub":
            raise DtypeError(f"field 'diff3d' has dtype {stack.dtype}; expected real amplitudes")
        self._stack = stack
        self._frame_power = power

    def _set_guesses(
        self, probe: ArrayLike, object_guess: ArrayLike | None, *, probe_dims: tuple[int, ...]
    ) -> None:
        self._probe_guess = np.asarray(probe)
        if self._probe_guess.ndim not in probe_dims:
            raise ShapeError(
                f"field 'probeGuess' has shape {self._probe_guess.shape}; expected (N, N)"
            )
        self._object_guess = None if object_guess is None else np.asarray(object_guess)
        if self._object_guess is not None and self._object_guess.ndim != 2:
            raise ShapeError(
                f"field 'objectGuess' has shape {self._object_guess.shape}; expected (H, W)"
            )


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _as_scan_index(scan_index: ArrayLike | None, n_frames: int) -> NDArray[Any]:
    return np.zeros(n_frames, dtype=np.int64) if scan_index is None else np.asarray(scan_index)


def _read_whole(frames: FrameReader) -> NDArray[Any]:
    """Return all frames (n, N, N), read front to back."""
    whole = np.empty(frames.shape, dtype=frames.dtype)
    start = 0
    nbytes = max(1, frames.dtype.itemsize * frames.shape[1] * frames.shape[2])
    for block in frames.blocks(max(1, (16 << 20) // nbytes)):
        whole[start : start + len(block)] = block
        start += len(block)
    return whole
