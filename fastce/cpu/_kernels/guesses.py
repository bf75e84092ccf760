"""References of rows that lie side by side: guessed where they are long, and put right where a guess was too low."""

import math

from fastce.cpu._kernels.columns import NARROW, find_largest, put_reference, references_near, sum_tile
from fastce.cpu._kernels.lines import BESIDE, HIGHEST, REFERENCE
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.exponential import SPARE, headroom
from fastce.cpu._vectors.lanes import any_nan
from fastce.cpu._vectors.memory import lanes_of, load, load_first, store, to_real
from fastce.cpu._vectors.simd import where_less

GUESS = 64  # classes that a reference is guessed from, where looking at all would be another read


@inline
def choose_references(running, tile, source, classes, count, cap, scale):
    """The reference of every row of a tile, from all of its classes if they are few."""
    place = tile[0]
    find_largest(running, tile, source, classes if classes <= NARROW else GUESS, count, cap)
    for k in range(0, count, lanes_of(place)):
        put_reference(running, place, k, load(running, HIGHEST + k), scale)


@outlined
def mend_references(running, count, scale):
    """Whether some row has outgrown its reference; such a row gets its own, near the largest element that was found.

    What becomes of a row does not depend on those beside it. Two powers of two are left for what is near the largest.
    """
    zero = load_first(running, 0, 0, to_real(running, 0.0))
    nan, most = to_real(running, math.nan), to_real(running, headroom(running) - SPARE - 2.0)
    outgrown = zero
    for k in range(0, count, lanes_of(running)):
        own, near = references_near(running, load(running, HIGHEST + k), scale)
        exponent = load(running, REFERENCE + k)
        above = own - exponent  # NaN, which is not more than anything, where a row fits no reference
        outgrown += where_less(most, above, nan, zero)
        store(running, REFERENCE + k, where_less(most, above, own, exponent))
        store(running, BESIDE + k, where_less(most, above, near, load(running, BESIDE + k)))
    return any_nan(outgrown)


@inline
def sum_from_guesses(running, sums, tile, source, classes, count, cap, scale, scaled_by, masses, probabilities):
    """`sum_tile`, from references that are chosen first; once more where some row has outgrown its guess."""
    place = tile[0]
    if tile[3] != 0:
        choose_references(running, tile, source, classes, count, cap, scale)
    sum_tile(running, sums, tile, source, classes, count, cap, scale, scaled_by, masses, probabilities)
    if tile[3] != 0 and classes > NARROW and mend_references(running, count, scale):
        for k in range(0, count, lanes_of(place)):
            store(running, HIGHEST + k, load_first(place, 0, 0, to_real(place, -math.inf)))
        sum_tile(running, sums, tile, source, classes, count, cap, scale, scaled_by, masses, probabilities)
