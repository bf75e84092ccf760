"""Rows along any axes of an array on a GPU, as SciPy's functions have them."""

import dataclasses

from fastce.cuda.arrays import DeviceArray, empty
from fastce.cuda.layout import Rows, copy, rows_of, rows_over


def reduced_shape(array: DeviceArray, axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    """The shape of results over these axes."""
    if keepdims:
        return tuple(1 if axis in axes else n for axis, n in enumerate(array.shape))
    return tuple(n for axis, n in enumerate(array.shape) if axis not in axes)


def in_order(array: DeviceArray, axes: tuple[int, ...]) -> DeviceArray:
    """The array with these axes last, if they are several."""
    if len(axes) == 1:
        return array
    order = (*(axis for axis in range(array.ndim) if axis not in axes), *axes)
    shape = tuple(array.shape[axis] for axis in order)
    return dataclasses.replace(array, shape=shape, strides=tuple(array.strides[axis] for axis in order))


def rows_along(array: DeviceArray, axes: tuple[int, ...]) -> tuple[Rows, DeviceArray | None]:
    """The array's rows; and, if no kernel can take them where they are, the copy of it whose rows they are.

    Kernels count the rows of all arrays of a call alike: those around one axis as outer and inner ones, all others as
    one sequence, whether the array is copied or not.
    """
    if (rows := _where_they_are(array, axes)) is not None:
        return rows, None
    ordered = in_order(array, axes)
    copied = empty(array.library, ordered.shape, array.dtype_name)
    copy(ordered, copied)
    last = axes if len(axes) == 1 else tuple(range(array.ndim - len(axes), array.ndim))
    rows = _where_they_are(copied, last)
    assert rows is not None
    return rows, copied


def _where_they_are(array: DeviceArray, axes: tuple[int, ...]) -> Rows | None:
    return rows_of(array, axes[0]) if len(axes) == 1 else rows_over(array, axes)


def with_an_axis(array: DeviceArray) -> DeviceArray:
    """The same, a number as an array of one element: it has an axis 0, too."""
    return array if array.ndim else dataclasses.replace(array, shape=(1,), strides=(1,))
