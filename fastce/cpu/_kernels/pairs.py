"""Numbers beyond float64's range: a pair (f, e) stands for f 2**e."""

import math

from fastce.cpu._vectors.compiler import inline, outlined

NOTHING = -10_000  # the exponent of 0


@outlined
def pair(x):
    """(f, e) with x = f 2**e and 1/2 <= |f| < 1."""
    if x == 0.0 or not math.isfinite(x):
        return x, NOTHING if x == 0.0 else 0
    f, e = math.frexp(x)
    return f, int(e)


@inline
def with_power(x, e):
    """x 2**e as a pair."""
    f, more = pair(x)
    return f, max(e + more, NOTHING)


@inline
def times(a, b):
    """The product of two pairs."""
    return with_power(a[0] * b[0], a[1] + b[1])


@inline
def plus(a, b):
    """The sum of two pairs."""
    e = max(a[1], b[1])
    return with_power(in_units(a, e) + in_units(b, e), e)


@outlined
def in_units(a, e):
    """The pair as a number of units of 2**e: 0 or infinite beyond float64."""
    return math.ldexp(a[0], min(max(a[1] - e, -3000), 3000))
