"""Nodes by their own metadata, beside that of the root which reading a whole store goes by."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from ptyzarr.store.checking import read_errors
from ptyzarr.store.schema import ROOT_KEY


def read_node(root: Path, node: str) -> NDArray[Any]:
    """Return a small array of a store that may be damaged elsewhere, too much to be opened.

    Its files were compared with the manifest.

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


def differing_nodes(
    nodes: Mapping[str, Any], keys: Mapping[str, Any], read: Callable[[str], bytes]
) -> tuple[str, ...]:
    """Return the nodes whose own document differs from the consolidated metadata.

    Parameters
    ----------
    nodes
        The consolidated metadata.
    keys
        Of the listed files.
    read
        Returns a file's bytes.
    """
    suffix = f"/{ROOT_KEY}"
    found = [key.removesuffix(suffix) for key in keys if key.endswith(suffix)]
    return tuple(
        node
        for node in found
        if node not in nodes or _parsed(read(f"{node}{suffix}")) != nodes[node]
    )


def _parsed(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None
