"""CLIP's loss on a matrix of the caller's, on a GPU."""

from typing import Any

from fastce.cuda.arrays import DeviceArray, checked_out, device_array, empty
from fastce.cuda.cross_entropy import real_of
from fastce.cuda.layout import contiguous, copy
from fastce.cuda.positives import device_positives
from fastce.cuda.precision import check_factors, fits
from fastce.cuda.similarity import Similarity
from fastce.cuda.sparse import is_sparse


class MatrixSimilarity:
    """A checked call, computed in float64 if the dtype of the matrix has not the range for its scale."""

    def __init__(self, array: DeviceArray, targets: Any, scale: float, smoothing: float, reduction: str) -> None:
        self.given = array
        self.targets = targets
        check_factors(logit_scale=scale)
        real, shape = real_of(array), (array.shape[0], array.shape[1])
        self.array: DeviceArray = array if fits(real, scale) else contiguous(array, "float64")
        positives = device_positives(targets, shape, array.library)
        self.similarity: Similarity = Similarity(
            array.library, shape, self.array.dtype_name, positives, scale, smoothing, reduction, of_losses=real.name
        )

    def _read(self) -> None:
        self.similarity.read(self.array)
        self.similarity.take_sides()

    def value(self) -> Any:
        self._read()
        return self.similarity.value()[0]

    def value_and_grad(self, out: Any) -> tuple[Any, Any, float]:
        given, array, inputs = self.given, self.array, []
        if self.targets is not None and not is_sparse(self.targets):
            inputs.append(device_array(self.targets, "targets", array.library))
        into = checked_out(out, given.shape, given.dtype_name, given, [*inputs])
        self._read()
        slopes = into if into.dtype_name == array.dtype_name else empty(array.library, array.shape, array.dtype_name)
        self.similarity.write_gradient(array, slopes)
        if slopes is not into:
            copy(slopes, into)
        value, grad_logit_scale = self.similarity.value()
        return value, into.given, grad_logit_scale
