"""Where the losses of rows go: kept, or summed part by part."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype, kernel_dtype
from fastce.arguments.reductions import reduced, sum_in_order, sums_of_parts
from fastce.arguments.silence import silently, store
from fastce.cpu.layout import Rows

EACH = "each"  # a reduction of our own: losses are kept as they are, to be added in another order


class RowLosses:
    """Where the row losses go: kept for "none" and EACH, else summed part by part.

    ``parts`` are `columns.parts_of` the logits. If losses come in ``blocks`` that begin where these do, they are summed
    as they come; else each is kept until all are there.
    """

    def __init__(self, rows: Rows, reduction: str, parts: Sequence[int], blocks: Sequence[int] | None = None) -> None:
        self.rows = rows
        self.reduction = reduction
        self.parts = parts
        self.sums: list[tuple[float, int]] = [(0.0, 0)] * len(parts)
        dtype = compute_dtype(kernel_dtype(rows.view.dtype))  # whatever that of the kernel is
        self.kept: Array | None = np.empty(rows.rows, dtype) if reduction == "none" else None
        self.each: tuple[Array, Array] | None = None
        if reduction == EACH or (self.kept is None and parts != blocks):
            self.each = np.empty(rows.rows), np.zeros(rows.rows, np.int32)

    def put(self, rows: slice | Array, losses: Array, exponents: Array | int = 0) -> None:
        """Keep the losses of these rows, each to be multiplied by 2**exponent."""
        if self.kept is not None:
            store(self.kept, rows, losses if isinstance(exponents, int) else silently(np.ldexp, losses, exponents))
        else:
            assert self.each is not None
            self.each[0][rows], self.each[1][rows] = losses, exponents

    def put_run(self, before: int, starts: list[int], rows: slice, losses: Array, exponents: Array | int = 0) -> None:
        """The same of blocks that follow each other, after so many; each begins where ``starts`` says."""
        if self.each is not None or self.kept is not None:
            return self.put(rows, losses, exponents)
        self.sums[before : before + len(starts)] = silently(sums_of_parts, losses, exponents, starts)

    def total(self, axes: tuple[int, ...] | None = None, parts: Sequence[int] = ()) -> tuple[float, int]:
        """The sum of all losses, which are not kept, as a pair; of EACH in these parts, in the order of these axes."""
        if self.each is None:
            return sum_in_order(self.sums)
        losses, exponents = self.each
        if axes is not None:
            losses, exponents = (part.reshape(self.rows.lead).transpose(axes).ravel() for part in self.each)
        parts = parts or self.parts
        return sum_in_order(silently(sums_of_parts, losses, exponents if exponents.any() else 0, parts))

    def value(self, total_weight: float, total_exponent: int = 0) -> Any:
        """What the reduction asks for; a mean is divided by total_weight * 2**total_exponent."""
        if self.kept is not None:
            return self.kept.reshape(self.rows.lead)[()]
        total, exponent = self.total()
        return reduced(total, self.reduction, total_weight, exponent - total_exponent)
