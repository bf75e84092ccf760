"""Targets and weights of rows, as the kernels take them: what the kinds have in common.

Class indices are in index_targets.py. Probabilities, dense or sparse, are in mass_targets.py.
"""

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np

from fastce.arguments.arrays import Array
from fastce.cpu._kernels.targets import ColumnTargets, Targets
from fastce.cpu.columns import Place

# what kernels are given where there is nothing
NO_INTEGERS = np.empty(0, np.int64)
NO_FLOATS = np.empty(0, np.float64)
NO_WEIGHT = {np.dtype(name): np.empty(0, name) for name in ("float32", "float64")}
NO_ROW_WEIGHT = np.empty((0, 0))
NO_INDICES = np.empty((0, 0), np.int64)
NO_CUBE = {np.dtype(name): np.empty((0, 0, 0), name) for name in ("float32", "float64")}
NO_PROBABILITIES = {np.dtype(name): np.empty((0, 0), name) for name in ("float32", "float64")}


def no_row_masses(dtype: np.dtype[Any]) -> tuple[Array, Array, Array, Array]:
    """(first_points, masses, probabilities, class_weight) of `Targets` that are class indices, for this dtype."""
    return NO_INTEGERS, NO_FLOATS, NO_PROBABILITIES[dtype], NO_WEIGHT[dtype]


class TargetRows(ABC):
    """Targets and weights of all rows of a call.

    Attributes
    ----------
    per_class, per_row : ndarray or None
        The weights w of classes and v of rows.
    total_weight, total_exponent : float and int
        What a mean divides by: total_weight * 2**total_exponent.
    weigh_alike : bool
        Whether no row is ignored and there are no weights.
    """

    per_class: Array | None
    per_row: Array | None
    total_weight: float
    total_exponent: int = 0
    weigh_alike: bool

    @property
    def total(self) -> tuple[float, int]:
        """What a mean divides by, as a pair."""
        return self.total_weight, self.total_exponent

    @property
    def has_points(self) -> bool:
        """Whether they are single classes of a sparse matrix."""
        return False

    @property
    def lies_in_rows(self) -> bool:
        """Whether only kernels that go along rows can read them."""
        return False

    @property
    def lie_in_memory(self) -> bool:
        """Whether kernels that go along rows read them without copies of whole blocks."""
        return True

    @abstractmethod
    def weights(self) -> tuple[Array, Array | int]:
        """What the rows add to the total, as pairs."""

    @abstractmethod
    def times(self, exponent: int) -> Self:
        """The same with row weights times 2**exponent."""

    @abstractmethod
    def in_float64(self) -> Self:
        """The same, for kernels of float64."""

    @abstractmethod
    def in_order(self, numbers: Array, order: tuple[int, ...], axis: int) -> "TargetRows":
        """The targets of the rows with these numbers, which are all of them: those of logits whose axes, of which this
        was the class axis, are in another order.
        """

    @abstractmethod
    def counted(self) -> Array | None:
        """The numbers of the rows that are not ignored and have some weight; None for all of them."""

    @abstractmethod
    def of(self, rows: Array) -> Targets:
        """The targets of these rows."""

    @abstractmethod
    def block(self, start: int, stop: int) -> Targets:
        """The targets of rows ``start`` to ``stop``."""

    @abstractmethod
    def columns(self, place: Place, spread: bool = True) -> ColumnTargets:
        """The targets of a block of a cube; unless ``spread``, for a kernel that is given points of a matrix beside."""
