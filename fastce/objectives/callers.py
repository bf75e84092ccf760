"""What LightGBM and XGBoost hand to an objective or a metric, and what either takes back."""

from functools import cache
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastce.arguments.arrays import Array, plain_array
from fastce.typing import Hessian

Library: TypeAlias = Literal["lightgbm", "xgboost"]
Result: TypeAlias = float | tuple[str, float] | tuple[str, float, bool]


class Call(NamedTuple):
    """What a library has given to an objective or a metric."""

    labels: Array
    scores: Array
    weight: Array | None
    library: Library
    is_native: bool  # by the library's own functions, not those for scikit-learn

    @classmethod
    def read(cls, first: Any, second: Any, sample_weight: Any) -> "Call":
        """From scores and a dataset, or from labels, scores and weights."""
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
        return cls(labels.reshape(-1), scores, sample_weight, library, is_native)

    def matrix(self, classes: int) -> Array:
        """The scores, (rows, classes); in one dimension they go class by class, as LightGBM lays them out."""
        scores, rows = self.scores, self.labels.size
        if scores.shape == (rows, classes):
            return scores
        if scores.shape == (rows * classes,):
            return scores.reshape(rows, classes, order="F")
        raise ValueError(
            f"scores have shape {scores.shape}, expected {(rows, classes)}: the rows of the labels, and num_class of "
            "the objective, which must be that of the booster"
        )

    def single_scores(self) -> Array:
        """The scores, one a row."""
        rows = self.labels.size
        if self.scores.shape not in ((rows,), (rows, 1)):
            raise ValueError(f"scores have shape {self.scores.shape}, expected {(rows,)}: one for every label")
        return self.scores.reshape(rows)

    def class_numbers(self, classes: int) -> NDArray[np.int32]:
        """The labels, which are classes."""
        with np.errstate(invalid="ignore"):
            numbers = self.labels.astype(np.int32)
        wrong = (numbers != self.labels) | (numbers < 0) | (numbers >= classes)
        self._refuse(wrong, f"whole numbers from 0 to {classes - 1}")
        return numbers

    def smoothed_labels(self, smoothing: float) -> Array:
        """The labels, which are shares of the positive class, after smoothing."""
        labels = self.labels
        self._refuse(~((labels >= 0) & (labels <= 1)), "from 0 to 1")
        return labels if smoothing == 0 else (1 - smoothing) * labels.astype(np.float32) + np.float32(smoothing / 2)

    def _refuse(self, wrong: Array, accepted: str) -> None:
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"labels must be {accepted}, got {self.labels[row]} in row {row}")

    def own_hessian(self) -> Hessian:
        """The Hessian of the library's own objective."""
        return "lightgbm" if self.library == "lightgbm" else _hessian_of_installed_xgboost()

    def reported(self, name: str, value: float) -> Result:
        """A metric's value in the form that the caller takes; lower is better."""
        if self.library == "lightgbm":
            return name, value, False
        return (name, value) if self.is_native else value


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
