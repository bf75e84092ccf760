"""What is known of all rows before any logits are read: checked targets, weights, and what a mean divides by."""

from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array, kernel_dtype, plain_array
from fastce.arguments.libraries import read as as_numpy
from fastce.arguments.numbers import integer
from fastce.arguments.reductions import upstream_of
from fastce.arguments.sparse import checked_csr, is_sparse, masses_of
from fastce.arguments.words import shown
from fastce.cpu.call import CrossEntropyCall, cross_entropy_call, of_counted
from fastce.streaming.sources import Source, has_slices, is_path, source_of


class Probabilities:
    """Targets that are read with the logits: a matrix somewhere, or a sparse one in memory."""

    def __init__(self, targets: Any) -> None:
        self.sparse: Any = None
        self.source: Source | None = None
        self.shape: tuple[int, ...] = targets.shape if is_sparse(targets) else ()
        if is_sparse(targets):
            self.sparse = checked_csr(targets, targets.shape)
            masses_of(self.sparse)
            return
        self.source = source_of(targets, "targets")
        self.shape = self.source.shape
        if kernel_dtype(self.source.dtype) != self.source.dtype.newbyteorder("="):
            raise TypeError(f"targets must be class probabilities (floats) if they are a matrix, got {shown(targets)}")

    def of_rows(self, rows: slice) -> Any:
        """Those of some rows, of any kind."""
        return self.sparse[rows] if self.source is None else self.source.read(rows, slice(0, self.shape[1]))

    def of_tile(self, rows: slice, columns: slice) -> Array:
        """Those of some rows and classes, in float64."""
        if self.source is not None:
            return self.source.read(rows, columns).astype(np.float64)
        dense: Array = self.sparse[rows, columns].toarray().astype(np.float64)
        return dense


def targets_of(value: Any) -> Any:
    """Targets as they are given, of any library; masked ones would lose their mask."""
    value = as_numpy(value, "targets")
    is_elsewhere = value is None or is_path(value) or is_sparse(value) or has_slices(value)
    return value if is_elsewhere and not isinstance(value, np.ndarray) else plain_array(value, "targets")


class Whole(NamedTuple):
    """Targets of all rows; ``probabilities`` are None for class indices."""

    indices: Array
    probabilities: Probabilities | None
    described: CrossEntropyCall

    @classmethod
    def of(cls, targets: Any, classes: int, rows: int | None, dtype: np.dtype[Any], options: dict[str, Any]) -> "Whole":
        """Checked, for logits of so many classes; as many rows as the targets if that is not known."""
        is_matrix = is_path(targets) or is_sparse(targets) or (has_slices(targets) and len(targets.shape) == 2)
        is_matrix = is_matrix and getattr(targets, "dtype", np.dtype(float)).kind not in "iub"
        probabilities = Probabilities(targets) if is_matrix else None
        rows_of_matrix = 0 if probabilities is None else probabilities.shape[0]
        indices = plain_array(targets, "targets") if probabilities is None else np.zeros(rows_of_matrix, np.int64)
        rows = indices.shape[0] if rows is None and indices.ndim else rows
        if probabilities is not None:
            if probabilities.shape != (rows, classes):
                raise ValueError(
                    f"targets of probabilities have shape {probabilities.shape}, but logits have {(rows, classes)}"
                )
            ignored = integer(options["ignore_index"], "ignore_index")
            if ignored >= 0:
                raise ValueError(f"ignore_index applies to class indices, got {ignored} with targets of probabilities")
            options = options | {"weight": None}
        logits = np.broadcast_to(np.zeros((), kernel_dtype(dtype)), (rows or 0, classes))
        return cls(indices, probabilities, cross_entropy_call(logits, indices, 1, n_threads=None, **options))

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.described.logits.rows

    def targets_of(self, rows: slice) -> Any:
        """Those of some rows, as `fastce.cross_entropy` takes them."""
        return self.indices[rows] if self.probabilities is None else self.probabilities.of_rows(rows)

    def sample_weight_of(self, rows: slice) -> Array | None:
        """The weights of some rows; for a mean, all may be multiplied by the same power of two."""
        per_row = self.described.targets.per_row
        return None if per_row is None else per_row[rows]


class Upstream(NamedTuple):
    """What gradients of rows are multiplied by: factors, one for all or one a row, times 2**exponent."""

    factors: Array
    exponent: int

    @classmethod
    def of(cls, grad_output: Any, whole: Whole) -> "Upstream":
        """From what comes after the loss, and what a mean divides by."""
        described = whole.described
        factors, exponent = upstream_of(
            grad_output, described.reduction, described.logits.lead, *described.targets.total
        )
        return cls(of_counted(factors, described.targets), exponent)

    @classmethod
    def of_number(cls, grad_output: Any, reduction: str) -> "Upstream":
        """The same while the rows are not known yet, of which there may be any number."""
        if reduction == "mean":
            raise ValueError(
                "the gradient of a mean needs the targets of all rows before the first block: give them as targets, or "
                "reduction='sum' with grad_output=1 / rows"
            )
        return cls(*upstream_of(grad_output, "sum", (), 1.0))

    def of_rows(self, rows: slice) -> Array:
        """Those of some rows."""
        return self.factors[rows] if self.factors.size > 1 else self.factors
