"""exp of elements of ordinary magnitude in float32, in a few instructions: a power of two, and what is missing.

exp(s y) = 2**u (1 + c) with u on a grid so coarse that differences of two are exact; so

    exp(s (y - y0)) = 2**(u - u0) (1 + c - c0),    u - u0 one subtraction

and whatever an element is compared with, u and c are found once.
"""

from fastce.cuda._kernels.primitives import device, fma, largest, plus, rough_exp2, smallest, to_real

GRID = 192.0  # a number of up to 64 added to it is a multiple of 2**-16 and loses less than half of that
MOST = 16.0  # times ``furthest``, which is some 3,600 binary digits: c**2 is nothing beside 1 up to there


@device
def split_of(like, y, options):
    """(u, c) with exp(s y) = 2**u (1 + c), for finite y."""
    grid = to_real(like, GRID)
    u = plus(fma(y, options.scale, grid), -grid)
    return u, fma(y, options.scale_low, fma(y, options.scale, -u)) * options.ln2


@device
def finite_split_of(like, y, options):
    """The same of any y: 2**u is 0 beside that of ordinary elements where y is -inf."""
    return split_of(like, largest(y, to_real(like, 2.0 * MOST) * options.furthest), options)


@device
def power_of(split, reference):
    """2**(u - reference) (1 + c)."""
    power = rough_exp2(split[0] - reference)
    return fma(power, split[1], power)


@device
def with_power(state, power):
    """(largest power, sum of all others) with one more."""
    return largest(state[0], power), state[1] + smallest(state[0], power)


@device
def is_ordinary(array, top, options):
    """Whether the elements that count are of a size for which `split_of` is exact enough."""
    return abs(top) <= to_real(array, -MOST) * options.furthest
