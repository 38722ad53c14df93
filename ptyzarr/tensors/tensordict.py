"""Batches in the form of PtychoPINN's TensorDict loaders: fields, probe, scale; channels first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ptyzarr.errors import ConfigError, DeviceError
from ptyzarr.grouping import check_options
from ptyzarr.streaming import Batch

# The channel axis of ours goes first, as there: (B, 1, 2, C) becomes (B, C, 1, 2).
_CHANNELS_FIRST = (0, 3, 1, 2)
_COORDS = {
    "coords_global": "coords_nn",
    "coords_center": "coords_offsets",
    "coords_relative": "coords_relative",
    "coords_start_center": "coords_start_offsets",
    "coords_start_relative": "coords_start_relative",
}


@dataclass(slots=True, eq=False)  # not frozen: Lightning refuses to convert what is
class GroupItem:
    """An item of the TensorDict form; it unpacks and is indexed like the 3-tuple there.

    It is no tuple, because a ``DataLoader`` takes tuples apart, and then the TensorDict row by
    row.

    Attributes
    ----------
    fields : TensorDict of batch size (B,)
        ``images`` (B, C, N, N) in the loader's dtype, scaled by `scale`; ``coords_global``,
        ``coords_relative`` and ``coords_start_relative`` (B, C, 1, 2), ``coords_center`` and
        ``coords_start_center`` (B, 1, 1, 2), float32, pixels, the last axis x, y; ``nn_indices``
        (B, C) int64; ``experiment_id`` (B,) int32; ``center_scan_id`` (B,) int64, the acquisition
        index of the position that a group was drawn for, and ``center_scan_id_available`` (B,)
        bool; ``label_amp`` and ``label_phase`` (B, C, N, N) float32 where there are patches.
    probe : (B, C, P, N, N) complex64
        The P modes of each group's probe, a view in which channels share memory (and groups,
        where there is one store): not to be written to.
    scale : (B, 1, 1, 1) float32
        Factor by which the images were normalised.
    """

    fields: Any
    probe: torch.Tensor
    scale: torch.Tensor

    def __iter__(self) -> Iterator[Any]:
        return iter((self.fields, self.probe, self.scale))

    def __len__(self) -> int:
        return 3

    def __getitem__(self, place: int) -> Any:
        return (self.fields, self.probe, self.scale)[place]

    def to(self, device: torch.device | str, **options: Any) -> GroupItem:
        """Return the item on a device; what the probe shares is moved once.

        Parameters
        ----------
        device, **options
            As for ``torch.Tensor.to``, without a dtype.

        Raises
        ------
        ConfigError
            If a dtype is asked for: the probe is complex, other fields are integers.
        """
        if isinstance(device, torch.dtype) or options.get("dtype") is not None:
            raise ConfigError(
                "an item is asked to change its dtype; expected a device; convert item.fields, "
                "item.probe and item.scale each by itself"
            )
        shared = self.probe[:, :1] if self.probe.stride(0) else self.probe[:1, :1]
        return GroupItem(
            self.fields.to(device, **options),
            shared.to(device, **options).expand(self.probe.shape),
            self.scale.to(device, **options),
        )


def as_tensordict(batch: Batch) -> GroupItem:
    """Return a batch of tensors in the form of PtychoPINN's TensorDict loaders.

    Parameters
    ----------
    batch
        Of a loader with ``channels="first"``. Without ``details=True`` the start coordinates are
        left out, and ``center_scan_id`` is -1 and not available.

    Raises
    ------
    ConfigError
        If the batch holds NumPy arrays, or its channels are last.
    DeviceError
        If tensordict is not installed.

    References
    ----------
    PtychoPINN, ``ptycho_torch/dataloader.py``.
    """
    check_options(batch, Batch, "batch")
    _check_batch(batch)
    n_groups = len(batch.nn_indices)
    fields = {"images": batch.X}
    for name, ours in _COORDS.items():
        coords = getattr(batch, ours)
        if coords is not None:
            fields[name] = coords.permute(_CHANNELS_FIRST).to(torch.float32).contiguous()
    fields["nn_indices"] = batch.nn_indices.to(torch.int64)
    fields["experiment_id"] = batch.experiment_id
    seeds = batch.seed_indices
    missing = torch.full_like(batch.experiment_id, -1, dtype=torch.int64)
    fields["center_scan_id"] = missing if seeds is None else seeds
    fields["center_scan_id_available"] = torch.full_like(
        batch.experiment_id, seeds is not None, dtype=torch.bool
    )
    if batch.Y is not None:
        fields["label_amp"], fields["label_phase"] = batch.Y.abs(), batch.Y.angle()
    return GroupItem(
        _tensordict_class()(fields, batch_size=[n_groups]),
        _expand_probe(batch),
        batch.scale.reshape(n_groups, 1, 1, 1),
    )


def _check_batch(batch: Batch) -> None:
    if not isinstance(batch.X, torch.Tensor):
        raise ConfigError(
            f"the batch holds {type(batch.X).__name__}; expected tensors for a TensorDict; use "
            "device='cpu' or a CUDA device"
        )
    shape, n_channels = tuple(batch.X.shape), batch.nn_indices.shape[1]
    if shape[1] != n_channels or shape[2] != shape[3]:
        raise ConfigError(
            f"X has shape {shape} for groups of {n_channels}; expected (B, C, N, N) for a "
            "TensorDict; use channels='first'"
        )


def _expand_probe(batch: Batch) -> torch.Tensor:
    """Return (B, C, P, N, N): views of one store's probe, or of one probe for each group."""
    probe: torch.Tensor = batch.probe
    if probe.ndim == 3:
        probe = probe.unsqueeze(1)
    each = probe if len(probe) == 1 else probe[batch.experiment_id]
    n_groups, n_channels = batch.nn_indices.shape
    return each.unsqueeze(1).expand(n_groups, n_channels, *probe.shape[1:])


def _tensordict_class() -> Any:
    """Return the class; the package is an extra of its own and slow to load."""
    try:
        from tensordict import TensorDict
    except ModuleNotFoundError as error:
        raise DeviceError(
            f"a TensorDict needs {error.name}, which is not installed; install "
            "'ptyzarr[tensordict]'"
        ) from error
    return TensorDict
