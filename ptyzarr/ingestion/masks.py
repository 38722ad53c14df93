"""Pixels that were not finite in the source, walked along with the frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyzarr.errors import VerificationError
from ptyzarr.store import MASKED, ScanStore

STEP = 1024**2


class MaskCursor:
    """Gives the masked pixels of consecutive frames; holds a bounded part of them.

    Parameters
    ----------
    store
        A store; without masked pixels the cursor has none.
    """

    def __init__(self, store: ScanStore) -> None:
        self._path = store.path
        self._parts = _parts(store)
        self._index = np.empty(0, np.int64)
        self._value: NDArray[Any] = np.empty(0, store.format.dtype)
        self._is_done = False

    def before(self, stop: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Return flat numbers and original values of the masked pixels before pixel `stop`.

        Calls must have ascending `stop`; a pixel is returned once.
        """
        indices, values = [], []
        while not self._is_done:
            split = int(np.searchsorted(self._index, stop))
            indices.append(self._index[:split])
            values.append(self._value[:split])
            self._index, self._value = self._index[split:], self._value[split:]
            if len(self._index):
                break
            part = next(self._parts, None)
            self._is_done = part is None
            if part is not None:
                self._index, self._value = part
        if not indices:
            return self._index[:0], self._value[:0]
        return np.concatenate(indices), np.concatenate(values)

    def restore(self, frames: NDArray[Any], first: int) -> None:
        """Put the original values back into consecutive frames (m, N, N), in place.

        Parameters
        ----------
        frames
            C order, the source's dtype.
        first
            Acquisition index of the first one.
        """
        start = first * frames[0].size
        index, value = self.before(start + frames.size)
        frames.reshape(-1)[index - start] = value

    def compare(self, index: NDArray[np.int64], value: NDArray[Any], stop: int) -> None:
        """Raise `VerificationError` unless exactly these pixels are masked before `stop`."""
        found_index, found_value = self.before(stop)
        if not (
            np.array_equal(found_index, index)
            and found_value.astype(value.dtype).tobytes() == value.tobytes()
        ):
            raise VerificationError(
                f"{self._path}: masked pixels differ; expected the source's; ingest it again"
            )


def _parts(store: ScanStore) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    if f"{MASKED}/index" not in store.nodes():
        return
    index, value = store.array(f"{MASKED}/index"), store.array(f"{MASKED}/value")
    for start in range(0, index.shape[0], STEP):
        stop = start + STEP
        yield np.asarray(index[start:stop]), np.asarray(value[start:stop])
