"""`PtychoDataContainerTorch`: grouped arrays as the tensors that the reference's models take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from dask.base import compute, is_dask_collection
from numpy.typing import NDArray

from ptyzarr.errors import DtypeError, GroupingError, MissingFieldError
from ptyzarr.tensors.arrays import as_tensor

_REQUIRED: Final = ("X_full", "coords_relative", "coords_offsets", "nn_indices")


class PtychoDataContainerTorch:
    """The tensors of one selection of groups, channels last.

    Parameters
    ----------
    grouped
        What `RawDataTorch.generate_grouped_data` returns, or a mapping with at least its keys
        ``X_full``, ``Y``, ``coords_relative``, ``coords_offsets`` and ``nn_indices``. Lazy (dask)
        values are computed, all in one pass.
    probe : (N, N) complex
        NumPy array or tensor; becomes complex64.

    Attributes
    ----------
    X : (G, N, N, C) float32
        Normalised amplitudes; may share memory with ``X_full``.
    Y : (G, N, N, C) complex64
        Object patches; ones where ``grouped["Y"]`` is None.
    Y_I, Y_phi : (G, N, N, C) float32
        Absolute value and angle (radians) of `Y`.
    probe : (N, N) complex64
    coords_nominal, coords_relative, coords_true, coords : (G, 1, 2, C) float32, pixels
        One tensor under four names: the members relative to the group's mean. `coords_true` is
        the nominal coordinate too; start positions do not reach the container.
    local_offsets : (G, 1, 2, C) float64, pixels
        The same at full precision.
    global_offsets : (G, 1, 2, 1) float64, pixels
        Mean position of each group.
    nn_indices : (G, C) int32
        Acquisition indices of the members.
    norm_Y_I
        ``grouped["norm_Y_I"]`` if there is one, else None.
    YY_full : (H, W) NumPy array or None
        ``grouped["objectGuess"]``.

    Raises
    ------
    GroupingError
        If required keys are missing, or ``Y`` is not complex64 (a `ValueError`).
    MissingFieldError
        If the key ``Y`` is missing (a `KeyError`).
    DtypeError
        If ``X_full`` is not float32 (a `TypeError`).

    References
    ----------
    PtychoPINN, ``ptycho_torch/data_container_bridge.py``.
    """

    def __init__(self, grouped: Mapping[str, Any], probe: Any) -> None:
        names = (*_check_keys(grouped), "Y")
        values = [_as_array(grouped[name]) for name in names]
        _check_dtypes(dict(zip(names, values, strict=True)))
        arrays = dict(zip(names, compute(*values, traverse=False), strict=True))
        relative = as_tensor(arrays["coords_relative"])
        self.X = as_tensor(arrays["X_full"])
        y = arrays["Y"]
        self.Y = torch.ones(self.X.shape, dtype=torch.complex64) if y is None else as_tensor(y)
        self.Y_I = torch.abs(self.Y)
        self.Y_phi = torch.angle(self.Y)
        self.probe = as_tensor(np.array(_as_array(probe), dtype=np.complex64))
        self.coords_nominal = relative.to(torch.float32)
        self.coords_relative = self.coords_true = self.coords = self.coords_nominal
        self.local_offsets = relative.to(torch.float64)
        self.global_offsets = as_tensor(arrays["coords_offsets"]).to(torch.float64)
        self.nn_indices = as_tensor(arrays["nn_indices"]).to(torch.int32)
        self.norm_Y_I = grouped.get("norm_Y_I")
        self.YY_full: NDArray[Any] | None = grouped.get("objectGuess")

    def __repr__(self) -> str:
        n_groups, size, _, n_channels = self.X.shape
        return f"<PtychoDataContainerTorch: {n_groups} groups of {n_channels} frames {size}x{size}>"


def _check_keys(grouped: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the required arrays, all of which are there."""
    missing = [name for name in _REQUIRED if name not in grouped]
    if missing:
        raise GroupingError(
            f"the grouped data have no {', '.join(missing)}; expected {', '.join(_REQUIRED)} and "
            "Y; pass what generate_grouped_data returns"
        )
    if "Y" not in grouped:
        raise MissingFieldError(
            "the grouped data have no key 'Y'; expected object patches, or None where there are "
            "none"
        )
    return _REQUIRED


def _check_dtypes(arrays: Mapping[str, Any]) -> None:
    if arrays["X_full"].dtype != np.float32:
        raise DtypeError(f"X_full has dtype {arrays['X_full'].dtype}; expected float32; convert it")
    patches = arrays["Y"]
    if patches is not None and patches.dtype != np.complex64:
        raise GroupingError(f"Y has dtype {patches.dtype}; expected complex64; convert it")


def _as_array(value: Any) -> Any:
    """Return a NumPy array, or a dask array or None as it is."""
    if value is None or isinstance(value, np.ndarray) or is_dask_collection(value):
        return value
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
