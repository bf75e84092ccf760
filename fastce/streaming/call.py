"""A call of cross entropy in pieces: which pieces there are, and in which order they are computed."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, TypeAlias, get_args

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype, kernel_dtype
from fastce.arguments.libraries import read as as_numpy
from fastce.arguments.numbers import checked_memory_budget, checked_num_threads, choice, reduction_of
from fastce.arguments.reductions import reduced, sum_of_terms, upstream_of
from fastce.arguments.silence import cast, silently
from fastce.products.progress import Progress
from fastce.streaming import class_blocks, row_blocks
from fastce.streaming.class_blocks import RowTargets, ShardedLoss
from fastce.streaming.outputs import Receiver, receiver_of
from fastce.streaming.row_blocks import RowBlock, Totals
from fastce.streaming.sources import (
    Source,
    check_read_again,
    cuts,
    has_slices,
    is_path,
    is_read_ahead,
    iterable,
    number_of,
    source_of,
)
from fastce.streaming.whole import Upstream, Whole, targets_of
from fastce.typing import Pieces

NAME = "cross_entropy"
Opened: TypeAlias = Callable[[tuple[int | None, int | None], np.dtype[Any]], Receiver]  # once the shape is known


class Call:
    """A call whose logits are somewhere."""

    def __init__(
        self,
        logits: Any,
        targets: Any,
        pieces: Any,
        options: dict[str, Any],
        memory_budget: Any,
        read_ahead: bool | None,
        progress: Any,
        n_threads: int | None,
    ) -> None:
        self.logits: Any = logits
        self.targets: Any = targets_of(targets)
        self.by_rows: bool = choice(pieces, "pieces", get_args(Pieces)) == "rows"
        self.options: dict[str, Any] = {name: as_numpy(value, name) for name, value in options.items()}
        self.reduction: str = reduction_of(options["reduction"])
        self.memory_budget: int = checked_memory_budget(memory_budget)
        self.read_ahead = read_ahead
        self.progress = progress
        self.n_threads: int | None = None if n_threads is None else checked_num_threads(n_threads)
        self.grad_output: Any = None

    def value(self) -> Any:
        """The value alone."""
        return self._computed(None)[0]

    def value_and_grad(self, out: Any, grad_output: Any) -> tuple[Any, Any]:
        """(value, what the caller gets as the gradient)."""
        self.grad_output = as_numpy(grad_output, "grad_output")
        others = [self.targets, self.options["weight"], self.options["sample_weight"], self.grad_output]
        return self._computed(lambda shape, dtype: receiver_of(out, shape, dtype, self.logits, others))

    def _computed(self, opened: Opened | None) -> tuple[Any, Any]:
        if is_path(self.logits) or has_slices(self.logits):
            if self.targets is None:
                raise TypeError("targets must be given where logits are a matrix, got None")
            return self._of_matrix(source_of(self.logits, "logits"), opened)
        return self._of_row_items(opened) if self.by_rows else self._of_class_items(opened)

    # --- matrices

    def _of_matrix(self, source: Source, opened: Opened | None) -> tuple[Any, Any]:
        is_ahead = is_read_ahead(source, self.read_ahead)
        (rows, classes), dtype = source.shape, kernel_dtype(source.dtype)
        whole = Whole.of(self.targets, classes, rows, dtype, self.options)
        receiver = None if opened is None else opened(source.shape, dtype)
        upstream = None if opened is None else Upstream.of(self.grad_output, whole)
        of_rows, of_classes = cuts(source, self.memory_budget, 2 + is_ahead)  # twins alike
        if len(of_classes) == 1:
            blocks = row_blocks.blocks_of_source(source, of_rows, whole, is_ahead)
            return self._in_row_blocks(blocks, len(of_rows), whole, receiver, upstream, dtype)
        losses = [
            ShardedLoss(
                class_blocks.blocks_of_source(source, part, of_classes, is_ahead), RowTargets.of_whole(whole, part),
                self.options, classes, self.n_threads,
            )
            for part in of_rows
        ]  # fmt: skip
        found = []
        with Progress(
            self.progress, len(of_rows) * len(of_classes) * (1 + (opened is not None)), NAME, "block"
        ) as shown:
            for loss in losses:
                found.append(loss.read(shown.step))
                if upstream is not None and receiver is not None:
                    above = np.ldexp(upstream.of_rows(loss.blocks.rows), upstream.exponent)
                    loss.write(above, receiver, shown.step)
        value = self._value(np.concatenate(found), dtype, *whole.described.targets.total)
        return value, None if receiver is None else receiver.given()

    # --- blocks of rows

    def _of_row_items(self, opened: Opened | None) -> tuple[Any, Any]:
        blocks = row_blocks.blocks_of_items(iterable(self.logits), bool(self.read_ahead))
        total = number_of(self.logits)
        first = next(blocks, None)
        classes, dtype = (None, np.dtype(np.float32)) if first is None else (first.logits.shape[1], first.logits.dtype)
        whole = None
        if self.targets is not None:
            whole = Whole.of(self.targets, classes or 1, None, dtype, self.options)
        elif self.options["sample_weight"] is not None:
            raise TypeError("sample_weight must come with the blocks if targets do: (logits, targets, sample_weight)")
        receiver = None if opened is None else opened((None if whole is None else whole.rows, classes), dtype)
        upstream = None
        if opened is not None:
            if whole is None:
                upstream = Upstream.of_number(self.grad_output, self.reduction)
            else:
                upstream = Upstream.of(self.grad_output, whole)
        every = row_blocks.with_targets(chain([] if first is None else [first], blocks), whole)
        return self._in_row_blocks(every, total, whole, receiver, upstream, dtype)

    def _in_row_blocks(
        self,
        blocks: Iterator[RowBlock],
        total: int,
        whole: Whole | None,
        receiver: Receiver | None,
        upstream: Upstream | None,
        dtype: np.dtype[Any],
    ) -> tuple[Any, Any]:
        totals = Totals(self.reduction, self.options, self.n_threads)
        with Progress(self.progress, total, NAME, "block") as shown:
            for block in blocks:
                totals.add(block, upstream, receiver)
                shown.step()
        if whole is not None and totals.rows != whole.rows:
            raise ValueError(f"blocks have {totals.rows} rows, but there are {whole.rows} targets")
        if receiver is not None and receiver.shape[0] not in (None, totals.rows):
            raise ValueError(f"blocks have {totals.rows} rows, but out has {receiver.shape[0]}")
        return totals.value(whole, dtype), None if receiver is None else receiver.given()

    # --- blocks of classes

    def _of_class_items(self, opened: Opened | None) -> tuple[Any, Any]:
        items = self.logits
        if self.targets is None:
            raise TypeError("targets must be given for blocks of classes, got None")
        if opened is not None:
            check_read_again(items, "the gradient reads")
        targets = RowTargets.of(self.targets, self.options["sample_weight"], self.options["ignore_index"])
        rows = len(targets.given)
        blocks = class_blocks.blocks_of_items(lambda: iterable(items), rows)
        loss = ShardedLoss(blocks, targets, self.options, None, self.n_threads)
        total = number_of(items)
        with Progress(self.progress, total * (1 + (opened is not None)), NAME, "block") as shown:
            found = loss.read(shown.step)
            weight = loss.total_weight()
            value = self._value(found, loss.dtype, weight, 0)
            if opened is None:
                return value, None
            receiver = opened((rows, loss.classes), loss.dtype)
            factors, exponent = upstream_of(self.grad_output, self.reduction, (rows,), weight)
            loss.write(np.ldexp(factors, exponent), receiver, shown.step)
            return value, receiver.given()

    def _value(self, losses: Array, dtype: np.dtype[Any], weight: float, power: int) -> Any:
        if self.reduction == "none":
            return cast(losses, compute_dtype(dtype))
        total, exponent = silently(sum_of_terms, losses)
        return reduced(total, self.reduction, weight, exponent - power)
