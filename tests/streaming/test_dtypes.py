"""Whatever ingest accepts, the loader delivers, with the bits of the eager arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptyzarr.config import GroupingConfig, IngestConfig, LoaderConfig
from ptyzarr.errors import PtyzarrError
from ptyzarr.grouping import RawDataTorch
from ptyzarr.ingestion import export, ingest, verify
from ptyzarr.streaming import GroupLoader

GROUPING = GroupingConfig(gridsize=2, n_neighbors=6, seed=1)
DTYPES = [
    "?",
    "i1",
    "i2",
    "i4",
    "i8",
    "u1",
    "u2",
    "u4",
    "u8",
    "f2",
    "f4",
    "f8",
    ">i2",
    ">u4",
    ">f8",
]
#: Whole numbers, as counts are, and fractions; what a dtype cannot hold is rounded to it.
VALUES = {"sparse": (0.1, 3), "dense": (60.0, 100), "fractions": (60.25, 100)}


def make_frames(dtype: str, kind: str, size: int) -> np.ndarray[Any, Any]:
    mean, largest = VALUES[kind]
    rng = np.random.default_rng(len(kind))
    frames = np.minimum(rng.poisson(mean, (30, size, size)) + mean % 1, largest)
    if np.dtype(dtype).kind in "iu" and kind == "dense":
        # Beyond what float32 holds, where the dtype holds it.
        frames[0, 0, :2] = min(np.iinfo(dtype).max // 2, 2**40 + 1)
    return frames.astype(dtype)


@pytest.fixture
def take_in(make_npz: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """Ingest frames; give the store and its source, or the error."""

    def take(frames: Any, quantity: str) -> Any:
        source = make_npz(tmp_path / "scan.npz", len(frames), frames.shape[1], diff3d=frames)
        config = IngestConfig(quantity=quantity)  # type: ignore[arg-type]
        return ingest(source, tmp_path / "scan.zarr", config), source

    return take


@pytest.mark.parametrize(("kind", "size"), [("sparse", 8), ("dense", 5), ("fractions", 8)])
@pytest.mark.parametrize("quantity", ["amplitude", "counts"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_store_that_ingest_makes_is_streamed_exactly(
    dtype: str, quantity: str, kind: str, size: int, take_in: Callable[..., Any]
) -> None:
    frames = make_frames(dtype, kind, size)
    try:
        store, _ = take_in(frames, quantity)
    except PtyzarrError as error:
        message = str(error)
        assert quantity == "counts"
        assert "\n" not in message
        return
    native = frames.astype(frames.dtype.newbyteorder("="))
    amplitude = np.sqrt(native.astype(np.float32)) if quantity == "counts" else native
    assert store.amplitude(np.arange(30)).tobytes() == amplitude.tobytes()
    data = RawDataTorch.from_store(store)
    eager = data.draw_grouped_data(GROUPING)["X_full"]
    assert eager.dtype == np.float32
    for channels in ("last", "first"):
        for x_dtype in ("float32", "float16"):
            expected = eager if channels == "last" else np.moveaxis(eager, -1, 1)
            with np.errstate(over="ignore"):
                expected = expected.astype(x_dtype)
            config = LoaderConfig(
                batch_size=8, shuffle=False, device="numpy", channels=channels, dtype=x_dtype
            )
            with GroupLoader(store, GROUPING, config) as loader:
                delivered = b"".join(np.asarray(batch.X).tobytes() for batch in loader)
            assert delivered == np.ascontiguousarray(expected).tobytes()
    store.close()


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_bool_frames_are_delivered_as_zeros_and_ones_and_exported(
    kind: str, take_in: Callable[..., Any], tmp_path: Path
) -> None:
    frames = make_frames("?", kind, 16)
    store, source = take_in(frames, "amplitude")
    with GroupLoader(store, GROUPING, LoaderConfig(device="numpy"), scale=1.0) as loader:
        for batch in loader:
            expected = np.moveaxis(frames[batch.nn_indices], 1, -1)
            assert np.array_equal(batch.X, expected)
    store.close()
    verify(tmp_path / "scan.zarr", source)
    export(tmp_path / "scan.zarr", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as archive:
        assert archive["diff3d"].dtype == np.bool_
        assert np.array_equal(archive["diff3d"], frames)
