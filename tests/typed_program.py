"""A program of a user, for type checkers: every line without a comment must pass, every `type: ignore` must be needed.

.ci/run checks it with mypy and with pyright, which both complain about a comment that hides nothing.
"""

from collections.abc import Sequence
from typing import Any, Literal, assert_type

import numpy as np
from numpy.typing import NDArray

import fastce
from fastce.typing import FloatArray, Reduction, Statistic, ValueAndGrad

Matrix = NDArray[np.float32]
Labels = NDArray[np.int64]


class Tensor:
    """An array of another library, on a GPU perhaps."""

    def __array__(self, dtype: Any = None) -> NDArray[Any]:
        return np.zeros(3)

    def __dlpack__(self, *, stream: Any = None) -> Any: ...

    def __float__(self) -> float:
        return 1.0


class Sparse:
    """A matrix of SciPy."""

    def tocsr(self, copy: bool = False) -> Any: ...


def values(x: Matrix, y: Labels, scale: np.float32) -> None:
    assert_type(fastce.cross_entropy(x, y), float)
    assert_type(fastce.cross_entropy(x, y, reduction="sum", axis=-1, label_smoothing=0.1, logit_scale=scale), float)
    assert_type(fastce.cross_entropy(x, y, reduction="none", softcap=30, weight=[1.0, 2.0]), FloatArray)
    assert_type(fastce.cross_entropy([[1.0, 2.0], [0.5, 1]], [0, 1], reduction="none"), FloatArray)
    assert_type(fastce.cross_entropy(y, y, reduction="none"), FloatArray)
    assert_type(fastce.cross_entropy(x, Sparse()), float)
    assert_type(fastce.nll_loss(x, y), float)
    assert_type(fastce.nll_loss(x, y, reduction="none"), FloatArray)
    assert_type(fastce.binary_cross_entropy_with_logits(x, x, pos_weight=2.0), float)
    assert_type(fastce.binary_cross_entropy_with_logits(x, x, reduction="none"), FloatArray)
    assert_type(fastce.clip_loss(x), float)
    assert_type(fastce.clip_loss(x, y, logit_scale=scale, reduction="none"), FloatArray)
    assert_type(fastce.clip_loss_from_features(x, x, 10, normalize=True, progress=print), float)
    assert_type(fastce.clip_loss_from_features(x, x, targets=y, reduction="none"), FloatArray)
    assert_type(fastce.siglip_loss(x, x, scale, -5, memory_budget=2**20), float)
    assert_type(fastce.siglip_loss(x, x, scale, -5, reduction="none"), FloatArray)
    assert_type(fastce.info_nce(x, x, temperature=0.1, progress=True), float)
    assert_type(fastce.info_nce(x, x, x, reduction="none"), FloatArray)
    assert_type(fastce.nt_xent(x, x), float)
    assert_type(fastce.nt_xent(x, x, reduction="none"), FloatArray)
    assert_type(fastce.sup_con(x, y), float)
    assert_type(fastce.sup_con(x, y, reduction="none"), FloatArray)
    assert_type(fastce.linear_cross_entropy(x, x, y, linear_bias=[0.0, 1.0], z_loss=1e-4), float)
    assert_type(fastce.linear_cross_entropy(x, x, y, reduction="none"), FloatArray)


def gradients(x: Matrix, double: NDArray[np.float64], y: Labels) -> None:
    value, grad = fastce.cross_entropy_value_and_grad(x, y, smoothing_over="others", out=x, n_threads=1)
    assert_type(value, float)
    assert_type(grad, Matrix)
    assert_type(fastce.cross_entropy_value_and_grad(double, y).grad, NDArray[np.float64])
    assert_type(fastce.cross_entropy_value_and_grad([[0.0, 1.0]], [0]).grad, FloatArray)
    losses, grad = fastce.cross_entropy_value_and_grad(x, y, reduction="none", grad_output=[1.0, 2.0])
    assert_type(losses, FloatArray)
    assert_type(grad, Matrix)
    assert_type(fastce.nll_loss_value_and_grad(x, y).value, float)
    assert_type(fastce.nll_loss_value_and_grad(x, y, reduction="none").grad, Matrix)
    assert_type(fastce.binary_cross_entropy_with_logits_value_and_grad(x, x).value, float)
    assert_type(fastce.binary_cross_entropy_with_logits_value_and_grad(x, x, reduction="none").value, FloatArray)
    assert_type(fastce.clip_loss_value_and_grad(x, out=x).grad, Matrix)
    assert_type(fastce.clip_loss_value_and_grad(x, reduction="none").value, FloatArray)
    of_clip = fastce.clip_loss_from_features_value_and_grad(x, x, 10.0)
    assert_type(of_clip.value, float)
    assert_type(of_clip.grad_text_features, Matrix)
    assert_type(of_clip.grad_logit_scale, float)
    assert_type(fastce.clip_loss_from_features_value_and_grad(x, x, reduction="none").value, FloatArray)
    assert_type(fastce.siglip_loss_value_and_grad(x, x, 10, -5).grad_image_features, Matrix)
    assert_type(fastce.siglip_loss_value_and_grad(x, x, 10, -5, reduction="none").value, FloatArray)
    assert_type(fastce.info_nce_value_and_grad(x, x, x).grad_negative_keys, Matrix | None)
    assert_type(fastce.info_nce_value_and_grad(x, x, reduction="none").value, FloatArray)
    assert_type(fastce.nt_xent_value_and_grad(x, x).grad_first_views, Matrix)
    assert_type(fastce.nt_xent_value_and_grad(x, x, reduction="none").value, FloatArray)
    assert_type(fastce.sup_con_value_and_grad(x, y).grad_features, Matrix)
    assert_type(fastce.sup_con_value_and_grad(x, y, reduction="none").value, FloatArray)
    assert_type(fastce.linear_cross_entropy_value_and_grad(x, x, y).grad_linear_weight, Matrix)
    assert_type(fastce.linear_cross_entropy_value_and_grad(x, x, y, reduction="none").value, FloatArray)
    grad, hess = fastce.cross_entropy_grad_and_hess(x, y, hessian="xgboost", out=(None, x))
    assert_type(grad, Matrix)
    assert_type(hess, Matrix)


def any_result(result: ValueAndGrad) -> FloatArray:
    assert_type(result.value, float | FloatArray)
    return result.grad


def results(x: Matrix, y: Labels) -> ValueAndGrad[float, Matrix]:
    any_result(fastce.nll_loss_value_and_grad(x, y, reduction="none"))
    return fastce.cross_entropy_value_and_grad(x, y)


def of_scipy(x: Matrix) -> None:
    assert_type(fastce.logsumexp(x), np.floating[Any])
    assert_type(fastce.logsumexp(x, 1), FloatArray)
    assert_type(fastce.logsumexp(x, axis=(0, 1), b=2.0, keepdims=True), FloatArray)
    logarithm, _sign = fastce.logsumexp(x, 1, x, return_sign=True)
    assert_type(logarithm, Any)
    assert_type(fastce.softmax(x, axis=1, out=x), Matrix)
    assert_type(fastce.log_softmax([0.0, 1.0]), FloatArray)


def statistics(x: Matrix, y: Labels, names: Sequence[Statistic]) -> None:
    assert_type(fastce.row_stats(x), dict[Literal["logsumexp"], FloatArray])
    assert_type(fastce.row_stats(x, outputs=("max", "entropy"))["entropy"], FloatArray)
    assert_type(fastce.row_stats(x, outputs="argmax")["argmax"], Labels)
    assert_type(fastce.row_stats(x, y, outputs="in_top_k", top_k=3, ignore_index=-1)["in_top_k"], NDArray[np.bool])
    assert_type(fastce.row_stats(x, Sparse(), outputs="target_rank")["target_rank"], Labels)
    assert_type(fastce.row_stats(x, outputs=("argmax", "max"))["argmax"], NDArray[Any])
    assert_type(fastce.row_stats(x, outputs=["argmax", "max"]), dict[Statistic, NDArray[Any]])
    assert_type(fastce.row_stats(x, y, outputs=names), dict[Statistic, NDArray[Any]])


def others(x: Tensor, y: Tensor) -> None:
    """What is no array of NumPy gives its own kind, which may be anything."""
    assert_type(fastce.cross_entropy(x, y, logit_scale=x), float)
    assert_type(fastce.cross_entropy(x, y, reduction="none"), Any)
    result: Tensor = fastce.cross_entropy_value_and_grad(x, y, out=x).grad
    result = fastce.clip_loss_from_features_value_and_grad(x, y, x, reduction="sum").grad_text_features
    result = fastce.softmax(x)
    result = fastce.nll_loss(x, y, reduction="none")
    result = fastce.nll_loss_value_and_grad(x, y, out=x).grad
    result = fastce.binary_cross_entropy_with_logits(x, y, reduction="none")
    result = fastce.binary_cross_entropy_with_logits_value_and_grad(x, y).grad
    result = fastce.cross_entropy_grad_and_hess(x, y, out=(None, x)).hess
    result = fastce.row_stats(x, y)["logsumexp"]
    result = fastce.row_stats(x, y, outputs=("argmax", "max"))["argmax"]
    assert_type(result, Tensor)


def chosen_later(x: Matrix, y: Labels, reduction: Reduction) -> None:
    assert_type(fastce.cross_entropy(x, y, reduction=reduction), float | FloatArray)


def settings() -> None:
    assert_type(fastce.get_num_threads(), int)
    fastce.warmup("float32", functions=["cross_entropy"])
    fastce.warmup(["float32", "bfloat16"])
    with fastce.threads(2):
        fastce.show_config()


def mistakes(x: Matrix, y: Labels, name: str) -> None:
    fastce.cross_entropy(x, y, reduction="avg")  # type: ignore[call-overload]
    fastce.cross_entropy(x, y, reduction=name)  # type: ignore[call-overload]
    fastce.cross_entropy(x, y, label_smoothing="0.1")  # type: ignore[call-overload]
    fastce.cross_entropy(x, y, smoothing_over="some")  # type: ignore[call-overload]
    fastce.cross_entropy(x, y, smoothing=0.1)  # type: ignore[call-overload]
    fastce.cross_entropy(x, y, None)  # type: ignore[call-overload]
    fastce.cross_entropy(x, object())  # type: ignore[call-overload]
    fastce.cross_entropy_value_and_grad(x, y, out=[0.0, 0.0])  # type: ignore[call-overload]
    fastce.cross_entropy_value_and_grad(x, y, out=name)  # type: ignore[call-overload]
    fastce.cross_entropy_grad_and_hess(x, y, hessian="XGBoost")  # type: ignore[call-overload]
    fastce.cross_entropy_grad_and_hess(x, y, out=x)  # type: ignore[call-overload]
    fastce.nll_loss(x, y, reduction="average")  # type: ignore[call-overload]
    fastce.nll_loss(x, y, label_smoothing=0.1)  # type: ignore[call-overload]
    fastce.binary_cross_entropy_with_logits(x, x, reduction=None)  # type: ignore[call-overload]
    fastce.clip_loss(x, reduction="avg")  # type: ignore[call-overload]
    fastce.clip_loss_value_and_grad(x, out=[0.0])  # type: ignore[call-overload]
    fastce.clip_loss_from_features(x, x, reduction="avg")  # type: ignore[call-overload]
    fastce.siglip_loss(x, x, 1.0)  # type: ignore[call-overload]
    fastce.info_nce(x, x, progress=3)  # type: ignore[call-overload]
    fastce.nt_xent_value_and_grad(x, x, reduction="avg")  # type: ignore[call-overload]
    fastce.sup_con(x, y, temperature=[0.1, 0.2])  # type: ignore[call-overload]
    fastce.linear_cross_entropy(x, x, y, axis=1)  # type: ignore[call-overload]
    fastce.row_stats(x, outputs="logsumexp ")  # type: ignore[arg-type]
    fastce.row_stats(x, outputs=("max",))["entropy"]  # type: ignore[index]
    fastce.row_stats(x, outputs=["maximum"])  # type: ignore[list-item]
    fastce.softmax(x, 1, out=[0.0])  # type: ignore[call-overload]
    fastce.logsumexp(x, axis="last")  # type: ignore[call-overload]
    fastce.warmup("float128")  # type: ignore[arg-type]
    fastce.set_num_threads("all")  # type: ignore[arg-type]
    wrong: Labels = fastce.cross_entropy(x, y, reduction="none")  # type: ignore[assignment]
    print(fastce.cross_entropy(x, y).shape)  # type: ignore[attr-defined]
    fastce.crossentropy(x, wrong)  # type: ignore[attr-defined]
