"""CLIP's loss on a matrix of the caller's, on the CPU."""

from typing import Any

from fastce.arguments.arrays import Array
from fastce.arguments.out import checked_out
from fastce.arguments.positives import positives_of
from fastce.cpu.copying import is_across
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

    def value(self) -> Any:
        call = self.call
        return value_of(*both_sides(call, self.n_threads), call.reduction, call.similarity.dtype)

    def value_and_grad(self, out: Array | None) -> tuple[Any, Array, float]:
        call, dtype = self.call, self.call.similarity.dtype
        out = checked_out(out, self.given.shape, dtype, self.given, [self.targets])
        sides = both_sides(call, self.n_threads)
        factors = gradient_factors(*sides, call.smoothing, call.scale, dtype)
        slopes = slopes_of_points(*sides, call.positives, call.smoothing)
        value = value_of(*sides, call.reduction, dtype)
        written = out.T if self.is_across else out
        return value, out, write_gradient(call, factors, slopes, call.scale, written, self.n_threads)
