"""CLIP's loss from features, in stripes of image features.

A first task for each stripe sums up its rows, and all columns as far as they lie in it; the columns of all stripes
merge by the one law, in a tree. What is known then of rows and columns turns the products of each stripe into
gradients, in a second task.
"""

from typing import Any

from fastce.arguments.numbers import checked_memory_budget, flag, fraction, positive, reduction_of
from fastce.arguments.positives import check_pairs, checked_shape
from fastce.dask import clip_stripes
from fastce.dask.features import FeatureStripes, check_progress, computed_in, dask_features, grad_of_scale
from fastce.dask.pairs import Pairs
from fastce.dask.tasks import Key
from fastce.products.gradients import MEMORY_BUDGET
from fastce.typing import ClipFromFeaturesValueAndGrad, Number, Reduction


def clip_loss_from_features(
    image_features: Any,
    text_features: Any,
    logit_scale: Number = 1.0,
    *,
    targets: Any = None,
    label_smoothing: Number = 0.0,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
    progress: None = None,
    n_threads: int | None = None,
) -> Any:
    """As `fastce.clip_loss_from_features`, of Dask arrays.

    Parameters
    ----------
    image_features : dask.array.Array, shape (N, D)
        A task takes one chunk of rows, and all text features.
    text_features : dask.array.Array, shape (M, D)
        All of them go to each worker.
    targets : dask.array.Array of int, shape (N,), or SciPy sparse array, shape (N, M), optional
        Arrays of NumPy will do for all arguments.
    logit_scale, label_smoothing, normalize, reduction
        As in `fastce.clip_loss_from_features`.
    memory_budget, n_threads : int
        Of a task, which has one thread by default.
    progress : None
        Dask shows it.

    Returns
    -------
    dask.array.Array
        Of shape (); for "none" of shape (N,), in the chunks of `image_features`.

    Notes
    -----
    The same chunks give the same bits, however many workers there are. Each stripe has a part of the gradient of the
    text features, of their size, and these parts go over the network to be added up: chunks of a thousand rows or more
    make that small beside the products.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastce.dask
    >>> images = da.from_array(np.array([[1.0, 0.2], [0.1, 0.9]]), chunks=(1, 2))
    >>> texts = da.from_array(np.array([[0.8, 0.1], [0.3, 1.1]]), chunks=(1, 2))
    >>> loss = fastce.dask.clip_loss_from_features(images, texts, 10.0, normalize=True)
    >>> round(float(loss.compute()), 10)
    0.002388097
    """
    check_progress(progress)
    return _Call(
        image_features, text_features, logit_scale, targets, label_smoothing, normalize, reduction, memory_budget,
        n_threads, writes=False,
    ).value()  # fmt: skip


def clip_loss_from_features_value_and_grad(
    image_features: Any,
    text_features: Any,
    logit_scale: Number = 1.0,
    *,
    targets: Any = None,
    label_smoothing: Number = 0.0,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
    progress: None = None,
    n_threads: int | None = None,
) -> ClipFromFeaturesValueAndGrad[Any, Any]:
    """As `fastce.clip_loss_from_features_value_and_grad`, of Dask arrays.

    Parameters
    ----------
    image_features, text_features, logit_scale, targets, label_smoothing, normalize, reduction, memory_budget, \
progress, n_threads
        As in `clip_loss_from_features`.

    Returns
    -------
    ClipFromFeaturesValueAndGrad
        Of Dask arrays: gradients in the chunks of the features, that of the scale of shape (). Compute them together,
        by ``dask.compute(*result)``.

    Examples
    --------
    >>> import dask, dask.array as da, numpy as np, fastce.dask
    >>> images = da.from_array(np.array([[1.0, 0.2], [0.1, 0.9]]), chunks=(1, 2))
    >>> texts = da.from_array(np.array([[0.8, 0.1], [0.3, 1.1]]), chunks=(1, 2))
    >>> value, grad, *_ = dask.compute(*fastce.dask.clip_loss_from_features_value_and_grad(images, texts))
    >>> grad.round(4)
    array([[-0.0935,  0.2016],
           [ 0.0777, -0.1701]])
    """
    check_progress(progress)
    return _Call(
        image_features, text_features, logit_scale, targets, label_smoothing, normalize, reduction, memory_budget,
        n_threads, writes=True,
    ).value_and_gradients()  # fmt: skip


class _Call:
    """A checked call."""

    def __init__(
        self,
        image_features: Any,
        text_features: Any,
        logit_scale: Any,
        targets: Any,
        label_smoothing: Any,
        normalize: Any,
        reduction: Any,
        memory_budget: Any,
        n_threads: Any,
        writes: bool,
    ) -> None:
        left, right = dask_features([image_features, text_features], ["image_features", "text_features"])
        self.reduction = reduction_of(reduction)
        self.shape = checked_shape([left, right], targets)
        check_pairs(self.shape, self.reduction)
        pairs = Pairs(targets, self.shape)
        options: dict[str, Any] = {
            "scale": positive(logit_scale, "logit_scale"), "smoothing": fraction(label_smoothing, "label_smoothing"),
            "normalize": flag(normalize, "normalize"), "reduction": self.reduction, "targets": pairs.known,
            "memory_budget": checked_memory_budget(memory_budget), "writes": writes,
        }  # fmt: skip
        self.of_losses = computed_in(left, right)
        self.smoothing: float = options["smoothing"]
        self.striped = FeatureStripes("clip_loss_from_features", [left], [right], pairs.arrays, options, n_threads)
        self.tasks = self.striped.tasks
        self.points: Key = pairs.of_all(self.tasks)
        self.points_of_stripes: list[Key] = pairs.of_stripes(self.tasks, self.points, self.striped.stripes)

    def value(self) -> Any:
        return self._value(self.tasks.add(clip_stripes.value, self._sides(), **self._of_value()))

    def value_and_gradients(self) -> ClipFromFeaturesValueAndGrad[Any, Any]:
        tasks, striped, sides = self.tasks, self.striped, self._sides()
        slopes = tasks.add(clip_stripes.slopes, sides, self.points, striped.within, smoothing=self.smoothing)
        of_stripes = [
            tasks.add(clip_stripes.of_rows, slopes, self.points, rows=stripe.rows) for stripe in striped.stripes
        ]
        keys = striped.sweep(clip_stripes.gradients, self.points_of_stripes, of_stripes, smoothing=self.smoothing)
        of_left, of_right = striped.gradients(keys)
        of_scale = tasks.add(grad_of_scale, striped.others(keys, 0), striped.within)
        value = self._value(tasks.add(clip_stripes.value, sides, **self._of_value()))
        return ClipFromFeaturesValueAndGrad(value, of_left, of_right, tasks.number("scale", of_scale))

    def _of_value(self) -> dict[str, Any]:
        return {"reduction": self.reduction, "of_losses": self.of_losses}

    def _sides(self) -> Key:
        """The key of what all rows and columns have come to."""
        within, smoothing = self.striped.within, self.smoothing
        keys = self.striped.sweep(
            clip_stripes.sums, self.points_of_stripes, smoothing=smoothing, whole_rows=self.shape[0]
        )
        state = self.tasks.tree(clip_stripes.merged, keys, within)
        return self.tasks.add(
            clip_stripes.sides, state, self.points, within, smoothing=smoothing, reduction=self.reduction
        )

    def _value(self, key: Key) -> Any:
        if self.reduction != "none":
            return self.tasks.number("value", key)
        parts = [self.tasks.picked(key, stripe.rows) for stripe in self.striped.stripes]
        return self.tasks.array("value", parts, self.striped.chunks, self.of_losses)
