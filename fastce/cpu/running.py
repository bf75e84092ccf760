"""The state of rows whose classes come in pieces, and the law by which pieces merge.

    (m1, r1) + (m2, r2) = (m, r1 e1 + r2 e2 + min(e1, e2)),   m = max(m1, m2),  e = exp(scale (m - own m))

where r is the sum of all terms but the largest, relative to that. One of e1 and e2 is 1, and the other is the term that
was the largest of its piece; nothing cancels, so that rows near 0 keep their digits. The identity is (-inf, -1).
"""

from typing import NamedTuple

import numpy as np

from fastce.arguments.arrays import Array, kernel_dtype, new_like
from fastce.arguments.silence import quietly
from fastce.cpu._kernels.running import softmax_from_states, states_rows
from fastce.cpu.layout import Rows, cut_for, goes_past_cache, write_rows
from fastce.cpu.pieces import pieces
from fastce.cpu.sums import exp_of_difference
from fastce.cpu.threads import for_each


class States(NamedTuple):
    """Of every row: its largest element, and the sum of exp(scale (x - top)) over all others; in float64."""

    tops: Array
    rests: Array

    @classmethod
    def of_nothing(cls, shape: int | tuple[int, ...]) -> "States":
        """The law's identity, for so many rows."""
        return cls(np.full(shape, -np.inf), np.full(shape, -1.0))

    @quietly()
    def merged(self, other: "States", scale: float = 1.0) -> "States":
        """The states of the classes of both."""
        tops = np.maximum(self.tops, other.tops)
        mine, others = (exp_of_difference(part.tops, tops, scale) for part in (self, other))
        return States(tops, (self.rests * mine + other.rests * others) + np.minimum(mine, others))

    @quietly()
    def logsumexp(self, scale: float = 1.0) -> Array:
        """Log of the sum of exp(scale x) over all classes."""
        result: Array = scale * self.tops + np.log1p(self.rests)
        return result


def states_over(array: Array, axes: tuple[int, ...], n_threads: int | None, scale: float = 1.0) -> States:
    """The states of rows whose classes lie along these axes, flat."""
    parts = [Rows(array[piece], axes) for piece in pieces(array.shape, axes)]
    rows = parts[0].rows
    if parts[0].classes == 0:
        return States.of_nothing(rows)
    kernel = states_rows.compiled(parts[0].dtype)
    found = [States(np.empty(rows), np.empty(rows)) for _ in parts]

    def work(k: int, start: int, stop: int) -> None:
        kernel(parts[k].block(start, stop), scale, found[k].tops[start:stop], found[k].rests[start:stop])

    blocks = cut_for(parts[0], n_threads=n_threads)
    for_each([(k, *block) for k in range(len(parts)) for block in blocks], work, n_threads)
    result = found[0]
    for state in found[1:]:
        result = result.merged(state, scale)
    return result


def softmax_of_states(
    array: Array, axes: tuple[int, ...], states: States, logarithm: bool, n_threads: int | None = None
) -> Array:
    """Softmax over these axes of some classes of rows, or its logarithm, from the states of all of their classes."""
    out = new_like(array, kernel_dtype(array.dtype))
    rows, written = Rows(array, axes), Rows(out, axes)
    kernel, past_cache = softmax_from_states.compiled(rows.dtype), written.matrix is not None and goes_past_cache(out)

    def work(here: slice, block: Array, room: Array) -> None:
        kernel(block, states.tops[here], states.rests[here], room, logarithm, past_cache)

    if array.size:
        write_rows(rows, written, work, n_threads)
    return out
