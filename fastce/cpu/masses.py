"""Class probabilities as rows that a kernel of a narrower dtype may be given."""

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.silence import silently
from fastce.cpu.layout import Rows


class Masses(Rows):
    """Probabilities that a kernel may be given in a narrower dtype: what that does not hold tells it to leave a row.

    The largest number does: in place of what would be infinite, for a weight of 0 to make 0 of it, and in all of a row
    whose masses have all become 0.
    """

    def copy(self, rows: slice | Array) -> Array:
        """A fresh matrix of these rows."""
        if isinstance(rows, slice):
            return super().copy(rows)
        block = silently(super().copy, rows)
        if self.is_narrowed:
            self._mark_lost(rows, block)
        return block

    def copy_into(self, rows: slice, block: Array) -> None:
        """Copy these rows into a matrix of any strides."""
        if not self.is_narrowed:
            super().copy_into(rows, block)
            return
        try:
            with np.errstate(over="raise", under="raise"):
                super().copy_into(rows, block)
        except FloatingPointError:
            silently(super().copy_into, rows, block)
            self._mark_lost(np.arange(rows.start, rows.stop), block)

    @property
    def is_narrowed(self) -> bool:
        """Whether a kernel's dtype holds less than the given one."""
        return bool(self.dtype.itemsize < self.view.dtype.itemsize)

    def _mark_lost(self, numbers: Array, block: Array) -> None:
        largest = np.finfo(self.dtype).max
        np.clip(block, -largest, largest, out=block)
        empty = np.flatnonzero(~block.any(axis=1))
        block[empty[self.in_dtype(self.view.dtype).copy(numbers[empty]).any(axis=1)]] = largest
