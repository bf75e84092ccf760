"""The sums of whole vectors of a row: of exp, of distances from the reference, and of exp times those from a target.

Distances that are multiplied by exp are what derivatives by a scale are made of; see slope_products.py.
"""

import math

from fastce.cpu._vectors.compiler import inline
from fastce.cpu._vectors.exponential import exp, least_argument
from fastce.cpu._vectors.lanes import has_32_registers, lesser_and_top, where_lane
from fastce.cpu._vectors.memory import elements_ahead, lanes_of, load, load_first, prefetch, store, to_real
from fastce.cpu._vectors.simd import fma, where_less
from fastce.cpu._vectors.wide import add_wide


@inline
def exp_held_back(x, tops, exp_tops, exponent, scaled_by, in_place):
    """(exp of x, what is added for it, tops, exp_tops): each lane holds the largest of them back.

    Where exps may be kept, that of x itself must be known, in its place. Elsewhere exp of the lesser is all, one
    instruction less.
    """
    if in_place:
        e = exp(x, exponent, scaled_by)
        lesser, exp_tops = lesser_and_top(e, exp_tops)
        return e, lesser, where_less(tops, x, x, tops), exp_tops
    lesser, tops = lesser_and_top(x, tops)
    e = exp(lesser, exponent, scaled_by)
    return e, e, tops, exp_tops


@inline
def add_stretch(block, start, stop, sums, is_smoothed, exponent, near, scaled_by, kept):
    """(exps, distances, products, tops) with these whole vectors added, as `add_wide` adds.

    Summed are exp(scale x) / 2**exponent, x - near, and products of exp and x - x_target. What a lane holds back is in
    none of the sums of exp yet: beside a term that dominates, the others would lose their digits. As many vectors as a
    vector has lanes are added in the row's dtype, their sum in float64 (compensated, for float64): the error stays that
    of a single exp at any length. Distances, which only smoothing asks for, are added beside them with 32 registers:
    memory goes on sending meanwhile. With 16 there are enough for one of the two, and distances are a loop of their own
    over what is in the cache by then.
    """
    size = 2 * lanes_of(block) * lanes_of(block)
    for chunk in range(start, stop, size):
        end = min(chunk + size, stop)
        if is_smoothed and has_32_registers():
            sums = add_exps(block, chunk, end, sums, exponent, near, scaled_by, kept, True)
        else:
            sums = add_exps(block, chunk, end, sums, exponent, near, scaled_by, kept, False)
            if is_smoothed:
                sums = sums[0], add_distances(block, chunk, end, sums[1], near), sums[2], sums[3]
    return sums


@inline
def add_exps(block, start, stop, sums, exponent, near, scaled_by, kept, with_distances):
    """``sums`` with those of a chunk, without the lanes' largest elements; all exps are kept, if that is wanted."""
    if kept[1]:
        return add_chunk(block, start, stop, sums, exponent, near, scaled_by, kept, True, with_distances, False)
    if kept[3]:
        return add_chunk(block, start, stop, sums, exponent, near, scaled_by, kept, False, with_distances, True)
    return add_chunk(block, start, stop, sums, exponent, near, scaled_by, kept, False, with_distances, False)


@inline
def add_chunk(block, start, stop, sums, exponent, near, scaled_by, kept, is_kept, with_distances, with_products):
    """The same, in a loop that knows which it is."""
    exps, distances, products, tops = sums
    how = exponent, near, scaled_by, kept, is_kept, with_distances, with_products
    lanes = lanes_of(block)
    zero = load_first(block, start, 0, to_real(block, 0.0))
    of_a, of_b = (zero, zero, zero), (zero, zero, zero)
    held_back = tops, exp(tops, exponent, scaled_by)
    pairs_end = stop - (stop - start) % (2 * lanes)
    for i in range(start, pairs_end, 2 * lanes):
        prefetch(block, i + elements_ahead(block))
        prefetch(block, i + lanes + elements_ahead(block))
        of_a, held_back = add_whole(block, i, of_a, held_back, how)
        of_b, held_back = add_whole(block, i + lanes, of_b, held_back, how)
    if pairs_end < stop:
        of_a, held_back = add_whole(block, pairs_end, of_a, held_back, how)
    if with_distances:
        distances = add_wide(distances, of_a[1] + of_b[1])
    if with_products:
        products = add_wide(products, of_a[2] + of_b[2])
    return add_wide(exps, of_a[0] + of_b[0]), distances, products, held_back[0]


@inline
def add_whole(block, i, sums, held_back, how):
    """(exps, distances, products) and (tops, their exps) with a whole vector."""
    exponent, near, scaled_by, kept, is_kept, with_distances, with_products = how
    (exps, distances, products), (tops, exp_tops), x = sums, held_back, load(block, i)
    e, lesser, new_tops, exp_tops = exp_held_back(x, tops, exp_tops, exponent, scaled_by, kept[2])
    if is_kept:
        store(kept[0], i, e)
    if with_distances:
        distances = distances + (x - near)
    if with_products:
        products = fma(lesser, distance_of_lesser(x, tops, exponent, scaled_by, kept[4]), products)
    return (exps + lesser, distances, products), (new_tops, exp_tops)


@inline
def distance_of_lesser(x, tops, exponent, scaled_by, x_target):
    """x - x_target of the lesser of x and the lane's top; finite where exp is 0, for the product with it."""
    least = least_argument(x, exponent, scaled_by)
    lesser, _ = lesser_and_top(x, tops)
    return where_less(lesser, least, least, lesser) - x_target


@inline
def add_distances(block, start, stop, distances, near):
    """``distances`` with x - near of a chunk."""
    lanes = lanes_of(block)
    zero = load_first(block, start, 0, to_real(block, 0.0))
    distances_a, distances_b = zero, zero
    pairs_end = stop - (stop - start) % (2 * lanes)
    for i in range(start, pairs_end, 2 * lanes):
        distances_a += load(block, i) - near
        distances_b += load(block, i + lanes) - near
    if pairs_end < stop:
        distances_a += load(block, pairs_end) - near
    return add_wide(distances, distances_a + distances_b)


@inline
def add_vector(block, i, count, but, sums, exponent, near, scaled_by, kept):
    """The same of ``count`` elements, without the one that ``but`` elements precede."""
    exps, distances, products, tops = sums
    lowest = to_real(block, -math.inf)
    x = where_lane(load_first(block, i, count, lowest), but, lowest)
    e, lesser, new_tops, _ = exp_held_back(x, tops, exp(tops, exponent, scaled_by), exponent, scaled_by, kept[2])
    if kept[1]:
        store(kept[0], i, e)
    if kept[3]:
        products = add_wide(products, lesser * distance_of_lesser(x, tops, exponent, scaled_by, kept[4]))
    distance = where_lane(load_first(block, i, count, near), but, near) - near
    return add_wide(exps, lesser), add_wide(distances, distance), products, new_tops
