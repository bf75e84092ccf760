"""Plain calls of cross_entropy of many classes: a matrix of rows and class indices, no weights; see plain.py."""

import math
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.reductions import factor_of_rows
from fastce.cpu._kernels.cross_entropy import cross_entropy_rows
from fastce.cpu._kernels.targets import Options
from fastce.cpu.along_rows import NO_PRODUCTS, exps_kept
from fastce.cpu.class_indices import are_classes
from fastce.cpu.extremes import factors_in_range
from fastce.cpu.layout import goes_past_cache
from fastce.cpu.plain import (
    Decided,
    Found,
    any_misfit,
    in_runs,
    is_one_run,
    lies_plainly,
    room_for,
    scratch_for,
)
from fastce.cpu.rooms import Room
from fastce.cpu.targets import NO_FLOATS, no_row_masses
from fastce.cpu.threads import for_each


class PlainRows:
    """How such calls are computed."""

    def __init__(self, decided: Decided, logits: Array, *, with_gradient: bool) -> None:
        dtype, classes = logits.dtype, logits.shape[1]
        self.options: Options = decided.options
        self.reduction: str = decided.reduction
        self.ignored_class: int = decided.ignored_class
        self.n_threads: int | None = decided.n_threads
        self.lead: tuple[int, ...] = logits.shape[:1]
        self.with_gradient: bool = with_gradient
        self.is_a_class: bool = 0 <= decided.ignored_class < classes  # what is ignored
        self.no_gradient: Array = np.empty((0, 0), dtype)
        self.kept: int = exps_kept(classes, dtype) if with_gradient else 0
        self.above: Array = np.array([factor_of_rows(decided.reduction, float(len(logits)))])

    def found(self, logits: Array, targets: Array, _: Any, out: Any) -> Found | None:
        """What a call comes to. The kernel reads what an index says: it gets a copy, which no other thread changes."""
        classes, above, weight = logits.shape[1], self.above, NO_FLOATS
        if not lies_plainly(logits, classes):
            return None
        gradient = room_for(logits, out, targets) if self.with_gradient else self.no_gradient
        if gradient is None:
            return None
        indices, counted = targets.astype(np.int64), len(targets)
        if self.is_a_class or not are_classes(indices, classes):
            ignored = indices == self.ignored_class
            counted -= int(np.count_nonzero(ignored))
            indices[ignored] = 0
            if not are_classes(indices, classes):
                return None
            if counted < len(targets):
                weight, above = np.where(ignored, 0.0, 1.0), np.array([factor_of_rows(self.reduction, counted)])
        scratch = scratch_for((1, len(targets)))
        self._compute((logits, indices, weight, scratch.losses, scratch.misfits, gradient), above)
        if any_misfit(scratch.misfits):
            return None
        return scratch, float(counted), gradient if self.with_gradient else None

    def _compute(self, given: tuple[Array, ...], above: Array) -> None:
        """Call the kernel once, or for runs of rows; ``given`` is what each row has a part of."""
        if is_one_run(given[0]):
            self._call(np.empty(self.kept, given[0].dtype), above, False, *given)
            return
        memory, past_cache = Room(), goes_past_cache(given[-1])

        def work(*run: Array) -> None:
            self._call(memory.of((self.kept,), run[0].dtype), above, past_cache, *run)

        for_each(in_runs(given, self.n_threads), work, self.n_threads)

    def _call(
        self, exps: Array, above: Array, past_cache: bool, rows: Array, indices: Array, weight: Array, losses: Array,
        misfits: Array, gradient: Array,
    ) -> None:  # fmt: skip
        no_points, *no_masses = no_row_masses(rows.dtype)
        points = no_points, indices, *no_masses, weight
        cross_entropy_rows.compiled(rows.dtype)(
            rows, points, self.options, losses, misfits, above, NO_PRODUCTS, gradient, False, exps, past_cache
        )


def rows_like(decided: Decided, logits: Array, targets: Array, *, with_gradient: bool) -> PlainRows | None:
    """How calls are computed whose arrays look as these; None if that is left to the usual way."""
    if targets.shape != logits.shape[:1] or targets.dtype.kind not in "iu" or targets.dtype.str[1:] == "u8":
        return None  # int64 does not hold all of these
    if decided.options.softcap > 0.0 and logits.itemsize < 8:  # computed in float64
        return None
    factors = factors_in_range(decided.options, logits.itemsize, None)
    if factors is None or not factors.hold(-math.log2(len(logits)), 0.0):
        return None
    return PlainRows(decided, logits, with_gradient=with_gradient)
