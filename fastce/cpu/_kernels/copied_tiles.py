"""Tiles of a few classes that are not adjacent: copies of them, made while they are first read.

Classes a power of two apart would push each other out of the cache, where they are wanted twice or three times. The
next vector of rows is copied beside the sums of one, whose arithmetic hides that memory is waited for. ``source`` is
(place, start, stride, step) of what is copied, see `narrow.tile_and_source`; its step is 0 if nothing is.
"""

from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.memory import lanes_of, load, load_first, prefetch, store, to_real

VECTORS_AHEAD = 2  # of rows, that memory is asked for before they are copied


@outlined
def copy_tile(array, first, count, stride, classes, tile, width):
    """tile[c * width + k] = class c of row first + k, of an array whose rows are adjacent."""
    lanes = lanes_of(array)
    whole = count - count % lanes
    for c in range(classes):
        start = c * stride + first
        for k in range(0, whole, lanes):
            prefetch(array, start + k + 2 * width)
            store(tile, c * width + k, load(array, start + k))
        if whole < count:
            x = load_first(array, start + whole, count - whole, to_real(array, 0.0))
            store(tile, c * width + whole, x)


@inline
def nothing_comes(tile):
    """What is ``coming`` where that is nothing: see `carry`."""
    return tile[0], 0, 0, -1


@inline
def carry(tile, coming, c, number):
    """Copy so many classes, from c on, of the next vector of rows into the tile, or ask for as many lines.

    So memory is waited for behind the arithmetic of this vector of rows.
    """
    place, start, line, to = coming
    if to >= 0:
        for j in range(number):
            at = start + (c + j) * line
            prefetch(place, at + VECTORS_AHEAD * lanes_of(place))
            store(tile[0], to + (c + j) * tile[2], load(place, at))
    elif line > 0:
        for j in range(number):
            prefetch(place, start + (c + j) * line)


@inline
def coming_beside(tile, source, coming, k, count):
    """What `carry` is to do beside the sums of one vector of rows: ``coming`` unless few classes are copied."""
    place, start, stride, step = source
    if tile[3] != 0 or step == 0:
        return coming
    after = k + lanes_of(place)
    if after + lanes_of(place) <= count:
        return place, start + after, stride, tile[1] + after
    return place, start + after + VECTORS_AHEAD * lanes_of(place), stride, -1


@inline
def bring_first(tile, source, k, classes, count, every):
    """Copy one vector of rows into a tile, if `carry` does not bring it: the first, the last if not whole, or every."""
    place, start, stride, step = source
    left = count - k
    if step != 0 and (every or k == 0 or left < lanes_of(place)):
        for c in range(classes):
            x = load_first(place, start + k + c * stride, left, to_real(place, 0.0))
            store(tile[0], tile[1] + k + c * tile[2], x)


@inline
def bring_all(tile, source, classes, count):
    """Fill a tile that few classes are copied into."""
    place, start, stride, step = source
    if tile[3] == 0 and step != 0:
        copy_tile(place, start, count, stride, classes, tile[0], tile[2])


@inline
def brought(tile, source):
    """The source of a tile that has been looked at: itself, if it is a copy."""
    return tile if tile[3] == 0 else source
