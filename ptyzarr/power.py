"""The power of frames with the bits of NumPy's own sum, eight squares at a time.

NumPy sums pairwise: runs of up to 128 values go into eight accumulators, longer ones are halved at
a multiple of eight (``numpy/_core/src/umath/loops_utils.h.src``). The eight accumulators are eight
independent sums, so one vector holds them without changing a bit. A plain loop over them is not
vectorised (its sums would have to be reordered for anything but this very shape), so the run is
written in LLVM's intermediate form.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array
from numpy.typing import NDArray

from ptyzarr.compiled import kernel

LANES: Final = 8
RUN: Final = 128
DEPTH: Final = 64
_INDEX: Final = ir.IntType(32)
_DOUBLES: Final = ir.VectorType(ir.DoubleType(), LANES)


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
        lanes = ir.Constant(first.type, LANES)
        second = builder.add(first, lanes)
        with cgutils.for_range_slice(builder, second, stop, lanes, first.type) as (place, _):
            squares = _squares(builder, data, place, kind.dtype)
            builder.store(builder.fadd(builder.load(total), squares), total)
        return fold_lanes(builder, builder.load(total))

    return types.float64(values, types.intp, types.intp), generate


_sum_run: Any = intrinsic(_run_step)


def _squares(builder: Any, data: Any, place: Any, dtype: Any) -> Any:
    """Return eight squared values as float64."""
    vector = ir.VectorType(data.type.pointee, LANES)
    pointer = builder.bitcast(builder.gep(data, [place]), vector.as_pointer())
    values = builder.load(pointer, align=max(1, dtype.bitwidth // 8))
    if dtype in types.integer_domain:
        convert = builder.sitofp if dtype in types.signed_domain else builder.uitofp
        values = convert(values, _DOUBLES)
    elif dtype != types.float64:
        values = builder.fpext(values, _DOUBLES)
    return builder.fmul(values, values)


def fold_lanes(builder: Any, lanes: Any) -> Any:
    """Return ((r0 + r1) + (r2 + r3)) + ((r4 + r5) + (r6 + r7))."""
    sums = [builder.extract_element(lanes, _INDEX(lane)) for lane in range(LANES)]
    while len(sums) > 1:
        pairs = zip(sums[::2], sums[1::2], strict=True)
        sums = [builder.fadd(one, other) for one, other in pairs]
    return sums[0]


@functools.lru_cache(maxsize=16)
def summation_order(n_values: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how NumPy sums `n_values` values pairwise.

    Recursion in a kernel would count references to its arrays at every step, which costs more
    than the sums.

    Returns
    -------
    edges : (n_runs + 1,) int64
        The values of run r are ``edges[r] : edges[r + 1]``.
    merges : (n_runs,) int64
        How many times, after run r, the last two of the sums so far become one.
    """
    edges, merges = [0], []

    def halve(start: int, length: int) -> None:
        if length <= RUN:
            edges.append(start + length)
            merges.append(0)
            return
        half = length // 2
        half -= half % LANES
        halve(start, half)
        halve(start + half, length - half)
        merges[-1] += 1

    halve(0, n_values)
    return np.array(edges, np.int64), np.array(merges, np.int64)


def sum_squares(values: NDArray[Any], power: NDArray[np.float64]) -> None:
    """Fill `power` with the sum over pixels of the square of each frame.

    Parameters
    ----------
    values : (m * n_pixels,) integers, float32 or float64, C order, native byte order
    power : (m,) float64
    """
    edges, merges = summation_order(values.size // max(power.size, 1))
    _sum_frames(values, edges, merges, power)


@kernel
def _sum_frames(
    values: NDArray[Any],
    edges: NDArray[np.int64],
    merges: NDArray[np.int64],
    power: NDArray[np.float64],
) -> None:
    sums = np.empty(DEPTH, np.float64)
    for frame in range(power.size):
        first = frame * edges[-1]
        n_sums = 0
        for run in range(merges.size):
            start, stop = first + edges[run], first + edges[run + 1]
            whole = stop - (stop - start) % LANES
            total = 0.0
            if whole > start:
                total = _sum_run(values, start, whole)
            for place in range(whole, stop):
                value = np.float64(values[place])
                total += value * value
            sums[n_sums] = total
            for _ in range(merges[run]):
                n_sums -= 1
                sums[n_sums] += sums[n_sums + 1]
            n_sums += 1
        power[frame] = sums[0]
