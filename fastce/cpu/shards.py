"""Cross entropy of rows whose classes come in shards: what a shard has come to, how shards merge, and what follows.

Of each row a shard knows its state (running.py), and how much less likely than all of its classes together some are:

    of_target  =  lse - scale x_y,  where it owns the target y
    of_masses  =  the sum over its other classes of q_c (lse - scale x_c),  of masses q that add up to ``mass``

Beside another shard the row's lse grows by log(1 + exp(lse_other - lse)), and these by that times their mass. No term
is negative: confident rows keep their digits, wherever their classes lie. All that is kept is O(rows), in float64.
"""

import math
from typing import NamedTuple

import numpy as np

from fastce.arguments.arrays import Array, class_index_error, compute_dtype, kernel_dtype
from fastce.arguments.options import PLAIN_OPTIONS
from fastce.arguments.silence import quietly, silently
from fastce.cpu._kernels.running import gradient_from_tops
from fastce.cpu.call import cross_entropy_call
from fastce.cpu.cross_entropy import row_losses
from fastce.cpu.layout import Rows, goes_past_cache, write_rows
from fastce.cpu.row_losses import EACH
from fastce.cpu.running import States, states_over
from fastce.cpu.sums import exp_of_difference
from fastce.cpu.threads import cut_rows, for_each

SMALL = 1e-100
MOST_OF_SCALE = 12  # as a power of two


class Shard(NamedTuple):
    """Some classes of all rows: logits, the number of the first class, and what targets and weights they have."""

    logits: Array
    first: int
    targets: Array  # the class of each row, -1 of rows that have none; or probabilities of these classes
    weight: Array | None  # of these classes

    @property
    def has_probabilities(self) -> bool:
        """Whether targets are masses of every class."""
        return self.targets.ndim == 2

    @property
    def owned(self) -> Array:
        """The rows whose target is here."""
        return np.flatnonzero((self.targets >= self.first) & (self.targets < self.first + self.logits.shape[1]))


class Way(NamedTuple):
    """How logits become what exp takes, and what is asked of every class."""

    scale: float
    softcap: float  # 0 for none
    smoothed: bool

    @property
    def rest_of_scale(self) -> float:
        """What capped logits are still to be multiplied by."""
        return 1.0 if self.softcap > 0.0 else math.ldexp(self.scale, -self._power_before)

    @property
    def _power_before(self) -> int:
        """The power of two that kernels cannot multiply by: logits are multiplied by that before, exactly."""
        power = math.frexp(self.scale)[1]
        return power - max(-MOST_OF_SCALE, min(power, MOST_OF_SCALE))

    def capped(self, logits: Array) -> Array:
        """Scaled and capped logits in float64: their differences may be small; without a cap, logits as they are."""
        if self.softcap == 0.0:
            power = self._power_before
            return silently(np.ldexp, logits.astype(np.float64), power) if power else logits
        result = logits.astype(np.float64)
        ratio = self.scale / self.softcap
        if min(ratio, self.softcap) < SMALL:
            return self._capped_by_extremes(result)
        result *= ratio
        np.tanh(result, out=result)
        result *= self.softcap
        return result

    @quietly()
    def _capped_by_extremes(self, logits: Array) -> Array:
        """The same where scale / softcap, or what tanh takes, may be less than float64 holds."""
        scaled = logits * self.scale
        ratio = max(self.scale / self.softcap, 5e-324)  # no 0, for infinite logits
        over_cap = np.where(np.isfinite(scaled), scaled / self.softcap, logits * ratio)
        return np.where(np.abs(over_cap) < SMALL, scaled, np.tanh(over_cap) * self.softcap)


class Partial(NamedTuple):
    """What some shards together know of each row; see above."""

    states: States
    of_target: Array  # NaN where they do not own it
    owns: Array
    of_masses: Array
    mass: Array

    @classmethod
    def of_nothing(cls, rows: int) -> "Partial":
        """The law's identity, for so many rows."""
        zeros = np.zeros(rows)
        return cls(States.of_nothing(rows), zeros, np.zeros(rows, bool), zeros, zeros)

    @quietly()
    def merged(self, other: "Partial", scale: float) -> "Partial":
        """What the classes of both know."""
        mine, others = growth(self.states, other.states, scale), growth(other.states, self.states, scale)
        of_target = np.where(self.owns, self.of_target + mine, np.where(other.owns, other.of_target + others, 0.0))
        of_masses = _times(self.mass, mine) + self.of_masses + (_times(other.mass, others) + other.of_masses)
        return Partial(
            self.states.merged(other.states, scale), of_target, self.owns | other.owns, of_masses,
            self.mass + other.mass,
        )  # fmt: skip


def growth(states: States, others: States, scale: float = 1.0) -> Array:
    """By how much the lse of rows grows as these others are added."""
    ratio = exp_of_difference(others.tops, states.tops, scale) * (1.0 + others.rests) / (1.0 + states.rests)
    distance = scale * (others.tops - states.tops) + (np.log1p(others.rests) - np.log1p(states.rests))
    growth = np.where(others.tops <= states.tops, np.log1p(ratio), np.logaddexp(0.0, distance))
    return np.where(others.tops == -np.inf, 0.0, growth)


def _times(mass: Array | float, growth: Array) -> Array:
    """Where nothing is weighed, an infinite distance does not matter."""
    return np.where(mass == 0.0, 0.0, mass * growth)


@quietly()
def look(shard: Shard, way: Way, n_threads: int | None) -> Partial:
    """What one shard knows: one read of it, and one more if all of its classes have masses."""
    logits, scale = way.capped(shard.logits), way.rest_of_scale
    rows = len(logits)
    states = states_over(logits, (1,), n_threads, scale)
    of_target, owns = np.zeros(rows), np.zeros(rows, bool)
    if not shard.has_probabilities:
        here = shard.owned
        x = logits[here, shard.targets[here] - shard.first].astype(np.float64)
        above = scale * (states.tops[here] - x) + np.log1p(states.rests[here])
        of_target[here], owns[here] = np.where(x == -np.inf, np.inf, above), True
    known = Partial(states, of_target, owns, np.zeros(rows), np.zeros(rows))
    if shard.has_probabilities or way.smoothed:
        of_masses, mass = _masses(shard, logits, states, scale, n_threads)
        known = known._replace(of_masses=of_masses, mass=mass)
        if not shard.has_probabilities:
            _leave_targets_out(shard, logits, known, scale)
    return known


def _masses(shard: Shard, logits: Array, states: States, scale: float, n_threads: int | None) -> tuple[Array, Array]:
    """(of_masses, mass) of all classes: of their probabilities, or of 1 each, times their weights."""
    rows, classes = logits.shape
    if classes == 0:
        return np.zeros(rows), np.zeros(rows)
    weight = np.ones(classes) if shard.weight is None else shard.weight
    options = PLAIN_OPTIONS | {"weight": shard.weight, "logit_scale": scale}
    if shard.has_probabilities:
        targets, mass, factor = shard.targets, np.asarray(shard.targets, np.float64) @ weight, 1.0
    else:
        targets, mass, factor = np.zeros(rows, np.int64), np.full(rows, weight.sum()), float(classes)
        options |= {"label_smoothing": 1.0}
    call = cross_entropy_call(logits, targets, 1, reduction="none", n_threads=n_threads, **options)
    each = row_losses(call._replace(reduction=EACH), None, None, n_threads).each
    assert each is not None
    of_masses = factor * np.ldexp(*each)
    masked = states.tops == -np.inf
    return np.where(masked, np.where(mass == 0.0, 0.0, np.inf), of_masses), mass


def _leave_targets_out(shard: Shard, logits: Array, known: Partial, scale: float) -> None:
    """Masses become those of all classes but the targets, which have their own, and that may be 0.

    Of a target that is -inf no difference is left: what the other classes have is added up for these rows.
    """
    here = shard.owned
    at = shard.targets[here] - shard.first
    weight = np.ones(logits.shape[1]) if shard.weight is None else shard.weight
    rest = known.of_masses[here] - weight[at] * known.of_target[here]
    known.of_masses[here] = np.maximum(rest, 0.0) if (weight >= 0.0).all() else rest
    known.mass[here] -= weight[at]
    is_masked = known.of_target[here] == np.inf
    rows, at = here[is_masked], at[is_masked]
    if rows.size:
        lse = scale * known.states.tops[rows] + np.log1p(known.states.rests[rows])
        above = lse[:, None] - scale * logits[rows].astype(np.float64)
        above[known.states.tops[rows] == -np.inf] = np.inf
        above[np.arange(rows.size), at] = 0.0
        known.of_masses[rows] = np.where(weight == 0.0, 0.0, weight * above).sum(axis=1)


class Masses(NamedTuple):
    """What the loss of each row is made of, beside what shards know: masses of its target and of each other class."""

    of_target: Array | float
    of_all: float
    z_loss: float

    def total(self, known: Partial, scale: float) -> Array:
        """All masses of each row, and the slope of z_loss."""
        total = np.where(known.owns, self.of_target, 0.0) + self.of_all * known.mass
        return total if self.z_loss == 0.0 else total + 2.0 * self.z_loss * known.states.logsumexp(scale)

    @quietly()
    def losses(self, known: Partial, scale: float) -> Array:
        """The loss of each row, without its weight; nan if its largest logit is not finite."""
        losses = np.where(known.owns, _times(self.of_target, known.of_target), 0.0) + self.of_all * known.of_masses
        if self.z_loss != 0.0:
            losses += self.z_loss * known.states.logsumexp(scale) ** 2
        return np.where(np.isfinite(known.states.tops), losses, np.nan)


@quietly()
def write_gradient(
    shard: Shard, way: Way, known: Partial, masses: Masses, upstream: Array, out: Array, n_threads: int | None
) -> None:
    """Upstream (p_c total - q_c) times the slope of the cap, of each class of a shard; known is what all shards know.

    Rows with upstream 0 are 0. What takes several steps is rounded to the dtype of ``out`` once, in the end.
    """
    logits, room = way.capped(shard.logits), out
    has_masses = shard.has_probabilities or (way.smoothed and shard.weight is not None)
    wide = compute_dtype(kernel_dtype(logits.dtype))
    if out.dtype != wide and (has_masses or logits is not shard.logits):
        logits, room = logits.astype(wide, copy=False), np.empty(out.shape, wide)
    total = masses.total(known, way.rest_of_scale)
    factors = np.where(upstream == 0.0, 0.0, upstream * total / (1.0 + known.states.rests))
    added = -upstream * masses.of_all if way.smoothed and not has_masses else np.zeros(len(upstream))
    _exponentials(logits, way.rest_of_scale, known.states.tops, factors, added, room, n_threads)
    if has_masses:
        _subtract_masses(shard, masses.of_all, upstream, room, n_threads)
    if not shard.has_probabilities:
        _write_targets(shard, known, masses, total, upstream, room)
    if way.softcap > 0.0:
        _times_slope_of_cap(logits, way.softcap, room, n_threads)
    if room is not out:
        np.copyto(out, room, casting="unsafe")


def _write_targets(shard: Shard, known: Partial, masses: Masses, total: Array, upstream: Array, out: Array) -> None:
    """The gradient at the targets that are here: there 1 - p_y = -expm1(-of_target), which keeps its digits."""
    here = shard.owned[upstream[shard.owned] != 0.0]
    at = shard.targets[here] - shard.first
    p, less = np.exp(-known.of_target[here]), np.expm1(-known.of_target[here])
    of_target = masses.of_target[here] if isinstance(masses.of_target, np.ndarray) else masses.of_target
    slope = p * (total[here] - of_target) + less * of_target
    slope = np.where(np.isfinite(known.states.tops[here]), slope, np.nan)
    out[here, at] = (upstream[here] * slope).astype(out.dtype)


def _exponentials(
    logits: Array, scale: float, tops: Array, factors: Array, added: Array, out: Array, n_threads: int | None
) -> None:
    rows, written = Rows(logits), Rows(out)
    kernel = gradient_from_tops.compiled(rows.dtype)
    past_cache = written.matrix is not None and goes_past_cache(out, logits)

    def work(here: slice, block: Array, room: Array) -> None:
        kernel(block, scale, tops[here], factors[here], added[here], room, past_cache)

    if logits.size:
        write_rows(rows, written, work, n_threads)


def _subtract_masses(shard: Shard, of_all: float, upstream: Array, out: Array, n_threads: int | None) -> None:
    weight = 1.0 if shard.weight is None else shard.weight

    def work(start: int, stop: int) -> None:
        masses = weight * (shard.targets[start:stop] if shard.has_probabilities else of_all)
        here, above = out[start:stop], upstream[start:stop, None]
        np.subtract(here, np.where(above == 0.0, 0.0, above * masses), out=here, casting="unsafe")

    for_each(cut_rows(len(out), out[:1].nbytes), work, n_threads)


def _times_slope_of_cap(capped: Array, softcap: float, out: Array, n_threads: int | None) -> None:
    def work(start: int, stop: int) -> None:
        slope = 1.0 - np.square(capped[start:stop] / softcap, dtype=np.float64)
        here = out[start:stop]
        np.multiply(here, np.where(here == 0.0, 0.0, slope), out=here, casting="unsafe")

    for_each(cut_rows(len(out), out[:1].nbytes), work, n_threads)


def check_owned(known: Partial, targets: Array, counted: Array | np.bool, classes: int, first_row: int = 0) -> None:
    """Complain about the first row that counts and whose target no shard has; the rows begin at this one."""
    missing = counted & ~known.owns
    if missing.any():
        row = int(missing.argmax())
        raise class_index_error(first_row + row, targets[row], classes)
