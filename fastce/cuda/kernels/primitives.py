"""What kernels need and the simulator lacks: chunks of 16 bytes, exp2, maxima that pass NaN on, shuffles, fences.

Everything here is chosen by the dtype of its first argument. `simulated` holds a plain twin of each; all
other modules of this package run under both.

A chunk is 16 bytes of a row as they lie in memory: 2, 4 or 8 elements. float16 and bfloat16 (whose arrays are given as
uint16) are computed in float32, which is what "real" means here.
"""

from numba import config

if config.ENABLE_CUDASIM:
    from fastce.cuda.kernels.simulated import (
        ROOM_CHUNKS,
        chunk_of,
        chunk_room,
        device,
        exp2,
        fetch,
        fma,
        from_lane,
        get_real,
        held,
        hold,
        kernel,
        lanes_of,
        largest,
        load_chunk,
        load_fresh,
        load_part,
        load_real,
        new_reals,
        pause,
        put_real,
        reals_of,
        room_in,
        smallest,
        store_chunk,
        store_part,
        store_real,
        to_real,
        top_of_chunk,
        wait_for_fetched,
    )
else:
    from fastce.cuda.kernels.chunk_intrinsics import (
        ROOM_CHUNKS,
        chunk_of,
        chunk_room,
        fetch,
        get_real,
        held,
        hold,
        load_chunk,
        load_part,
        new_reals,
        put_real,
        reals_of,
        room_in,
        store_chunk,
        store_part,
        top_of_chunk,
        wait_for_fetched,
    )
    from fastce.cuda.kernels.intrinsics import (
        device,
        exp2,
        fma,
        from_lane,
        kernel,
        lanes_of,
        largest,
        load_fresh,
        load_real,
        pause,
        smallest,
        store_real,
        to_real,
    )

__all__ = [
    "ROOM_CHUNKS",
    "chunk_of",
    "chunk_room",
    "device",
    "exp2",
    "fetch",
    "fma",
    "from_lane",
    "get_real",
    "held",
    "hold",
    "kernel",
    "lanes_of",
    "largest",
    "load_chunk",
    "load_fresh",
    "load_part",
    "load_real",
    "new_reals",
    "pause",
    "put_real",
    "reals_of",
    "room_in",
    "smallest",
    "store_chunk",
    "store_part",
    "store_real",
    "to_real",
    "top_of_chunk",
    "wait_for_fetched",
]
