"""One array of a store that may be damaged elsewhere, so that it cannot be opened as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from ptyzarr.store.checking import read_errors


def read_node(root: Path, node: str) -> NDArray[Any]:
    """Return a small array of a store whose files were compared with the manifest.

    Parameters
    ----------
    root
        Folder of the store.
    node
        Path of the array.

    Raises
    ------
    DamagedStoreError
        If it cannot be decoded.
    StorageError
        If the file system refuses the read.
    """
    with read_errors(f"{root}: array {node!r}"):
        return np.asarray(zarr.open_array(str(root / node), mode="r", zarr_format=3)[...])
