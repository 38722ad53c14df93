"""Object patches by torch, on any device."""

from __future__ import annotations

from typing import Final

import torch

from ptyzarr.errors import DtypeError, ShapeError

# Beyond every object, and near enough that float32 still tells half pixels apart.
_FAR: Final = 2.0**22
# Window pixels that are gathered at once; each takes some 50 bytes on the device meanwhile.
_BLOCK_PIXELS: Final = 1 << 21


def object_patches(
    object_guess: torch.Tensor, offsets: torch.Tensor, relative: torch.Tensor, N: int
) -> torch.Tensor:
    """Return the bilinear patches of the object that belong to each group member.

    Pixel (r, q) of a patch samples the object at row ``r + oy - N // 2``, column
    ``q + ox - N // 2`` with ``(ox, oy) = offsets + relative``; the object is zero outside its
    array. Only windows of (N + 1) x (N + 1) pixels are gathered. Every product and sum is a
    torch operation of its own, rounded as NumPy's, so on the CPU the bits are those of
    `ptyzarr.grouping.object_patches`; a compiler that fuses them (``torch.compile``) may move
    the last bit.

    Parameters
    ----------
    object_guess : (H, W) complex64 or complex128
        Axis 0 is y; complex128 is interpolated in float64.
    offsets : (G, 1, 2, 1) real, pixels
    relative : (G, 1, 2, C) real, pixels
        Both as the batches carry them; axis 2 is x, y.
    N
        Width of a patch.

    Returns
    -------
    patches : (G, N, N, C) complex64
        On the object's device; a transposed view, in memory each patch is contiguous.

    Raises
    ------
    ShapeError
        If the object is not two-dimensional.
    DtypeError
        If it is not complex64 or complex128.

    References
    ----------
    PtychoPINN, ``ptycho/raw_data.py``, ``get_image_patches``.
    """
    centers = patch_centers(offsets, relative).to(object_guess.device)
    patches = sample_windows(pad_object(object_guess), centers, N)
    return patches.view(*relative.shape[::3], N, N).permute(0, 2, 3, 1)


def patch_centers(offsets: torch.Tensor, relative: torch.Tensor) -> torch.Tensor:
    """Return what the patches are centred on.

    Parameters
    ----------
    offsets : (G, 1, 2, 1) real, pixels
    relative : (G, 1, 2, C) real, pixels

    Returns
    -------
    centers : (G * C, 2) float32, pixels
        Columns x, y; the float64 sum, rounded once.
    """
    centers = offsets.to(torch.float64) + relative.to(torch.float64)
    centers = centers.clamp(-_FAR, _FAR).to(torch.float32)
    return centers[:, 0].transpose(1, 2).reshape(-1, 2)


def pad_object(object_guess: torch.Tensor) -> torch.Tensor:
    """Return the object in a ring of zeros that stands for everything outside.

    Parameters
    ----------
    object_guess : (H, W) complex64 or complex128

    Returns
    -------
    padded : (H + 2, W + 2), the object's dtype

    Raises
    ------
    ShapeError
        If the object is not two-dimensional.
    DtypeError
        If it is not complex64 or complex128.
    """
    if object_guess.ndim != 2:
        raise ShapeError(f"the object has shape {tuple(object_guess.shape)}; expected (H, W)")
    if object_guess.dtype not in (torch.complex64, torch.complex128):
        raise DtypeError(
            f"the object has dtype {object_guess.dtype}; expected torch.complex64 or "
            "torch.complex128"
        )
    height, width = object_guess.shape
    padded = object_guess.new_zeros(height + 2, width + 2)
    padded[1:-1, 1:-1] = object_guess
    return padded


def sample_windows(padded: torch.Tensor, centers: torch.Tensor, N: int) -> torch.Tensor:
    """Return bilinear patches.

    Parameters
    ----------
    padded : (H + 2, W + 2) complex64 or complex128
        `pad_object` of the object.
    centers : (m, 2) float32, pixels
        `patch_centers`, on the object's device.
    N
        Width of a patch.

    Returns
    -------
    patches : (m, N, N) complex64
    """
    patches = torch.empty(len(centers), N, N, dtype=torch.complex64, device=padded.device)
    block = max(1, _BLOCK_PIXELS // (N + 1) ** 2)
    for start in range(0, len(centers), block):
        part = slice(start, start + block)
        patches[part] = _sample_block(padded, centers[part], N)
    return patches


def _sample_block(padded: torch.Tensor, centers: torch.Tensor, N: int) -> torch.Tensor:
    """Return patches (m, N, N) of the object's dtype."""
    columns, column_weights = _split_axis(padded, centers[:, 0], N, padded.shape[1])
    rows, row_weights = _split_axis(padded, centers[:, 1], N, padded.shape[0])
    places = rows[:, :, None] * padded.shape[1] + columns[:, None, :]
    windows = torch.view_as_real(padded.reshape(-1)[places])
    first, second = (weight[:, None, :, None] for weight in column_weights)
    across = windows[:, :, :-1] * first + windows[:, :, 1:] * second
    first, second = (weight[:, :, None, None] for weight in row_weights)
    return torch.view_as_complex(across[:, :-1] * first + across[:, 1:] * second)


def _split_axis(
    padded: torch.Tensor, centers: torch.Tensor, N: int, length: int
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Return the window's indices into one padded axis (m, N + 1) and both weights (m, N).

    The reference takes the corner of every sample from the sample's own rounded coordinate. Where
    that rounds up to the next pixel, its weights there are 1 and 0; here they are 0 and 1 on the
    pixel before, so one window with consecutive corners gives the same value.
    """
    real_dtype = torch.float32 if padded.dtype == torch.complex64 else torch.float64
    steps = torch.arange(N + 1, device=padded.device)
    samples = steps[:N].to(real_dtype) + centers.to(real_dtype)[:, None]
    corners = torch.floor(centers).to(torch.int64)[:, None] + steps
    second = samples - corners[:, :N].to(real_dtype)
    # Samples count from the object extended by N // 2; the ring of zeros adds one.
    places = (corners - N // 2 + 1).clamp_(0, length - 1)
    return places, (1 - second, second)
