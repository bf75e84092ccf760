"""Binary cross entropy, element by element, of arrays of any strides.

With e = exp(-|x|), softplus(x) = max(x, 0) + log1p(e), and sigmoid(|x|) = 1 / (1 + e); with the masses a = w p y of the
positive class and b = w (1 - y) of the negative one,

    loss = a max(-x, 0) + b max(x, 0) + (a + b) log1p(e),   gradient = b sigmoid(x) - a sigmoid(-x)

Masses are of float64, and so is what they make of e. Where elements are computed in float64, too, e is a square: a mass
may make a normal number of what is below all numbers.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from fastce.cuda._kernels.jobs import FACTOR, IS_BAD, SHARE
from fastce.cuda._kernels.likelihood import product_of
from fastce.cuda._kernels.places import place_by
from fastce.cuda._kernels.primitives import device, kernel, load_real, store_real
from fastce.cuda._kernels.states import MOST_WARPS, exp_of
from fastce.cuda._kernels.sums import sum_of_block

THREADS = 256
ALONE = 2.0**-64  # log1p(e) is e below


class Places(NamedTuple):
    """Where the elements of each array are: its first one's number, and the steps along all axes."""

    logits: Any
    labels: Any
    weight: Any
    pos_weight: Any
    above: Any
    losses: Any
    out: Any


@device
def times(mass, value):
    """Their product; no mass of anything is 0."""
    return 0.0 if mass == 0.0 else mass * value


@functools.cache
def powers_by(is_wide: bool):
    """(h, e): e = exp(-|x|) in float64, and its square root where that is needed."""

    @device
    def square_and_root(x, options):
        h = exp_of(-0.5 * abs(x), options.zero, options)
        return h, h * h

    @device
    def rounded(x, options):
        return 1.0, np.float64(exp_of(-abs(x), options.zero, options))

    return square_and_root if is_wide else rounded


@functools.cache
def faint_by(is_wide: bool):
    """A mass times e."""

    @device
    def by_root(mass, h, e):
        return times(mass, h) * h

    @device
    def by_itself(mass, h, e):
        return times(mass, e)

    return by_root if is_wide else by_itself


@functools.cache
def binary_kernel(axes: int, is_wide: bool):
    """Losses, or what blocks of them add up to, and gradients; an array that is empty is not wanted."""
    place_of, powers_of, faint = place_by(axes), powers_by(is_wide), faint_by(is_wide)
    real = np.float64 if is_wide else np.float32

    @device
    def number_or(numbers, k, shape, steps, number):
        return numbers[place_of(k, shape, steps)] if numbers.size > 0 else number

    @device
    def loss_of(x, a, b, h, e):
        tail = faint(a + b, h, e) if e < ALONE else times(a + b, np.float64(math.log1p(real(e))))
        return times(a, max(-x, 0.0)) + times(b, max(x, 0.0)) + tail

    @device
    def slope_of(x, a, b, h, e):
        far, near = (b, a) if x < 0.0 else (a, b)
        slope = (times(near, 1.0) - faint(far, h, e)) / (1.0 + e)
        return -slope if x < 0.0 else slope

    @kernel(THREADS, 2 if is_wide else 4)
    def binary(
        logits, labels, weight, pos_weight, above, losses, out, places, shape, count, weight_of_all,
        pos_weight_of_all, options, report, totals,
    ):  # fmt: skip
        if report[IS_BAD] > 0.0:
            return
        board = cuda.shared.array(MOST_WARPS, np.float64)
        total, shares = 0.0, 0.0
        for k in range(cuda.grid(1), count, cuda.gridsize(1)):
            x = real(load_real(logits, place_of(k, shape, places.logits)))
            y = np.float64(load_real(labels, place_of(k, shape, places.labels)))
            w = number_or(weight, k, shape, places.weight, weight_of_all)
            p = number_or(pos_weight, k, shape, places.pos_weight, pos_weight_of_all)
            a, b = product_of(w, p, y), w * (1.0 - y)
            if a == 0.0 and b == 0.0:
                x = options.zero  # which does not matter
            h, e = powers_of(x, options)
            wide = np.float64(x)
            loss = loss_of(wide, a, b, h, e)
            total += loss
            shares += report[SHARE] * loss
            if losses.size > 0:
                store_real(losses, place_of(k, shape, places.losses), loss)
            if out.size > 0:
                upstream = report[FACTOR] * number_or(above, k, shape, places.above, 1.0)
                store_real(out, place_of(k, shape, places.out), times(slope_of(wide, a, b, h, e), upstream))
        if totals.size > 0:
            total, shares = sum_of_block(total, board), sum_of_block(shares, board)
            if cuda.threadIdx.x == 0:
                totals[cuda.blockIdx.x], totals[cuda.gridDim.x + cuda.blockIdx.x] = total, shares

    return binary
