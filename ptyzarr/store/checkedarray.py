"""zarr arrays of a store: what fails while one is read is an error of ours."""

from __future__ import annotations

import reprlib
from typing import Any

import zarr
from zarr.abc.store import Store

from ptyzarr.errors import PtyzarrError, SchemaError
from ptyzarr.store.checking import DECODING_ERRORS, read_errors


class CheckedArray(zarr.Array[Any]):
    """A zarr array that raises our errors when it is sliced.

    Parameters
    ----------
    array
        What reads it.
    name
        For messages.
    """

    def __init__(self, array: zarr.AsyncArray[Any], name: str) -> None:
        super().__init__(array)
        self._name = name

    def __getitem__(self, selection: Any) -> Any:
        with read_errors(self._name):
            return super().__getitem__(selection)


def checked_array(group: zarr.Group, node: str, path: str) -> CheckedArray:
    """Return an array of a group.

    Parameters
    ----------
    group
        The root.
    node
        Path of the array.
    path
        Of the store, for messages.

    Raises
    ------
    SchemaError
        If it is no array.
    DamagedStoreError
        If zarr cannot make an array of its metadata.
    """
    name = f"{path}: array {node!r}"
    with read_errors(name):
        array = group[node]
    if not isinstance(array, zarr.Array):
        raise SchemaError(f"{path}: {node!r} is a group; expected an array; see 'ptyzarr info'")
    return CheckedArray(array.async_array, name)


def open_group(store: Store, path: str) -> zarr.Group:
    """Return the root group of a store whose root document was checked.

    Raises
    ------
    SchemaError
        If zarr refuses its consolidated metadata all the same.
    """
    try:
        return zarr.open_group(store, mode="r", zarr_format=3)
    except PtyzarrError:
        raise
    except DECODING_ERRORS as error:
        raise SchemaError(
            f"{path}: zarr refuses the metadata ({reprlib.repr(str(error))}); expected metadata "
            "that ingest writes; ingest the source again with --overwrite"
        ) from error
