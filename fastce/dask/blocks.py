"""What tasks of cross entropy do with a chunk: all classes of some rows, or a tile of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype, kernel_dtype, new_like
from fastce.arguments.options import CheckedOptions
from fastce.arguments.reductions import reduced, sum_in_order, sum_of_terms, upstream_of
from fastce.arguments.silence import cast, silently
from fastce.cpu.call import CrossEntropyCall, cross_entropy_call, of_counted
from fastce.cpu.checked_targets import total_of
from fastce.cpu.cross_entropy import row_losses
from fastce.cpu.engine import Cpu
from fastce.cpu.shards import Masses, Partial, Shard, Way, check_owned, look, write_gradient
from fastce.streaming.class_blocks import IGNORED, RowTargets

Pair = tuple[float, int]  # fraction * 2**exponent


class RowOptions(NamedTuple):
    """What is the same for all rows."""

    given: dict[str, Any]
    reduction: str
    classes: int
    dtype: np.dtype[Any]
    way: Way
    checked: CheckedOptions
    has_probabilities: bool

    @property
    def kept(self) -> str:
        """What is asked of a stripe."""
        return "none" if self.reduction == "none" else "sum"

    def targets(self, targets: Any, sample_weight: Any, rows: int) -> RowTargets:
        """The targets and weights of some rows; probabilities stay with their tiles."""
        if self.has_probabilities:
            none = RowTargets.of(np.zeros(rows, np.int64), sample_weight, self.given["ignore_index"])
            return none._replace(classes=np.full(rows, IGNORED))
        return RowTargets.of(targets, sample_weight, self.given["ignore_index"])

    def masses(self, targets: RowTargets, weight: Array | None) -> Masses:
        """What losses are made of."""
        if self.has_probabilities:
            return Masses(0.0, 1.0, self.checked.z_loss)
        return targets.masses(weight, self.checked)

    def shard(self, logits: Array, targets: Any, weight: Array | None, first: int) -> Shard:
        """A tile as `fastce.cpu.shards` takes it."""
        within = self.checked.keep * targets + self.checked.spread if self.has_probabilities else None
        if within is None:
            within = RowTargets.of(targets, None, self.given["ignore_index"]).classes
        return Shard(logits, first, within, None if weight is None else weight[first : first + logits.shape[1]])


def losses_of_block(
    engine: Cpu, logits: Array, targets: Any, sample_weight: Any, weight: Array | None, *, of_rows: RowOptions
) -> Any:
    """The losses of some rows, or their sum, from all of their classes."""
    return _losses(_call_of_block(engine, logits, targets, sample_weight, weight, of_rows), engine)


def weighed_losses_of_block(
    engine: Cpu, logits: Array, targets: Any, sample_weight: Any, weight: Array | None, *, of_rows: RowOptions
) -> tuple[Pair, Pair]:
    """The sum of the losses of some rows, and what their mean divides by."""
    call = _call_of_block(engine, logits, targets, sample_weight, weight, of_rows)
    return _losses(call, engine), total_of(call.targets)


def gradient_of_block(
    engine: Cpu,
    logits: Array,
    targets: Any,
    sample_weight: Any,
    weight: Array | None,
    total: Pair,
    grad_output: Any,
    *,
    of_rows: RowOptions,
) -> tuple[Any, Array]:
    """The same, and the gradient."""
    call = _call_of_block(engine, logits, targets, sample_weight, weight, of_rows)
    factors, exponent = upstream_of(grad_output, of_rows.reduction, call.logits.lead, *total)
    out = new_like(logits, of_rows.dtype)
    losses = row_losses(call._replace(exponent=exponent), of_counted(factors, call.targets), out, engine.n_threads)
    return losses.total() if losses.kept is None else losses.kept, out


def _losses(call: CrossEntropyCall, engine: Cpu) -> Any:
    losses = row_losses(call, None, None, engine.n_threads)
    return losses.total() if losses.kept is None else losses.kept


def _call_of_block(
    engine: Cpu, logits: Array, targets: Any, sample_weight: Any, weight: Array | None, of_rows: RowOptions
) -> CrossEntropyCall:
    return cross_entropy_call(
        logits, targets, 1, weight=weight, sample_weight=sample_weight, reduction=of_rows.kept,
        n_threads=engine.n_threads, **of_rows.given,
    )  # fmt: skip


def total_weight(
    engine: Cpu, targets: Any, sample_weight: Any, weight: Array | None, *, rows: int, of_rows: RowOptions
) -> Pair:
    """What the mean of some rows divides by; class indices are checked."""
    logits = np.broadcast_to(np.zeros((), of_rows.dtype), (rows, of_rows.classes))
    if targets is None:
        targets, weight = np.zeros(rows, np.int64), None
    call = cross_entropy_call(
        logits, targets, 1, weight=weight, sample_weight=sample_weight, reduction="sum", n_threads=engine.n_threads,
        **of_rows.given,
    )  # fmt: skip
    return total_of(call.targets)


def added(engine: Cpu, pairs: Sequence[Pair]) -> Pair:
    """Their sum, in their order."""
    return sum_in_order(pairs) if pairs else (0.0, 0)


def value(engine: Cpu, sums: Sequence[Pair], total: Pair, *, reduction: str) -> Any:
    """What the reduction asks for."""
    (loss, exponent), (weight, power) = added(engine, sums), total
    return np.float64(reduced(loss, reduction, weight, exponent - power))


def mean(engine: Cpu, parts: Sequence[tuple[Pair, Pair]]) -> Any:
    """That of all rows, from the sum of the losses of some rows each and what their mean divides by."""
    sums, totals = zip(*parts, strict=True) if parts else ((), ())
    return value(engine, sums, added(engine, totals), reduction="mean")


def look_at_tile(
    engine: Cpu, logits: Array, targets: Any, weight: Array | None, first: int, *, of_rows: RowOptions
) -> Partial:
    """What some classes know of some rows."""
    return look(of_rows.shard(logits, targets, weight, first), of_rows.way, engine.n_threads)


def merged(engine: Cpu, parts: Sequence[Partial], scale: float) -> Partial:
    """What the classes of both know."""
    return parts[0].merged(parts[1], scale)


def losses_of_rows(
    engine: Cpu, known: Partial, targets: Any, sample_weight: Any, weight: Array | None, *, of_rows: RowOptions
) -> Any:
    """The losses of some rows, or their sum, from what all of their classes know."""
    described = of_rows.targets(targets, sample_weight, len(known.owns))
    if not of_rows.has_probabilities:
        check_owned(known, described.given, described.classes != IGNORED, of_rows.classes)
    losses = of_rows.masses(described, weight).losses(known, of_rows.way.rest_of_scale)
    fractions, powers = np.frexp(described.row_weight)  # float64 may hold neither the products nor their sum
    losses = np.where(fractions == 0.0, 0.0, silently(np.multiply, fractions, losses))
    if of_rows.reduction == "none":
        return cast(silently(np.ldexp, losses, powers), compute_dtype(of_rows.dtype))
    return silently(sum_of_terms, losses, powers)


def gradient_of_tile(
    engine: Cpu,
    logits: Array,
    known: Partial,
    targets: Any,
    sample_weight: Any,
    weight: Array | None,
    total: Pair,
    grad_output: Any,
    first: int,
    *,
    of_rows: RowOptions,
) -> Array:
    """The gradient of some classes of some rows."""
    rows = len(logits)
    described = of_rows.targets(targets, sample_weight, rows)
    factors, exponent = upstream_of(grad_output, of_rows.reduction, (rows,), *total)
    fractions, powers = np.frexp(described.row_weight)
    above = silently(np.ldexp, silently(np.multiply, fractions * of_rows.way.scale, factors), powers + exponent)
    upstream = np.where(described.row_weight == 0.0, 0.0, above)
    out = new_like(logits, kernel_dtype(logits.dtype))
    shard = of_rows.shard(logits, targets, weight, first)
    write_gradient(shard, of_rows.way, known, of_rows.masses(described, weight), upstream, out, engine.n_threads)
    return out
