"""The power of frames with the bits of NumPy's own sum, eight squares at a time.

NumPy sums pairwise: runs of up to 128 values go into eight accumulators, longer ones are halved at
a multiple of eight (``numpy/_core/src/umath/loops_utils.h.src``). The eight accumulators are eight
independent sums, so one vector holds them without changing a bit. A plain loop over them is not
vectorised (its sums would have to be reordered for anything but this very shape), so the run is
written in LLVM's intermediate form.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array
from numpy.typing import NDArray

from ptyzarr.compiled import kernel

_LANES: Final = 8
_RUN: Final = 128
_INDEX: Final = ir.IntType(32)
_DOUBLES: Final = ir.VectorType(ir.DoubleType(), _LANES)


def _run_step(context: Any, values: Any, start: Any, stop: Any) -> Any:
    """Return the sum of squares of ``values[start:stop]``: 8, 16, ... values of a 1-D array."""
    del context

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        data = make_array(kind)(context, builder, arguments[0]).data
        first, stop = arguments[1:]
        total = cgutils.alloca_once_value(
            builder, _squares(builder, data, first, kind.dtype), name="total"
        )
        lanes = ir.Constant(first.type, _LANES)
        second = builder.add(first, lanes)
        with cgutils.for_range_slice(builder, second, stop, lanes, first.type) as (place, _):
            squares = _squares(builder, data, place, kind.dtype)
            builder.store(builder.fadd(builder.load(total), squares), total)
        return _folded(builder, builder.load(total))

    return types.float64(values, types.intp, types.intp), generate


_sum_run: Any = intrinsic(_run_step)


def _squares(builder: Any, data: Any, place: Any, dtype: Any) -> Any:
    """Return eight squared values as float64."""
    vector = ir.VectorType(data.type.pointee, _LANES)
    pointer = builder.bitcast(builder.gep(data, [place]), vector.as_pointer())
    values = builder.load(pointer, align=max(1, dtype.bitwidth // 8))
    if dtype in types.integer_domain:
        convert = builder.sitofp if dtype in types.signed_domain else builder.uitofp
        values = convert(values, _DOUBLES)
    elif dtype != types.float64:
        values = builder.fpext(values, _DOUBLES)
    return builder.fmul(values, values)


def _folded(builder: Any, lanes: Any) -> Any:
    """Return ((r0 + r1) + (r2 + r3)) + ((r4 + r5) + (r6 + r7))."""
    sums = [builder.extract_element(lanes, _INDEX(lane)) for lane in range(_LANES)]
    while len(sums) > 1:
        pairs = zip(sums[::2], sums[1::2], strict=True)
        sums = [builder.fadd(one, other) for one, other in pairs]
    return sums[0]


@kernel
def fill_power(values: NDArray[Any], power: NDArray[np.float64]) -> None:
    """Fill `power` with the sum over pixels of the square of each frame.

    Parameters
    ----------
    values : (m * n_pixels,) integers, float32 or float64, C order, native byte order
    power : (m,) float64
    """
    n_pixels = values.size // max(power.size, 1)
    for frame in range(power.size):
        power[frame] = _pairwise(values, frame * n_pixels, n_pixels)


@kernel
def _pairwise(values: NDArray[Any], start: int, length: int) -> float:
    """Return the sum of squares of ``values[start : start + length]``."""
    if length <= _RUN:
        whole = start + length - length % _LANES
        total = 0.0
        if whole > start:
            total = _sum_run(values, start, whole)
        for place in range(whole, start + length):
            value = np.float64(values[place])
            total += value * value
        return total
    half = length // 2
    half -= half % _LANES
    return _pairwise(values, start, half) + _pairwise(values, start + half, length - half)
