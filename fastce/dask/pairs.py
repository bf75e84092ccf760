"""Which pairs belong together, of all rows and of those of each stripe."""

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np

from fastce.arguments.positives import Positives, positives_of
from fastce.cpu.engine import Cpu
from fastce.dask.features import dask_array, first_block
from fastce.dask.tasks import Key, Stripe, Tasks


class Pairs:
    """The targets of a call, checked as far as they are known."""

    def __init__(self, targets: Any, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.arrays: list[Any] = []
        self.known: Positives | None = None
        if isinstance(targets, da.Array):
            array = dask_array(targets, "targets").rechunk(-1)
            positives_of(np.broadcast_to(np.zeros((), array.dtype), array.shape), (shape[0], max(shape[1], 1)))
            self.arrays.append(array)
        elif targets is not None:
            self.known = positives_of(targets, shape)

    def of_all(self, tasks: Tasks) -> Key:
        """The key of the `Positives` of all rows."""
        if self.known is not None:
            return tasks.constant(self.known)
        return tasks.add(_positives, *map(first_block, self.arrays), shape=self.shape)

    def of_stripes(self, tasks: Tasks, of_all: Key, stripes: Sequence[Stripe]) -> list[Key]:
        """The keys of those of each stripe."""
        return [tasks.add(_of_rows, of_all, rows=stripe.rows) for stripe in stripes]


def _positives(engine: Cpu, targets: Any = None, *, shape: tuple[int, int]) -> Positives:
    return positives_of(targets, shape)


def _of_rows(engine: Cpu, points: Positives, *, rows: slice) -> Positives:
    return points.of_rows(rows)
