"""The states of the rows of a block on a GPU, for `fastce.LogSumExp`, which keeps them on the host."""

from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, reduced_axes
from fastce.cuda.arrays import empty
from fastce.cuda.axes import reduced_shape, rows_along, with_an_axis
from fastce.cuda.cross_entropy import float_array, real_of
from fastce.cuda.libraries import numpy_dtype
from fastce.cuda.run import numbers_of
from fastce.cuda.statistics import store_statistics


def update(**given: Any) -> tuple[tuple[int, ...], np.dtype[Any], Array, Array]:
    """(shape, dtype) of what `fastce.LogSumExp.update` adds, and of every row its largest element and its rest."""
    array = with_an_axis(float_array(given["block"], "block"))
    axes = reduced_axes(array, given["axis"])  # type: ignore[arg-type]  # it has ndim
    rows, _ = rows_along(array, axes)
    tops = empty(array.library, (rows.count,), real_of(array).name)
    rests = empty(array.library, (rows.count,), "float64")
    if array.size:
        store_statistics(rows, {"max": tops, "rest": rests})
        found = numbers_of(tops).astype(np.float64), numbers_of(rests)
    else:
        found = np.full(rows.count, -np.inf), np.full(rows.count, -1.0)  # of no elements
    return reduced_shape(array, axes, keepdims=False), numpy_dtype(array.dtype_name), *found
