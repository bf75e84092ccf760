"""Objectives and their metrics, for both libraries alike."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from fastce.arguments.arrays import Array, weights
from fastce.arguments.numbers import choice, finite, fraction, integer
from fastce.losses.binary import binary_cross_entropy_with_logits, binary_cross_entropy_with_logits_value_and_grad
from fastce.losses.boosting import cross_entropy_grad_and_hess
from fastce.losses.cross_entropy import cross_entropy
from fastce.objectives.callers import Call, Result
from fastce.typing import AnyArray, GradAndHess, Hessian, Index, Number

Convention: TypeAlias = Literal["auto", Hessian]


def softmax(
    num_class: Index,
    *,
    label_smoothing: Number = 0.0,
    class_weight: AnyArray | None = None,
    hessian: Convention = "auto",
    n_threads: int | None = None,
) -> "Softmax":
    """Objective for classes 0 to ``num_class - 1``: the softmax cross entropy.

    Parameters
    ----------
    num_class : int
        How many scores a row has. The parameter of this name of LightGBM and XGBoost must be the same; their classes
        for scikit-learn set it themselves.
    label_smoothing : float, default: 0.0
        As in `fastce.cross_entropy`.
    class_weight : array_like, optional
        A weight for every class, finite: ``weight`` of `fastce.cross_entropy`.
    hessian : {"auto", "exact", "lightgbm", "xgboost", "absolute"}, default: "auto"
        As in `fastce.cross_entropy_grad_and_hess`. "auto" is what the calling library's own objective does: "lightgbm"
        for LightGBM; for XGBoost "xgboost", or "absolute" where the installed one has gone over to that, which a tree
        of its own on one row tells.
    n_threads : int, optional
        Overrides `fastce.set_num_threads`.

    Returns
    -------
    Softmax
        The objective. It can be copied, compared and pickled; its ``metric`` is the same loss for evaluation: the mean
        over the rows of a dataset, weighted as in `fastce.cross_entropy`, named "softmax_loss". Without smoothing and
        class weights that is `sklearn.metrics.log_loss`.

    Raises
    ------
    ValueError, TypeError
        Here for wrong options; in training for labels that are not class numbers, and for scores that are not
        ``num_class`` a row.

    Examples
    --------
    >>> import fastce
    >>> fastce.objectives.softmax(3, class_weight=[1, 1, 2]).metric([2], [[0.0, 0.0, 0.0]])
    ('softmax_loss', 1.0986122886681098, False)
    """
    classes = integer(num_class, "num_class")
    if classes < 1:
        raise ValueError(f"num_class must be at least 1, got {classes}")
    of_classes = None if class_weight is None else tuple(weights(class_weight, "class_weight", (classes,)).tolist())
    convention = choice(hessian, "hessian", get_args(Convention)[:1] + get_args(Hessian))
    return Softmax(classes, fraction(label_smoothing, "label_smoothing"), of_classes, convention, n_threads)


def logistic(*, pos_weight: Number = 1.0, label_smoothing: Number = 0.0, n_threads: int | None = None) -> "Logistic":
    """Objective for two classes of one score: the binary cross entropy.

    With the probability p of the positive class, the label y in [0, 1] after smoothing, the weight w of a row and P of
    positives: ``grad = w * (P * y * (p - 1) + (1 - y) * p)`` and ``hess = w * (P * y + 1 - y) * p * (1 - p)``, as in
    the libraries' own objectives.

    Parameters
    ----------
    pos_weight : float, default: 1.0
        Weight of the positive class, ``scale_pos_weight`` of both libraries.
    label_smoothing : float, default: 0.0
        Labels y become ``(1 - label_smoothing) * y + label_smoothing / 2``.
    n_threads : int, optional
        Overrides `fastce.set_num_threads`.

    Returns
    -------
    Logistic
        The objective; see `softmax`. Its ``metric`` is named "logistic_loss": the sum of the losses over the sum of the
        rows' weights.

    Raises
    ------
    ValueError, TypeError
        Here for wrong options; in training for labels outside [0, 1].

    Examples
    --------
    >>> import fastce, numpy as np
    >>> fastce.objectives.logistic()([0.0, 1.0], np.array([0.0, 2.0])).grad.round(4)
    array([ 0.5   , -0.1192], dtype=float32)
    """
    return Logistic(finite(pos_weight, "pos_weight"), fraction(label_smoothing, "label_smoothing"), n_threads)


@dataclass(frozen=True)
class SoftmaxLoss:
    """The metric of `softmax`, which makes it."""

    num_class: int
    label_smoothing: float = 0.0
    class_weight: tuple[float, ...] | None = None
    n_threads: int | None = None
    __name__ = "softmax_loss"  # what XGBoost's classes for scikit-learn call it

    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> Result:
        """The mean loss of scores and a dataset, or of labels, scores and weights."""
        call = Call.read(first, second, sample_weight)
        value = cross_entropy(
            call.matrix(self.num_class), call.class_numbers(self.num_class), weight=self.class_weight,
            sample_weight=call.weight, ignore_index=-1, label_smoothing=self.label_smoothing, n_threads=self.n_threads,
        )  # fmt: skip
        return call.reported(self.__name__, value)


@dataclass(frozen=True)
class Softmax:
    """The objective of `softmax`, which makes it."""

    num_class: int
    label_smoothing: float = 0.0
    class_weight: tuple[float, ...] | None = None
    hessian: Convention = "auto"
    n_threads: int | None = None

    @property
    def metric(self) -> SoftmaxLoss:
        """The same loss for evaluation."""
        return SoftmaxLoss(self.num_class, self.label_smoothing, self.class_weight, self.n_threads)

    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> GradAndHess[Array]:
        """Gradient and Hessian of scores and a dataset, or of labels, scores and weights: as the scores, in float32."""
        call = Call.read(first, second, sample_weight)
        scores, room = call.matrix(self.num_class), None
        if scores.dtype != np.float32:  # the copy has room for the gradient
            scores = room = scores.astype(np.float32)
        convention = call.own_hessian() if self.hessian == "auto" else self.hessian
        result = cross_entropy_grad_and_hess(
            scores, call.class_numbers(self.num_class), weight=self.class_weight, sample_weight=call.weight,
            ignore_index=-1, label_smoothing=self.label_smoothing, hessian=convention, out=(room, None),
            n_threads=self.n_threads,
        )  # fmt: skip
        if call.scores.ndim == 2:
            return result
        return GradAndHess(*(derivative.ravel(order="F") for derivative in result))


@dataclass(frozen=True)
class LogisticLoss:
    """The metric of `logistic`, which makes it."""

    pos_weight: float = 1.0
    label_smoothing: float = 0.0
    n_threads: int | None = None
    __name__ = "logistic_loss"  # what XGBoost's classes for scikit-learn call it

    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> Result:
        """The mean loss of scores and a dataset, or of labels, scores and weights."""
        call = Call.read(first, second, sample_weight)
        total = binary_cross_entropy_with_logits(
            call.single_scores(), call.smoothed_labels(self.label_smoothing), weight=call.weight,
            pos_weight=self.pos_weight, reduction="sum", n_threads=self.n_threads,
        )  # fmt: skip
        weight = call.labels.size if call.weight is None else float(call.weight.sum(dtype=np.float64))
        return call.reported(self.__name__, total / weight if weight else np.nan)


@dataclass(frozen=True)
class Logistic:
    """The objective of `logistic`, which makes it."""

    pos_weight: float = 1.0
    label_smoothing: float = 0.0
    n_threads: int | None = None

    @property
    def metric(self) -> LogisticLoss:
        """The same loss for evaluation."""
        return LogisticLoss(self.pos_weight, self.label_smoothing, self.n_threads)

    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> GradAndHess[Array]:
        """Gradient and Hessian of scores and a dataset, or of labels, scores and weights: as the scores, in float32."""
        call = Call.read(first, second, sample_weight)
        scores = call.single_scores().astype(np.float32, copy=False)
        targets = call.smoothed_labels(self.label_smoothing)
        _, grad = binary_cross_entropy_with_logits_value_and_grad(
            scores, targets, weight=call.weight, pos_weight=self.pos_weight, reduction="sum", n_threads=self.n_threads
        )
        smaller = np.exp(-np.abs(scores))  # p (1 - p) with all digits on either side
        hess = smaller / np.square(1 + smaller)
        if self.pos_weight != 1.0:
            hess *= 1 + (self.pos_weight - 1) * targets
        if call.weight is not None:
            hess *= call.weight
        return GradAndHess(grad.reshape(call.scores.shape), hess.reshape(call.scores.shape))
