"""The one way kernels are compiled, without the GIL and numba's own threads; cores to run on."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Return `function` compiled on first call, GIL released, cached on disk where possible.

    Integer division follows C (``error_model="numpy"``): no hidden ZeroDivisionError branch in
    the loops. Floating point is strict: the loops must give the same bits as NumPy.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False}
    try:
        return cast("F", numba.njit(cache=True, **options)(function))
    except RuntimeError:
        # Neither the package folder nor the user's cache folder can be written.
        return cast("F", numba.njit(**options)(function))


def available_cores() -> int:
    """Return how many cores this process may use: its affinity, or all where there is none."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
