"""Single elements, arithmetic and threads, as compiled code: see `fastce.cuda._kernels.primitives`."""

import numpy as np
from llvmlite import ir
from numba import cuda
from numba.cuda import cgutils, types
from numba.cuda.extending import intrinsic

from fastce.cuda._kernels.emit import (
    DOUBLE,
    FLOAT,
    INDEX,
    address_of,
    bits_of,
    element_of,
    extreme,
    int64_arg,
    lane_count,
    pointer_to,
    ptx,
    real_of,
    real_type,
)
from fastce.cuda._kernels.entries import Kernel


def device(function):
    """A function of kernels, inlined."""
    return cuda.jit(device=True, forceinline=True)(function)


def kernel(*bounds):
    """A kernel for blocks of so many threads, of which so many are to fit a multiprocessor."""
    return lambda function: Kernel(function, bounds)


@intrinsic
def lanes_of(typingctx, array):
    """Elements of a chunk."""

    def generate(context, builder, signature, args):
        return ir.Constant(INDEX, lane_count(array))

    return types.int64(array), generate


@intrinsic
def to_real(typingctx, array, value):
    """A number in the dtype that elements of this array are computed in."""
    real = real_type(array)

    def generate(context, builder, signature, args):
        return context.cast(builder, args[1], value, real)

    return real(array, value), generate


# --- single elements -------------------------------------------------------------------------------------------------


@intrinsic
def load_real(typingctx, array, k):
    """Element k of the array, as a real, loaded here: before anything that is stored further down."""

    def generate(context, builder, signature, args):
        address = address_of(context, builder, array, args[0], int64_arg(context, builder, signature, args, 1))
        bits, letter = bits_of(array), {16: "h", 32: "r", 64: "l"}[bits_of(array)]
        element = ptx(builder, ir.IntType(bits), f"ld.global.b{bits} $0, [$1];", f"={letter},l,~{{memory}}", [address])
        return real_of(builder, array.dtype, element)

    return real_type(array)(array, k), generate


@intrinsic
def store_real(typingctx, array, k, value):
    """Store a number as element k of the array, rounded to its dtype."""

    def generate(context, builder, signature, args):
        pointer = pointer_to(context, builder, array, args[0], int64_arg(context, builder, signature, args, 1))
        builder.store(
            element_of(builder, array.dtype, context.cast(builder, args[2], value, real_type(array))), pointer
        )
        return context.get_dummy_value()

    return types.void(array, k, value), generate


@intrinsic
def load_fresh(typingctx, array, k):
    """Element k as other blocks have left it, and after it all that they wrote before."""

    def generate(context, builder, signature, args):
        address = address_of(context, builder, array, args[0], int64_arg(context, builder, signature, args, 1))
        bits, letter = bits_of(array), "r" if bits_of(array) == 32 else "l"
        code = f"ld.acquire.gpu.global.b{bits} $0, [$1];"
        element = ptx(builder, ir.IntType(bits), code, f"={letter},l,~{{memory}}", [address])
        return builder.bitcast(element, context.get_value_type(array.dtype))

    return array.dtype(array, k), generate


def _counted(order):
    """Add to a counter of all blocks; returns what it was before."""

    @intrinsic
    def counted(typingctx, counters, k, more):
        def generate(context, builder, signature, args):
            address = address_of(context, builder, counters, args[0], int64_arg(context, builder, signature, args, 1))
            code = f"atom.{order}.gpu.global.add.u32 $0, [$1], $2;"
            added = context.cast(builder, args[2], more, types.int32)
            return ptx(builder, ir.IntType(32), code, "=r,l,r,~{memory}", [address, added])

        return types.int32(counters, k, more), generate

    return counted


count_released = _counted("release")  # whose thread has written what others know who acquire what the counter is then
count_both_ways = _counted("acq_rel")  # and knows itself what others had written who counted before


# --- arithmetic ------------------------------------------------------------------------------------------------------


def _power_of_two(instruction):
    @intrinsic
    def power(typingctx, x):
        def generate(context, builder, signature, args):
            if x == types.float32:
                return ptx(builder, FLOAT, f"{instruction} $0, $1;", "=f,f", [args[0]], stays=False)
            kind = ir.FunctionType(DOUBLE, [DOUBLE])
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, "__nv_exp2"), args)

        return x(x), generate

    return power


exp2 = _power_of_two("ex2.approx.f32")  # within 2 ulp; float64 within 1 ulp
rough_exp2 = _power_of_two("ex2.approx.ftz.f32")  # in one instruction, for which subnormal results are 0


@intrinsic
def rough_reciprocal(typingctx, x):
    """1 / x within an ulp, of a normal number of float32 that is not huge."""

    def generate(context, builder, signature, args):
        return ptx(builder, FLOAT, "rcp.approx.ftz.f32 $0, $1;", "=f,f", [args[0]], stays=False)

    return x(x), generate


def _extreme(instruction):
    @intrinsic
    def chosen(typingctx, a, b):
        def generate(context, builder, signature, args):
            return extreme(builder, instruction, *args)

        return a(a, a), generate

    return chosen


largest = _extreme("max")
smallest = _extreme("min")


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c, rounded once."""

    def generate(context, builder, signature, args):
        return builder.fma(*args)

    return a(a, a, a), generate


@intrinsic
def plus(typingctx, a, b):
    """a + b, rounded for itself: not as a part of an fma."""

    def generate(context, builder, signature, args):
        letter, bits = {types.float32: ("f", 32), types.float64: ("d", 64)}[a]
        return ptx(
            builder, args[0].type, f"add.rn.f{bits} $0, $1, $2;", f"={letter},{letter},{letter}", args, stays=False
        )

    return a(a, a), generate


@intrinsic
def found_here(typingctx, x):
    """x, computed here: not in each branch below that has use for it."""

    def generate(context, builder, signature, args):
        letter = {types.float32: "f", types.float64: "d", types.uint32: "r"}[x]
        return ptx(builder, args[0].type, f"mov.b{x.bitwidth} $0, $1;", f"={letter},{letter}", args)

    return x(x), generate


# --- threads ---------------------------------------------------------------------------------------------------------


@device
def pause():
    """Let others go first."""
    cuda.nanosleep(np.uint32(64))


@device
def from_lane(value, distance):
    """The value of the thread of the warp whose number differs in these bits; all threads of the warp ask at once."""
    return cuda.shfl_xor_sync(0xFFFFFFFF, value, distance)


@device
def of_lane(value, lane):
    """The value of this thread of the warp; all of them ask at once."""
    return cuda.shfl_sync(0xFFFFFFFF, value, lane)
