"""The whole path on the small measured scan that ships with the package."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ptyzarr.config import GroupingConfig, LoaderConfig, format_size
from ptyzarr.grouping import cached_group_table
from ptyzarr.ingestion import ingest, verify
from ptyzarr.memory import resident_memory
from ptyzarr.progress import Progress, Silent
from ptyzarr.store import ScanStore
from ptyzarr.streaming import GroupLoader
from ptyzarr.view import draw_scan

_SCAN = "siemens_star_516"
_EPOCHS = 2
_GROUPING = GroupingConfig(gridsize=2, n_neighbors=6, seed=42)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """What the demo did; sizes in bytes, times in seconds.

    Attributes
    ----------
    store, picture
        What was written; `picture` is None where matplotlib is not installed.
    n_frames, frame_size, quantity
        The scan as stored.
    bytes_file, bytes_raw, bytes_stored
        The source file, its frames as float32, and every file of the store.
    ratio
        `bytes_raw` over `bytes_stored`.
    digest
        Digest of the whole scan, verified against the source.
    n_groups, group_size, n_neighbors
        The groups that were drawn.
    device
        ``"numpy"`` where torch is not installed, else as asked.
    epochs
        Epochs streamed.
    groups_per_s, gb_per_s
        Groups and 1e9 bytes of float32 amplitudes delivered, in the last epoch: nothing is
        imported or compiled then.
    decoded_per_delivered
        Frames decoded for each frame delivered, in the first epoch: later ones find a scan this
        small in memory.
    seconds
        Time of each step: ``ingest``, ``verify``, ``group``, ``stream``, ``draw``; with what is
        imported and compiled on the way.
    ingest_memory_bytes, peak_memory_bytes
        Largest resident memory of the process above that at the start, up to the end of verifying
        and of streaming (which imports torch): too large where the process had used more before.
        None where the system does not tell.
    """

    store: Path
    picture: Path | None
    n_frames: int
    frame_size: int
    quantity: str
    bytes_file: int
    bytes_raw: int
    bytes_stored: int
    ratio: float
    digest: str
    n_groups: int
    group_size: int
    n_neighbors: int
    device: str
    epochs: int
    groups_per_s: float
    gb_per_s: float
    decoded_per_delivered: float
    seconds: Mapping[str, float]
    ingest_memory_bytes: int | None
    peak_memory_bytes: int | None


class _Meter:
    """Takes the time of each step, and the most memory used since the start."""

    def __init__(self) -> None:
        self._resident = resident_memory()
        self._began = time.perf_counter()
        self.seconds: dict[str, float] = {}
        self.memory: dict[str, int | None] = {}

    def lap(self, step: str) -> None:
        """End a step and begin the next."""
        now = time.perf_counter()
        self.seconds[step], self._began = now - self._began, now
        resident = resident_memory()
        if resident is None or self._resident is None:
            self.memory[step] = None
        else:
            self.memory[step] = resident[1] - self._resident[0]


def run_demo(
    out_dir: str | os.PathLike[str], *, device: str = "cpu", progress: Progress | None = None
) -> DemoReport:
    """Ingest the demo scan, verify it, draw its groups, stream them, and make a picture.

    Parameters
    ----------
    out_dir
        Folder for the store and the picture; made if missing. A store that is there already is
        used.
    device
        Where batches go, as in `LoaderConfig`. Without torch, ``"cpu"`` becomes ``"numpy"``.
    progress
        Receives the stages; silent if None.

    Returns
    -------
    DemoReport

    Raises
    ------
    ConfigError, DeviceError
        If the device is unknown or not available.
    ScanExistsError
        If something else is where the store would be.
    StorageError
        If the file system refuses.
    VerificationError
        If the store is not what the source says.
    """
    progress = progress or Silent()
    if device == "cpu" and importlib.util.find_spec("torch") is None:
        device = "numpy"
    # Made first, so that a device that cannot be is found before any work.
    config = LoaderConfig(batch_size=64, shuffle="window", device=device)
    out, meter = Path(out_dir).absolute(), _Meter()
    with resources.as_file(resources.files("ptyzarr") / "demo_data" / f"{_SCAN}.npz") as source:
        bytes_file = source.stat().st_size
        store = ingest(source, out / f"{_SCAN}.zarr", progress=progress)
        meter.lap("ingest")
        verified = verify(store.path, source, progress=progress)
        meter.lap("verify")
    groups = cached_group_table(store, _GROUPING)
    meter.lap("group")
    groups_per_s, gb_per_s, decoded = _stream(store, config, progress)
    meter.lap("stream")
    picture = _draw(store, out / f"{_SCAN}.png")
    meter.lap("draw")
    bytes_raw = store.n_frames * store.frame_size**2 * store.amplitude_dtype.itemsize
    return DemoReport(
        store=Path(store.path),
        picture=picture,
        n_frames=store.n_frames,
        frame_size=store.frame_size,
        quantity=store.quantity,
        bytes_file=bytes_file,
        bytes_raw=bytes_raw,
        bytes_stored=verified.n_bytes,
        ratio=bytes_raw / verified.n_bytes,
        digest=verified.digest,
        n_groups=groups.n_groups,
        group_size=groups.group_size,
        n_neighbors=_GROUPING.n_neighbors,
        device=device,
        epochs=_EPOCHS,
        groups_per_s=groups_per_s,
        gb_per_s=gb_per_s,
        decoded_per_delivered=decoded,
        seconds=meter.seconds,
        ingest_memory_bytes=meter.memory["verify"],
        peak_memory_bytes=meter.memory["stream"],
    )


def _stream(
    store: ScanStore, config: LoaderConfig, progress: Progress
) -> tuple[float, float, float]:
    """Deliver every group once an epoch.

    Returns groups/s and GB/s of the last epoch, decoded frames per delivered one of the first.
    """
    with GroupLoader(store, _GROUPING, config) as loader:
        progress.start("streaming", _EPOCHS * len(loader), "batches")
        epochs = []
        for _ in range(_EPOCHS):
            for _ in loader:
                progress.advance(1)
            epochs.append(loader.stats)
        progress.finish()
    first, last = epochs[0], epochs[-1]
    return last.groups_per_s, last.gb_per_s, first.decoded_per_delivered


def _draw(store: ScanStore, path: Path) -> Path | None:
    """Draw the scan; None where matplotlib, which only pictures need, is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return None
    return draw_scan(store, path, grouping=_GROUPING)


def format_table(report: DemoReport) -> str:
    """Return the report as a plain text table for people."""
    size, seconds = report.frame_size, report.seconds
    tensors = "NumPy arrays" if report.device == "numpy" else f"torch tensors on {report.device}"
    rows = {
        "scan": f"{report.n_frames} measured frames of {size} x {size}",
        "source": f"{format_size(report.bytes_file)} as deflated NPZ, "
        f"{format_size(report.bytes_raw)} as float32 in memory",
        "stored": f"{format_size(report.bytes_stored)} as {report.quantity}, "
        f"{report.ratio:.1f} times smaller than float32 ({seconds['ingest']:.2f} s)",
        "verified": f"every value equals the source ({seconds['verify']:.2f} s)",
        "digest": report.digest,
        "groups": f"{report.n_groups} of {report.group_size} frames among "
        f"{report.n_neighbors} nearest neighbors ({seconds['group']:.2f} s)",
        "streamed": f"{report.epochs} epochs as {tensors}, window shuffle "
        f"({seconds['stream']:.2f} s)",
        "speed": f"{report.groups_per_s:,.0f} groups/s, {report.gb_per_s:.2f} GB/s, in the last "
        "epoch",
        "decoded": f"{report.decoded_per_delivered:.2f} frames for each frame delivered, in the "
        "first epoch",
        "memory": _memory_text(report),
        "store": str(report.store),
        "picture": str(report.picture or "none: install 'ptyzarr[plot]' to get one"),
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows.items())


def _memory_text(report: DemoReport) -> str:
    if report.ingest_memory_bytes is None or report.peak_memory_bytes is None:
        return "not measured on this system"
    library = "" if report.device == "numpy" else ", torch itself included"
    return (
        f"{format_size(report.ingest_memory_bytes)} added by ingest and verify, "
        f"{format_size(report.peak_memory_bytes)} after streaming{library}"
    )
