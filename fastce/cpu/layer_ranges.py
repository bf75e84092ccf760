"""How the logits of a linear layer, and their gradients, are kept within the range of float64, whatever its numbers.

Features and weights are divided by powers of two, which the scale of the logits makes good for. The gradient of the
logits is kept near 1: powers of two are taken out of it, and multiplied by when the products with it are there.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.reductions import ROOM, powers_of
from fastce.arguments.silence import quietly, silently
from fastce.arguments.sizes import NOTHING, power_of_largest
from fastce.cpu.call import CrossEntropyCall
from fastce.cpu.index_targets import IndexTargets
from fastce.cpu.targets import TargetRows
from fastce.cpu.threads import cut_rows, for_each

LARGEST_LOGIT, LEAST_LOGIT = 1000, -500  # as powers of two
LARGEST_SCALE, LEAST_SCALE = 1024, -1000
PLAIN_UPSTREAM = 60  # either way
MOST_BEFORE, MOST_OF_Z, LEAST_LSE = 900, 520, 6
LARGEST = {4: 2.0**120, 8: 2.0**1000}  # products, by size of the dtype
LARGEST_SLOPE = float(np.finfo(np.float64).max)
MOST_OF_SIDE = 1000
_ZERO = np.zeros(1, np.int64)


class LayerRange(NamedTuple):
    """What a layer is computed with: its left and right features are divided by powers of two."""

    dtype: np.dtype[Any]
    scale: float  # of the logits
    given_scale: float
    missing: int  # the power of two that the scale has no room for
    left_power: int
    right_power: int
    left_unit: int  # by whose powers of two they are divided where slopes are multiplied with them
    right_unit: int
    of_logits: int  # the power of two that none of them reaches
    is_plain: bool  # nothing comes near the end of the range

    @classmethod
    def plain(cls, dtype: np.dtype[Any], scale: float) -> "LayerRange":
        """That of numbers which float32, or float64, is good for."""
        return cls(dtype, scale, scale, 0, 0, 0, 0, 0, 0, is_plain=True)

    @classmethod
    def of(cls, parts: Iterable[Array], right: Array, bias: Array | None, scale: float) -> "LayerRange":
        """That of any numbers, in float64, of which the left ones come in parts."""
        of_left = power_of_largest(np, parts)
        of_right = power_of_largest(np, _parts(right))
        left_unit, right_unit = (0 if power == NOTHING else _within_sides(power) for power in (of_left, of_right))
        if of_left == NOTHING:  # all products are 0: the other side may have the size that suits it
            of_left = -of_right
        elif of_right == NOTHING:
            of_right = -of_left
        of_products = of_left + of_right + math.frexp(right.shape[1])[1]
        if bias is not None:
            of_products = max(of_products, power_of_largest(np, [bias])) + 1
        excess = of_products - min(max(of_products, LEAST_LOGIT), LARGEST_LOGIT)
        left_power = (of_left - of_right + excess) // 2  # so that both sides are about the same
        left_power = _within_sides(left_power)
        fraction, own = math.frexp(scale)
        of_scale = min(max(own + excess, LEAST_SCALE), LARGEST_SCALE)
        return cls(
            np.dtype(np.float64), math.ldexp(fraction, of_scale), scale, max(own + excess - of_scale, 0), left_power,
            excess - left_power, left_unit, right_unit, own + of_products, is_plain=False,
        )  # fmt: skip

    @property
    def power_of_scale(self) -> int:
        """By whose power of two the scale differs from the given one."""
        return math.frexp(self.scale)[1] - math.frexp(self.given_scale)[1]

    def add_missing(self, logits: Array) -> None:
        """Multiply the rows that have room for what is missing; any difference in the others is infinite anyway."""
        if self.missing > 0:
            fits = np.abs(logits).max(axis=1, initial=0.0) < 2.0 ** (LARGEST_SCALE - 1 - self.missing)
            logits[fits] = np.ldexp(logits[fits], self.missing)


class Sizes(NamedTuple):
    """The sizes of the largest numbers of a layer; what is not a number will show."""

    left: float
    right: float
    products: float  # and sums of a bias with them

    @classmethod
    def of(cls, parts: Iterable[Array], weight: Array, bias: Array | None, n_threads: int | None) -> "Sizes":
        """Those of these parts of features, weights and bias."""
        left, right = max((_largest(part, n_threads) for part in parts), default=0.0), _largest(weight, n_threads)
        of_bias = 0.0 if bias is None else _largest(bias[np.isfinite(bias), None], n_threads)
        return cls(left, right, left * right * weight.shape[1] + of_bias)

    def fit(self, dtype: np.dtype[Any]) -> bool:
        """Whether products, and any terms of them, stay within the range of this dtype."""
        return self.products < LARGEST[dtype.itemsize]

    def fit_slopes(self, targets: TargetRows, scale: float, upstream: Array, dtype: np.dtype[Any]) -> bool:
        """Whether the gradient of logits, and products with it, do."""
        of_upstream = _power(upstream)
        power = of_upstream + _power(targets.per_class) + _power(targets.per_row) + math.log2(scale)
        largest = math.log2(max(self.left, self.right, 1.0)) + max(power, 0.0)
        return abs(of_upstream) <= PLAIN_UPSTREAM and largest < math.log2(LARGEST[dtype.itemsize])


def _within_sides(power: int) -> int:
    return min(max(power, -MOST_OF_SIDE), MOST_OF_SIDE)


def _parts(matrix: Array) -> Iterable[Array]:
    return (matrix[start:stop] for start, stop in cut_rows(len(matrix), matrix.shape[1] * matrix.itemsize))


def _largest(matrix: Array, n_threads: int | None) -> float:
    """The size of the largest element, read once."""
    blocks = cut_rows(len(matrix), matrix.shape[1] * matrix.itemsize)
    largest = np.zeros(len(blocks))

    def work(k: int, start: int, stop: int) -> None:
        extrema = (f.reduce(matrix[start:stop], axis=None, initial=0) for f in (np.fmax, np.fmin))
        largest[k] = max(abs(float(extremum)) for extremum in extrema)

    for_each([(k, *block) for k, block in enumerate(blocks)], work, n_threads)
    return float(largest.max(initial=0.0))


class Slopes(NamedTuple):
    """The gradient of logits, each row times 2**-rest: about 1 and less where anything is extreme.

    A kernel multiplies by the upstream, all weights and the scale of the logits; powers of two of these are taken out,
    as many as float64 has room for before (of the upstream) and the others after it: of each row its own, which may be
    as little beside others as it likes. All arrays have one number for all rows, or one for each.
    """

    upstream: Array
    shift: Array
    rest: Array
    unit: int  # the largest rest

    @classmethod
    def of(
        cls,
        described: CrossEntropyCall,
        within: LayerRange,
        upstream: Array,
        exponent: int,
        counted: Array | None,
    ) -> "Slopes":
        """Those of a call, computed within this range; the upstream is still to be multiplied by 2**exponent."""
        if within.is_plain:
            return cls(upstream, _ZERO, _ZERO, 0)
        targets, options = described.targets, described.options
        of_rows = _powers_of_masses(targets)
        if options.z_loss > 0.0:
            of_cap = math.frexp(options.softcap)[1] if options.softcap > 0.0 else within.of_logits
            of_lse = min(max(within.of_logits, LEAST_LSE), of_cap)  # not all rows reach it, and these keep their digits
            of_rows = np.maximum(of_rows, min(math.frexp(options.z_loss)[1] + of_lse, MOST_OF_Z))
        of_upstream = _powers(upstream)
        if targets.per_row is not None:
            of_rows = of_rows + _powers(targets.per_row)
        of_scale, own = math.frexp(within.scale)[1], math.frexp(within.given_scale)[1]
        before = np.clip(of_scale + of_rows, -MOST_BEFORE, MOST_BEFORE)
        rest = own + of_upstream + of_rows + ROOM + exponent
        some = rest if counted is None or rest.size == 1 else rest[counted]
        return cls(
            silently(np.ldexp, upstream, -of_upstream - before),
            np.atleast_1d(before - of_scale - of_rows - ROOM),
            rest,
            int(some.max(initial=-(1 << 20))),
        )

    def above(self, rows: slice | Array) -> Array | float:
        """What the gradient of these rows is multiplied by in the kernel."""
        return self.upstream[rows] if self.upstream.size > 1 else float(self.upstream[0])

    def missing_of(self, rows: slice | Array) -> Array:
        """The powers of two that the gradients of these rows, as they come from the kernel, are to be multiplied by."""
        powers = self.shift + self.rest
        return powers[rows] if powers.size > 1 else powers

    def rest_of(self, rows: slice | Array) -> Array | int:
        """The rest of these rows, as a column, or the one that all have."""
        return self.rest[rows][:, None] if self.rest.size > 1 else int(self.rest[0])

    def shrink(self, slopes: Array, rows: slice | Array, n_threads: int | None) -> None:
        """Take out of these rows that have come from a kernel what is left to be; none is infinite, to be 0 times 0."""
        if not self.shift.any():
            return
        shift = (self.shift[rows] if self.shift.size > 1 else self.shift)[:, None]
        shift = np.broadcast_to(shift, (len(slopes), 1))

        @quietly()
        def work(start: int, stop: int) -> None:
            here = slopes[start:stop]
            np.ldexp(np.clip(here, -LARGEST_SLOPE, LARGEST_SLOPE, out=here), shift[start:stop], out=here)

        for_each(cut_rows(len(slopes), slopes.shape[1] * slopes.itemsize), work, n_threads)


def _powers_of_masses(targets: TargetRows) -> Any:
    """The power of two of the largest class weight that a row has to do with, for all rows or for each."""
    if targets.per_class is None or not isinstance(targets, IndexTargets) or targets.smoothed:
        return _power(targets.per_class)
    return _powers(targets.per_class[targets.picked(slice(0, targets.indices.size))[0]])


def _powers(factors: Array) -> Array:
    """The power of two of each of these."""
    return np.where(factors == 0.0, NOTHING, np.frexp(factors)[1])


def _power(factors: Array | None) -> int:
    """The power of two of the largest of these."""
    high = powers_of(factors)[1]
    return math.ceil(high) if math.isfinite(high) else 0
