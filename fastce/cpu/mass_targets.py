"""Class probabilities, dense or sparse, as the kernels take them: as points, or read block by block."""

import copy
import math
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.silence import cast, silently
from fastce.cpu._kernels.targets import ColumnTargets, Targets
from fastce.cpu.columns import Columns, CopiedColumns, Place, columns_of
from fastce.cpu.layout import Rows
from fastce.cpu.masses import Masses
from fastce.cpu.point_columns import Canonical, PointColumns, PointRows, canonical, points_of
from fastce.cpu.targets import (
    NO_FLOATS,
    NO_INDICES,
    NO_INTEGERS,
    NO_PROBABILITIES,
    NO_ROW_WEIGHT,
    NO_WEIGHT,
    TargetRows,
)

_NO_POINTS = (NO_INTEGERS, NO_FLOATS, NO_INTEGERS)
_CUBE_ELSEWHERE = {np.dtype(name): np.empty((0, 1, 0), name) for name in ("float32", "float64")}


class MassTargets(TargetRows):
    """Probabilities, or a sparse matrix: as points, or as probabilities too."""

    def __init__(
        self, points: Canonical | PointRows | None, probabilities: Rows | PointRows | None,
        cube: Columns | CopiedColumns | PointColumns | None, per_class: Array | None, per_row: Array | None,
        dtype: np.dtype[Any], rows: int,
    ) -> None:  # fmt: skip
        self.weigh_alike: bool = False
        self.points = points
        self.rows = rows
        self.probabilities = probabilities
        self.cube = cube
        self.per_class = per_class
        self.class_weight: Array = NO_WEIGHT[dtype] if per_class is None else cast(per_class, dtype)
        self.row_weight: Array = NO_FLOATS if per_row is None else per_row
        self.per_row = per_row
        self.total_weight: float = float(rows) if per_row is None else float(silently(np.add.reduce, per_row))

    @property
    def has_points(self) -> bool:
        """See `TargetRows.has_points`."""
        return self.points is not None or isinstance(self.probabilities, PointRows)

    @property
    def lies_in_rows(self) -> bool:
        """See `TargetRows.lies_in_rows`."""
        return self.cube is None

    @property
    def lie_in_memory(self) -> bool:
        """See `TargetRows.lie_in_memory`."""
        masses = self.probabilities
        return masses is None or (isinstance(masses, Rows) and masses.matrix is not None)

    def weights(self) -> tuple[Array, Array | int]:
        """v_i of all rows, as pairs."""
        return self.row_weight, 0

    def times(self, exponent: int) -> "MassTargets":
        """The same with row weights times 2**exponent."""
        targets = copy.copy(self)
        targets.per_row = targets.row_weight = silently(np.ldexp, self.row_weight, exponent)
        return targets

    def in_float64(self) -> "MassTargets":
        """The same, for kernels of float64."""
        targets, dtype = copy.copy(self), np.dtype(np.float64)
        targets.class_weight = NO_WEIGHT[dtype] if self.per_class is None else self.per_class
        targets.probabilities = None if self.probabilities is None else self.probabilities.in_dtype(dtype)
        return targets

    def of(self, rows: Array) -> Targets:
        """The probabilities, or points, of these rows."""
        weight = self.row_weight[rows] if self.row_weight.size else self.row_weight
        if self.points is not None:
            return self._targets(points_of(self.points, rows), NO_PROBABILITIES[self.class_weight.dtype], weight)
        assert self.probabilities is not None
        return self._targets(_NO_POINTS, self.probabilities.copy(rows), weight)

    def in_order(self, numbers: Array, order: tuple[int, ...], axis: int) -> "MassTargets":
        """The probabilities with their axes, of which this was the class axis, in another order; rows as they come."""
        assert isinstance(self.probabilities, Rows)
        array = np.moveaxis(self.probabilities.view, -1, axis).transpose(order)
        axis, dtype = order.index(axis), self.class_weight.dtype
        per_row = None if self.per_row is None else self.per_row[numbers]
        return MassTargets(
            None, Masses(array, axis, dtype), columns_of(array, axis, dtype, Masses), self.per_class, per_row, dtype,
            self.rows,
        )  # fmt: skip

    def counted(self) -> Array | None:
        """The numbers of the rows that have some weight; None for all of them."""
        return None if self.row_weight.all() else np.flatnonzero(self.row_weight)

    def block(self, start: int, stop: int) -> Targets:
        """The targets of rows ``start`` to ``stop``."""
        weight = self.row_weight[start:stop]
        if self.points is None:
            assert self.probabilities is not None
            return self._targets(_NO_POINTS, self.probabilities.block(start, stop), weight)
        classes, masses, first_points = canonical(self.points)
        none = NO_PROBABILITIES[self.class_weight.dtype]
        return self._targets((classes, masses, first_points[start : stop + 1]), none, weight)

    def _targets(self, points: Canonical, probabilities: Array, row_weight: Array) -> Targets:
        classes, masses, first_points = points
        return Targets(first_points, classes, masses, probabilities, self.class_weight, row_weight)

    def columns(self, place: Place, spread: bool = True) -> ColumnTargets:
        """The targets of a block of a cube; unless ``spread``, for a kernel that is given points of a matrix beside."""
        assert self.cube is not None
        weight = self.row_weight[place.start : place.stop]
        of_rows = weight.reshape(place.shape) if weight.size else NO_ROW_WEIGHT
        probabilities = self.cube.block(place) if spread else _CUBE_ELSEWHERE[self.class_weight.dtype]
        return ColumnTargets(NO_INDICES, probabilities, self.class_weight, of_rows, math.nan)
