"""Counts behind amplitudes, and the power of the amplitudes, in one look at each pixel.

Both need the square in float64. A plain loop over a float64 and a float32 root is not vectorised,
so eight pixels at a time are written in LLVM's intermediate form; root and sum are strict, as in
`ptyzarr.power`, whose order of summation is used again here.
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
from ptyzarr.power import DEPTH, LANES, fold_lanes, summation_order
from ptyzarr.store import MAX_COUNT

_INDEX: Final = ir.IntType(64)
_BEYOND: Final = float(MAX_COUNT + 1)
_INTS: Final = ir.VectorType(ir.IntType(32), LANES)
_FLOATS: Final = ir.VectorType(ir.FloatType(), LANES)
_DOUBLES: Final = ir.VectorType(ir.DoubleType(), LANES)


def find_counts(
    frames: NDArray[np.float32], dtype: np.dtype[Any]
) -> tuple[NDArray[Any], NDArray[np.float64], int]:
    """Return the counts of which frames may be the float32 roots, their power, the largest count.

    Parameters
    ----------
    frames : (m, N, N) float32, C order
    dtype
        Unsigned integers for the counts.

    Returns
    -------
    counts : (m, N, N) `dtype`
        ``rint(frames**2)`` in float64, in as many bits as `dtype` has.
    power : (m,) float64
        `ptyzarr.scan.frame_power` of the frames.
    max_count : int
        -1 where a pixel is not the root of a count below 2**24, bit for bit; then neither counts
        nor power mean anything.
    """
    counts = np.empty(frames.shape, dtype)
    power = np.empty(len(frames), np.float64)
    edges, merges = summation_order(frames[0].size)
    largest = _look_at_frames(frames.reshape(-1), edges, merges, counts.reshape(-1), power)
    return counts, power, int(largest)


def _look_step(
    context: Any, values: Any, start: Any, stop: Any, counts: Any, found: Any
) -> tuple[Any, Any]:
    """Return the sum of squares of ``values[start:stop]``, a multiple of eight; fill counts."""
    del context

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointers = [
            make_array(signature.args[number])(context, builder, arguments[number]).data
            for number in (0, 3, 4)
        ]
        first, stop = arguments[1:3]
        lanes = ir.Constant(first.type, LANES)
        # Locals stay in registers; what was found is in memory only between runs.
        places = [
            _pointer(builder, pointers[2], zero, _INTS) for zero in (_INDEX(0), _INDEX(LANES))
        ]
        found = [
            cgutils.alloca_once_value(builder, builder.load(place, align=4)) for place in places
        ]
        total = cgutils.alloca_once(builder, _DOUBLES)
        builder.store(_look(builder, pointers, first, found), total)
        second = builder.add(first, lanes)
        with cgutils.for_range_slice(builder, second, stop, lanes, first.type) as (place, _):
            squares = _look(builder, pointers, place, found)
            builder.store(builder.fadd(builder.load(total), squares), total)
        for place, local in zip(places, found, strict=True):
            builder.store(builder.load(local), place, align=4)
        return fold_lanes(builder, builder.load(total))

    return types.float64(values, types.intp, types.intp, counts, found), generate


_look_at_run: Any = intrinsic(_look_step)


def _look(builder: Any, pointers: list[Any], place: Any, found: list[Any]) -> Any:
    """Store the counts of eight pixels, note what was found and return the squares."""
    values = builder.load(_pointer(builder, pointers[0], place, _FLOATS), align=4)
    wide = builder.fpext(values, _DOUBLES)
    squares = builder.fmul(wide, wide)
    rounded = builder.call(_function(builder, "llvm.rint.v8f64", _DOUBLES), [squares])
    beyond = ir.Constant(_DOUBLES, [_BEYOND] * LANES)
    # Ordered: a NaN counts as too large.
    is_within = builder.fcmp_ordered("<", rounded, beyond)
    counts = builder.fptosi(builder.select(is_within, rounded, beyond), _INTS)
    pixel = pointers[1].type.pointee
    narrow = counts if pixel.width == 32 else builder.trunc(counts, ir.VectorType(pixel, LANES))
    target = _pointer(builder, pointers[1], place, ir.VectorType(pixel, LANES))
    builder.store(narrow, target, align=pixel.width // 8)
    roots = builder.call(
        _function(builder, "llvm.sqrt.v8f32", _FLOATS), [builder.sitofp(counts, _FLOATS)]
    )
    # The bits are compared, not the values: a negative zero is no root of a count.
    differing = builder.xor(builder.bitcast(roots, _INTS), builder.bitcast(values, _INTS))
    largest, other = found
    builder.store(builder.or_(builder.load(other), differing), other)
    most = builder.load(largest)
    is_larger = builder.icmp_signed(">", counts, most)
    builder.store(builder.select(is_larger, counts, most), largest)
    return squares


def _pointer(builder: Any, data: Any, place: Any, vector: Any) -> Any:
    return builder.bitcast(builder.gep(data, [place]), vector.as_pointer())


def _function(builder: Any, name: str, vector: Any) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector]), name)


@kernel
def _look_at_frames(
    values: NDArray[np.float32],
    edges: NDArray[np.int64],
    merges: NDArray[np.int64],
    counts: NDArray[Any],
    power: NDArray[np.float64],
) -> int:
    """Fill counts and power; return the largest count, or -1 where one does not invert."""
    found = np.zeros(2 * LANES, np.int32)  # largest count and differing bits, lane by lane
    sums = np.empty(DEPTH, np.float64)
    for frame in range(power.size):
        first = frame * edges[-1]
        n_sums = 0
        for run in range(merges.size):
            start, stop = first + edges[run], first + edges[run + 1]
            whole = stop - (stop - start) % LANES
            total = 0.0
            if whole > start:
                total = _look_at_run(values, start, whole, counts, found)
            for place in range(whole, stop):
                total += _look_at_pixel(values, place, counts, found)
            sums[n_sums] = total
            for _ in range(merges[run]):
                n_sums -= 1
                sums[n_sums] += sums[n_sums + 1]
            n_sums += 1
        power[frame] = sums[0]
    largest = 0
    for lane in range(LANES):
        if found[LANES + lane] != 0 or found[lane] > MAX_COUNT:
            return -1
        largest = max(largest, found[lane])
    return largest


@kernel
def _look_at_pixel(
    values: NDArray[np.float32], place: int, counts: NDArray[Any], found: NDArray[np.int32]
) -> float:
    value = np.float64(values[place])
    square = value * value
    rounded = np.rint(square)
    count = np.int32(rounded if rounded < _BEYOND else _BEYOND)
    counts[place] = count
    found[0] = max(found[0], count)
    root = np.sqrt(np.float32(count))
    is_negative_zero = value == 0 and np.signbit(value)
    if root != values[place] or is_negative_zero:
        found[LANES] = 1
    return square
