"""NumPy arrays as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptyzarr.errors import DtypeError


def as_tensor(array: NDArray[Any]) -> torch.Tensor:
    """Return a tensor of the same shape and dtype, in the array's memory where torch can use it.

    Parameters
    ----------
    array
        Copied if it is read-only, in foreign byte order or has negative strides; otherwise the
        tensor keeps the array, and whatever owns its memory, alive.

    Raises
    ------
    DtypeError
        If torch has no such dtype.
    """
    is_usable = (
        array.flags.writeable and array.dtype.isnative and min(array.strides, default=0) >= 0
    )
    if not is_usable:
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise DtypeError(
            f"an array has dtype {array.dtype}, which torch does not have; expected numbers of "
            "at most 64 bits a part; use device='numpy' or ingest the scan in another dtype"
        ) from error
