"""The compiled loops behind network.FastNetwork: convolutions, their gradient, the LSTM's products.

What makes them several times faster than PyTorch on a CPU core:

- A convolution, its 2x2 max-pooling and its ReLU are one kernel: the map between them, four times
  as large as the result, is never written.
- Little changes on Atari's screens from step to step. With the same weights and the same
  normalisation, a pooling window that depends on no changed pixel is not computed again; nor is
  a tile of windows that sees the same bits as its neighbour above or on the left.
- A product with zero is left out where most values are zero: in the third and fourth layer, and in
  the LSTM's input weights, which are read for the open features alone, as is their gradient.
- While a rollout is played, the second and the third layer go through Winograd's F(2x2, 5x5) and
  F(2x2, 4x4). An evaluation keeps the order of its sums, so that its scores stay what they were.
- The gradient of a window waits for the step at which the window was computed, where the sum over
  all steps since goes through it once.
- Each game has one set of maps, in which a step replaces what it computes. What was there before is
  kept aside, so that the backward pass, which walks back in time, can put it back.
- At most one in four outputs of a convolution wins its pooling window, and ReLU closes about half
  of those. All others have gradient zero, so the backward pass walks through the winners only.
- What one sample needs stays in the second-level cache; every buffer is allocated once, by
  network.FastNetwork, whose docstring has a table of them.

Maps are channels-last, (height, width, channels), with the next layer's padding around them, so
that the pixels x..x+K-1 of a row are K * channels contiguous floats.

Numba has no vector type, so the inner loops are written in LLVM's language (the intrinsics below):
their sums stay in as many vector registers as the machine has.
"""

import contextlib
import hashlib
import pickle
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

try:
    from llvmlite import ir
    from numba import config, njit, types
    from numba.core import caching, cgutils, event, serialize
    from numba.core.registry import cpu_target
    from numba.extending import intrinsic

    # What Numba compiles for, which it may have been told: "+avx512f", "-avx512fp16" and so on.
    # Part of the key of its cache, where machines that share a folder find only their own.
    _, _, _features = cpu_target.target_context.codegen().magic_tuple()
    CPU_FEATURES = _features.split(",")
    # Why nothing can be compiled, for the person at the keyboard; empty where it can.
    NUMBA_FAULT = "NUMBA_DISABLE_JIT switches Numba off" if config.DISABLE_JIT else ""
except Exception as error:  # a package that does not fit the others may fail in any way
    NUMBA_FAULT = "Numba does not load (" + str(error).split("\n")[0] + ")"

    def njit(**_):
        return lambda function: function

    def intrinsic(function):
        return function


HAVE_NUMBA = not NUMBA_FAULT


class Layer(NamedTuple):
    """A convolution of stride 1, its 2x2 max-pooling (floor) and ReLU."""

    kernel: int  # K, taps in height and in width
    padding: int
    height: int  # of the input, which is square
    inputs: int  # channels
    outputs: int  # channels

    @property
    def padded(self) -> int:
        """Rows of the input with its padding."""
        return self.height + 2 * self.padding

    @property
    def pitch(self) -> int:
        """Floats from one row of the padded input to the next."""
        return self.padded * self.inputs

    @property
    def taps(self) -> int:
        """Floats of one row of the gradient of a filter."""
        return self.kernel * self.inputs

    @property
    def origin(self) -> int:
        """Offset of the first pixel in the padded input, in floats."""
        return self.padding * (self.pitch + self.inputs)

    @property
    def pooled(self) -> int:
        """Height of the output."""
        return (self.padded - self.kernel + 1) // 2


LAYERS = (
    Layer(kernel=5, padding=2, height=80, inputs=1, outputs=32),
    Layer(kernel=5, padding=1, height=40, inputs=32, outputs=32),
    Layer(kernel=4, padding=1, height=19, inputs=32, outputs=64),
    Layer(kernel=3, padding=1, height=9, inputs=64, outputs=64),
)
FEATURES = 1024  # the output of the last layer, 64 maps of 4x4
CLOSED = 4  # in place of a winner (0 to 3, in row-major order): ReLU is closed

# Floats in a vector register, and registers that hold sums. They are constants of what is compiled,
# so nothing but CPU_FEATURES may decide about them.
if HAVE_NUMBA and "+avx512f" in CPU_FEATURES:
    LANES, WINDOWS, ROWS = 16, 3, 2
else:
    LANES, WINDOWS, ROWS = 8, 1, 1
BLOCK = 2 * LANES  # output channels that a tile computes together
LISTED = 4  # rows of windows whose winners are listed together
# Of 256: a tile that sees fewer values that are not zero goes through these alone, where the others
# go through all; where they go through Winograd's products.
SPARSE, FEWER = 100, 60


if HAVE_NUMBA:

    class _SealedImpl(caching.CompileResultCacheImpl):
        """Entries of the cache with a checksum: damaged machine code is not run."""

        def reduce(self, cres):
            data = serialize.dumps(super().reduce(cres))
            return hashlib.sha256(data).digest(), data

        def rebuild(self, target_context, payload):
            checksum, data = payload
            if hashlib.sha256(data).digest() != checksum:
                raise ValueError("damaged")
            return super().rebuild(target_context, pickle.loads(data))

    class _Cache(caching.FunctionCache):
        """Numba's, but what cannot be read is compiled anew, and what cannot be written is not."""

        _impl_class = _SealedImpl

        def load_overload(self, sig, target_context):
            try:
                return super().load_overload(sig, target_context)
            except Exception:  # damaged bytes may make pickle raise anything
                with contextlib.suppress(OSError):
                    self.flush()
                return None

        def save_overload(self, sig, data):
            with contextlib.suppress(Exception):  # of the disk, or of an index damaged meanwhile
                super().save_overload(sig, data)


def _cached_njit(function):
    """Compiled once for all processes and runs, or for each where no folder can hold the result."""
    if not HAVE_NUMBA:
        return function
    compiled = njit(nogil=True)(function)
    with contextlib.suppress(RuntimeError):  # neither beside this file nor in the user's cache
        compiled._cache = _Cache(function)  # as its enable_caching does
    return compiled


# ---------------------------------------------------------------------------------------------
# Inner loops


def _vectors(context, builder, array_type, array, width):
    """A function (offset, in floats) -> pointer to `width` elements of the array."""
    data = cgutils.create_struct_proxy(array_type)(context, builder, value=array).data
    vector = ir.VectorType(data.type.pointee, width).as_pointer()
    return lambda offset: builder.bitcast(builder.gep(data, [offset]), vector)


def _int(value):
    return ir.Constant(ir.IntType(64), value)


def _muladd(builder, width):
    """llvm.fmuladd: a * b + c, fused where the machine can."""
    vector = ir.VectorType(ir.FloatType(), width)
    return cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{width}f32"
    )


def _new_sum(builder, width):
    """A variable that is zero; LLVM keeps it in a register."""
    vector = ir.VectorType(ir.FloatType(), width)
    cell = cgutils.alloca_once(builder, vector)
    builder.store(ir.Constant(vector, [0.0] * width), cell)
    return cell


def _add_to(builder, pointer, value):
    """Memory at pointer += value."""
    builder.store(builder.fadd(builder.load(pointer, align=4), value), pointer, align=4)


def _sum_of_lanes(builder, total):
    """A vector of one element."""
    size = total.type.count
    while size > 1:  # halve
        size //= 2
        low, high = (
            builder.shuffle_vector(
                total,
                total,
                ir.Constant(
                    ir.VectorType(ir.IntType(32), size), list(range(start, start + size))
                ),
            )
            for start in (0, size)
        )
        total = builder.fadd(low, high)
    return total


def _prefetch(builder, pointer):
    """Ask for these 64 bytes; an address outside of all memory does no harm."""
    byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [byte] + [flag] * 3), "llvm.prefetch.p0"
    )
    read, keep, data = 0, 3, 1
    flags = [ir.Constant(flag, value) for value in (read, keep, data)]
    builder.call(function, [builder.bitcast(pointer, byte), *flags])


def _broadcast(builder, scalar, width):
    vector = ir.VectorType(scalar.type, width)
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, _int(0))
    return builder.shuffle_vector(
        single, single, ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
    )


@intrinsic
def _get(typing, array, index):
    """array[index] for an index that is not negative; Numba's own would have to test that."""

    def generate(context, builder, signature, args):
        kind = signature.args[0]
        data = cgutils.create_struct_proxy(kind)(context, builder, value=args[0]).data
        return builder.load(builder.gep(data, [args[1]]))

    return array.dtype(array, types.intp), generate


@intrinsic
def _put(typing, array, index, value):
    """array[index] = value for an index that is not negative."""

    def generate(context, builder, signature, args):
        kind = signature.args[0]
        data = cgutils.create_struct_proxy(kind)(context, builder, value=args[0]).data
        builder.store(args[2], builder.gep(data, [args[1]]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), generate


def _pool(builder, values, out, code):
    """The largest of a window's four values, through ReLU, and which it is: one vector of each."""
    vector = values[0].type
    zero = ir.Constant(vector, [0.0] * vector.count)
    byte = ir.VectorType(ir.IntType(8), vector.count)
    best, winner = values[0], ir.Constant(byte, [0] * vector.count)
    for place in (1, 2, 3):
        # Greater, or not a number: as in PyTorch, NaN wins, else the first.
        wins = builder.or_(
            builder.fcmp_ordered(">", values[place], best),
            builder.fcmp_unordered("uno", values[place], values[place]),
        )
        best = builder.select(wins, values[place], best)
        winner = builder.select(wins, ir.Constant(byte, [place] * vector.count), winner)
    opened = builder.fcmp_unordered(">", best, zero)  # NaN goes through
    winner = builder.select(opened, winner, ir.Constant(byte, [CLOSED] * vector.count))
    builder.store(builder.select(opened, best, zero), out, align=4)
    builder.store(winner, code, align=1)


def make_tile(layer: Layer, windows: int):
    """Intrinsic: `windows` neighbouring pooling windows of one row, for BLOCK channels.

    (x, x_at, w, w_at, bias, bias_at, out, out_at, code, code_at): arrays and where to begin in
    them. x: padded input; w: [K][K * inputs][BLOCK]; out, code: `outputs` apart per window.
    """
    width, parts = LANES, 2

    @intrinsic
    def tile(typing, x, x_at, w, w_at, bias, bias_at, out, out_at, code, code_at):
        n = types.intp
        signature = types.void(x, n, w, n, bias, n, out, n, code, n)

        def generate(context, builder, signature, args):
            kinds = signature.args
            x_ptr, w_ptr, bias_ptr, out_ptr, code_ptr = (
                _vectors(context, builder, kinds[i], args[i], size)
                for i, size in ((0, 1), (2, width), (4, width), (6, width), (8, width))
            )
            vector = ir.VectorType(ir.FloatType(), width)
            fma = _muladd(builder, width)
            # Row-major inside a window: sums[part][window][position].
            sums = [
                [[cgutils.alloca_once(builder, vector) for _ in range(4)] for _ in range(windows)]
                for _ in range(parts)
            ]
            for part in range(parts):
                at = builder.add(args[5], _int(part * width))
                start = builder.load(bias_ptr(at), align=4)
                for window in range(windows):
                    for place in range(4):
                        builder.store(start, sums[part][window][place])

            run = layer.kernel * layer.inputs
            with cgutils.for_range(builder, _int(layer.kernel)) as row:
                x_row = builder.add(args[1], builder.mul(row.index, _int(layer.pitch)))
                w_row = builder.add(args[3], builder.mul(row.index, _int(run * BLOCK)))
                with cgutils.for_range(builder, _int(run)) as tap:
                    x_tap = builder.add(x_row, tap.index)
                    w_tap = builder.add(w_row, builder.mul(tap.index, _int(BLOCK)))
                    weights = [
                        builder.load(w_ptr(builder.add(w_tap, _int(part * width))), align=4)
                        for part in range(parts)
                    ]
                    for window in range(windows):
                        for place in range(4):
                            shift = (place // 2) * layer.pitch
                            shift += (2 * window + place % 2) * layer.inputs
                            pixel = builder.load(x_ptr(builder.add(x_tap, _int(shift))), align=4)
                            pixel = _broadcast(
                                builder, builder.extract_element(pixel, _int(0)), width
                            )
                            for part in range(parts):
                                total = sums[part][window][place]
                                builder.store(
                                    builder.call(fma, [pixel, weights[part], builder.load(total)]),
                                    total,
                                )

            for part in range(parts):
                for window in range(windows):
                    shift = _int(window * layer.outputs + part * width)
                    _pool(
                        builder, [builder.load(total) for total in sums[part][window]],
                        out_ptr(builder.add(args[7], shift)),
                        code_ptr(builder.add(args[9], shift)),
                    )  # fmt: skip
            return context.get_dummy_value()

        return signature, generate

    return tile


def _open_channels(builder, pointer):
    """Which floats of a vector are not zero, or not a number: an int64, a bit for each."""
    pixel = builder.load(pointer, align=4)
    count = pixel.type.count
    bits = builder.fcmp_unordered("!=", pixel, ir.Constant(pixel.type, [0.0] * count))
    return builder.zext(builder.bitcast(bits, ir.IntType(count)), ir.IntType(64))


@contextlib.contextmanager
def _each_bit(builder, cell):
    """A loop over the bits of an int64 in memory, from the lowest on: yields the number of each."""
    test, body, after = (builder.append_basic_block(name) for name in ("test", "bit", "after"))
    builder.branch(test)
    builder.position_at_end(test)
    bits = builder.load(cell)
    builder.cbranch(builder.icmp_unsigned("!=", bits, _int(0)), body, after)
    builder.position_at_end(body)
    builder.store(builder.and_(bits, builder.sub(bits, _int(1))), cell)
    yield builder.cttz(bits, ir.Constant(ir.IntType(1), 1))
    builder.branch(test)
    builder.position_at_end(after)


@intrinsic
def _count_bits(typing, bits):
    """How many bits of an int64 are 1."""

    def generate(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.int64(types.int64), generate


def make_open_channels(layer: Layer):
    """Intrinsic (x, x_at): which channels of this pixel are not zero, an int64."""

    @intrinsic
    def open_channels(typing, x, x_at):
        def generate(context, builder, signature, args):
            x_ptr = _vectors(context, builder, signature.args[0], args[0], layer.inputs)
            return _open_channels(builder, x_ptr(args[1]))

        return types.int64(x, types.intp), generate

    return open_channels


def make_sparse_tile(layer: Layer, blocks: int):
    """Intrinsic: as make_tile, one window and blocks * BLOCK channels, for an x that is mostly
    zero: a product with zero is left out. The others are added up in the same order, so that the
    same bits come out.
    """
    width, parts = LANES, 2 * blocks

    @intrinsic
    def tile(typing, x, x_at, w, w_at, bias, bias_at, out, out_at, code, code_at):
        n = types.intp
        signature = types.void(x, n, w, n, bias, n, out, n, code, n)

        def generate(context, builder, signature, args):
            kinds = signature.args
            x_ptr, pixel_ptr, w_ptr, bias_ptr, out_ptr, code_ptr = (
                _vectors(context, builder, kinds[i], args[i], size)
                for i, size in (
                    (0, 1), (0, layer.inputs), (2, width), (4, width), (6, width), (8, width),
                )
            )  # fmt: skip
            vector = ir.VectorType(ir.FloatType(), width)
            fma = _muladd(builder, width)
            sums = [[cgutils.alloca_once(builder, vector) for _ in range(4)] for _ in range(parts)]
            for part in range(parts):
                at = builder.add(args[5], _int(part * width))
                for place in range(4):
                    builder.store(builder.load(bias_ptr(at), align=4), sums[part][place])
            left = cgutils.alloca_once(builder, ir.IntType(64))  # channels of a pixel
            size = layer.kernel**2 * layer.inputs * BLOCK
            for y in range(layer.kernel + 1):
                for z in range(layer.kernel + 1):
                    pixel = builder.add(args[1], _int(y * layer.pitch + z * layer.inputs))
                    builder.store(_open_channels(builder, pixel_ptr(pixel)), left)
                    with _each_bit(builder, left) as channel:
                        value = builder.load(x_ptr(builder.add(pixel, channel)), align=4)
                        value = _broadcast(
                            builder, builder.extract_element(value, _int(0)), width
                        )
                        w_channel = builder.add(args[3], builder.mul(channel, _int(BLOCK)))
                        for place in range(4):
                            down, right = y - place // 2, z - place % 2
                            if not (0 <= down < layer.kernel and 0 <= right < layer.kernel):
                                continue
                            tap = (down * layer.kernel + right) * layer.inputs * BLOCK
                            for part in range(parts):
                                shift = part // 2 * size + tap + part % 2 * width
                                weights = builder.load(
                                    w_ptr(builder.add(w_channel, _int(shift))), align=4
                                )
                                cell = sums[part][place]
                                builder.store(
                                    builder.call(fma, [value, weights, builder.load(cell)]), cell
                                )
            for part in range(parts):
                shift = _int(part * width)
                _pool(
                    builder, [builder.load(total) for total in sums[part]],
                    out_ptr(builder.add(args[7], shift)), code_ptr(builder.add(args[9], shift)),
                )  # fmt: skip
            return context.get_dummy_value()

        return signature, generate

    return tile


# Winograd's F(2x2, KxK): the four outputs of a pooling window from (K+1)^2 inputs with as many
# products per channel, instead of 4 * K^2, by polynomials at points and at infinity. The points are
# these and their negatives, and 0 where K is odd. With 1 and 2 for K = 5 the error would be three
# times as large; with these it is that of the plain sum.
NEAR_FAR = {5: (0.75, 1.5), 4: (0.5, 1.25)}
TILES = 12  # windows that go through the products together


def winograd_filters(layer: Layer) -> np.ndarray:
    """((K+1)^2, K^2) float64: from a filter to its factors."""
    near, far = NEAR_FAR[layer.kernel]
    points = [0.0] * (layer.kernel % 2) + [near, -near, far, -far]
    rows = [
        [p**k / np.prod([p - q for q in points if q != p]) for k in range(layer.kernel)]
        for p in points
    ]
    once = np.array([*rows, [0] * (layer.kernel - 1) + [1]])
    return np.kron(once, once)


def _scaled(builder, factor, value, to):
    """factor * value + to, of vectors."""
    width = value.type.count
    return builder.call(
        _muladd(builder, width), [ir.Constant(value.type, [factor] * width), value, to]
    )


def _winograd_inputs(builder, d, kernel):
    """K + 1 vectors to as many: products of (x - q) over the other points q, polynomials in d."""
    near, far = (point * point for point in NEAR_FAR[kernel])

    def product(d):  # of (x - q) over all points but 0
        return _scaled(builder, near * far, d[0], _scaled(builder, -near - far, d[2], d[4]))

    result = []
    if kernel % 2:  # 0 is a point: the others have it as a root
        result, d = [product(d)], d[1:]
    for point, other in zip(NEAR_FAR[kernel], (far, near), strict=True):
        even = _scaled(builder, -other, d[0], d[2])
        odd = _scaled(builder, -other, d[1], d[3])
        result += [_scaled(builder, point, even, odd), _scaled(builder, -point, even, odd)]
    return [*result, product(d)]


def _winograd_outputs(builder, m, kernel):
    """K + 1 vectors to two."""
    zero, (a, b, c, d, last) = m[: kernel % 2], m[kernel % 2 :]
    near, far = NEAR_FAR[kernel]
    first = builder.fadd(builder.fadd(a, b), builder.fadd(c, d))
    if zero:
        first = builder.fadd(zero[0], first)
    a, c = builder.fsub(a, b), builder.fsub(c, d)
    return first, _scaled(builder, near, a, _scaled(builder, far, c, last))


def make_winograd(layer: Layer):
    """Intrinsics: a window's inputs to their factors, the products, and what comes out.

    take (x, x_at, v, tile); multiply (v, u, m); give (m, tile, bias, out, out_at, code, code_at).
    v: [(K+1)^2][TILES][inputs]; u: [(K+1)^2][outputs / BLOCK][inputs][BLOCK]; m: [(K+1)^2][TILES]
    [outputs]; bias, out and code as in make_tile, of all channels.
    """
    kernel, inputs, outputs, side = layer.kernel, layer.inputs, layer.outputs, layer.kernel + 1

    @intrinsic
    def take(typing, x, x_at, v, tile):
        def generate(context, builder, signature, args):
            x_ptr, v_ptr = (
                _vectors(context, builder, signature.args[i], args[i], LANES) for i in (0, 2)
            )
            to = builder.mul(args[3], _int(inputs))
            for part in range(0, inputs, LANES):
                columns = []
                for z in range(side):
                    shifts = [y * layer.pitch + z * inputs + part for y in range(side)]
                    at = [builder.add(args[1], _int(shift)) for shift in shifts]
                    column = [builder.load(x_ptr(i), align=4) for i in at]
                    columns.append(_winograd_inputs(builder, column, kernel))
                for y in range(side):
                    row = _winograd_inputs(builder, [column[y] for column in columns], kernel)
                    for z in range(side):
                        shift = _int((side * y + z) * TILES * inputs + part)
                        builder.store(row[z], v_ptr(builder.add(to, shift)), align=4)
            return context.get_dummy_value()

        return types.void(x, types.intp, v, types.intp), generate

    @intrinsic
    def multiply(typing, v, u, m):
        def generate(context, builder, signature, args):
            kinds = signature.args
            v_ptr, u_ptr, m_ptr = (
                _vectors(context, builder, kinds[i], args[i], width)
                for i, width in ((0, 1), (1, LANES), (2, LANES))
            )
            fma = _muladd(builder, LANES)
            zero = ir.Constant(ir.VectorType(ir.FloatType(), LANES), [0.0] * LANES)
            sums = [[_new_sum(builder, LANES) for _ in range(2)] for _ in range(TILES)]
            blocks = outputs // BLOCK
            with cgutils.for_range(builder, _int(side * side * blocks)) as loop:
                factor = builder.udiv(loop.index, _int(blocks))
                block = builder.urem(loop.index, _int(blocks))
                v_at = builder.mul(factor, _int(TILES * inputs))
                u_at = builder.mul(loop.index, _int(inputs * BLOCK))
                m_at = builder.add(
                    builder.mul(factor, _int(TILES * outputs)), builder.mul(block, _int(BLOCK))
                )
                for pair in sums:
                    for cell in pair:
                        builder.store(zero, cell)
                with cgutils.for_range(builder, _int(inputs)) as channel:
                    row = builder.add(u_at, builder.mul(channel.index, _int(BLOCK)))
                    weights = [
                        builder.load(u_ptr(builder.add(row, _int(part * LANES))), align=4)
                        for part in range(2)
                    ]
                    here = builder.add(v_at, channel.index)
                    for tile in range(TILES):
                        value = builder.load(
                            v_ptr(builder.add(here, _int(tile * inputs))), align=4
                        )
                        value = _broadcast(
                            builder, builder.extract_element(value, _int(0)), LANES
                        )
                        for part in range(2):
                            cell = sums[tile][part]
                            builder.store(
                                builder.call(fma, [value, weights[part], builder.load(cell)]), cell
                            )
                for tile in range(TILES):
                    for part in range(2):
                        to = builder.add(m_at, _int(tile * outputs + part * LANES))
                        builder.store(builder.load(sums[tile][part]), m_ptr(to), align=4)
            return context.get_dummy_value()

        return types.void(v, u, m), generate

    @intrinsic
    def give(typing, m, tile, bias, out, out_at, code, code_at):
        def generate(context, builder, signature, args):
            kinds = signature.args
            m_ptr, bias_ptr, out_ptr, code_ptr = (
                _vectors(context, builder, kinds[i], args[i], LANES) for i in (0, 2, 3, 5)
            )
            begin = builder.mul(args[1], _int(outputs))
            for part in range(0, outputs, LANES):
                columns = []
                for z in range(side):
                    shifts = [(side * y + z) * TILES * outputs + part for y in range(side)]
                    at = [builder.add(begin, _int(shift)) for shift in shifts]
                    column = [builder.load(m_ptr(i), align=4) for i in at]
                    columns.append(_winograd_outputs(builder, column, kernel))
                start = builder.load(bias_ptr(_int(part)), align=4)
                values = [
                    builder.fadd(value, start)
                    for y in range(2)
                    for value in _winograd_outputs(
                        builder, [column[y] for column in columns], kernel
                    )
                ]
                _pool(
                    builder, values, out_ptr(builder.add(args[4], _int(part))),
                    code_ptr(builder.add(args[6], _int(part))),
                )  # fmt: skip
            return context.get_dummy_value()

        n = types.intp
        return types.void(m, n, bias, out, n, code, n), generate

    return take, multiply, give


def make_rows(width: int, vectors: int, rows: int, fetch: int = 0):
    """Intrinsic: a weighted sum of rows of floats, added to another row.

    (total, total_at, total_pitch, x, x_at, x_pitch, offset, factor, first, count):
    for r < rows, j < vectors * width:
    total[total_at + r * total_pitch + j] += sum over i = first .. first + count - 1 of
    factor[i] * x[x_at + offset[i] + r * x_pitch + j].
    fetch: the row of offset[i + fetch] is asked for meanwhile, where memory is far; 0: none is.
    """

    @intrinsic
    def add_rows(
        typing, total, total_at, total_pitch, x, x_at, x_pitch, offset, factor, first, count
    ):
        n = types.intp
        signature = types.void(total, n, n, x, n, n, offset, factor, n, n)

        def generate(context, builder, signature, args):
            kinds = signature.args
            total_ptr, x_ptr, offset_ptr, factor_ptr = (
                _vectors(context, builder, kinds[i], args[i], size)
                for i, size in ((0, width), (3, width), (6, 1), (7, 1))
            )
            fma = _muladd(builder, width)
            places = [(row, part) for row in range(rows) for part in range(vectors)]
            sums = [_new_sum(builder, width) for _ in places]
            x_rows = [
                builder.add(args[4], builder.mul(args[5], _int(row))) for row in range(rows)
            ]
            with cgutils.for_range(builder, args[9]) as loop:
                i = builder.add(args[8], loop.index)
                shift = builder.extract_element(builder.load(offset_ptr(i), align=4), _int(0))
                shift = builder.sext(shift, ir.IntType(64))
                scale = builder.extract_element(builder.load(factor_ptr(i), align=4), _int(0))
                scale = _broadcast(builder, scale, width)
                if fetch:
                    ahead = offset_ptr(builder.add(i, _int(fetch)))
                    ahead = builder.extract_element(builder.load(ahead, align=4), _int(0))
                    ahead = builder.add(x_rows[0], builder.sext(ahead, ir.IntType(64)))
                    for part in range(0, vectors, 16 // width):  # a cache line has 16 floats
                        _prefetch(builder, x_ptr(builder.add(ahead, _int(part * width))))
                for (row, part), cell in zip(places, sums, strict=True):
                    at = builder.add(builder.add(x_rows[row], shift), _int(part * width))
                    values = builder.load(x_ptr(at), align=4)
                    builder.store(builder.call(fma, [scale, values, builder.load(cell)]), cell)
            for (row, part), cell in zip(places, sums, strict=True):
                at = builder.add(args[1], builder.mul(args[2], _int(row)))
                at = builder.add(at, _int(part * width))
                _add_to(builder, total_ptr(at), builder.load(cell))
            return context.get_dummy_value()

        return signature, generate

    return add_rows


def make_products(envs: int, rows: int, fetch: bool):
    """Intrinsic: the scalar products of `envs` rows of x with `rows` rows of w, added to out.

    (x, x_at, w, w_at, length, out, out_at, out_pitch): x rows and w rows are `length` floats, a
    multiple of LANES; out[out_at + env * out_pitch + row].
    """

    @intrinsic
    def add_products(typing, x, x_at, w, w_at, length, out, out_at, out_pitch):
        n = types.intp
        signature = types.void(x, n, w, n, n, out, n, n)

        def generate(context, builder, signature, args):
            kinds = signature.args
            x_ptr, w_ptr, out_ptr = (
                _vectors(context, builder, kinds[i], args[i], size)
                for i, size in ((0, LANES), (2, LANES), (5, 1))
            )
            fma = _muladd(builder, LANES)
            sums = [[_new_sum(builder, LANES) for _ in range(rows)] for _ in range(envs)]
            length = args[4]
            x_rows = [builder.add(args[1], builder.mul(length, _int(e))) for e in range(envs)]
            w_rows = [builder.add(args[3], builder.mul(length, _int(r))) for r in range(rows)]
            with cgutils.for_range_slice(
                builder, _int(0), length, _int(LANES), ir.IntType(64)
            ) as (at, _):
                weights = [builder.load(w_ptr(builder.add(row, at)), align=4) for row in w_rows]
                if fetch:  # the rows that come next: the machine looks ahead within 4 KB only
                    for row in w_rows:
                        ahead = builder.add(row, builder.mul(length, _int(rows)))
                        _prefetch(builder, w_ptr(builder.add(ahead, at)))
                for env in range(envs):
                    values = builder.load(x_ptr(builder.add(x_rows[env], at)), align=4)
                    for row in range(rows):
                        cell = sums[env][row]
                        builder.store(
                            builder.call(fma, [values, weights[row], builder.load(cell)]), cell
                        )
            for env in range(envs):
                at = builder.add(args[6], builder.mul(args[7], _int(env)))
                for row in range(rows):
                    total = _sum_of_lanes(builder, builder.load(sums[env][row]))
                    _add_to(builder, out_ptr(builder.add(at, _int(row))), total)
            return context.get_dummy_value()

        return signature, generate

    return add_products


def make_transpose(adding: bool):
    """Intrinsic (x, x_at, x_pitch, out, out_at, out_pitch): out[i][j] = x[j][i], or += if adding.

    A block of LANES x LANES floats, rows `pitch` floats apart.
    """

    @intrinsic
    def transpose(typing, x, x_at, x_pitch, out, out_at, out_pitch):
        n = types.intp
        signature = types.void(x, n, n, out, n, n)

        def generate(context, builder, signature, args):
            x_ptr, out_ptr = (
                _vectors(context, builder, signature.args[i], args[i], LANES) for i in (0, 3)
            )

            def row(pointer, at, pitch, i):
                return pointer(builder.add(at, builder.mul(pitch, _int(i))))

            rows = [builder.load(row(x_ptr, args[1], args[2], i), align=4) for i in range(LANES)]
            size = LANES // 2
            while size:  # exchange squares of this size across the diagonal
                for i in range(LANES):
                    if i & size == 0:
                        low = [j if j & size == 0 else LANES + j - size for j in range(LANES)]
                        high = [j + size if j & size == 0 else LANES + j for j in range(LANES)]
                        rows[i], rows[i + size] = (
                            builder.shuffle_vector(
                                rows[i], rows[i + size],
                                ir.Constant(ir.VectorType(ir.IntType(32), LANES), order),
                            )
                            for order in (low, high)
                        )  # fmt: skip
                size //= 2
            for i in range(LANES):
                to = row(out_ptr, args[4], args[5], i)
                if adding:
                    _add_to(builder, to, rows[i])
                else:
                    builder.store(rows[i], to, align=4)
            return context.get_dummy_value()

        return signature, generate

    return transpose


@intrinsic
def _spread(typing, d_out, d_at, code, code_at, factors, at, pitch, total, total_at):
    """BLOCK gradients of one pooling window, each at the place that won; zero at the others.

    factors[at + place * pitch + channel] for the four places; their sum is added to
    total[total_at + channel].
    """
    n = types.intp
    signature = types.void(d_out, n, code, n, factors, n, n, total, n)

    def generate(context, builder, signature, args):
        kinds = signature.args
        d_ptr, code_ptr, factor_ptr, total_ptr = (
            _vectors(context, builder, kinds[i], args[i], LANES) for i in (0, 2, 4, 7)
        )
        zero = ir.Constant(ir.VectorType(ir.FloatType(), LANES), [0.0] * LANES)
        for part in range(0, BLOCK, LANES):
            d = builder.load(d_ptr(builder.add(args[1], _int(part))), align=4)
            winner = builder.load(code_ptr(builder.add(args[3], _int(part))), align=1)
            for place in range(5):
                wins = builder.icmp_unsigned(
                    "==" if place < 4 else "<", winner, ir.Constant(winner.type, [place] * LANES)
                )
                d_place = builder.select(wins, d, zero)
                if place < 4:
                    here = builder.add(args[5], builder.mul(args[6], _int(place)))
                    pointer = factor_ptr(builder.add(here, _int(part)))
                else:
                    pointer = total_ptr(builder.add(args[8], _int(part)))
                    d_place = builder.fadd(builder.load(pointer, align=4), d_place)
                builder.store(d_place, pointer, align=4)
        return context.get_dummy_value()

    return signature, generate


def make_picture_taps(layer: Layer):
    """Intrinsic: one row of the first layer's filters, from neighbouring pooling windows of a row.

    (total, total_at, x, x_at, factors, factors_at, windows): total[total_at + tap * outputs +
    channel] += the sum over windows and places of factors[window][place][channel] * the picture
    at that place and tap, for BLOCK channels.
    """
    kernel, parts = layer.kernel, 2

    @intrinsic
    def add_taps(typing, total, total_at, x, x_at, factors, factors_at, windows):
        n = types.intp
        signature = types.void(total, n, x, n, factors, n, n)

        def generate(context, builder, signature, args):
            kinds = signature.args
            total_ptr, x_ptr, factor_ptr = (
                _vectors(context, builder, kinds[i], args[i], size)
                for i, size in ((0, LANES), (2, 1), (4, LANES))
            )
            fma = _muladd(builder, LANES)
            sums = [[_new_sum(builder, LANES) for _ in range(parts)] for _ in range(kernel)]
            with cgutils.for_range(builder, args[6]) as loop:
                x_window = builder.add(args[3], builder.mul(loop.index, _int(2)))
                window = builder.mul(loop.index, _int(4 * layer.outputs))
                window = builder.add(args[5], window)
                for down in range(2):
                    pixels = [
                        _broadcast(
                            builder,
                            builder.extract_element(
                                builder.load(
                                    x_ptr(builder.add(x_window, _int(down * layer.pitch + right))),
                                    align=4,
                                ),
                                _int(0),
                            ),
                            LANES,
                        )
                        for right in range(kernel + 1)
                    ]
                    for right in range(2):
                        for part in range(parts):
                            shift = (2 * down + right) * layer.outputs + part * LANES
                            factor = builder.load(
                                factor_ptr(builder.add(window, _int(shift))), align=4
                            )
                            for tap in range(kernel):
                                cell = sums[tap][part]
                                builder.store(
                                    builder.call(
                                        fma, [pixels[tap + right], factor, builder.load(cell)]
                                    ),
                                    cell,
                                )
            for tap in range(kernel):
                for part in range(parts):
                    at = builder.add(args[1], _int(tap * layer.outputs + part * LANES))
                    _add_to(builder, total_ptr(at), builder.load(sums[tap][part]))
            return context.get_dummy_value()

        return signature, generate

    return add_taps


# ---------------------------------------------------------------------------------------------
# One layer, one sample


def make_alike(layer: Layer):
    """Compiled (bits, at, other, rows, floats): whether two patches of rows x floats hold the same
    bits, where -0 is not 0 and NaN may be NaN."""
    pitch = layer.pitch

    @njit(nogil=True)
    def alike(bits, at, other, rows, floats):
        for row in range(rows):
            differing = np.int32(0)
            for i in range(row * pitch, row * pitch + floats):
                differing |= _get(bits, at + i) ^ _get(bits, other + i)
            if differing != 0:
                return False
        return True

    return alike


def make_share(layer: Layer):
    """Compiled (x, here, windows): how many of the values that these windows of a row see are not
    zero, in 1 / 256 of them."""
    rows, pitch, inputs = layer.kernel + 1, layer.pitch, layer.inputs
    open_channels = make_open_channels(layer)

    @njit(nogil=True)
    def share(x, here, windows):
        count, columns = 0, 2 * windows + layer.kernel - 1
        for row in range(rows):
            for column in range(columns):
                count += _count_bits(open_channels(x, here + row * pitch + column * inputs))
        return 256 * count // (rows * columns * inputs)

    return share


def make_winograd_forward(layer: Layer):
    """Compiled (games, first, x, w, u, bias, out, code, fresh, scratch): as `make_forward`, of all
    these games and up to rounding.

    x, out, code: of all games; out is the next layer's padded x. fresh: of all samples; that of
    game g is first + g. scratch: `v`, `m`, and the windows that wait for the products or for those
    that they are copied from.
    """
    take, multiply, give = make_winograd(layer)
    alike, one, share = make_alike(layer), make_tile(layer, 1), make_share(layer)
    few = layer.outputs == 2 * BLOCK
    sparse = make_sparse_tile(layer, layer.outputs // BLOCK)
    block_size = layer.kernel * layer.kernel * layer.inputs * BLOCK
    outputs, pooled, pitch, inputs = layer.outputs, layer.pooled, layer.pitch, layer.inputs
    x_size, code_size = layer.padded * pitch, pooled * pooled * outputs
    following = LAYERS[LAYERS.index(layer) + 1]
    out_pitch, origin = following.pitch, following.origin
    out_size, patch_rows = following.padded * out_pitch, layer.kernel + 1
    kernel, floats = layer.kernel, patch_rows * inputs

    @njit(nogil=True)
    def forward(games, first, x, w, u, bias, out, code, fresh, scratch):
        v, m, out_to, code_to, copies = scratch
        bits = x.view(np.int32)
        taken = copied = 0
        for game in games:
            for row in range(pooled):
                for column in range(pooled):
                    window = row * pooled + column
                    if _get(fresh, (first + game) * pooled * pooled + window) == 0:
                        continue
                    here = game * x_size + 2 * (row * pitch + column * inputs)
                    out_here = game * out_size + origin + row * out_pitch + column * outputs
                    code_here = game * code_size + window * outputs
                    back = 0
                    if row > 0 and alike(bits, here, here - 2 * pitch, patch_rows, floats):
                        back = out_pitch
                    elif column > 0 and alike(bits, here, here - 2 * inputs, patch_rows, floats):
                        back = outputs
                    if back > 0:
                        copies[copied, 0], copies[copied, 1] = out_here, code_here
                        copies[copied, 2] = back
                        copied += 1
                        continue
                    if few and share(x, here, 1) < FEWER:
                        sparse(x, here, w, 0, bias, 0, out, out_here, code, code_here)
                        continue
                    # Equal outputs must come out with equal bits: the first of them wins.
                    if alike(bits, here, here + pitch, kernel, floats) or alike(
                        bits, here, here + inputs, patch_rows, floats - inputs
                    ):
                        for block in range(outputs // BLOCK):
                            at = block * BLOCK
                            one(
                                x, here, w, block * block_size, bias, at,
                                out, out_here + at, code, code_here + at,
                            )  # fmt: skip
                        continue
                    take(x, here, v, taken)
                    out_to[taken], code_to[taken] = out_here, code_here
                    taken += 1
                    if taken == TILES:
                        multiply(v, u, m)
                        for tile in range(TILES):
                            give(m, tile, bias, out, out_to[tile], code, code_to[tile])
                        taken = 0
        if taken > 0:
            multiply(v, u, m)
            for tile in range(taken):
                give(m, tile, bias, out, out_to[tile], code, code_to[tile])
        for copy in range(copied):
            out_here, code_here, back = copies[copy]
            code_back = outputs if back == outputs else pooled * outputs
            for i in range(outputs):
                _put(out, out_here + i, _get(out, out_here + i - back))
                _put(code, code_here + i, _get(code, code_here + i - code_back))

    return forward


def make_forward(layer: Layer):
    """Compiled (x, x_at, w, bias, out, out_at, out_pitch, code, code_at, fresh, fresh_at).

    One sample's layer. Only fresh windows are computed; what sees the same as the tile above it
    or left of it is copied from there.

    out: channels-last with out_pitch floats per row; code: uint8 (pooled, pooled, outputs), the
    winner of each window or CLOSED; fresh: (pooled, pooled), 1 or 0; what is not fresh must be
    in out and code already.
    """
    many, one = make_tile(layer, WINDOWS), make_tile(layer, 1)
    few = LANES == 16 and layer.inputs > 1 and layer.outputs == 2 * BLOCK
    sparse = make_sparse_tile(layer, layer.outputs // BLOCK if few else 1)
    outputs, pooled, pitch, inputs = layer.outputs, layer.pooled, layer.pitch, layer.inputs
    block_size = layer.kernel * layer.kernel * inputs * BLOCK
    patch_rows = layer.kernel + 1  # that a row of pooling windows sees
    alike, share = make_alike(layer), make_share(layer)

    @njit(nogil=True)
    def forward(x, x_at, w, bias, out, out_at, out_pitch, code, code_at, fresh, fresh_at):
        bits = x.view(np.int32)
        for row in range(pooled):
            column = 0
            while column < pooled:
                fresh_here = fresh_at + row * pooled + column
                if _get(fresh, fresh_here) == 0:
                    column += 1
                    continue
                windows = WINDOWS
                for i in range(1, WINDOWS):
                    if column + i >= pooled or _get(fresh, fresh_here + i) == 0:
                        windows = 1
                floats = (2 * windows + layer.kernel - 1) * inputs
                here = x_at + 2 * (row * pitch + column * inputs)
                out_here = out_at + row * out_pitch + column * outputs
                code_here = code_at + (row * pooled + column) * outputs
                code_back, out_back = 0, 0  # floats, from the tile to the one like it
                if row > 0 and alike(bits, here, here - 2 * pitch, patch_rows, floats):
                    code_back, out_back = pooled * outputs, out_pitch
                elif column >= windows and alike(
                    bits, here, here - 2 * windows * inputs, patch_rows, floats
                ):
                    code_back = out_back = windows * outputs
                if code_back > 0:
                    for i in range(windows * outputs):
                        _put(out, out_here + i, _get(out, out_here + i - out_back))
                        _put(code, code_here + i, _get(code, code_here + i - code_back))
                elif few and share(x, here, windows) < SPARSE:
                    for i in range(windows):
                        sparse(
                            x, here + 2 * i * inputs, w, 0, bias, 0,
                            out, out_here + i * outputs, code, code_here + i * outputs,
                        )  # fmt: skip
                else:
                    for block in range(outputs // BLOCK):
                        w_at, channel = block * block_size, block * BLOCK
                        if windows == WINDOWS:
                            many(
                                x, here, w, w_at, bias, channel,
                                out, out_here + channel, code, code_here + channel,
                            )  # fmt: skip
                        else:
                            one(
                                x, here, w, w_at, bias, channel,
                                out, out_here + channel, code, code_here + channel,
                            )  # fmt: skip
                column += windows

    return forward


def make_backward(layer: Layer):
    """Compiled (d_out, d_at, d_pitch, code, code_at, x, x_at, fresh, fresh_at, w, d_w, d_bias,
    d_x, lists): one sample's layer, row by row of pooling windows.

    d_out: gradient of the output, d_pitch floats per row; taken from fresh windows, where it is
    zero afterwards. Adds to d_w [K][outputs][taps], d_bias (outputs,) and to d_x like the padded
    x. w: [K][outputs][taps].

    The winners with open ReLU are listed twice: by channel, for the gradient of its filter, a sum
    of scaled patches of x; and by position, for that of x, a sum of scaled filters. The first
    lists hold LISTED times as many windows as a row has, and are used when the next row does not
    fit, and at the end: then the sums of a filter's gradient stay in registers for long.
    """
    kernel, outputs, pooled = layer.kernel, layer.outputs, layer.pooled
    pitch, inputs, taps = layer.pitch, layer.inputs, layer.taps
    rows, part = ROWS, taps if LANES == 16 else taps // 2  # of a filter, per call
    rest = kernel % rows
    most = LISTED * pooled

    def make_add_filter_rows(count):
        add_rows = make_rows(LANES, part // LANES, count)

        @njit(nogil=True)
        def add_filter_rows(k, x, x_at, d_w, of_channel, by_channel, channel_factor):
            """Adds what is listed by channel to rows k to k + count - 1 of all filters."""
            for channel in range(outputs):
                for j in range(0, taps, part):
                    add_rows(
                        d_w, (k * outputs + channel) * taps + j, outputs * taps,
                        x, x_at + k * pitch + j, pitch,
                        by_channel, channel_factor, channel * most, of_channel[channel],
                    )  # fmt: skip

        return add_filter_rows

    def make_add_patch_rows(count):
        add_rows = make_rows(LANES, part // LANES, count)

        @njit(nogil=True)
        def add_patch_rows(k, d_x, d_x_at, w, of_place, by_place, place_factor):
            """Adds what is listed by place, rows k to k + count - 1 of filters, to d_x."""
            for down in range(2):
                for right in range(2 * pooled):
                    place = down * 2 * pooled + right
                    if of_place[place] == 0:
                        continue
                    here = d_x_at + (down + k) * pitch + right * inputs
                    for j in range(0, taps, part):
                        add_rows(
                            d_x, here + j, pitch, w, k * outputs * taps + j, outputs * taps,
                            by_place, place_factor, place * outputs, of_place[place],
                        )  # fmt: skip

        return add_patch_rows

    add_filter_rows, add_last_filter_rows = map(make_add_filter_rows, (rows, rest or 1))
    add_patch_rows, add_last_patch_rows = map(make_add_patch_rows, (rows, rest or 1))

    @njit(nogil=True)
    def add_filters(x, x_at, d_w, d_bias, of_channel, by_channel, channel_factor):
        """Adds what is listed by channel to d_w and d_bias, and empties the lists."""
        for channel in range(outputs):
            total = np.float32(0)
            for i in range(channel * most, channel * most + of_channel[channel]):
                total += _get(channel_factor, i)
            d_bias[channel] += total
        for k in range(0, kernel - rest, rows):
            add_filter_rows(k, x, x_at, d_w, of_channel, by_channel, channel_factor)
        if rest > 0:
            add_last_filter_rows(
                kernel - rest, x, x_at, d_w, of_channel, by_channel, channel_factor
            )
        of_channel[:outputs] = 0

    @njit(nogil=True)
    def backward(
        d_out, d_at, d_pitch, code, code_at, x, x_at, fresh, fresh_at, w, d_w, d_bias, d_x, lists
    ):
        of_channel, by_channel, channel_factor, of_place, by_place, place_factor = lists
        of_channel[:outputs] = 0
        listed = 0  # windows
        for row in range(pooled):
            fresh_row = fresh_at + row * pooled
            fresh_count = 0
            for column in range(pooled):
                fresh_count += _get(fresh, fresh_row + column)
            if fresh_count == 0:
                continue
            if listed + fresh_count > most:
                add_filters(x, x_at, d_w, d_bias, of_channel, by_channel, channel_factor)
                listed = 0
            listed += fresh_count
            of_place[: 6 * pooled] = 0
            for column in range(pooled):
                if _get(fresh, fresh_row + column) == 0:
                    continue
                d_here = d_at + row * d_pitch + column * outputs
                code_here = code_at + (row * pooled + column) * outputs
                x_here = 2 * row * pitch + 2 * column * inputs
                for channel in range(outputs):
                    winner = np.int64(_get(code, code_here + channel))
                    down, right = winner >> 1, winner & 1
                    factor = _get(d_out, d_here + channel)
                    count = _get(of_channel, channel)
                    i = channel * most + count
                    _put(by_channel, i, x_here + down * pitch + right * inputs)
                    _put(channel_factor, i, factor)
                    _put(of_channel, channel, count + (winner < CLOSED))
                    # What is closed goes to a place in a third row, which nothing reads.
                    place = down * 2 * pooled + 2 * column + right
                    count = _get(of_place, place)
                    i = place * outputs + count
                    _put(by_place, i, channel * taps)
                    _put(place_factor, i, factor)
                    _put(of_place, place, count + 1)
                for channel in range(outputs):
                    _put(d_out, d_here + channel, np.float32(0))
            d_x_row = 2 * row * pitch
            for k in range(0, kernel - rest, rows):
                add_patch_rows(k, d_x, d_x_row, w, of_place, by_place, place_factor)
            if rest > 0:
                add_last_patch_rows(
                    kernel - rest, d_x, d_x_row, w, of_place, by_place, place_factor
                )
        if listed > 0:
            add_filters(x, x_at, d_w, d_bias, of_channel, by_channel, channel_factor)

    return backward


def make_first_backward(layer: Layer):
    """Compiled (d_out, d_at, d_pitch, code, code_at, x, x_at, fresh, fresh_at, d_w, d_bias,
    factors).

    As `make_backward`, for the layer whose input is the picture: 5 taps are too few to make a
    list worth its while. d_w: [K][K][outputs]; factors: scratch [pooled][4][outputs], the gradient
    of each place of neighbouring windows, zero for all but the winners.
    """
    kernel, outputs, pooled, pitch = layer.kernel, layer.outputs, layer.pooled, layer.pitch
    add_taps = make_picture_taps(layer)

    @njit(nogil=True)
    def backward(
        d_out, d_at, d_pitch, code, code_at, x, x_at, fresh, fresh_at, d_w, d_bias, factors
    ):
        for row in range(pooled):
            column = 0
            while column < pooled:
                start = column
                while column < pooled and _get(fresh, fresh_at + row * pooled + column) > 0:
                    d_here = d_at + row * d_pitch + column * outputs
                    code_here = code_at + (row * pooled + column) * outputs
                    for channel in range(0, outputs, BLOCK):
                        _spread(
                            d_out, d_here + channel, code, code_here + channel,
                            factors, 4 * (column - start) * outputs + channel, outputs,
                            d_bias, channel,
                        )  # fmt: skip
                    for channel in range(outputs):
                        _put(d_out, d_here + channel, np.float32(0))
                    column += 1
                if column > start:
                    for k in range(kernel):
                        for channel in range(0, outputs, BLOCK):
                            add_taps(
                                d_w, k * kernel * outputs + channel,
                                x, x_at + (2 * row + k) * pitch + 2 * start, factors, channel,
                                column - start,
                            )  # fmt: skip
                column += 1

    return backward


def make_freshen(layer: Layer):
    """Compiled (changed, changed_at, fresh, fresh_at): the windows that see a changed pixel.

    changed: (height, height) of the layer's input, without padding, 1 or 0; fresh: (pooled,
    pooled). A pixel of an inner layer counts as changed if its own window is fresh, even where
    the same value came out: otherwise a gradient could wait above it for an earlier step, and
    would then go down through the winner and the patch of that step.
    """
    kernel, padding, height, pooled = layer.kernel, layer.padding, layer.height, layer.pooled

    @njit(nogil=True)
    def freshen(changed, changed_at, fresh, fresh_at):
        for i in range(pooled * pooled):
            _put(fresh, fresh_at + i, np.uint8(0))
        for row in range(height):
            # Window i sees the rows 2 * i to 2 * i + kernel of the padded input.
            top = max(0, (row + padding - kernel + 1) // 2)
            bottom = min(pooled - 1, (row + padding) // 2)
            for column in range(height):
                if _get(changed, changed_at + row * height + column) > 0:
                    left = max(0, (column + padding - kernel + 1) // 2)
                    right = min(pooled - 1, (column + padding) // 2)
                    for i in range(top, bottom + 1):
                        for j in range(left, right + 1):
                            _put(fresh, fresh_at + i * pooled + j, np.uint8(1))

    return freshen


def make_keep(layer: Layer):
    """Compiled keep and restore (out, out_at, out_pitch, code, code_at, fresh, fresh_at, kept_out,
    kept_code, at): what stands in the fresh windows is copied from out and code to the kept ones,
    from `at` on, or back from there. Both return where the next would begin.
    """
    outputs, pooled = layer.outputs, layer.pooled

    def make(restoring):
        @njit(nogil=True)
        def copy(
            out, out_at, out_pitch, code, code_at, fresh, fresh_at, kept_out, kept_code, at
        ):
            for row in range(pooled):
                for column in range(pooled):
                    if _get(fresh, fresh_at + row * pooled + column) == 0:
                        continue
                    out_here = out_at + row * out_pitch + column * outputs
                    code_here = code_at + (row * pooled + column) * outputs
                    for i in range(outputs):
                        if restoring:
                            _put(out, out_here + i, _get(kept_out, at + i))
                            _put(code, code_here + i, _get(kept_code, at + i))
                        else:
                            _put(kept_out, at + i, _get(out, out_here + i))
                            _put(kept_code, at + i, _get(code, code_here + i))
                    at += outputs
            return at

        return copy

    return make(False), make(True)


_forward1, _forward2, _forward3, _forward4 = (make_forward(layer) for layer in LAYERS)
_winograd2, _winograd3 = (make_winograd_forward(layer) for layer in LAYERS[1:3])
_backward1 = make_first_backward(LAYERS[0])
_backward2, _backward3, _backward4 = (make_backward(layer) for layer in LAYERS[1:])
_freshen1, _freshen2, _freshen3, _freshen4 = (make_freshen(layer) for layer in LAYERS)

WIDTH = LAYERS[0].height  # of a picture
# Elements of one sample's arrays.
INPUTS = tuple(layer.padded * layer.pitch for layer in LAYERS)
CODES = tuple(layer.pooled**2 * layer.outputs for layer in LAYERS)
FRESH = tuple(layer.pooled**2 for layer in LAYERS)
PITCHES = tuple(layer.pitch for layer in LAYERS)
ORIGINS = tuple(layer.origin for layer in LAYERS)
LAST_PITCH = LAYERS[3].pooled * LAYERS[3].outputs
PIXELS = LAYERS[3].pooled ** 2  # of a map of the last layer
MAPS = LAYERS[3].outputs


@njit(nogil=True)
def _take_picture(pictures, i, x, sample, old, changed):
    """Writes picture i into x; changed: 1 where sample `old` has other bits, otherwise 0."""
    bits, new_bits = x.view(np.int32), pictures.view(np.int32)
    for row in range(WIDTH):
        new_at = (i * WIDTH + row) * WIDTH
        at = sample * INPUTS[0] + ORIGINS[0] + row * PITCHES[0]
        old_at = old * INPUTS[0] + ORIGINS[0] + row * PITCHES[0]
        for column in range(WIDTH):
            differs = _get(new_bits, new_at + column) != _get(bits, old_at + column)
            _put(changed, row * WIDTH + column, np.uint8(differs))
        bits[at : at + WIDTH] = new_bits[new_at : new_at + WIDTH]


def make_for_all_layers(copies):
    """Compiled (game, sample, x, code, last, fresh, kept, at): what make_keep makes of each layer,
    in order; see features for the arrays."""
    copy1, copy2, copy3, copy4 = copies

    @njit(nogil=True)
    def for_all_layers(game, sample, x, code, last, fresh, kept, at):
        out, codes = kept[:2]
        at = copy1(
            x[1], game * INPUTS[1] + ORIGINS[1], PITCHES[1], code[0], game * CODES[0],
            fresh[0], sample * FRESH[0], out, codes, at,
        )  # fmt: skip
        at = copy2(
            x[2], game * INPUTS[2] + ORIGINS[2], PITCHES[2], code[1], game * CODES[1],
            fresh[1], sample * FRESH[1], out, codes, at,
        )  # fmt: skip
        at = copy3(
            x[3], game * INPUTS[3] + ORIGINS[3], PITCHES[3], code[2], game * CODES[2],
            fresh[2], sample * FRESH[2], out, codes, at,
        )  # fmt: skip
        return copy4(
            last, game * FEATURES, LAST_PITCH, code[3], game * CODES[3],
            fresh[3], sample * FRESH[3], out, codes, at,
        )  # fmt: skip

    return for_all_layers


_keep_maps, _restore_maps = map(
    make_for_all_layers, zip(*(make_keep(layer) for layer in LAYERS), strict=True)
)


@njit(nogil=True)
def _keep(game, sample, x, code, last, fresh, kept):
    """Before a step of this game: what its fresh windows will replace goes to the end of `kept`."""
    begins, end = kept[2:]
    begins[sample] = end[0]
    end[0] = _keep_maps(game, sample, x, code, last, fresh, kept, end[0])


@njit(nogil=True)
def _restore(game, sample, x, code, last, fresh, kept):
    """The maps of this game are again as they were before the step of this sample."""
    _restore_maps(game, sample, x, code, last, fresh, kept, kept[2][sample])


@_cached_njit
def features(
    pictures, first, rows, like, w, u, bias, x, code, last, fresh, kept, keeping, passing,
    changed, winograd, out
):  # fmt: skip
    """Features (maps, height, width) of these rows of the pictures, row r being sample first + r.

    pictures: (E * WIDTH * WIDTH,); rows: int64; like: int64, for each of E rows the sample, of the
    same weights, that its maps are of, from which everything is taken that sees the same pixels,
    or -1; it may be the new sample itself. w, bias, x, code, fresh: one array per layer; x[0] and
    fresh with all samples, code, the other x and `last`, the output (height, width, maps), with
    all games; kept: see _keep; changed, winograd: scratch; out: (samples * FEATURES,).
    u: the factors of the filters of the second and the third layer; with none of them, their sums
    have the order of the taps.
    keeping: what is replaced is kept; passing: and put back at the end.
    """
    for i in rows:
        sample, old = first + i, like[i]
        _take_picture(pictures, i, x[0], sample, max(old, 0), changed)
        if old < 0:
            for k in range(len(LAYERS)):
                fresh[k][sample * FRESH[k] : (sample + 1) * FRESH[k]] = 1
        else:
            _freshen1(changed, 0, fresh[0], sample * FRESH[0])
            _freshen2(fresh[0], sample * FRESH[0], fresh[1], sample * FRESH[1])
            _freshen3(fresh[1], sample * FRESH[1], fresh[2], sample * FRESH[2])
            _freshen4(fresh[2], sample * FRESH[2], fresh[3], sample * FRESH[3])
        if keeping:
            _keep(i, sample, x, code, last, fresh, kept)
        _forward1(
            x[0], sample * INPUTS[0], w[0], bias[0],
            x[1], i * INPUTS[1] + ORIGINS[1], PITCHES[1], code[0], i * CODES[0],
            fresh[0], sample * FRESH[0],
        )  # fmt: skip
    if len(u[0]) > 0:
        _winograd2(rows, first, x[1], w[1], u[0], bias[1], x[2], code[1], fresh[1], winograd)
        _winograd3(rows, first, x[2], w[2], u[1], bias[2], x[3], code[2], fresh[2], winograd)
    else:
        for i in rows:
            _forward2(
                x[1], i * INPUTS[1], w[1], bias[1],
                x[2], i * INPUTS[2] + ORIGINS[2], PITCHES[2], code[1], i * CODES[1],
                fresh[1], (first + i) * FRESH[1],
            )  # fmt: skip
            _forward3(
                x[2], i * INPUTS[2], w[2], bias[2],
                x[3], i * INPUTS[3] + ORIGINS[3], PITCHES[3], code[2], i * CODES[2],
                fresh[2], (first + i) * FRESH[2],
            )  # fmt: skip
    for i in rows:
        sample = first + i
        _forward4(
            x[3], i * INPUTS[3], w[3], bias[3],
            last, i * FEATURES, LAST_PITCH, code[3], i * CODES[3],
            fresh[3], sample * FRESH[3],
        )  # fmt: skip
        for pixel in range(PIXELS):
            for channel in range(MAPS):
                value = last[i * FEATURES + pixel * MAPS + channel]
                out[sample * FEATURES + channel * PIXELS + pixel] = value
        if passing:
            _restore(i, sample, x, code, last, fresh, kept)
    if passing and len(rows) > 0:
        kept[3][0] = kept[2][first + rows[0]]


@_cached_njit
def features_backward(
    d_out, steps, envs, w, x, code, last, fresh, kept, d_last, d_x, d_w, d_bias, lists, factors
):
    """Adds the gradient of the convolutions to d_w and d_bias, one array per layer.

    Backwards in time, game by game: the gradient of a window that is not fresh waits in its place
    (d_last, d_x) until the step at which the window was computed, and is added up on the way. The
    maps are put back step by step, so that afterwards they are those of the first.

    d_out: (steps * envs * FEATURES,), gradient of the features (maps, height, width); d_last,
    d_x, lists and factors: scratch; the rest: see features.
    """
    for env in range(envs):
        d_last[:] = 0.0
        for layer_d_x in d_x:
            layer_d_x[:] = 0.0
        for step in range(steps - 1, -1, -1):
            sample = step * envs + env
            for pixel in range(PIXELS):
                for channel in range(MAPS):
                    at = sample * FEATURES + channel * PIXELS + pixel
                    d_last[pixel * MAPS + channel] += d_out[at]
            _backward4(
                d_last, 0, LAST_PITCH, code[3], env * CODES[3],
                x[3], env * INPUTS[3], fresh[3], sample * FRESH[3],
                w[3], d_w[3], d_bias[3], d_x[3], lists,
            )  # fmt: skip
            _backward3(
                d_x[3], ORIGINS[3], PITCHES[3], code[2], env * CODES[2],
                x[2], env * INPUTS[2], fresh[2], sample * FRESH[2],
                w[2], d_w[2], d_bias[2], d_x[2], lists,
            )  # fmt: skip
            _backward2(
                d_x[2], ORIGINS[2], PITCHES[2], code[1], env * CODES[1],
                x[1], env * INPUTS[1], fresh[1], sample * FRESH[1],
                w[1], d_w[1], d_bias[1], d_x[1], lists,
            )  # fmt: skip
            _backward1(
                d_x[1], ORIGINS[1], PITCHES[1], code[0], env * CODES[0],
                x[0], sample * INPUTS[0], fresh[0], sample * FRESH[0],
                d_w[0], d_bias[0], factors,
            )  # fmt: skip
            if step > 0:
                _restore(env, sample, x, code, last, fresh, kept)


_products4, _products4_fetch = make_products(4, 4, False), make_products(4, 4, True)
_products1, _products1_fetch = make_products(1, 4, False), make_products(1, 4, True)
_product = make_products(1, 1, False)


@_cached_njit
def add_linear(x, x_at, envs, w, rows, length, out, out_at, pitch):
    """out[out_at + env * pitch + row] += x (envs, length) from x_at on @ w (rows, length).T.

    Few rows of x: w is read from memory once, and that is what takes the time.
    """
    if length % LANES:
        for env in range(envs):
            for row in range(rows):
                total = np.float32(0)
                for i in range(length):
                    total += x[x_at + env * length + i] * w[row * length + i]
                out[out_at + env * pitch + row] += total
        return
    for row in range(0, rows // 4 * 4, 4):
        w_at = row * length
        if envs >= 4:
            _products4_fetch(x, x_at, w, w_at, length, out, out_at + row, pitch)
            first = 4
        else:
            _products1_fetch(x, x_at, w, w_at, length, out, out_at + row, pitch)
            first = 1
        blocks = (envs - first) // 4
        for env in range(first, first + 4 * blocks, 4):
            out_env = out_at + env * pitch + row
            _products4(x, x_at + env * length, w, w_at, length, out, out_env, pitch)
        for env in range(first + 4 * blocks, envs):
            out_env = out_at + env * pitch + row
            _products1(x, x_at + env * length, w, w_at, length, out, out_env, pitch)
    for row in range(rows // 4 * 4, rows):
        for env in range(envs):
            out_env = out_at + env * pitch + row
            _product(x, x_at + env * length, w, row * length, length, out, out_env, pitch)


# ---------------------------------------------------------------------------------------------
# The LSTM and the heads, one step

SPAN = 8 * LANES  # gates whose sums stay in registers
PANEL = 64  # features whose gradient is written together, to use the lines of memory that it moves
AHEAD = 8  # rows of the input weights that are asked for early
_add_span = make_rows(LANES, SPAN // LANES, 1, fetch=AHEAD)
_transpose, _add_transposed = make_transpose(False), make_transpose(True)


def spans(gates: int) -> int:
    """Spans that hold so many gates."""
    return -(-gates // SPAN)


@_cached_njit
def transpose_spans(w, rows, length, out):
    """out [span][length][SPAN] of w (rows, length); what is past the rows stays as it is."""
    for row in range(0, rows, LANES):
        out_at = row // SPAN * SPAN * length + row % SPAN
        if row + LANES <= rows and length % LANES == 0:
            for i in range(0, length, LANES):
                _transpose(w, row * length + i, length, out, out_at + i * SPAN, SPAN)
        else:
            for j in range(row, min(row + LANES, rows)):
                for i in range(length):
                    out[out_at + i * SPAN + j - row] = w[j * length + i]


@intrinsic
def _power_of_two(typing, exponent):
    """2 ** exponent for a whole number from -126 to 127, a float32."""

    def generate(context, builder, signature, args):
        n = builder.add(builder.fptosi(args[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 127))
        return builder.bitcast(builder.shl(n, ir.Constant(ir.IntType(32), 23)), ir.FloatType())

    return types.float32(types.float32), generate


_WHOLE = np.float32(3 << 22)  # a float32 plus and minus this is rounded to a whole number
_PER_LN2 = np.float32(1.44269504)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
# Of exp(r) = 1 + r + r^2 / 2 + ...; |r| is below 0.35.
_EXP2, _EXP3, _EXP4, _EXP5, _EXP6, _EXP7 = (
    np.float32(1 / factorial) for factorial in (2, 6, 24, 120, 720, 5040)
)
_ONE, _TWO = np.float32(1), np.float32(2)


@njit(nogil=True, error_model="numpy")
def _expm1(x):
    """exp(x) - 1 in float32, to its last bits; LLVM makes vectors of it. NaN stays NaN."""
    x = np.float32(88) if x > np.float32(88) else x
    x = np.float32(-80) if x < np.float32(-80) else x
    n = (x * _PER_LN2 + _WHOLE) - _WHOLE
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = _EXP4 + r * (_EXP5 + r * (_EXP6 + r * _EXP7))
    p = r + r * r * (_EXP2 + r * (_EXP3 + r * p))
    scale = _power_of_two(n)
    return scale * p + (scale - _ONE)


@njit(nogil=True, error_model="numpy")
def _sigmoid(x):
    return _ONE / (_TWO + _expm1(-x))


@njit(nogil=True, error_model="numpy")
def _tanh(x):
    e = _expm1(_TWO * abs(x))
    t = e / (e + _TWO)
    t = _ONE if e > np.float32(1e9) else t
    return -t if x < np.float32(0) else t


@_cached_njit
def lstm_step(
    t, envs, hidden, features, hx, cx, w_in, w_hh, bias, heads, heads_bias, kept, scratch, outputs
):
    """Step t of the LSTM and of the heads.

    features: of all samples; hx, cx: (envs * hidden,) before the step; w_in: as transpose_spans
    makes it; bias: (spans * SPAN,); heads, heads_bias: weights of critic and actor.
    kept: the rollout's hx, cx, gates, tanh_cx, out, where step t is written.
    outputs: value (envs,), logit (envs * actions,), the new hx, cx.

    Most features are zero. Those of a game that are not are listed, and only their weights read.
    """
    kept_hx, kept_cx, kept_gates, kept_tanh, kept_out = kept
    gates, offset, factor = scratch  # (envs * spans * SPAN,), 2 * (envs, FEATURES + AHEAD)
    new_hx, new_cx = outputs[2:]
    pitch, lists, at = len(bias), FEATURES + AHEAD, t * envs * hidden
    kept_hx[at : at + envs * hidden] = hx
    kept_cx[at : at + envs * hidden] = cx
    listed = np.zeros(envs, np.int64)
    for env in range(envs):
        gates[env * pitch : (env + 1) * pitch] = bias
        x_at, count = (t * envs + env) * FEATURES, 0
        for i in range(FEATURES):
            x = _get(features, x_at + i)
            _put(offset, env * lists + count, np.int32(i * SPAN))
            _put(factor, env * lists + count, x)
            count += x != np.float32(0)
        listed[env] = count
    for span in range(pitch // SPAN):
        for env in range(envs):
            _add_span(
                gates, env * pitch + span * SPAN, 0, w_in, span * FEATURES * SPAN, 0,
                offset, factor, env * lists, listed[env],
            )  # fmt: skip
    add_linear(kept_hx, at, envs, w_hh, 4 * hidden, hidden, gates, 0, pitch)
    for env in range(envs):
        g, to = env * pitch, 4 * (at + env * hidden)
        for i in range(2 * hidden):
            _put(kept_gates, to + i, _sigmoid(_get(gates, g + i)))
        for i in range(2 * hidden, 3 * hidden):
            _put(kept_gates, to + i, _tanh(_get(gates, g + i)))
        for i in range(3 * hidden, 4 * hidden):
            _put(kept_gates, to + i, _sigmoid(_get(gates, g + i)))
        for i in range(hidden):
            c = _get(kept_gates, to + hidden + i) * _get(cx, env * hidden + i)
            c += _get(kept_gates, to + i) * _get(kept_gates, to + 2 * hidden + i)
            _put(new_cx, env * hidden + i, c)
        for i in range(hidden):
            _put(kept_tanh, at + env * hidden + i, _tanh(_get(new_cx, env * hidden + i)))
        for i in range(hidden):
            h = _get(kept_gates, to + 3 * hidden + i) * _get(kept_tanh, at + env * hidden + i)
            _put(new_hx, env * hidden + i, h)
    kept_out[at : at + envs * hidden] = new_hx
    for i in range(2):
        rows = len(heads_bias[i])
        for env in range(envs):
            outputs[i][env * rows : (env + 1) * rows] = heads_bias[i]
        add_linear(new_hx, 0, envs, heads[i], rows, hidden, outputs[i], 0, rows)


@intrinsic
def _span_backward(
    typing, d, listed, factor, first, count, w, w_at, d_w, d_w_at, d_features, feature
):
    """SPAN gates and one feature: the gradient of its weights, d_w, and of the feature, added to
    d_features[feature + FEATURES * sample].

    listed, factor: from `first` on, the samples in which it is open, and its value there;
    d: (samples, SPAN), gradient of the gates.
    """
    n = types.intp
    signature = types.void(d, listed, factor, n, n, w, n, d_w, n, d_features, n)

    def generate(context, builder, signature, args):
        kinds = signature.args
        d_ptr, listed_ptr, factor_ptr, w_ptr, d_w_ptr, feature_ptr = (
            _vectors(context, builder, kinds[i], args[i], size)
            for i, size in ((0, LANES), (1, 1), (2, 1), (5, LANES), (7, LANES), (9, 1))
        )
        fma = _muladd(builder, LANES)
        parts = range(0, SPAN, LANES)
        weights = [builder.load(w_ptr(builder.add(args[6], _int(i))), align=4) for i in parts]
        sums = [_new_sum(builder, LANES) for _ in parts]
        with cgutils.for_range(builder, args[4]) as loop:
            i = builder.add(args[3], loop.index)
            sample = builder.extract_element(builder.load(listed_ptr(i), align=4), _int(0))
            sample = builder.sext(sample, ir.IntType(64))
            scale = builder.extract_element(builder.load(factor_ptr(i), align=4), _int(0))
            scale = _broadcast(builder, scale, LANES)
            here = builder.mul(sample, _int(SPAN))
            dots = [ir.Constant(scale.type, [0.0] * LANES)] * 2  # so that none waits for the other
            for part, weight, cell in zip(parts, weights, sums, strict=True):
                gates = builder.load(d_ptr(builder.add(here, _int(part))), align=4)
                builder.store(builder.call(fma, [scale, gates, builder.load(cell)]), cell)
                dots = [dots[1], builder.call(fma, [gates, weight, dots[0]])]
            to = builder.add(args[10], builder.mul(sample, _int(FEATURES)))
            _add_to(builder, feature_ptr(to), _sum_of_lanes(builder, builder.fadd(*dots)))
        for part, cell in zip(parts, sums, strict=True):
            to = d_w_ptr(builder.add(args[8], _int(part)))
            builder.store(builder.load(cell), to, align=4)
        return context.get_dummy_value()

    return signature, generate


@_cached_njit
def lstm_input_backward(d_gates, samples, gates, features, w_in, d_w, d_features, scratch):
    """Adds the gradient of the LSTM's input weights to d_w (gates, FEATURES), and writes that of
    the features where they are not zero; through the others none goes on.

    d_gates: (samples * gates,); features, d_features: (samples * FEATURES,); w_in: see lstm_step.
    """
    d, block, counts, listed, factor = scratch  # see network.FastNetwork
    counts[:] = 0
    for sample in range(samples):
        for i in range(FEATURES):
            x, count = _get(features, sample * FEATURES + i), _get(counts, i)
            _put(listed, i * samples + count, np.int32(sample))
            _put(factor, i * samples + count, x)
            _put(counts, i, count + (x != np.float32(0)))
    d_features[: samples * FEATURES] = 0.0
    for gate in range(0, gates, SPAN):
        width = min(SPAN, gates - gate)
        for sample in range(samples):
            for i in range(width):
                _put(d, sample * SPAN + i, _get(d_gates, sample * gates + gate + i))
            for i in range(width, SPAN):
                _put(d, sample * SPAN + i, np.float32(0))
        for feature in range(0, FEATURES, PANEL):
            for i in range(feature, feature + PANEL):
                _span_backward(
                    d, listed, factor, i * samples, counts[i],
                    w_in, gate * FEATURES + i * SPAN, block, (i - feature) * SPAN, d_features, i,
                )  # fmt: skip
            for row in range(0, width // LANES * LANES, LANES):
                to = (gate + row) * FEATURES + feature
                for i in range(0, PANEL, LANES):
                    _add_transposed(block, i * SPAN + row, SPAN, d_w, to + i, FEATURES)
            for row in range(width // LANES * LANES, width):
                for i in range(PANEL):
                    d_w[(gate + row) * FEATURES + feature + i] += block[i * SPAN + row]


@contextlib.contextmanager
def announced(tell: Callable[[str], None]) -> Iterator[None]:
    """Call `tell` with a line if kernels must be compiled, not just loaded, before the first is."""
    if not HAVE_NUMBA:
        yield
        return

    class Notice(event.Listener):
        told = False

        def on_start(self, event):
            if not self.told:
                self.told = True
                kept = features.stats.cache_path is not None
                text = "about half a minute, the first time only"
                tell(f"compiling the kernels; {text if kept else 'no folder can keep them'}")

        def on_end(self, event):
            pass

    with event.install_listener("numba:compile", Notice()):
        yield
