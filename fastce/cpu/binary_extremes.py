"""Binary cross entropy whose weights, or what they make of large logits, are beyond the range of its kernel.

Every product and every sum is a pair (f, e), standing for f * 2**e, until it is a result: slow, and rarely needed.
"""

import math

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.reductions import product, sum_in_order, sum_of
from fastce.arguments.silence import silently, store
from fastce.cpu.threads import cut_rows, for_each

NOTHING = -20_000  # the exponent of 0
FAR = 600.0  # logits beyond: log1p(e) is e
BYTES_OF_ELEMENT = 256  # of what is computed on the way

Pairs = tuple[Array, Array | int]


def fill_in_pairs(
    logits: Array,
    labels: Array,
    factors: list[Array],
    outputs: list[Array | None],
    n_threads: int | None,
    exponent: int = 0,
) -> tuple[float, int]:
    """Store losses and gradient where there is room for them; the sum of all losses is returned, as a pair.

    ``factors`` are weights, weights of positives and what is above, all in the shape of the logits; the last is still
    to be multiplied by 2**exponent.
    """
    arrays = [array if array.ndim else array.reshape(1) for array in (logits, labels, *factors)]
    rooms = [None if room is None else room if room.ndim else room.reshape(1) for room in outputs]
    rows = len(arrays[0])
    blocks = cut_rows(rows, math.prod(arrays[0].shape[1:]) * BYTES_OF_ELEMENT) if logits.size else []
    sums = [(0.0, 0)] * len(blocks)

    def work(k: int, start: int, stop: int) -> None:
        of_block = [np.array(array[start:stop], np.float64) for array in arrays]
        losses, (fractions, exponents) = silently(_losses_and_gradient, *of_block)
        gradient = fractions, exponents + exponent
        sums[k] = silently(sum_of, losses)
        for room, pairs in zip(rooms, (losses, gradient), strict=True):
            if room is not None:
                store(room, slice(start, stop), silently(np.ldexp, *pairs))

    for_each([(k, *block) for k, block in enumerate(blocks)], work, n_threads)
    return sum_in_order(sums)


def _losses_and_gradient(x: Array, y: Array, weight: Array, positive: Array, above: Array) -> tuple[Pairs, Pairs]:
    size = np.abs(x)
    fractions, exponents = _exp_of_minus(size)
    e = np.where(exponents == 0, fractions, 0.0)
    log = np.where(exponents == 0, np.log1p(e), fractions), exponents
    of_x, of_minus_x = (_plus((np.maximum(signed, 0.0), 0), log) for signed in (x, -x))
    far, near = (fractions / (1.0 + e), exponents), (1.0 / (1.0 + e), np.zeros_like(exponents))
    up, down = (
        tuple(np.where(x > 0.0, *both) for both in zip(*two, strict=True)) for two in ((near, far), (far, near))
    )
    of_positive, of_negative = product(weight, positive, y), product(weight, 1.0 - y)
    losses = _plus(_times(of_positive, of_minus_x), _times(of_negative, of_x))
    gradient = _plus(_times(of_negative, up), _times((-of_positive[0], of_positive[1]), down))
    return losses, _times((above, 0), gradient)


def _exp_of_minus(size: Array) -> Pairs:
    """exp(-size); exponent 0 where that is far from the end of the range, else from its fourth root."""
    fractions, exponents = np.frexp(np.exp(-0.25 * size))
    far = size > FAR
    return np.where(far, fractions**4, np.exp(-size)), np.where(far, 4 * exponents, 0)


def _times(a: Pairs, b: Pairs) -> Pairs:
    """The product of pairs; 0 times anything is 0."""
    (f, e), (g, d) = _split(a), _split(b)
    return np.where((f == 0.0) | (g == 0.0), 0.0, f * g), np.maximum(e + d, NOTHING)


def _plus(a: Pairs, b: Pairs) -> Pairs:
    (f, e), (g, d) = _split(a), _split(b)
    exponents = np.maximum(e, d)
    return np.ldexp(f, e - exponents) + np.ldexp(g, d - exponents), exponents


def _split(pairs: Pairs) -> tuple[Array, Array]:
    fractions, exponents = np.frexp(pairs[0])
    return fractions, np.where(fractions == 0.0, NOTHING, exponents + pairs[1])
