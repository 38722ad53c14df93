"""Vector steps of the gather: 16 pixels widened, rooted, scaled and stored past the caches.

A batch is written once and read later, by a copy engine or by another core; an ordinary store
would first read the line that it overwrites, and an epoch is bound by memory traffic. So the
vectors are stored non-temporally, which no plain loop can ask for: the steps are written in
LLVM's intermediate form. Root and product are LLVM's strict ones, correctly rounded like NumPy's.
Targets without such stores get ordinary ones.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

LANES: Final = 16
ALIGNMENT: Final = 64

_INDEX: Final = ir.IntType(32)
_FLOATS: Final = ir.VectorType(ir.FloatType(), LANES)


def _make_one(*, is_counts: bool) -> Any:
    """Return the step ``(frames, start, out, place, scale)``.

    It writes pixels ``start ..`` of the 1-D array `frames` (integers, float32 or float64) to
    ``out[place ..]``, `LANES` of them. `out` is 1-D float32 and its element `place` aligned to
    `ALIGNMENT` bytes.
    """

    def step(context: Any, frames: Any, start: Any, out: Any, place: Any, scale: Any) -> Any:
        del context

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            source, target = _pointers(context, builder, signature, arguments)
            values = _load(builder, source, arguments[1], signature.args[0].dtype)
            values = _finish(builder, values, arguments[4], is_counts=is_counts)
            _store(builder, values, target, arguments[3])
            return context.get_dummy_value()

        return types.void(frames, types.intp, out, types.intp, types.float32), generate

    return intrinsic(step)


def _make_four(*, is_counts: bool) -> Any:
    """Return the step ``(frames, starts, out, place, scale)`` for four frames at once.

    As the step of one frame, but `starts` is a tuple of four, and ``4 * LANES`` values are
    written: channels interleaved in every pixel.
    """

    def step(context: Any, frames: Any, starts: Any, out: Any, place: Any, scale: Any) -> Any:
        del context
        four = types.UniTuple(types.intp, 4)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            source, target = _pointers(context, builder, signature, arguments)
            channels = []
            for start in cgutils.unpack_tuple(builder, arguments[1], 4):
                values = _load(builder, source, start, signature.args[0].dtype)
                channels.append(_finish(builder, values, arguments[4], is_counts=is_counts))
            for quarter, values in enumerate(_interleave(builder, channels)):
                offset = ir.Constant(arguments[3].type, quarter * LANES)
                _store(builder, values, target, builder.add(arguments[3], offset))
            return context.get_dummy_value()

        return types.void(frames, four, out, types.intp, types.float32), generate

    return intrinsic(step)


def _fence(context: Any) -> Any:
    """Make the streamed values visible before anything that the thread does next."""
    del context

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


stream_counts: Any = _make_one(is_counts=True)
stream_values: Any = _make_one(is_counts=False)
stream_four_counts: Any = _make_four(is_counts=True)
stream_four_values: Any = _make_four(is_counts=False)
stream_fence: Any = intrinsic(_fence)


def _pointers(context: Any, builder: Any, signature: Any, arguments: Any) -> tuple[Any, Any]:
    """Return the data pointers of the first and the third argument."""
    source, target = (
        make_array(signature.args[number])(context, builder, arguments[number]).data
        for number in (0, 2)
    )
    return source, target


def _load(builder: Any, source: Any, start: Any, dtype: Any) -> Any:
    """Return `LANES` values as float32, rounded to nearest even where they are wider."""
    vector = ir.VectorType(source.type.pointee, LANES)
    pointer = builder.bitcast(builder.gep(source, [start]), vector.as_pointer())
    values = builder.load(pointer, align=dtype.bitwidth // 8)
    if dtype in types.integer_domain:
        convert = builder.sitofp if dtype in types.signed_domain else builder.uitofp
        return convert(values, _FLOATS)
    return values if dtype == types.float32 else builder.fptrunc(values, _FLOATS)


def _finish(builder: Any, values: Any, scale: Any, *, is_counts: bool) -> Any:
    """Return scaled amplitudes."""
    if is_counts:
        root = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_FLOATS, [_FLOATS]), f"llvm.sqrt.v{LANES}f32"
        )
        values = builder.call(root, [values])
    lane = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), scale, _INDEX(0))
    return builder.fmul(values, _shuffle(builder, lane, lane, [0] * LANES))


def _interleave(builder: Any, channels: list[Any]) -> list[Any]:
    """Return four vectors that hold the four channels pixel after pixel."""
    pairs = [
        _shuffle(builder, channels[first], channels[first + 1], list(range(2 * LANES)))
        for first in (0, 2)
    ]
    pixels = LANES // 4
    return [
        _shuffle(
            builder,
            pairs[0],
            pairs[1],
            [channel * LANES + quarter * pixels + p for p in range(pixels) for channel in range(4)],
        )
        for quarter in range(4)
    ]


def _shuffle(builder: Any, one: Any, other: Any, lanes: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(_INDEX, len(lanes)), lanes)
    return builder.shuffle_vector(one, other, mask)


def _store(builder: Any, values: Any, target: Any, place: Any) -> None:
    pointer = builder.bitcast(builder.gep(target, [place]), _FLOATS.as_pointer())
    store = builder.store(values, pointer, align=ALIGNMENT)
    store.set_metadata("nontemporal", builder.module.add_metadata([_INDEX(1)]))
