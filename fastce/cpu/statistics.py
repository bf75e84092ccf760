"""Statistics of rows, run over blocks: one kernel for all that is asked for, or a quicker one for the largest class."""

from collections.abc import Sequence
from typing import get_args

import numpy as np

from fastce.arguments.arrays import Array
from fastce.cpu._kernels.largest import largest_columns
from fastce.cpu._kernels.statistics import Statistics, statistics_rows
from fastce.cpu.columns import Columns, Place, columns_of, cut_for_threads
from fastce.cpu.layout import Rows, cut_for
from fastce.cpu.threads import for_each
from fastce.typing import IntegerStatistic

INTEGERS = get_args(IntegerStatistic)
_NO_CLASSES = np.empty(0, np.int64)


def statistics_of(rows: Rows, classes: Array, names: Sequence[str], n_threads: int | None) -> dict[str, Array]:
    """What outputs of these names are made of, in flat arrays; ``classes`` are the targets, if one needs them."""
    kernel = statistics_rows.compiled(rows.dtype)
    results = _room_for(names, rows.rows)

    def work(start: int, stop: int) -> None:
        kernel(rows.block(start, stop), classes[start:stop], Statistics(*(part[start:stop] for part in results)))

    for_each(cut_for(rows, n_threads=n_threads), work, n_threads)
    return results._asdict()


def largest_of(
    array: Array, axis: int, rows: Rows, names: Sequence[str], n_threads: int | None
) -> dict[str, Array] | None:
    """The same of no other names than argmax and max; None where rows are better gone along."""
    cube = columns_of(array, axis, rows.dtype)
    if cube is None:
        return None
    results, kernel = _room_for(names, rows.rows), largest_columns.compiled(rows.dtype)

    def work(place: Place) -> None:
        misfits = np.zeros(place.shape, np.uint8)
        numbers, largest = (_of_place(part, place) for part in (results.argmax, results.max))
        kernel(cube.block(place), cube.narrow, numbers, largest, misfits)
        if np.count_nonzero(misfits):
            odd = np.flatnonzero(misfits) + place.start
            mended = statistics_of(Rows(rows.copy(odd)), _NO_CLASSES, names, 1)
            for name in names:
                getattr(results, name)[odd] = mended[name]

    for_each(cut_for_threads(cube, rows.dtype.itemsize, n_threads, in_place=isinstance(cube, Columns)), work, n_threads)
    return results._asdict()


def _of_place(result: Array, place: Place) -> Array:
    """The part of a flat result that belongs to this block of a cube, if there is one."""
    return result[place.start : place.stop].reshape(place.shape) if result.size else result.reshape(0, 0)


def _room_for(names: Sequence[str], rows: int) -> Statistics:
    """One element a row for what the kernel is to compute, none for the rest."""
    wanted = {"target_rank" if name == "in_top_k" else name for name in names}
    return Statistics(
        *(
            np.empty(rows if name in wanted else 0, np.int64 if name in INTEGERS else np.float64)
            for name in Statistics._fields
        )
    )
