"""The one way kernels are compiled: without the GIL, without numba's own thread pools."""

from __future__ import annotations

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
