"""Arithmetic on floats, rounded once, as the GPU rounds it.

A result that float32 cannot hold is computed in float64, rounded to odd: the last bit is set when anything was lost.
Such a number has enough bits (53 >= 24 + 2) that rounding it again, in any direction, gives what one rounding of the
exact result gives. For a float64 fma the parts of the exact sum are added in the same way (Boldo and Melquiond 2008),
and numbers near the ends of the range go through Python's fractions. NaNs have NumPy's bits, not the GPU's.
Approximations (ex2.approx and the like) are the correctly rounded results, so they are better than the GPU's.
"""

from fractions import Fraction

import numpy as np

from .closures import Table, elementwise, typed, ufunc
from .moves import bfloat, flush
from .syntax import DTYPES

FLOATS = ("f16", "f16x2", "bf16", "bf16x2", "f32", "f64")
OPERATIONS = Table()
ROUNDINGS = ("rn", "rz", "rm", "rp")
SPLIT = 134217729.0  # 2**27 + 1


def two_sum(a, b):
    """The sum and what it lost."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def odd(value, lost):
    """``value`` rounded to odd, where ``lost`` is what is missing from it."""
    bits = value.view(np.int64)
    even = (lost != 0) & ((bits & 1) == 0) & np.isfinite(value)
    outward = (lost > 0) == (value > 0)
    return (bits + np.where(even, np.where(outward, 1, -1), 0)).view(np.float64)


def odd_sum(a, b):
    return odd(*two_sum(a, b))


def odd_quotient(a, b):
    """a / b to odd; both are exact in float32, so the remainder is exact in float64."""
    value = a / b
    remainder = np.asarray(fma64(-value, b, a))
    lost = np.where(np.isfinite(value), remainder * np.sign(b), 0.0)
    return odd(value, lost)


def odd_root(a):
    value = np.sqrt(a)
    lost = np.where(np.isfinite(value), fma64(-value, value, a), 0.0)
    return odd(value, lost)


def narrow(exact, dtype, rounding="rn"):
    """Round float64 values, which are exact or rounded to odd, to a shorter type."""
    value = exact.astype(dtype)
    if rounding == "rn":
        return value
    wide = value.astype(np.float64)
    too_high, too_low = wide > exact, wide < exact
    down = {"rm": too_high, "rp": False, "rz": too_high & (exact > 0)}[rounding]
    up = {"rm": False, "rp": too_low, "rz": too_low & (exact < 0)}[rounding]
    limit = dtype.type(np.inf)
    return np.where(down, np.nextafter(value, -limit), np.where(up, np.nextafter(value, limit), value))


def two_product(a, b):
    product = a * b
    x, y = a * SPLIT, b * SPLIT
    x, y = x - (x - a), y - (y - b)
    u, v = a - x, b - y
    return product, u * v - (((product - x * y) - u * y) - x * v)


def fma64(a, b, c):
    """float64 fma with one rounding."""
    up, low = two_product(a, b)
    th, tl = two_sum(c, low)
    vh, vl = two_sum(up, th)
    result = vh + odd_sum(tl, vl)
    # The splitting above fails for huge factors, and the products' errors vanish for tiny ones.
    size = np.abs(up)
    most = np.maximum(np.maximum(np.abs(a), np.abs(b)), np.maximum(size, np.abs(c)))
    if not (np.minimum.reduce(size) > 1e-250 and np.maximum.reduce(most) < 1e290):
        bad = ~((size > 1e-250) & (most < 1e290))
        exact_zero = bad & ((a == 0) | (b == 0))  # and a product that is not finite needs no care either
        plain = exact_zero | ~(np.isfinite(a) & np.isfinite(b) & np.isfinite(c))
        result = np.where(plain & bad, up + c, result)
        for i in np.flatnonzero(bad & ~plain):
            exact = Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(c[i]))
            try:
                result[i] = float(exact) or (up[i] + c[i] if exact == 0 else np.copysign(0.0, float(exact > 0) - 0.5))
            except OverflowError:
                result[i] = np.inf if exact > 0 else -np.inf
    return result


def rounding_of(item):
    return next((p for p in item.parts[1:] if p in ROUNDINGS), "rn")


def finished(function, item):
    """``function`` with what the opcode says about subnormals and saturation."""
    ftz, sat, relu = ("ftz" in item.parts), ("sat" in item.parts), ("relu" in item.parts)
    if not (ftz or sat or relu):
        return function

    def run(*arrays):
        result = function(*(flush(a) for a in arrays)) if ftz else function(*arrays)
        result = flush(result) if ftz else result
        if sat:
            result = np.fmin(np.fmax(result, result.dtype.type(0)), result.dtype.type(1))
        return np.maximum(result, result.dtype.type(0)) if relu else result

    return run


def packed(function, kind):
    """``function`` of float16 or of float32 arrays for the formats that NumPy lacks."""
    from .convert import to_bfloat

    if kind == "bf16":
        return lambda *arrays: to_bfloat(function(*(bfloat(a) for a in arrays)))
    if kind in ("f16x2", "bf16x2"):
        half = np.float16 if kind == "f16x2" else np.uint16
        inner = function if kind == "f16x2" else packed(function, "bf16")

        def run(*arrays):
            return inner(*(np.ascontiguousarray(a).view(half) for a in arrays)).astype(half, copy=False).view(np.uint32)

        return run
    return function


def build(program, item, function, compact=False):
    kind = item.parts[-1]
    return typed(program, item, packed(finished(function, item), kind), DTYPES[kind], compact)


def arithmetic(name):
    """add, sub and mul in each rounding."""
    plain = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[name]

    def directed(rounding):
        def run(a, b):
            x, y = a.astype(np.float64), b.astype(np.float64)
            exact = x * y if name == "mul" else odd_sum(x, y if name == "add" else -y)
            return narrow(exact, a.dtype, rounding)

        return run

    def enter(program, item):
        rounding = rounding_of(item)
        if rounding != "rn":
            if item.parts[-1] != "f32":
                raise KeyError(rounding)
            return build(program, item, directed(rounding))
        return build(program, item, plain)

    return enter


OPERATIONS.update({name: arithmetic(name) for name in ("add", "sub", "mul")})


@OPERATIONS.of("fma", "mad")
def fma(program, item):
    rounding, kind = rounding_of(item), item.parts[-1]
    if kind == "f64":
        if rounding != "rn":
            raise KeyError(rounding)
        return build(program, item, fma64, compact=True)

    def function(a, b, c):
        a, b, c = a.astype(np.float64), b.astype(np.float64), c.astype(np.float64)
        return narrow(odd_sum(a * b, c), short, rounding)  # the product is exact

    short = np.dtype(np.float16 if "f16" in kind and kind[0] != "b" else np.float32)
    if kind[0] == "b":  # rounded to odd, the sum goes to bfloat16 in one step
        from .convert import to_bfloat

        def bfloat_fma(a, b, c):
            return to_bfloat(odd_sum(bfloat(a) * np.float64(1) * bfloat(b), bfloat(c).astype(np.float64)))

        if kind == "bf16":
            return typed(program, item, bfloat_fma, DTYPES[kind])

        def pairs(*arrays):
            return bfloat_fma(*(np.ascontiguousarray(a).view(np.uint16) for a in arrays)).view(np.uint32)

        return typed(program, item, pairs, DTYPES[kind])
    return build(program, item, function)


@OPERATIONS.of("neg", "abs")
def sign(program, item):
    return build(program, item, np.negative if item.parts[0] == "neg" else np.abs)


@OPERATIONS.of("min", "max")
def extreme(program, item):
    least = item.parts[0] == "min"
    names = ("minimum", "maximum") if "NaN" in item.parts else ("fmin", "fmax")
    function = getattr(np, names[0 if least else 1])

    def run(a, b):
        # -0 counts as less than +0
        zero = (a == 0) & (b == 0)
        chosen = (np.signbit(a) | np.signbit(b)) if least else (np.signbit(a) & np.signbit(b))
        return np.where(zero, np.where(chosen, -a.dtype.type(0), a.dtype.type(0)), function(a, b))

    return build(program, item, run)


@OPERATIONS.of("div")
def div(program, item):
    return directed_or(program, item, np.divide, odd_quotient)


def directed_or(program, item, plain, exact):
    """``plain`` for rounding to nearest, and for approximations; ``exact`` in float64 for the other directions."""
    rounding = rounding_of(item)
    if rounding == "rn":
        return build(program, item, plain)
    if item.parts[-1] != "f32":
        raise KeyError(rounding)
    return build(program, item, lambda *v: narrow(exact(*(a.astype(np.float64) for a in v)), np.dtype("f4"), rounding))


@OPERATIONS.of("rcp", "rsqrt", "sqrt")
def roots(program, item):
    name, wide = item.parts[0], item.parts[-1] == "f64"
    approximate = "approx" in item.parts
    upper = np.uint64(0xFFFFFFFF00000000)  # approximations of float64 have an upper half only
    if name == "sqrt":
        return directed_or(program, item, np.sqrt, odd_root)

    def function(a):
        x = a.astype(np.float64)
        result = 1 / x if name == "rcp" else 1 / np.sqrt(x)
        if wide and approximate:
            return np.where(np.isfinite(result), (result.view(np.uint64) & upper).view(np.float64), result)
        return result.astype(a.dtype)

    if name == "rcp" and not approximate:
        return directed_or(program, item, lambda a: 1 / a, lambda a: odd_quotient(np.ones_like(a), a))
    return build(program, item, function)


@OPERATIONS.of("ex2", "lg2", "sin", "cos", "tanh")
def approximations(program, item):
    function = {"ex2": np.exp2, "lg2": np.log2, "sin": np.sin, "cos": np.cos, "tanh": np.tanh}[item.parts[0]]

    def run(a):
        return function(a.astype(np.float64)).astype(a.dtype)

    return build(program, item, run)


@OPERATIONS.of("copysign")
def copysign(program, item):
    return typed(program, item, lambda a, b: np.copysign(b, a))


@OPERATIONS.of("testp")
def testp(program, item):
    dtype = DTYPES[item.parts[-1]]
    tiny = np.finfo(dtype).tiny
    tests = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda a: a == a,
        "notanumber": np.isnan,
        "normal": lambda a: np.isfinite(a) & (np.abs(a) >= tiny),
        "subnormal": lambda a: (a != 0) & (np.abs(a) < tiny),
    }
    source, target = program.read(item.operands[1], dtype), program.write(item.operands[0], np.bool_)
    return elementwise(tests[item.parts[1]], target, source)


__all__ = ["FLOATS", "OPERATIONS", "fma64", "narrow", "odd_sum", "ufunc"]
