"""Rows with several positive classes, of which the best one counts: that of the largest logit, the first of equal ones.

No other positive class comes before it, so that its rank is the best of all of theirs.
"""

from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.silence import silently
from fastce.arguments.sparse import masses_of, sparse_rows
from fastce.cpu.layout import Rows
from fastce.cpu.threads import for_each

NO_CLASS = -1
POINTS_AT_A_TIME = 1 << 14


class Best(NamedTuple):
    """The best positive class of each row and its logit in float64; NO_CLASS and -inf where there is none.

    NO_CLASS also beside a NaN among them: nothing can be ranked there.
    """

    classes: Array
    logits: Array

    @classmethod
    def of_nothing(cls, rows: int) -> "Best":
        """Rows without any."""
        return cls(np.full(rows, NO_CLASS), np.full(rows, -np.inf))

    def merged(self, other: "Best") -> "Best":
        """The better of two, of other classes each."""
        is_first = (other.logits == self.logits) & (other.classes < self.classes)
        is_better = (self.classes == NO_CLASS) | (other.logits > self.logits) | is_first
        is_other = (other.classes != NO_CLASS) & is_better
        return Best(np.where(is_other, other.classes, self.classes), np.where(is_other, other.logits, self.logits))

    def targets(self) -> tuple[Array, Array]:
        """As of `class_indices`: the classes, 0 where there is none, and the numbers of these rows."""
        return np.maximum(self.classes, 0), np.flatnonzero(self.classes == NO_CLASS)


class Positives(NamedTuple):
    """The classes that belong to row i: ``classes[first[i] : first[i + 1]]``, in their order."""

    first: Array
    classes: Array

    @classmethod
    def of_matrix(cls, matrix: Any) -> "Positives":
        """The stored elements of a canonical sparse matrix."""
        return cls(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64))

    @property
    def counts(self) -> Array:
        """How many each row has."""
        return np.diff(self.first)

    def of_rows(self, rows: slice) -> "Positives":
        """Those of some rows."""
        first = self.first[rows.start : rows.stop + 1]
        return Positives(first - first[0], self.classes[first[0] : first[-1]])

    def best(self, logits: Rows, n_threads: int | None) -> Best:
        """The best of each row of these logits, of which no others are read."""
        rows = self.first.size - 1
        best = Best.of_nothing(rows)
        size = max(1, rows * POINTS_AT_A_TIME // max(1, self.classes.size))

        def work(start: int, stop: int) -> None:
            counts, here = np.diff(self.first[start : stop + 1]), slice(self.first[start], self.first[stop])
            numbers, classes = np.repeat(np.arange(start, stop), counts), self.classes[here]
            if classes.size:
                values = logits.elements(numbers, classes)
                best.logits[start:stop][counts > 0] = _largest_of(values, _firsts(numbers))
                equal = np.flatnonzero(values == best.logits[numbers])  # none of a row where one is NaN
                firsts = equal[_firsts(numbers[equal])]
                best.classes[numbers[firsts]] = classes[firsts]

        for_each([(start, min(start + size, rows)) for start in range(0, rows, size)], work, n_threads)
        return best


def _firsts(numbers: Array) -> Array:
    """Where each of some sorted numbers comes first."""
    return np.flatnonzero(np.diff(numbers, prepend=-1))


def _largest_of(values: Array, firsts: Array) -> Array:
    """The largest of the values from each of these on to the next one; NaN if one is."""
    return silently(np.maximum.reduceat, values, firsts)


def positive_rows(targets: Any, shape: tuple[int, int], ignored_class: int) -> Any:
    """A sparse matrix of targets in canonical form, a copy that has its positive elements alone."""
    if ignored_class >= 0:
        raise ValueError(f"ignore_index applies to class indices, got {ignored_class} with sparse targets")
    matrix = sparse_rows(targets, shape)
    masses_of(matrix)
    matrix.eliminate_zeros()
    return matrix


def best_of_shard(positives: Any, logits: Array, first: int, n_threads: int | None) -> Best:
    """Of some classes of all rows, from this one on; the positives are those of all classes, as `positive_rows`."""
    here = Positives.of_matrix(positives[:, first : first + logits.shape[1]]).best(Rows(logits), n_threads)
    return here._replace(classes=np.where(here.classes == NO_CLASS, NO_CLASS, here.classes + first))
