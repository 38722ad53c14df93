"""How much memory a process has, as the system tells, and giving back what it does not need."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


def resident_memory(pid: int | None = None) -> tuple[int, int] | None:
    """Return the resident memory of a process, this one by default, now and at its largest.

    In bytes; mapped pages of files count. None where the system does not tell.
    """
    try:
        text = (_PROC / str(pid or "self") / "status").read_text()
    except OSError:
        return None
    sizes = parse_sizes(text)
    return (sizes["VmRSS"], sizes["VmHWM"]) if "VmHWM" in sizes else None


def parse_sizes(text: str) -> dict[str, int]:
    """Return the ``Name: 123 kB`` lines of a file of the proc file system, in bytes."""
    sizes = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB":
            sizes[name] = int(words[0]) * 1024
    return sizes


def return_freed() -> None:
    """Give memory that was freed back to the system, where the C library keeps it (glibc).

    What large temporary arrays leave between others that stay would else remain resident, and
    the more of it the larger the arrays were.
    """
    if os.name == "posix":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
