"""What is known of the rows of a tile: one field a line, one row a column.

``running`` is in the dtype that the rows are computed in, ``sums`` in float64. Between looking at a tile and writing
its gradient, groups of rows go through the table of states.py.
"""

from fastce.cpu._kernels.states import (
    DISTANCES,
    EXPONENT,
    FACTOR,
    FACTOR_EXPONENT,
    FITS,
    LANES,
    NEAR,
    REST,
    REST_MASS,
    TARGET,
    TARGET_GRADIENT,
    TOP,
    UPSTREAM,
)
from fastce.cpu._vectors.compiler import inline
from fastce.cpu._vectors.exponential import exp_in_parts
from fastce.cpu._vectors.lanes import load_real, store_real
from fastce.cpu._vectors.memory import lanes_of, load, load_first, store, to_real
from fastce.cpu._vectors.rooms import float64_room, real_room
from fastce.cpu._vectors.wide import add_products, load_wide, widened, zeros_wide

WIDTH = 1024  # rows of a tile at most
LINE = WIDTH + 16  # lines a power of two apart would push each other out of the cache

# in `running`, while rows are summed up
REFERENCE, BESIDE, HIGHEST, CHOSEN = 0 * LINE, 1 * LINE, 2 * LINE, 3 * LINE  # exponent, near, largest x, target class
X_CHOSEN, LARGEST_OTHER = BESIDE, 4 * LINE  # of rows that need no near: the target's x, the largest exp of the others
MASS_CHOSEN = LARGEST_OTHER  # of rows of probabilities: the target's
# and while they are written
SHARE, AT_CHOSEN, ABOVE, FITTING = 1 * LINE, 4 * LINE, 5 * LINE, 6 * LINE  # factor, target's gradient, -upstream, FITS
# in `sums`, each with a second line for what its roundings lost
EXPS, DISTANCE_SUM, MASS_SUM = 0 * LINE, 2 * LINE, 4 * LINE
HELD = DISTANCE_SUM  # of rows that have none: what EXPS is without LARGEST_OTHER

new_running = real_room(7 * LINE)  # as many lines as there are above
new_sums = float64_room(6 * LINE)  # a second one for MASS_SUM is the last


@inline
def second_part(lanes, field, k):
    """Where the second vector of `add_wide` is kept: float32 has more lanes, float64 has lost digits."""
    return field + LINE + k if lanes == LANES else field + LANES + k


@inline
def load_sum(sums, lanes, field, k, first):
    """What has been summed up before class ``first``."""
    if first == 0:
        return zeros_wide()
    return load(sums, field + k), load(sums, second_part(lanes, field, k))


@inline
def store_sum(sums, lanes, field, k, total):
    store(sums, field + k, total[0])
    store(sums, second_part(lanes, field, k), total[1])


@inline
def whole_sum(sums, lanes, field, k):
    """One vector of sums; of float64, with what their roundings lost."""
    return load(sums, field + k) + load(sums, field + LINE + k) if lanes == LANES else load(sums, field + k)


@inline
def whole_sums(running, sums, field, k):
    """The same of as many rows as a vector of these has lanes."""
    total = load_wide(running, sums, field + k)
    return total + load_wide(running, sums, field + LINE + k) if lanes_of(running) == LANES else total


@inline
def put_exps(running, sums, lanes, logits, k, scaled_by):
    """MASS_SUM becomes exp of a line of logits of one vector of rows, in float64 from its two parts."""
    nothing = load_first(running, 0, 0, to_real(running, 0.0))
    part, power = exp_in_parts(load(running, logits + k), load(running, REFERENCE + k), scaled_by)
    store_sum(sums, lanes, MASS_SUM, k, add_products(widened(power), part, power, nothing))


@inline
def put_into_states(states, running, sums, lanes, first, count, masses):
    """What is known of a group of rows, into the table of states."""
    varies, smoothed = masses[2] or masses[4], masses[1] > 0
    for k in range(0, count, lanes):
        store_real(states, EXPONENT + k, load(running, REFERENCE + first + k))
        store_real(states, NEAR + k, load(running, BESIDE + first + k))
        store_real(states, TOP + k, load(running, HIGHEST + first + k))
        store_real(states, TARGET + k, load(running, CHOSEN + first + k))
        for j in range(k, k + lanes, LANES):
            store(states, REST + j, whole_sum(sums, lanes, EXPS, first + j))
            if varies or smoothed:
                store(states, DISTANCES + j, whole_sum(sums, lanes, DISTANCE_SUM, first + j))
            if varies:
                store(states, REST_MASS + j, whole_sum(sums, lanes, MASS_SUM, first + j))


@inline
def keep_for_gradient(running, states, lanes, first, count):
    """What the gradients of a group of rows are made of, out of the table of states."""
    for k in range(0, count, lanes):
        store(running, REFERENCE + first + k, load_real(running, states, FACTOR_EXPONENT + k))
        store(running, SHARE + first + k, load_real(running, states, FACTOR + k))
        store(running, FITTING + first + k, load_real(running, states, FITS + k))
        store(running, AT_CHOSEN + first + k, load_real(running, states, TARGET_GRADIENT + k))
        store(running, ABOVE + first + k, load_real(running, states, UPSTREAM + k) * to_real(running, -1.0))
