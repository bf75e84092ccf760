"""What is written of tiles whose rows lie in lanes: whole vectors, at multiples of their size where that can be."""

from fastce.cpu._kernels.columns import NARROW, WRITTEN_AT_A_TIME, classes_at_a_time, send_for_next
from fastce.cpu._kernels.lines import FITTING
from fastce.cpu._vectors.compiler import inline
from fastce.cpu._vectors.lanes import store_where
from fastce.cpu._vectors.memory import address, elements_to_boundary, keep_first, lanes_of, load, store_whole
from fastce.cpu._vectors.rooms import storage_room
from fastce.cpu._vectors.simd import VECTOR_BYTES

PAGE = 4096  # bytes


new_room = storage_room(NARROW * VECTOR_BYTES // 4)  # a vector of as many classes as are ever written at a time


@inline
def is_taken_for(tile, out):
    """Whether an element that is read is taken for the one just written, and waits for it.

    Processors compare the last bits of addresses first. These are the same where classes are whole pages apart, and
    what is read as far into a page as what is written.
    """
    place, start, stride, _ = tile
    apart = (address(place, start) - address(out[0], out[1]) + VECTOR_BYTES) % PAGE
    same_stride = out[2] == stride and (address(place, stride) - address(place, 0)) % PAGE == 0
    return same_stride and 0 < apart < 2 * VECTOR_BYTES


@inline
def put_room(running, room, k, first, stop, count, out, whole, past_cache):
    """Write some classes of one vector of rows, from a room that has them one after the other: of rows that fit."""
    written, start, stride = out
    fitting = keep_first(load(running, FITTING + k), count)
    for c in range(first, stop):
        y = load(room, (c - first) * lanes_of(room))
        if whole:
            store_whole(written, start + k + c * stride, y, past_cache)
        else:
            store_where(written, start + k + c * stride, y, fitting)


@inline
def write_tile(function, running, tile, classes, count, out, to_copy, all_fit, past_cache, rest):
    """function(running, tile, k, first, stop, count, out, past_cache, rest) for some classes of every vector of rows.

    It writes whole vectors. Those of a copy are, and those of the array itself where all rows fit, at multiples of
    their size if all classes of a row allow that. What is not whole, or `is_taken_for` what is read, goes by way of a
    room.
    """
    lanes, room = lanes_of(tile[0]), new_room(tile[0])
    step = classes_at_a_time(tile, classes, WRITTEN_AT_A_TIME)
    aligned = not to_copy and out[2] % lanes == 0
    before = elements_to_boundary(out[0], out[1]) if aligned else 0
    waits = aligned and tile[3] > 0 and is_taken_for(tile, out)
    for first in range(0, classes, step):
        stop = min(first + step, classes)
        k = 0
        while k < count:
            here = min(lanes if k > 0 or before == 0 else before, count - k)
            whole = to_copy or (all_fit and here == lanes)
            if waits or not whole or here < lanes:
                send_for_next(tile, tile, k, first, classes, WRITTEN_AT_A_TIME)
                near = room, -k - first * lanes, lanes
                function(running, tile, k, first, stop, here, near, False, rest)
                put_room(running, room, k, first, stop, here, out, whole, past_cache and aligned)
                k += here
                continue
            end = count - (count - k) % lanes  # until there, loops ask nothing
            if past_cache and aligned:
                for j in range(k, end, lanes):
                    send_for_next(tile, tile, j, first, classes, WRITTEN_AT_A_TIME)
                    function(running, tile, j, first, stop, lanes, out, True, rest)
            else:
                for j in range(k, end, lanes):
                    send_for_next(tile, tile, j, first, classes, WRITTEN_AT_A_TIME)
                    function(running, tile, j, first, stop, lanes, out, False, rest)
            k = end
