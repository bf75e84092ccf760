"""Statistics of rows whose classes come in shards: what a shard has come to, how shards merge, and what follows.

An entropy is that of the shards' probabilities P_k, and the mean of the shards' own; with lse_k that of a shard alone,

    H = sum_k P_k (H_k + lse - lse_k),    P_k = exp(lse_k - lse)

of which no term is negative. The rank of a target asks for a second look, once its logit is known.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype, kernel_dtype
from fastce.arguments.silence import cast, quietly
from fastce.cpu.layout import Rows
from fastce.cpu.shards import Partial, Shard, Way, growth, look
from fastce.cpu.statistics import statistics_of
from fastce.cpu.sums import exp_of_difference
from fastce.cpu.threads import cut_rows, for_each

OF_SECOND_LOOK = ("target_rank", "in_top_k")
PLAIN = Way(1.0, 0.0, False)
NO_TARGET = -1
_NO_TARGETS = np.empty(0, np.int64)


def targets_within(targets: Array | None, rows: int, ignore_index: int) -> tuple[Array, Array]:
    """The targets as shards take them, NO_TARGET in rows without one, and whether a row must have one."""
    if targets is None:
        return np.full(rows, NO_TARGET), np.zeros(rows, bool)
    counted = np.asarray(targets != ignore_index)
    return np.where(counted, targets.astype(np.int64), NO_TARGET), counted


class Found(NamedTuple):
    """What some shards together know of each row; what is not asked for is of no meaning."""

    known: Partial
    argmax: Array
    entropy: Array
    x_target: Array

    @classmethod
    def of_nothing(cls, rows: int) -> "Found":
        """The law's identity, for so many rows."""
        none = np.full(rows, np.iinfo(np.int64).max)
        return cls(Partial.of_nothing(rows), none, np.zeros(rows), np.full(rows, -np.inf))

    @quietly()
    def merged(self, other: "Found") -> "Found":
        """What the classes of both know."""
        mine, others = self.known.states, other.known.states
        is_first = (np.isnan(mine.tops) & ~np.isnan(others.tops)) | (mine.tops > others.tops)
        is_both = (mine.tops == others.tops) | (np.isnan(mine.tops) & np.isnan(others.tops))
        argmax = np.where(is_first, self.argmax, other.argmax)
        argmax = np.where(is_both, np.minimum(self.argmax, other.argmax), argmax)
        known = self.known.merged(other.known, 1.0)
        entropy = np.zeros(len(argmax))
        for part, own, grown in ((self, mine, growth(mine, others)), (other, others, growth(others, mine))):
            share = (1.0 + own.rests) / (1.0 + known.states.rests) * exp_of_difference(own.tops, known.states.tops, 1.0)
            entropy += np.where(own.tops == -np.inf, 0.0, share * (part.entropy + grown))
        return Found(known, argmax, entropy, np.where(self.known.owns, self.x_target, other.x_target))


@quietly()
def look_at_statistics(shard: Shard, names: Sequence[str], n_threads: int | None) -> Found:
    """What one shard knows."""
    rows, classes = shard.logits.shape
    nothing = Found.of_nothing(rows)
    if classes == 0:
        return nothing
    known = look(shard, PLAIN, n_threads)
    wanted = [name for name in ("argmax", "entropy") if name in names]
    further = statistics_of(Rows(shard.logits), _NO_TARGETS, wanted, n_threads) if wanted else {}
    argmax = further["argmax"] + shard.first if "argmax" in wanted else nothing.argmax
    entropy = further["entropy"] if "entropy" in wanted else nothing.entropy
    here, x_target = shard.owned, nothing.x_target
    x_target[here] = shard.logits[here, shard.targets[here] - shard.first].astype(np.float64)
    return Found(known, argmax, entropy, x_target)


def before_target(shard: Shard, x_target: Array, n_threads: int | None) -> Array:
    """How many classes of a shard come before each row's target, whose logit this is."""
    counts = np.zeros(len(x_target), np.int64)
    numbers = shard.first + np.arange(shard.logits.shape[1])
    dtype = compute_dtype(kernel_dtype(shard.logits.dtype))

    def work(start: int, stop: int) -> None:
        x, y = shard.logits[start:stop].astype(dtype, copy=False), x_target[start:stop, None].astype(dtype)
        is_earlier = (x == y) & (numbers < shard.targets[start:stop, None])
        counts[start:stop] = np.count_nonzero((x > y) | is_earlier, axis=1)

    for_each(cut_rows(len(shard.logits), shard.logits[:1].nbytes), work, n_threads)
    return counts


@quietly()
def statistic(name: str, found: Found, before: Array | None, top_k: int, dtype: np.dtype[Any]) -> Array:
    """One output of `row_stats` for logits of this kernel's dtype, as that gives it; what owns no target is ignored."""
    states, owns = found.known.states, found.known.owns
    is_finite = np.isfinite(states.tops)
    if name == "argmax":
        return found.argmax
    if name in ("target_rank", "in_top_k"):
        assert before is not None
        rank = np.where(np.isnan(states.tops) | ~owns, -1, before)
        return rank if name == "target_rank" else (rank >= 0) & (rank < top_k)
    if name == "logsumexp":
        result = states.logsumexp()
    elif name == "max":
        result = states.tops
    elif name == "entropy":
        result = np.where(is_finite, found.entropy, np.nan)
    else:
        result = np.where(is_finite & owns, -found.known.of_target, np.nan)
    return cast(result, compute_dtype(dtype))
