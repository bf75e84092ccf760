"""Cross entropy of Dask arrays of logits in any chunks.

Where a chunk has all classes of its rows, one task computes their losses and their gradient at once. Else a first task
for each chunk says what it knows of its rows, which merges by the one law, and a second one writes its gradient.
"""

from collections.abc import Callable
from typing import Any

from fastce.arguments.arrays import Array, kernel_dtype, weights
from fastce.arguments.numbers import fraction, integer, reduction_of
from fastce.arguments.options import checked_options
from fastce.arguments.sparse import is_sparse
from fastce.cpu.checked_targets import not_class_indices
from fastce.cpu.engine import Cpu
from fastce.cpu.shards import Way
from fastce.dask import blocks
from fastce.dask.matrix import Matrix, PerRow, Tile
from fastce.dask.tasks import Key, Stripe, Tasks
from fastce.typing import Index, Number, Reduction, SmoothingOver, ValueAndGrad

OPTIONS = ("ignore_index", "label_smoothing", "smoothing_over", "logit_scale", "softcap", "z_loss")


def cross_entropy(
    logits: Any,
    targets: Any,
    *,
    axis: Index | None = None,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: Index = -100,
    label_smoothing: Number = 0.0,
    smoothing_over: SmoothingOver = "all",
    logit_scale: Number = 1.0,
    softcap: Number | None = None,
    z_loss: Number = 0.0,
    reduction: Reduction = "mean",
    n_threads: int | None = None,
) -> Any:
    """As `fastce.cross_entropy`, of a Dask array in any chunks.

    Parameters
    ----------
    logits : dask.array.Array, shape (N, C)
        In chunks of rows, of classes, or of both.
    targets : dask.array.Array or array_like
        Class indices or probabilities, chunked as may be, or a SciPy sparse array.
    sample_weight : dask.array.Array or array_like, optional
        As in `fastce.cross_entropy`.
    axis, weight, ignore_index, label_smoothing, smoothing_over, logit_scale, softcap, z_loss, reduction
        As in `fastce.cross_entropy`, of Python or of NumPy.
    n_threads : int, optional
        Of a task, one by default.

    Returns
    -------
    dask.array.Array
        Of shape (); for "none" of shape (N,), in the chunks of the rows of `logits`.

    Notes
    -----
    Arguments are checked when the function is called, class indices of Dask when they are computed: an IndexError
    counts rows from the first one of a stripe then, and names that. The same chunks give the same bits, however many
    workers there are.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastce.dask
    >>> logits = da.from_array(np.array([[2.0, 1.0, 0.1], [0.5, 1.5, 0.8]]), chunks=(1, 2))
    >>> float(fastce.dask.cross_entropy(logits, np.array([0, 1])).compute().round(12))
    0.520002014081
    """
    options = {
        "weight": weight, "sample_weight": sample_weight, "ignore_index": ignore_index,
        "label_smoothing": label_smoothing, "smoothing_over": smoothing_over, "logit_scale": logit_scale,
        "softcap": softcap, "z_loss": z_loss, "reduction": reduction,
    }  # fmt: skip
    return _Call(logits, targets, axis, options, None, n_threads).value()


def cross_entropy_value_and_grad(
    logits: Any,
    targets: Any,
    *,
    axis: Index | None = None,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: Index = -100,
    label_smoothing: Number = 0.0,
    smoothing_over: SmoothingOver = "all",
    logit_scale: Number = 1.0,
    softcap: Number | None = None,
    z_loss: Number = 0.0,
    reduction: Reduction = "mean",
    grad_output: Any = None,
    n_threads: int | None = None,
) -> ValueAndGrad[Any, Any]:
    """As `fastce.cross_entropy_value_and_grad`, of a Dask array in any chunks.

    Parameters
    ----------
    logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, smoothing_over, logit_scale, softcap, \
z_loss, reduction, n_threads
        As in `cross_entropy`. Where classes are in several chunks, each of them is used twice: it is computed, or
        read, again unless it is kept (`logits.persist()`) or still there.
    grad_output : float, dask.array.Array or array_like, optional
        As in `fastce.cross_entropy_value_and_grad`.

    Returns
    -------
    ValueAndGrad
        Of Dask arrays; ``grad`` in the chunks of `logits`. Compute them together, by ``dask.compute(*result)``, or
        store the gradient: ``dask.array.to_zarr(result.grad, ...)``.

    Examples
    --------
    >>> import dask, dask.array as da, numpy as np, fastce.dask
    >>> logits = da.from_array(np.array([[2.0, 1.0, 0.1], [0.5, 1.5, 0.8]]), chunks=(1, 2))
    >>> value, grad = dask.compute(*fastce.dask.cross_entropy_value_and_grad(logits, np.array([0, 1])))
    >>> grad.round(4)
    array([[-0.1705,  0.1212,  0.0493],
           [ 0.0987, -0.2318,  0.1332]])
    """
    options = {
        "weight": weight, "sample_weight": sample_weight, "ignore_index": ignore_index,
        "label_smoothing": label_smoothing, "smoothing_over": smoothing_over, "logit_scale": logit_scale,
        "softcap": softcap, "z_loss": z_loss, "reduction": reduction,
    }  # fmt: skip
    return _Call(logits, targets, axis, options, grad_output, n_threads).value_and_grad()


def _check_kind(targets: PerRow) -> None:
    """Class indices are integers, and probabilities are floats: told by the dtype, also of what is not computed yet."""
    if targets.value is None:
        raise TypeError("targets must be class indices (integers) or class probabilities (floats), got None")
    if is_sparse(targets.value):
        return
    dtype = targets.value.dtype
    if not targets.is_matrix:
        if dtype.kind not in "iu":
            raise not_class_indices(targets.value, "shape (rows,)")
    elif dtype.newbyteorder("=") != kernel_dtype(dtype):
        raise TypeError(f"targets of shape (rows, classes) must be class probabilities (floats), got dtype {dtype}")


class _Call:
    """A checked call."""

    def __init__(
        self, logits: Any, targets: Any, axis: Any, options: dict[str, Any], grad_output: Any, n_threads: Any
    ) -> None:
        self.matrix = matrix = Matrix(logits, axis)
        self.reduction = reduction_of(options["reduction"])
        self.targets = PerRow(targets, "targets", matrix, may_be_matrix=True)
        _check_kind(self.targets)
        self.sample_weight = PerRow(options["sample_weight"], "sample_weight", matrix)
        self.above = PerRow(grad_output, "grad_output", matrix)
        if getattr(self.above.value, "ndim", 0) and self.reduction != "none":
            raise ValueError(f"grad_output has shape {self.above.value.shape}, expected a number")
        weight = options["weight"]
        weight = None if weight is None else weights(weight, "weight", (matrix.classes,))
        integer(options["ignore_index"], "ignore_index")
        self.given: dict[str, Any] = {name: options[name] for name in OPTIONS}
        self.checked = checked_options(matrix.classes, *(options[name] for name in OPTIONS[1:]))
        smoothed = not self.targets.is_matrix and fraction(options["label_smoothing"], "label_smoothing") > 0.0
        self.way = Way(self.checked.logit_scale, self.checked.softcap, smoothed)
        arrays = [self.targets, self.sample_weight, self.above]
        values = [part.value for part in arrays if part.is_here]
        self.tasks = Tasks(
            "cross_entropy", [matrix.array, *(array for part in arrays for array in part.arrays)],
            [self.given, self.reduction, weight, values], n_threads, multiplies=False,
        )  # fmt: skip
        self.weights: Array | None = weight
        self.weight: Key | None = None if weight is None else self.tasks.constant(weight)
        self.of_rows = blocks.RowOptions(
            self.given, self.reduction, matrix.classes, matrix.dtype, self.way, self.checked, self.targets.is_matrix
        )
        of_targets = () if self.targets.is_matrix else (self.targets,)
        self.is_total_here: bool = all(part.is_here for part in (self.sample_weight, *of_targets))

    def value(self) -> Any:
        """The value alone."""
        if not self.matrix.is_whole:
            parts = [self._finished(stripe, self._known(stripe)) for stripe in self.matrix.stripes]
            return self._value(parts, self._total())
        if self.reduction == "mean" and not self.is_total_here:  # one look at a stripe tells both
            parts = self._of_blocks(blocks.weighed_losses_of_block)
            return self.tasks.number("value", self.tasks.add(blocks.mean, parts))
        return self._value(self._of_blocks(blocks.losses_of_block), self._total())

    def value_and_grad(self) -> ValueAndGrad[Any, Any]:
        """With the gradient in the chunks of the logits."""
        matrix, tasks, total = self.matrix, self.tasks, self._total()
        if matrix.is_whole:
            keys = [
                tasks.add(
                    blocks.gradient_of_block, matrix.key(stripe), *self._of_rows(stripe), total,
                    self.above.key(stripe), stripe=stripe, of_rows=self.of_rows,
                )
                for stripe in matrix.stripes
            ]  # fmt: skip
            value = self._value([tasks.picked(key, 0) for key in keys], total)
            grad = tasks.array("grad", keys, matrix.array.chunks, matrix.dtype, 1)
            return ValueAndGrad(value, matrix.given(grad))
        known = [self._known(stripe) for stripe in matrix.stripes]
        parts = [self._finished(stripe, key) for stripe, key in zip(matrix.stripes, known, strict=True)]
        value = self._value(parts, total)
        gradients = [
            tasks.add(
                blocks.gradient_of_tile, matrix.key(stripe, tile), key, self._tile_targets(stripe, tile),
                self.sample_weight.key(stripe), self.weight, total, self.above.key(stripe), tile.first,
                stripe=stripe, of_rows=self.of_rows,
            )
            for stripe, key in zip(matrix.stripes, known, strict=True)
            for tile in matrix.tiles
        ]  # fmt: skip
        return ValueAndGrad(value, matrix.given(tasks.array("grad", gradients, matrix.array.chunks, matrix.dtype)))

    # --- tasks

    def _of_rows(self, stripe: Stripe) -> tuple[Any, ...]:
        """Targets and weights of a stripe."""
        return self.targets.key(stripe), self.sample_weight.key(stripe), self.weight

    def _of_blocks(self, function: Callable[..., Any]) -> list[Key]:
        """What a function says of each stripe."""
        return [
            self.tasks.add(
                function, self.matrix.key(stripe), *self._of_rows(stripe), stripe=stripe, of_rows=self.of_rows
            )
            for stripe in self.matrix.stripes
        ]

    def _tile_targets(self, stripe: Stripe, tile: Tile) -> Any:
        return self.targets.key(stripe, tile if self.targets.is_matrix else None)

    def _known(self, stripe: Stripe) -> Key:
        """What all classes of a stripe know of its rows."""
        keys = [
            self.tasks.add(
                blocks.look_at_tile, self.matrix.key(stripe, tile), self._tile_targets(stripe, tile), self.weight,
                tile.first, stripe=stripe, of_rows=self.of_rows,
            )
            for tile in self.matrix.tiles
        ]  # fmt: skip
        return self.tasks.tree(blocks.merged, keys, self.tasks.constant(self.way.rest_of_scale))

    def _finished(self, stripe: Stripe, known: Key) -> Key:
        """The losses of a stripe: those of rows, or their sum."""
        targets = None if self.targets.is_matrix else self.targets.key(stripe)
        return self.tasks.add(
            blocks.losses_of_rows, known, targets, self.sample_weight.key(stripe), self.weight, stripe=stripe,
            of_rows=self.of_rows,
        )  # fmt: skip

    def _total(self) -> Key:
        """What a mean divides by: of arrays that are here it is known at once, and class indices are checked."""
        of_targets = None if self.targets.is_matrix else self.targets
        if self.is_total_here:
            targets = None if of_targets is None else of_targets.value
            pair = blocks.total_weight(
                Cpu(1), targets, self.sample_weight.value, self.weights, rows=self.matrix.rows, of_rows=self.of_rows
            )
            return self.tasks.constant(pair if self.reduction == "mean" else (1.0, 0))
        if self.reduction != "mean":
            return self.tasks.constant((1.0, 0))
        keys = [
            self.tasks.add(
                blocks.total_weight, None if of_targets is None else of_targets.key(stripe),
                self.sample_weight.key(stripe), self.weight, stripe=stripe,
                rows=stripe.length, of_rows=self.of_rows,
            )
            for stripe in self.matrix.stripes
        ]  # fmt: skip
        return self.tasks.add(blocks.added, keys)

    def _value(self, keys: list[Key], total: Key) -> Any:
        if self.reduction == "none":
            return self.tasks.array("value", keys, self.matrix.array.chunks[:1], self.matrix.of_losses)
        return self.tasks.number("value", self.tasks.add(blocks.value, keys, total, reduction=self.reduction))
