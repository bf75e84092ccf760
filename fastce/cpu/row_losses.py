"""Where the losses of rows go: kept, or summed block by block."""

from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype, kernel_dtype
from fastce.arguments.reductions import reduced, sum_in_order, sum_of_terms, sums_of_parts
from fastce.arguments.silence import silently, store
from fastce.cpu.layout import Rows

EACH = "each"  # a reduction of our own: losses are kept as they are, to be added in another order


class RowLosses:
    """Where the row losses go: kept for "none" and EACH, else summed block by block."""

    def __init__(self, rows: Rows, reduction: str, blocks: int) -> None:
        self.rows = rows
        self.reduction = reduction
        self.sums: list[tuple[float, int]] = [(0.0, 0)] * blocks
        dtype = compute_dtype(kernel_dtype(rows.view.dtype))  # whatever that of the kernel is
        self.kept: Array | None = np.empty(rows.rows, dtype) if reduction == "none" else None
        self.each: tuple[Array, Array] | None = None
        if reduction == EACH:
            self.each = np.empty(rows.rows), np.zeros(rows.rows, np.int32)

    def put(self, block: int, rows: slice | Array, losses: Array, exponents: Array | int = 0) -> None:
        """Take the losses of these rows, which belong to this block; each is to be multiplied by 2**exponent."""
        if self.each is not None:
            self.each[0][rows], self.each[1][rows] = losses, exponents
        elif self.kept is None:
            self.sums[block] = silently(sum_of_terms, losses, exponents)
        else:
            store(self.kept, rows, losses if isinstance(exponents, int) else silently(np.ldexp, losses, exponents))

    def put_run(self, before: int, starts: list[int], rows: slice, losses: Array, exponents: Array | int = 0) -> None:
        """The same of several blocks that follow each other, after so many; each begins where ``starts`` says."""
        if self.each is not None or self.kept is not None:
            return self.put(before, rows, losses, exponents)
        self.sums[before : before + len(starts)] = silently(sums_of_parts, losses, exponents, starts)

    def total(self, axes: tuple[int, ...] | None = None) -> tuple[float, int]:
        """The sum of all losses, which are not kept, as a pair; of EACH in the order that these axes have."""
        if self.each is None:
            return sum_in_order(self.sums)
        losses, exponents = (part.reshape(self.rows.lead).transpose(axes).ravel() for part in self.each)
        return silently(sum_of_terms, losses, exponents if exponents.any() else 0)

    def value(self, total_weight: float, total_exponent: int = 0) -> Any:
        """What the reduction asks for; a mean is divided by total_weight * 2**total_exponent."""
        if self.kept is not None:
            return self.kept.reshape(self.rows.lead)[()]
        total, exponent = self.total()
        return reduced(total, self.reduction, total_weight, exponent - total_exponent)
