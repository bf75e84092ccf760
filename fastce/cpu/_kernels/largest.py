"""The largest class of every row and its logit, a row in each lane: comparisons only."""

import math

from numba import types

from fastce.cpu._kernels.columns import SUMMED_AT_A_TIME, classes_at_a_time, readable, send_for_next
from fastce.cpu._kernels.lines import BESIDE, CHOSEN, HIGHEST, new_running
from fastce.cpu._kernels.narrow import new_tile, tile_of, tile_width
from fastce.cpu._vectors.compiler import kernel, matrix, outlined
from fastce.cpu._vectors.memory import elements, lanes_of, load, load_first, row_pointer, store, to_real
from fastce.cpu._vectors.simd import where_less


@outlined
def find_largest_class(running, tile, classes, count):
    """CHOSEN becomes the first of the largest classes of every row, HIGHEST its logit, BESIDE NaN if there may be one.

    A NaN is not less than infinity; infinity, rare as it is, counts as one.
    """
    place, start, stride, _ = tile
    lowest = load_first(place, 0, 0, to_real(place, -math.inf))
    infinite, nothing = load_first(place, 0, 0, to_real(place, math.inf)), load_first(place, 0, 0, to_real(place, 0.0))
    step = classes_at_a_time(tile, classes, SUMMED_AT_A_TIME)
    for first in range(0, classes, step):
        stop = min(first + step, classes)
        for k in range(0, count, lanes_of(place)):
            send_for_next(tile, tile, k, first, classes, SUMMED_AT_A_TIME)
            here = readable(tile, k, count)
            tops, numbers, odd = lowest, nothing, nothing
            if first > 0:
                tops, numbers, odd = load(running, HIGHEST + k), load(running, CHOSEN + k), load(running, BESIDE + k)
            number = load_first(place, 0, 0, to_real(place, first))
            for c in range(first, stop):
                x = elements(place, start + k + c * stride, here, to_real(place, 0.0))
                numbers = where_less(tops, x, number, numbers)
                tops = where_less(tops, x, x, tops)
                odd = where_less(x, infinite, odd, to_real(place, math.nan))
                number += to_real(place, 1.0)
            store(running, HIGHEST + k, tops)
            store(running, CHOSEN + k, numbers)
            store(running, BESIDE + k, odd)


def _types(storage):
    cube = types.Array(storage, 3, "A")
    return cube, types.boolean, matrix(types.int64), matrix(types.float64), matrix(types.uint8)


@kernel(_types)
def largest_columns(logits, narrow, numbers, largest, misfits):
    """numbers[o, i] = the first of the largest classes of row i, and largest[o, i] its logit; either may have no rows.

    Rows where ``misfits`` becomes 1 may have a NaN: they are for `statistics_rows`.
    """
    outer, classes, rows = logits.shape
    room = new_tile(logits)
    running = new_running(room)
    width = tile_width(classes, narrow)
    for o in range(outer):
        for first in range(0, rows, width):
            count = min(width, rows - first)
            tile = row_pointer(logits, o), first, logits.strides[1] // logits.itemsize, 1
            if narrow:
                tile = tile_of(logits, True, o, first, count, room, width)
            find_largest_class(running, tile, classes, count)
            for k in range(count):
                if numbers.shape[0] > 0:
                    numbers[o, first + k] = int(running[CHOSEN + k])
                if largest.shape[0] > 0:
                    largest[o, first + k] = running[HIGHEST + k]
                if math.isnan(running[BESIDE + k]):
                    misfits[o, first + k] = 1
