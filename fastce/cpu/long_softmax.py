"""Softmax of very long rows, piece by piece: look at every piece, merge, write every piece."""

import math
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.silence import silently
from fastce.cpu._kernels.long_rows import look_at_softmax_piece, write_softmax_of_piece
from fastce.cpu.layout import Rows, goes_past_cache
from fastce.cpu.pieces import groups, leader_of, merged_sum, odd_ones, pieces, rounded_sum
from fastce.cpu.sums import exp_of_difference
from fastce.cpu.threads import for_each


def softmax_of_long_rows(
    array: Array, axes: tuple[int, ...], out: Array, dtype: np.dtype[Any], n_threads: int | None, *, logarithm: bool
) -> None:
    """Softmax over these axes, or its logarithm, into ``out``, which may be the array itself."""
    places = list(pieces(array.shape, axes))
    parts = [(Rows(array[place], axes, dtype), Rows(out[place], axes, dtype)) for place in places]
    past_cache = goes_past_cache(out, array)
    look_at, write_to = look_at_softmax_piece.compiled(dtype), write_softmax_of_piece.compiled(dtype)
    for group in groups(parts[0][0].rows, len(parts), n_threads):
        found = np.zeros((len(group), len(parts), 3))
        tasks = [(i, k) for i in group for k in range(len(parts))]
        first = group.start

        def look(i: int, k: int, at_least: float = -math.inf, found: Array = found, first: int = first) -> None:
            look_at(parts[k][0].block(i, i + 1), logarithm, at_least, found[i - first, k])

        for_each(tasks, look, n_threads)
        if not logarithm:
            heights = [leader_of(of_row[:, 0], of_row[:, 1], 1.0) for of_row in found]
            odd = [
                (i, k, height)
                for i, of_row, (leader, height) in zip(group, found, heights, strict=True)
                for k in odd_ones(of_row[:, 0], height, leader)
            ]
            for_each(odd, look, n_threads)
        merged = [silently(_merged_logarithm if logarithm else _merged_state, of_row) for of_row in found]

        def write(i: int, k: int, merged: list[Array] = merged, first: int = first) -> None:
            room = parts[k][1].room(i, i + 1)
            write_to(parts[k][0].block(i, i + 1), room, merged[i - first], logarithm, past_cache)
            parts[k][1].put_back(i, i + 1, room)

        for_each(tasks[::-1], write, n_threads)


def _merged_state(found: Array) -> Array:
    """(offset, exponent, sum) of a row from those of its pieces."""
    offsets, exponents, rests = found.T
    leader, height = leader_of(offsets, exponents, 1.0)
    total = merged_sum(rests, exponents, exponents[leader]) if math.isfinite(height) else math.nan
    return np.array([offsets[leader], exponents[leader], total])


def _merged_logarithm(found: Array) -> Array:
    """(largest, 0, rest / exp(largest)) of a row from those of its pieces: only one of them keeps its largest apart."""
    largest, rests = found[:, 0], found[:, 2]
    leader = int(largest.argmax())
    if not math.isfinite(largest[leader]):
        return np.array(found[leader])
    others = (np.arange(len(found)) != leader) & (largest != -math.inf)
    terms = exp_of_difference(largest[others], largest[leader], 1.0) * (1.0 + rests[others])
    return np.array([largest[leader], 0.0, rounded_sum(np.append(terms, rests[leader]))])
