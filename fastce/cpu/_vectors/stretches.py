"""Stretches of rows, written in whole vectors at multiples of their size as far as that goes."""

from fastce.cpu._vectors.compiler import inline
from fastce.cpu._vectors.memory import (
    elements_ahead,
    elements_to_boundary,
    lanes_of,
    load,
    load_first,
    prefetch,
    store_first,
    store_whole,
    to_real,
)


@inline
def next_step(out, i, stop, past_cache):
    """(whole, count): how many whole vectors can be written from element ``i`` on, or 0 and a partial one's elements.

    Past the cache only whole vectors at multiples of their size can be written, so that a partial one comes first.
    """
    lanes = lanes_of(out)
    boundary = elements_to_boundary(out, i) if past_cache else 0
    whole = (stop - i) // lanes
    if boundary > 0 or whole == 0:
        return 0, min(stop - i, boundary if boundary > 0 else lanes)
    return whole, 0


@inline
def copy_stretch(source, to_source, out, start, stop, past_cache):
    """out[i] = source[i + to_source] from start to stop: whole vectors at multiples of their size in ``out``."""
    i = start
    while i < stop:
        whole, count = next_step(out, i, stop, True)
        if count > 0:
            x = load_first(source, i + to_source, count, to_real(source, 0.0))
            store_first(out, i, x, count)
            i += count
            continue
        for _ in range(whole):
            prefetch(source, i + to_source + elements_ahead(source))
            store_whole(out, i, load(source, i + to_source), past_cache)
            i += lanes_of(out)
