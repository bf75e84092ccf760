"""Plain twins of `fastce.cuda._kernels.primitives` for Numba's simulator, where a GPU's thread is a thread of Python.

A chunk is a tuple of reals here, and a room a list of them.
"""

import collections
import math
import threading
import time

import numpy as np
from numba import cuda

ROOM_CHUNKS = 2048
PATIENCE = 60.0  # seconds until a warp gives up on threads that have failed
_LOCK = threading.Lock()


def device(function):
    return cuda.jit(device=True)(function)


def kernel(*bounds):
    return cuda.jit


# --- elements --------------------------------------------------------------------------------------------------------


def _real(array):
    return np.float64 if array.dtype.char == "d" else np.float32


def lanes_of(array):
    return 16 // array.itemsize


def to_real(array, value):
    return _real(array)(value)


def load_real(array, k):
    element = array[k]
    if array.dtype.char == "H":  # bfloat16
        return (np.uint32(element) << np.uint32(16)).view(np.float32)
    return _real(array)(element)


def _rounded(array, value):
    if array.dtype != np.uint16:
        return array.dtype.type(value)
    bits = int(np.float32(value).view(np.uint32))
    if math.isnan(value):
        return np.uint16(bits >> 16 | 0x40)
    return np.uint16(bits + 0x7FFF + (bits >> 16 & 1) >> 16)  # to nearest even


def store_real(array, k, value):
    with np.errstate(over="ignore"):
        array[k] = _rounded(array, value)


def _as_stored(array, value):
    """The real that is found again where this one was stored."""
    one = np.empty(1, array.dtype)
    store_real(one, 0, value)
    return load_real(one, 0)


def load_fresh(array, k):
    return array[k]


def count_released(counters, k, more):
    return cuda.atomic.add(counters, k, more)


count_both_ways = count_released


# --- chunks ----------------------------------------------------------------------------------------------------------


def load_chunk(array, k):
    return load_part(array, k, k, k + lanes_of(array))


def load_part(array, k, start, stop):
    lowest = to_real(array, -math.inf)
    return tuple(load_real(array, j) if start <= j < stop else lowest for j in range(k, k + lanes_of(array)))


def store_part(array, k, start, stop, chunk):
    for j, value in enumerate(chunk, k):
        if start <= j < stop:
            store_real(array, j, value)


def store_chunk(array, k, chunk):
    store_part(array, k, k, k + len(chunk), chunk)


def reals_of(array, chunk):
    return chunk


def top_of_chunk(array, chunk):
    return np.max(chunk)


def new_reals(array):
    return np.empty(lanes_of(array), _real(array))


def chunk_of(array, reals):
    return tuple(reals)


def room_for(chunks):
    return lambda: _of_block("fastce_chunks", lambda: [None] * chunks)


def fetch(room, slot, array, k):
    hold(room, slot, load_chunk(array, k))


def fetch_if(is_there, room, slot, array, k):
    if is_there:
        fetch(room, slot, array, k)


def wait_for_fetched():
    pass


def hold(room, slot, chunk):
    room[slot] = list(chunk)


def held(room, slot):
    return tuple(room[slot])


def get_reals_by(width):
    def get_reals(room, array, k):
        slot, lane = divmod(k, lanes_of(array))
        return tuple(room[slot][lane : lane + width])

    return get_reals


def put_reals_by(width):
    def put_reals(room, array, k, reals, first):
        slot, lane = divmod(k, lanes_of(array))
        room[slot][lane : lane + width] = [_as_stored(array, value) for value in reals[first : first + width]]

    return put_reals


# --- arithmetic ------------------------------------------------------------------------------------------------------


def exp2(x):
    return np.exp2(x)


rough_exp2 = exp2


def fma(a, b, c):
    if type(a) is np.float32:  # whose products float64 holds
        return np.float32(float(a) * float(b) + float(c))
    return type(a)(np.longdouble(a) * np.longdouble(b) + np.longdouble(c))


def rough_reciprocal(x):
    return 1 / x


def plus(a, b):
    return a + b


def found_here(x):
    return x


def largest(a, b):
    return np.maximum(a, b)


def smallest(a, b):
    return np.minimum(a, b)


# --- threads ---------------------------------------------------------------------------------------------------------


def _of_block(name, make):
    """One object for all threads of the block that asks."""
    known = threading.current_thread()._manager.__dict__
    if name not in known:
        with _LOCK:
            known.setdefault(name, make())
    return known[name]


def pause():
    time.sleep(0.001)


def meet_warp():
    """Wait for the threads of the own warp only, since others may be elsewhere."""
    thread = threading.current_thread()
    warp, threads = thread.thread_id // 32, math.prod(thread._manager._block_dim)
    _of_block(f"fastce_warp{warp}", lambda: threading.Barrier(min(32, threads - 32 * warp))).wait(PATIENCE)


def _from_thread(value, number):
    """Each thread keeps all that it has given, so that nobody waits until all others have read it."""
    given = _of_block("fastce_lanes", lambda: collections.defaultdict(list))
    thread = threading.current_thread().thread_id
    given[thread].append(value)
    meet_warp()
    return given[number(thread)][len(given[thread]) - 1]


def from_lane(value, distance):
    return _from_thread(value, lambda thread: thread ^ distance)


def of_lane(value, lane):
    return _from_thread(value, lambda thread: thread // 32 * 32 + lane)
