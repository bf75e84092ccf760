"""How features, their products and the scale of these are kept within the range of what they are computed in.

Powers of two change no digit: features x are multiplied as x 2**-power, and the scale makes good for it, where products
would overflow float64, or be none of its normal numbers. Where the scale would take gradients that are still to be
added up to either end of the range, they are added up without it, and multiplied in the end.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.numbers import flag
from fastce.arguments.silence import quietly
from fastce.arguments.sizes import NOTHING, largest_finite, power_of_largest
from fastce.products.engine import Engine
from fastce.products.features import NO_REST

LARGEST_LOGIT, LARGEST_PRODUCT = 2.0**20, 2.0**100  # that are computed in float32
LEAST_SCALE = 2.0**-60  # by which gradients of float32 are multiplied
LEAST_PRODUCT = 2.0**-80  # of features with each other and with the scale, likewise
LARGEST_POWER, LEAST_POWER = 900, -500  # of products, and gradients, in float64
LEAST_OF_SIDE, MOST_OF_SIDE = -800, 1000  # of features, and what they are divided by for the sake of the other side
SMALLEST_SCALE, LARGEST_SCALE = 5e-324, float(np.finfo(np.float64).max)
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
SCALE_POWERS = (-800, 450)  # that gradients may be multiplied by before they are added up


class Range(NamedTuple):
    """What a loss from features is computed with."""

    dtype: np.dtype[Any]
    given_scale: float
    scale: float  # of the products of features divided by their powers
    left_power: int
    right_power: int
    is_plain: bool  # nothing comes near the end of the range

    @property
    def factor(self) -> float:
        """What gradients are multiplied by before they are added up."""
        return self.scale if self.is_plain else 1.0

    @property
    def rest_of_left(self) -> tuple[float, int]:
        """(f, e): what the sums of gradients of the left features have still to be multiplied by is f * 2**e."""
        return self._rest(self.right_power)

    @property
    def rest_of_right(self) -> tuple[float, int]:
        """That of the right ones."""
        return self._rest(self.left_power)

    def _rest(self, power: int) -> tuple[float, int]:
        if self.is_plain:
            return NO_REST
        fraction, own = math.frexp(self.given_scale)
        return fraction, own + power

    def of_scale(self, along: float) -> float:
        """The gradient of the scale that was given, from the sum of all features times the sums of gradients."""
        return along / self.scale if self.is_plain else _times_power(along, self.left_power + self.right_power)

    def of_temperature(self, along: float) -> float:
        """That of the temperature 1 / scale."""
        if self.is_plain:
            return -self.scale * along
        fraction, power = math.frexp(self.given_scale)
        return _times_power(-fraction * fraction * along, 2 * power + self.left_power + self.right_power)


def _times_power(x: float, power: int) -> float:
    """The product x 2**power, however far it reaches."""
    with quietly():
        return float(np.ldexp(x, power))


class Size(NamedTuple):
    """What the range of products depends on, of an array or of a part of it."""

    dtype: np.dtype[Any]  # that it is computed in
    square: float  # the largest squared length of a row, which matters in float32
    power: int  # that of two above all elements, which matters in float64

    @classmethod
    def of(cls, engine: Engine, array: Any, normalize: bool) -> "Size":
        """That of an array, whose rows may be normalized."""
        dtype = engine.dtype_of(array)
        if normalize:
            return cls(dtype, 1.0, 0)
        if dtype == np.float64:
            return cls(dtype, 0.0, _power_of(engine, array))
        return cls(dtype, _largest_square(engine, array), 128)

    @classmethod
    def of_whole(cls, parts: "Sequence[Size]") -> "Size":
        """That of an array from those of its parts."""
        return cls(parts[0].dtype, max(part.square for part in parts), max(part.power for part in parts))


def range_of(
    engine: Engine, left: Sequence[Any], right: Sequence[Any], scale: float, bias: float = 0.0, normalize: bool = False
) -> Range:
    """The range for products of the left arrays with the right ones, which may be the same."""
    normalize = flag(normalize, "normalize")
    of_left = [Size.of(engine, array, normalize) for array in left]
    of_right = of_left if left is right else [Size.of(engine, array, normalize) for array in right]
    return range_of_sizes(of_left, of_right, left[0].shape[1], scale, bias)


def range_of_sizes(left: Sequence[Size], right: Sequence[Size], width: int, scale: float, bias: float = 0.0) -> Range:
    """The range for products of arrays of these sizes."""
    dtype = _dtype_of_sizes(left if left is right else [*left, *right], scale, bias)
    if dtype != np.float64:
        return Range(dtype, scale, scale, 0, 0, is_plain=True)
    of_left, of_right = _power_of_side(left), _power_of_side(right)
    of_products = of_left + of_right + math.frexp(width)[1]
    powers = _powers(of_left, of_right, of_products - min(max(of_products, LEAST_POWER), LARGEST_POWER))
    if left is not right:
        powers = _balanced(of_left, of_right, *powers)
    moved = min(max(_times_power(scale, sum(powers)), SMALLEST_SCALE), LARGEST_SCALE)
    own = math.frexp(scale)[1]
    with_scale = [own + power for power in (of_left, of_right, of_products)]
    is_plain = powers == (0, 0) and SCALE_POWERS[0] <= min(own, *with_scale)
    is_plain = is_plain and own <= SCALE_POWERS[1] and max(with_scale) <= LARGEST_POWER
    return Range(dtype, scale, moved, *powers, is_plain)


def dtype_of_products(engine: Engine, arrays: Sequence[Any]) -> np.dtype[Any]:
    """What losses of products of these are computed in: float32, or float64 if anything is that."""
    return np.result_type(*map(engine.dtype_of, arrays))


def _dtype_of_sizes(sizes: Sequence[Size], scale: float, bias: float) -> np.dtype[Any]:
    """What products of arrays of these sizes, and with the scale, are computed in.

    Also float64 if float32 does not hold the scale, or logits so large that the rounding of a product would tell, or
    products so small that it has no digits for them, of which gradients of the scale are made.
    """
    dtype = np.result_type(*(size.dtype for size in sizes))
    if dtype == np.float64 or fits_float32([size.square for size in sizes], scale, bias):
        return dtype
    return np.dtype(np.float64)


def fits_float32(squares: Sequence[float], scale: float, bias: float = 0.0) -> bool:
    """Whether float32 will do, by the largest squared lengths of rows, for the reasons above."""
    some = [square for square in squares if square > 0.0]
    largest, least = max(some, default=0.0), min(some, default=1.0)
    holds = LEAST_SCALE <= scale <= LARGEST_FLOAT32 and largest < LARGEST_PRODUCT
    holds = holds and math.sqrt(least) * min(math.sqrt(least), scale) >= LEAST_PRODUCT
    return holds and scale * largest + abs(bias) < LARGEST_LOGIT


def _largest_square(engine: Engine, array: Any) -> float:
    """The largest squared length of a row, of those that have one: no product is larger."""
    largest = engine.largest_square(array)
    if largest is not None:
        return largest
    blocks = engine.cuts(array.shape[0], array.shape[1] * 8)
    rows = (engine.reals(array, slice(*block), np.dtype(np.float64)) for block in blocks)
    with quietly():
        return largest_finite(engine.xp, (engine.xp.einsum("ij,ij->i", x, x) for x in rows))


def _powers(of_left: int, of_right: int, excess: int) -> tuple[int, int]:
    """By which powers of two the features of both sides are divided: the larger ones first, the same by the same."""
    if excess < 0:
        power, other = _powers(-of_left, -of_right, -excess)
        return -power, -other
    power = min(max((excess + 1 + of_left - of_right) // 2, 0), excess)
    return power, max(excess - power, power if of_left == of_right else 0)


def _balanced(of_left: int, of_right: int, left: int, right: int) -> tuple[int, int]:
    """The same powers, more of one side and less of the other where a side would have less than all digits."""
    if min(of_left - left, of_right - right) >= LEAST_OF_SIDE:
        return left, right
    shift = (of_left - left - of_right + right) // 2
    shift = min(max(shift, -MOST_OF_SIDE), MOST_OF_SIDE)
    return left + shift, right - shift


def _power_of_side(sizes: Sequence[Size]) -> int:
    """That of the largest element of all; arrays of zeros, or of nothing, have no say."""
    return max((size.power for size in sizes if size.power > NOTHING), default=0)


def _power_of(engine: Engine, array: Any) -> int:
    """The power of two above all finite elements of an array of float64."""
    wide, (rows, width) = np.dtype(np.float64), array.shape
    blocks = engine.cuts(rows, width * 8)
    return power_of_largest(engine.xp, (engine.reals(array, slice(*block), wide) for block in blocks))
