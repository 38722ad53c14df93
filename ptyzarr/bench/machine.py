"""What a measurement ran on, and what a process's memory is: as Linux tells them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any, Final

from ptyzarr.compiled import available_cores
from ptyzarr.memory import parse_sizes

_PROC: Final = Path("/proc")
_PACKAGES: Final = (
    "ptyzarr",
    "numpy",
    "scipy",
    "numba",
    "zarr",
    "numcodecs",
    "isal",
    "dask",
    "torch",
    "zarrs",
    "tensorstore",
    "h5py",
    "tensordict",
)


def describe_machine() -> dict[str, Any]:
    """Return CPU model, cores at hand, memory, system and load; no name of the machine."""
    return {
        "cpu": _cpu_model(),
        "cores": available_cores(),
        "memory_bytes": _meminfo().get("MemTotal", 0),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "load_1min": load_average(),
    }


def load_average() -> float | None:
    """Return the 1-minute load, which tells whether others were using the cores."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that figure in measurements, where installed."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def available_memory() -> int:
    """Return the bytes that processes could still take without swapping; 0 if not told."""
    return _meminfo().get("MemAvailable", 0)


def forget_peak() -> bool:
    """Make the largest resident memory so far the present one; False where that is refused."""
    try:
        (_PROC / "self" / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def folder_nbytes(path: str | os.PathLike[str]) -> int:
    """Return the size of a file, or of all files under a folder, in bytes."""
    root = Path(path)
    if root.is_file():
        return root.stat().st_size
    return sum(entry.stat().st_size for entry in root.rglob("*") if entry.is_file())


def _cpu_model() -> str:
    try:
        lines = (_PROC / "cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _meminfo() -> dict[str, int]:
    try:
        return parse_sizes((_PROC / "meminfo").read_text())
    except OSError:
        return {}
