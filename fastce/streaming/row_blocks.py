"""Losses of logits that come in blocks of rows: each block is a call of its own, and totals add up."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import repeat, takewhile
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype, kernel_dtype, real_array
from fastce.arguments.libraries import read as as_numpy
from fastce.arguments.reductions import reduced, sum_in_order
from fastce.cpu.call import cross_entropy_call
from fastce.cpu.checked_targets import total_of
from fastce.cpu.cross_entropy import row_losses
from fastce.streaming.outputs import Receiver, room_for
from fastce.streaming.sources import Source, ahead
from fastce.streaming.whole import Upstream, Whole, targets_of

OF_BLOCKS = ("weight", "ignore_index", "label_smoothing", "smoothing_over", "logit_scale", "softcap", "z_loss")


class RowBlock(NamedTuple):
    """Some rows, with what belongs to them; ``sample_weight`` may be None."""

    start: int
    logits: Array
    targets: Any
    sample_weight: Any

    @property
    def rows(self) -> slice:
        """Which rows these are."""
        return slice(self.start, self.start + len(self.logits))


def read_rows(source: Source, cuts: list[slice], is_ahead: bool) -> Iterator[tuple[slice, Array]]:
    """Rows of a matrix with all of their classes."""
    reads = (partial(source.read, rows, slice(0, source.shape[1])) for rows in cuts)
    return zip(cuts, ahead(reads, is_ahead), strict=True)


def blocks_of_source(source: Source, cuts: list[slice], whole: Whole, is_ahead: bool) -> Iterator[RowBlock]:
    """The blocks of a matrix, all of whose classes are read at a time."""
    for rows, logits in read_rows(source, cuts, is_ahead):
        yield RowBlock(rows.start, logits, whole.targets_of(rows), whole.sample_weight_of(rows))


def blocks_of_items(items: Iterable[Any], is_ahead: bool) -> Iterator[RowBlock]:
    """What an iterable gives: logits, or (logits, targets), or (logits, targets, sample_weight)."""
    start, classes, iterator, end = 0, None, iter(items), object()
    for item in takewhile(lambda item: item is not end, ahead(repeat(partial(next, iterator, end)), is_ahead)):
        parts = item if isinstance(item, tuple) else (item,)
        if not 1 <= len(parts) <= 3:
            raise ValueError(f"a block must be (logits, targets) or (logits, targets, sample_weight), got {len(parts)}")
        logits, targets, sample_weight = (*parts, None, None)[:3]
        array = real_array(as_numpy(logits, "logits"), "logits")
        if array.ndim != 2:
            raise ValueError(f"a block of logits must have two dimensions, got shape {array.shape}")
        if array.shape[1] != (classes or array.shape[1]):
            raise ValueError(f"blocks of rows must have the same classes, got {array.shape[1]} after {classes}")
        classes = array.shape[1]
        yield RowBlock(start, array, targets_of(targets), as_numpy(sample_weight, "sample_weight"))
        start += len(array)


def with_targets(blocks: Iterable[RowBlock], whole: Whole | None) -> Iterator[RowBlock]:
    """The same blocks with the targets of all rows, unless these come with them."""
    for block in blocks:
        if whole is not None:
            if block.targets is not None:
                raise TypeError("targets were given twice: with the blocks, and for all of them")
            if block.sample_weight is not None:
                raise TypeError("sample_weight came with a block, but targets for all of them: give both the same way")
            if block.rows.stop > whole.rows:
                raise ValueError(f"blocks have more than {whole.rows} rows, which is how many targets there are")
            targets, weight = whole.targets_of(block.rows), whole.sample_weight_of(block.rows)
            block = block._replace(targets=targets, sample_weight=weight)
        elif block.targets is None:
            raise TypeError("targets must be given, with each block or for all of them, got None")
        yield block


@contextmanager
def naming(rows: slice) -> Iterator[None]:
    """What is raised for a block says which one that was."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in the block of rows {rows.start} to {rows.stop}, whose first row is row 0 of the block")
        raise


class Totals:
    """The losses of the blocks so far: kept, or summed up; and what a mean divides by."""

    def __init__(self, reduction: str, options: dict[str, Any], n_threads: int | None) -> None:
        self.reduction = reduction
        self.options: dict[str, Any] = {name: options[name] for name in OF_BLOCKS}
        self.n_threads = n_threads
        self.kept: list[Array] = []
        self.sums: list[tuple[float, int]] = []
        self.weights: list[tuple[float, int]] = []
        self.rows: int = 0

    def add(self, block: RowBlock, upstream: Upstream | None, out: Receiver | None) -> None:
        """Compute a block: its losses, and its gradient if that is wanted; an error says which block it was."""
        with naming(block.rows):
            self._add(block, upstream, out)

    def _add(self, block: RowBlock, upstream: Upstream | None, out: Receiver | None) -> None:
        call = cross_entropy_call(
            block.logits, block.targets, 1, sample_weight=block.sample_weight, n_threads=self.n_threads,
            reduction="none" if self.reduction == "none" else "sum", **self.options,
        )  # fmt: skip
        if upstream is None or out is None:
            losses = row_losses(call, None, None, self.n_threads)
        else:
            place = block.rows, slice(0, block.logits.shape[1])
            room = room_for(block.logits, out, *place, call.dtype)
            call = call._replace(exponent=upstream.exponent)
            losses = row_losses(call, upstream.of_rows(block.rows), room, self.n_threads)
            out.put(*place, room)
        self.rows += len(block.logits)
        self.weights.append(total_of(call.targets))
        if losses.kept is None:
            self.sums.append(losses.total())
        else:
            self.kept.append(losses.kept)

    def value(self, whole: Whole | None, dtype: np.dtype[Any]) -> Any:
        """What the reduction asks for, once all blocks are added; ``dtype`` is that of no rows at all."""
        if self.reduction == "none":
            return np.concatenate(self.kept) if self.kept else np.empty(0, compute_dtype(kernel_dtype(dtype)))
        if not self.rows:
            return math.nan if self.reduction == "mean" else 0.0
        total, exponent = sum_in_order(self.sums)
        weight, power = sum_in_order(self.weights) if whole is None else whole.described.targets.total
        power = power if self.reduction == "mean" else 0
        return reduced(total, self.reduction, weight, exponent - power)
