"""Objectives and metrics for gradient boosting: LightGBM and XGBoost train with the losses of fastce.

`softmax` is an objective for several classes, `logistic` one for two. Both libraries take it as it is, in their own
functions and in their classes for scikit-learn, and its ``metric``, the same loss, too::

    objective = fastce.objectives.softmax(3, label_smoothing=0.1)

    lightgbm.train({"objective": objective, "num_class": 3}, dataset, feval=objective.metric, valid_sets=[valid])
    lightgbm.LGBMClassifier(objective=objective).fit(x, y, eval_X=u, eval_y=v, eval_metric=objective.metric)
    xgboost.train({"num_class": 3}, matrix, obj=objective, custom_metric=objective.metric, evals=[(valid, "valid")])
    xgboost.XGBClassifier(objective=objective, eval_metric=objective.metric).fit(x, y, eval_set=[(u, v)])

An objective gives gradient and Hessian of the loss in float32, as both libraries store them, in the layout of the
scores. Weights are included: no library multiplies them into what a custom objective gives.

>>> import numpy as np, fastce
>>> labels, scores = np.array([0.0, 1.0]), np.array([[2.0, 1.0, 0.1], [0.5, 1.5, 0.8]])
>>> grad, hess = fastce.objectives.softmax(3)(labels, scores, np.array([1.0, 2.0]))
>>> grad.round(3)
array([[-0.341,  0.242,  0.099],
       [ 0.395, -0.927,  0.533]], dtype=float32)

**Who calls.** A second argument with ``get_label`` is the dataset of a library's own functions, which give the scores
first. Otherwise labels come first, then scores, then weights if there are any, as in scikit-learn. There the dtype of
the scores tells the libraries apart: LightGBM's are float64, XGBoost's float32.

**Where training starts.** Both libraries start their own objectives from the classes' shares, and a custom one from 0,
unless it is given ``init_score`` (LightGBM) or ``base_margin`` (XGBoost). Of the same start they build the same trees.

**What is predicted** with a custom objective are scores, by LightGBM's classes too, whose ``predict_proba`` warns of
it: `fastce.softmax` makes probabilities of them. `xgboost.XGBClassifier` gives probabilities.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from fastce.arguments.arrays import plain_array, weights
from fastce.arguments.numbers import choice, finite, fraction, integer
from fastce.losses.binary import binary_cross_entropy_with_logits, binary_cross_entropy_with_logits_value_and_grad
from fastce.losses.boosting import cross_entropy_grad_and_hess
from fastce.losses.cross_entropy import cross_entropy
from fastce.typing import AnyArray, GradAndHess, Hessian, Index, Number

__all__ = ["Logistic", "LogisticLoss", "Softmax", "SoftmaxLoss", "logistic", "softmax"]

Library: TypeAlias = Literal["lightgbm", "xgboost"]
Convention: TypeAlias = Literal["auto", Hessian]
Result: TypeAlias = float | tuple[str, float] | tuple[str, float, bool]
Array: TypeAlias = NDArray[Any]


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


class _Call(NamedTuple):
    """What a library has given to an objective or a metric."""

    labels: Array
    scores: Array
    weight: Array | None
    library: Library
    is_native: bool  # by the library's own functions, not those for scikit-learn


def _read(first: Any, second: Any, sample_weight: Any) -> _Call:
    is_native = hasattr(second, "get_label")
    if is_native:
        scores, labels, sample_weight = first, second.get_label(), second.get_weight()
    else:
        labels, scores = first, second
    if labels is None:
        raise TypeError("the dataset has no labels, which the objective needs")
    scores, labels = plain_array(scores, "scores"), plain_array(labels, "labels")
    library: Library = "xgboost" if scores.dtype == np.float32 else "lightgbm"
    if is_native:
        rooms = {kind.__module__.partition(".")[0] for kind in type(second).__mro__}
        library = "xgboost" if "xgboost" in rooms else "lightgbm" if "lightgbm" in rooms else library
    if sample_weight is not None:
        sample_weight = plain_array(sample_weight, "weights")
        sample_weight = sample_weight if sample_weight.size else None  # XGBoost's way to say that there are none
    return _Call(labels.reshape(-1), scores, sample_weight, library, is_native)


def _reported(name: str, value: float, call: _Call) -> Result:
    """A metric's value in the form that the caller takes; lower is better."""
    if call.library == "lightgbm":
        return name, value, False
    return (name, value) if call.is_native else value


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
        call = _read(first, second, sample_weight)
        value = cross_entropy(
            _matrix(call, self.num_class), _class_numbers(call.labels, self.num_class), weight=self.class_weight,
            sample_weight=call.weight, ignore_index=-1, label_smoothing=self.label_smoothing, n_threads=self.n_threads,
        )  # fmt: skip
        return _reported(self.__name__, value, call)


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
        call = _read(first, second, sample_weight)
        scores, room = _matrix(call, self.num_class), None
        if scores.dtype != np.float32:  # the copy has room for the gradient
            scores = room = scores.astype(np.float32)
        convention = _own_hessian(call.library) if self.hessian == "auto" else self.hessian
        result = cross_entropy_grad_and_hess(
            scores, _class_numbers(call.labels, self.num_class), weight=self.class_weight, sample_weight=call.weight,
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
        call = _read(first, second, sample_weight)
        total = binary_cross_entropy_with_logits(
            _single_scores(call), _smoothed(call.labels, self.label_smoothing), weight=call.weight,
            pos_weight=self.pos_weight, reduction="sum", n_threads=self.n_threads,
        )  # fmt: skip
        weight = call.labels.size if call.weight is None else float(call.weight.sum(dtype=np.float64))
        return _reported(self.__name__, total / weight if weight else np.nan, call)


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
        call = _read(first, second, sample_weight)
        scores = _single_scores(call).astype(np.float32, copy=False)
        targets = _smoothed(call.labels, self.label_smoothing)
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


def _matrix(call: _Call, classes: int) -> Array:
    """The scores, (rows, classes); in one dimension they go class by class, as LightGBM lays them out."""
    scores, rows = call.scores, call.labels.size
    if scores.shape == (rows, classes):
        return scores
    if scores.shape == (rows * classes,):
        return scores.reshape(rows, classes, order="F")
    raise ValueError(
        f"scores have shape {scores.shape}, expected {(rows, classes)}: the rows of the labels, and num_class of the "
        "objective, which must be that of the booster"
    )


def _single_scores(call: _Call) -> Array:
    """The scores, one a row."""
    rows = call.labels.size
    if call.scores.shape not in ((rows,), (rows, 1)):
        raise ValueError(f"scores have shape {call.scores.shape}, expected {(rows,)}: one for every label")
    return call.scores.reshape(rows)


def _refuse(labels: Array, wrong: Array, accepted: str) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"labels must be {accepted}, got {labels[row]} in row {row}")


def _class_numbers(labels: Array, classes: int) -> NDArray[np.int32]:
    with np.errstate(invalid="ignore"):
        numbers = labels.astype(np.int32)
    _refuse(
        labels, (numbers != labels) | (numbers < 0) | (numbers >= classes), f"whole numbers from 0 to {classes - 1}"
    )
    return numbers


def _smoothed(labels: Array, smoothing: float) -> Array:
    _refuse(labels, ~((labels >= 0) & (labels <= 1)), "from 0 to 1")
    return labels if smoothing == 0 else (1 - smoothing) * labels.astype(np.float32) + np.float32(smoothing / 2)


def _own_hessian(library: Library) -> Hessian:
    return "lightgbm" if library == "lightgbm" else _hessian_of_installed_xgboost()


@cache
def _hessian_of_installed_xgboost() -> Hessian:
    """What its own objective does, as the only leaf of a tree tells: XGBoost has changed from 2p(1 - p) to |p - y|.

    Of one row of class 0 among three, from 0, p is 1/3: the leaf of class 0 is 2/3 over 4/9, or over 2/3.
    """
    import xgboost

    settings = {
        "objective": "multi:softprob", "num_class": 3, "eta": 1.0, "lambda": 0.0, "min_child_weight": 0.0, "nthread": 1,
        "verbosity": 0,
    }  # fmt: skip
    matrix = xgboost.DMatrix(np.zeros((1, 1)), label=np.zeros(1), base_margin=np.zeros((1, 3)), nthread=1)
    leaf = xgboost.train(settings, matrix, 1).predict(matrix, output_margin=True)[0, 0]
    return "absolute" if abs(leaf - 1.0) < 0.25 else "xgboost"
