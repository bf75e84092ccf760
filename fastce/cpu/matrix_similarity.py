"""CLIP's loss on a matrix of the caller's, on the CPU."""

import functools
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.out import checked_out
from fastce.arguments.positives import positives_of
from fastce.cpu.copying import is_across
from fastce.cpu.ends import Ends, ends_of, is_for_ends
from fastce.cpu.layout import Rows
from fastce.cpu.sides import gradient_factors, slopes_of_points, value_of
from fastce.cpu.similarity import SimilarityCall, both_sides, write_gradient


class MatrixSimilarity:
    """A checked call. Where columns lie in memory as rows would, it is that of the transposed matrix: the same loss."""

    def __init__(
        self, array: Array, targets: Any, scale: float, smoothing: float, reduction: str, n_threads: int | None
    ) -> None:
        self.given = array
        self.targets = targets
        self.n_threads = n_threads
        positives = positives_of(targets, array.shape)
        self.is_across: bool = is_across(array)
        if self.is_across:
            array, positives = array.T, positives.transposed(array.shape[1])
        self.call: SimilarityCall = SimilarityCall(array, Rows(array), positives, scale, smoothing, reduction)

    @functools.cached_property
    def ends(self) -> Ends | None:
        """What a small matrix has come to; None if that is left to the usual way."""
        call, points = self.call, self.call.positives
        dtype, shape = call.similarity.dtype, (call.similarity.rows, call.similarity.classes)
        if not is_for_ends(shape, points, call.scale, dtype):
            return None
        x = np.asarray(call.array[points.rows, points.columns], np.float64)
        matrix, left_out = call.similarity.block(0, shape[0]), (points.first_points, points.columns)
        return ends_of(matrix, dtype, left_out, points.columns, x, call.scale, call.smoothing, call.reduction)

    def value(self) -> Any:
        call = self.call
        if self.ends is not None:
            return self.ends.value(call.reduction, call.similarity.dtype)
        return value_of(*both_sides(call, self.n_threads), call.reduction, call.similarity.dtype)

    def value_and_grad(self, out: Array | None) -> tuple[Any, Array, float]:
        call, dtype = self.call, self.call.similarity.dtype
        out = checked_out(out, self.given.shape, dtype, self.given, [self.targets])
        written = out.T if self.is_across else out
        if self.ends is not None:
            factors, slopes = self.ends.factors(dtype, call.smoothing), self.ends.slopes
            value = self.ends.value(call.reduction, dtype)
        else:
            sides = both_sides(call, self.n_threads)
            factors = gradient_factors(*sides, call.smoothing, call.scale, dtype)
            slopes = slopes_of_points(*sides, call.positives, call.smoothing)
            value = value_of(*sides, call.reduction, dtype)
        return value, out, write_gradient(call, factors, slopes, call.scale, written, self.n_threads)
