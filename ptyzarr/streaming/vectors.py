"""Vector steps of the gather: 16 pixels widened, or expanded, and stored past the caches.

A batch is written once and read later, by a copy engine or by another core; an ordinary store
would first read the line that it overwrites, and an epoch is bound by memory traffic. So the
vectors are stored non-temporally, which no plain loop can ask for: the steps are written in
LLVM's intermediate form. Root and product are LLVM's strict ones, correctly rounded like NumPy's.
Targets without such stores get ordinary ones.
"""

from __future__ import annotations

from typing import Any, Final

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

LANES: Final = 16
WORD: Final = 64
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


def _make_test(*, limit: int) -> Any:
    """Return the step ``(pixels, start)``, which looks at `WORD` pixels.

    Bit k is set where the bits of pixel ``start + k`` are more than `limit` as an integer.
    """

    def step(context: Any, pixels: Any, start: Any) -> Any:
        del context

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            dtype = signature.args[0].dtype
            source = make_array(signature.args[0])(context, builder, arguments[0]).data
            bits = ir.VectorType(ir.IntType(dtype.bitwidth), WORD)
            pointer = builder.bitcast(builder.gep(source, [arguments[1]]), bits.as_pointer())
            lanes = builder.load(pointer, align=dtype.bitwidth // 8)
            above = builder.icmp_unsigned(">", lanes, ir.Constant(bits, [limit] * WORD))
            return builder.bitcast(above, ir.IntType(WORD))

        return types.uint64(pixels, types.intp), generate

    return intrinsic(step)


def _first_bit(context: Any, word: Any) -> Any:
    """Return the step ``(word,)``: number of the lowest bit that is set in a uint64 above 0."""
    del context, word

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64), ir.IntType(1)])
        count = cgutils.get_or_insert_function(builder.module, kind, "llvm.cttz.i64")
        return builder.call(count, [arguments[0], ir.IntType(1)(1)])

    return types.intp(types.uint64), generate


def _count_bits(context: Any, word: Any) -> Any:
    """Return the step ``(word,)``: how many bits of a uint64 are set."""
    del context, word

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64)])
        count = cgutils.get_or_insert_function(builder.module, kind, "llvm.ctpop.i64")
        return builder.call(count, [arguments[0]])

    return types.intp(types.uint64), generate


def _compress_word(
    context: Any, pixels: Any, start: Any, word: Any, values: Any, place: Any
) -> Any:
    """Return the step ``(pixels, start, word, values, place)``.

    It writes to ``values[place ..]`` those of the `WORD` pixels from `start` on whose bit is set,
    cut to the size of a value; whole vectors are stored, `ALIGNMENT` bytes beyond the last one at
    most. Only where `compresses` says so.
    """
    del context

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target = _pointers(context, builder, signature, arguments, 0, 3)
        pixel, value = (ir.IntType(signature.args[n].dtype.bitwidth) for n in (0, 3))
        n_lanes = ALIGNMENT * 8 // value.width
        lanes, mask = ir.VectorType(value, n_lanes), ir.VectorType(ir.IntType(1), n_lanes)
        name = f"llvm.x86.avx512.mask.compress.v{n_lanes}i{value.width}"
        kind = ir.FunctionType(lanes, [lanes, lanes, mask])
        compress = cgutils.get_or_insert_function(builder.module, kind, name)
        count_kind = ir.FunctionType(ir.IntType(n_lanes), [ir.IntType(n_lanes)])
        count = cgutils.get_or_insert_function(builder.module, count_kind, f"llvm.ctpop.i{n_lanes}")
        at = arguments[4]
        for first in range(0, WORD, n_lanes):
            begin = builder.add(arguments[1], ir.Constant(arguments[1].type, first))
            loaded = builder.load(
                builder.bitcast(
                    builder.gep(source, [begin]), ir.VectorType(pixel, n_lanes).as_pointer()
                ),
                align=pixel.width // 8,
            )
            if pixel.width > value.width:
                loaded = builder.trunc(loaded, lanes)
            shifted = builder.lshr(arguments[2], ir.Constant(arguments[2].type, first))
            bits = builder.trunc(shifted, ir.IntType(n_lanes)) if n_lanes < WORD else shifted
            packed = builder.call(
                compress, [loaded, ir.Constant(lanes, None), builder.bitcast(bits, mask)]
            )
            pointer = builder.bitcast(builder.gep(target, [at]), lanes.as_pointer())
            builder.store(packed, pointer, align=value.width // 8)
            n_values = builder.call(count, [bits])
            at = builder.add(at, builder.zext(n_values, at.type) if n_lanes < WORD else n_values)
        return context.get_dummy_value()

    return types.void(pixels, types.intp, types.uint64, values, types.intp), generate


def compresses() -> bool:
    """Return whether this processor gathers chosen bytes of a vector by itself."""
    features = llvmlite.binding.get_host_cpu_features()
    return bool(features.get("avx512vbmi2", False))


def expands() -> bool:
    """Return whether this processor spreads values over chosen lanes of a vector by itself."""
    features = llvmlite.binding.get_host_cpu_features()
    return bool(features.get("avx512f", False))


def _make_expand(*, streams: bool) -> Any:
    """Return the step ``(values, start, mask, fill, out, place)``.

    It writes `LANES` elements of `out`: where a bit of `mask` is set the next of the float32
    `values` from `start` on, `fill` elsewhere. When it streams, element `place` must be aligned.
    """

    def step(
        context: Any, values: Any, start: Any, mask: Any, fill: Any, out: Any, place: Any
    ) -> Any:
        del context

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            source, target = _pointers(context, builder, signature, arguments, 0, 4)
            lanes = _expand(builder, source, arguments[1], arguments[2], arguments[3])
            if streams:
                _store(builder, lanes, target, arguments[5])
            else:
                pointer = builder.gep(target, [arguments[5]])
                builder.store(lanes, builder.bitcast(pointer, _FLOATS.as_pointer()), align=4)
            return context.get_dummy_value()

        given = (values, types.intp, types.uint16, types.float32, out, types.intp)
        return types.void(*given), generate

    return intrinsic(step)


def _expand_four(
    context: Any, values: Any, starts: Any, masks: Any, fill: Any, out: Any, place: Any
) -> Any:
    """Return the step of four channels at once, interleaved in every pixel and streamed."""
    del context
    four = types.UniTuple(types.intp, 4)
    bits = types.UniTuple(types.uint16, 4)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target = _pointers(context, builder, signature, arguments, 0, 4)
        pairs = zip(
            cgutils.unpack_tuple(builder, arguments[1], 4),
            cgutils.unpack_tuple(builder, arguments[2], 4),
            strict=True,
        )
        channels = [_expand(builder, source, start, mask, arguments[3]) for start, mask in pairs]
        for quarter, lanes in enumerate(_interleave(builder, channels)):
            offset = ir.Constant(arguments[5].type, quarter * LANES)
            _store(builder, lanes, target, builder.add(arguments[5], offset))
        return context.get_dummy_value()

    return types.void(values, four, bits, types.float32, out, types.intp), generate


nonzero_pixels: Any = _make_test(limit=0)
wide_pixels: Any = _make_test(limit=255)
first_bit: Any = intrinsic(_first_bit)
count_bits: Any = intrinsic(_count_bits)
compress_word: Any = intrinsic(_compress_word)
expand_lanes: Any = _make_expand(streams=False)
stream_expanded: Any = _make_expand(streams=True)
stream_four_expanded: Any = intrinsic(_expand_four)
stream_counts: Any = _make_one(is_counts=True)
stream_values: Any = _make_one(is_counts=False)
stream_four_counts: Any = _make_four(is_counts=True)
stream_four_values: Any = _make_four(is_counts=False)
stream_fence: Any = intrinsic(_fence)


def _pointers(
    context: Any, builder: Any, signature: Any, arguments: Any, source: int = 0, target: int = 2
) -> tuple[Any, Any]:
    """Return the data pointers of two of the arguments."""
    read, written = (
        make_array(signature.args[number])(context, builder, arguments[number]).data
        for number in (source, target)
    )
    return read, written


def _expand(builder: Any, source: Any, start: Any, mask: Any, fill: Any) -> Any:
    """Return the next values in the lanes of a mask, a filling in the others."""
    chosen = ir.VectorType(ir.IntType(1), LANES)
    kind = ir.FunctionType(_FLOATS, [ir.FloatType().as_pointer(), chosen, _FLOATS])
    name = f"llvm.masked.expandload.v{LANES}f32"
    expand = cgutils.get_or_insert_function(builder.module, kind, name)
    lanes = builder.bitcast(mask, chosen)
    return builder.call(expand, [builder.gep(source, [start]), lanes, _splat(builder, fill)])


def _splat(builder: Any, value: Any) -> Any:
    lane = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, _INDEX(0))
    return _shuffle(builder, lane, lane, [0] * LANES)


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
    return builder.fmul(values, _splat(builder, scale))


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
