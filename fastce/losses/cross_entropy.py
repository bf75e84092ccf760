"""Cross entropy of logits, and its gradient."""

from typing import Any, Literal, Unpack, overload

from numpy.typing import NDArray

from fastce.arguments.out import checked_out
from fastce.arguments.reductions import upstream_of
from fastce.cpu.call import cross_entropy_call, of_counted
from fastce.cpu.cross_entropy import run
from fastce.cpu.plain_cross_entropy import plain_value, plain_value_and_grad
from fastce.engine import plain_first
from fastce.typing import (
    AnyArray,
    CrossEntropyGradOptions,
    CrossEntropyOptions,
    Float,
    FloatArray,
    Index,
    Number,
    RealArray,
    Reduced,
    Reduction,
    SmoothingOver,
    Targets,
    ValueAndGrad,
)


@overload
def cross_entropy(
    logits: AnyArray, targets: Targets, *, reduction: Reduced = "mean", **options: Unpack[CrossEntropyOptions]
) -> float: ...
@overload
def cross_entropy(
    logits: RealArray, targets: Targets, *, reduction: Literal["none"], **options: Unpack[CrossEntropyOptions]
) -> FloatArray: ...
@overload
def cross_entropy(
    logits: AnyArray, targets: Targets, *, reduction: Literal["none"], **options: Unpack[CrossEntropyOptions]
) -> Any: ...
@plain_first(plain_value)
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
    r"""Cross entropy of logits and targets, from one read of the logits.

    With :math:`x` the row after `logit_scale` and `softcap`, :math:`p = \mathrm{softmax}(x)`, class weights
    :math:`w`, sample weight :math:`v_i`, smoothing :math:`e` and K classes, the loss of row i with target y is

    .. math:: v_i \Big[(1-e)\, w_y (-\log p_y) + \frac{e}{K} \sum_c w_c (-\log p_c)\Big] + z\, v_i\, \mathrm{lse}^2

    Parameters
    ----------
    logits : array_like, shape (N, C) or (C,) or (N, C, d1, d2, ...)
        float32 and float64 are computed in their own dtype, float16 and bfloat16 in float32, integers and booleans
        in float64. Any strides; never written to.
    targets : array_like of int, array_like of float, or SciPy sparse array
        Told apart by type: integers of the shape of `logits` without the class axis are class indices; floats of the
        shape of `logits` are class probabilities; a sparse array has one row of class probabilities per row of logits.
    axis : int, optional
        The class axis. By default 1, or 0 for one-dimensional logits, as in PyTorch.
    weight : array_like, shape (C,), optional
        Weight of each class, finite, of any sign.
    sample_weight : array_like, optional
        Weight of each row, of the shape of the losses, or a number: finite, of any sign (an advantage, for example). A
        row of weight 0 counts as absent, whatever it holds.
    ignore_index : int, default: -100
        Rows with this class index cost nothing and have gradient exactly 0.
    label_smoothing : float in [0, 1], default: 0.0
        Mass that is taken from the target and spread out.
    smoothing_over : {"all", "others"}, default: "all"
        Over all classes (Szegedy et al., PyTorch, Keras), or over the others (fairseq): target 1-e, others e/(C-1).
    logit_scale : float, default: 1.0
        Positive factor of the logits, an inverse temperature.
    softcap : float, optional
        Caps the scaled logits: ``softcap * tanh(x / softcap)`` (Gemma 2). On the CPU in float64: differences of numbers
        near the cap are small.
    z_loss : float, default: 0.0
        Factor of the squared logsumexp that is added to each row's loss (PaLM).
    reduction : {"mean", "sum", "none"}, default: "mean"
        The mean is weighted, as PyTorch's: divided by the sum of ``sample_weight * weight[target]`` over the rows that
        are not ignored; for probabilities, by the sum of `sample_weight`. That sum may be negative; if it is 0, the
        mean is nan and its gradient 0.
    n_threads : int, optional
        Overrides `fastce.set_num_threads`. It changes no bit of the result.

    Returns
    -------
    float or ndarray
        A Python float accumulated in float64; for "none" one loss per row, in the dtype of the logits but at least
        float32.

    Raises
    ------
    IndexError
        If a class index is out of range; the message gives the first such row.
    ValueError, TypeError
        If shapes do not fit or arguments make no sense. Nothing has been computed then.

    Notes
    -----
    At most 4 ulp from exact per row in float32, confident rows and common offsets included; where weights or masses of
    both signs cancel, of the sum of the absolute terms. A search over a million rows (bench/accuracy.py) finds 2.5 ulp.
    NaN in a row affects that row alone; -inf at the target gives +inf; a masked class (-inf) without target mass costs
    nothing. Strides change no bit, except that more than 256 classes may be summed in another order where the rows, not
    the classes, are adjacent.

    References
    ----------
    .. [1] C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016.
    .. [2] A. Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", JMLR 24, 2023.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> logits = np.array([[2.0, 1.0, 0.1], [0.5, 1.5, 0.8]])
    >>> fastce.cross_entropy(logits, [0, 1], label_smoothing=0.1)
    0.5966686807473198
    >>> fastce.cross_entropy(logits, [0, 1], reduction="none").round(4)
    array([0.417, 0.623])
    """
    call = cross_entropy_call(
        logits, targets, axis, weight=weight, sample_weight=sample_weight, ignore_index=ignore_index,
        label_smoothing=label_smoothing, smoothing_over=smoothing_over, logit_scale=logit_scale, softcap=softcap,
        z_loss=z_loss, reduction=reduction, n_threads=n_threads,
    )  # fmt: skip
    return run(call, None, None, n_threads)


# fmt: off
@overload
def cross_entropy_value_and_grad(
    logits: RealArray[Float], targets: Targets,
    *, reduction: Reduced = "mean", **options: Unpack[CrossEntropyGradOptions]
) -> ValueAndGrad[float, NDArray[Float]]: ...
@overload
def cross_entropy_value_and_grad(
    logits: RealArray[Float], targets: Targets,
    *, reduction: Literal["none"], **options: Unpack[CrossEntropyGradOptions]
) -> ValueAndGrad[FloatArray, NDArray[Float]]: ...
@overload
def cross_entropy_value_and_grad(
    logits: AnyArray, targets: Targets, *, reduction: Reduction = "mean", **options: Unpack[CrossEntropyGradOptions]
) -> ValueAndGrad[Any, Any]: ...
# fmt: on
@plain_first(plain_value_and_grad)
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
    out: Any = None,
    n_threads: int | None = None,
) -> ValueAndGrad:
    """Cross entropy and its gradient with respect to the logits, without a matrix of probabilities.

    Parameters
    ----------
    logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, smoothing_over, logit_scale, softcap, \
z_loss, reduction, n_threads
        As in `cross_entropy`.
    grad_output : float or array_like, optional
        The gradient of what comes after the loss: a number, or for ``reduction="none"`` also one per row. 1 by default.
    out : ndarray, optional
        Receives the gradient; of its shape and dtype, writable. May be `logits` itself, which is then replaced. After
        Ctrl-C its contents are undefined.

    Returns
    -------
    ValueAndGrad
        ``value`` as `cross_entropy` returns it, and ``grad``: of the shape and dtype of the logits (float64 for
        integers), ``out`` if that was given, else in memory in the order of the logits.

    Raises
    ------
    IndexError, ValueError, TypeError
        As `cross_entropy`; nothing has been written into `out` then.

    Notes
    -----
    For "mean" and "sum" ``grad`` is the gradient of ``value``; for "none" that of the sum of ``grad_output * value``.
    Errors are at most 4 eps absolute before scaling; a search over a million rows of float32 finds 1.3 eps.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> logits = np.array([[2.0, 1.0, 0.1], [0.5, 1.5, 0.8]])
    >>> value, grad = fastce.cross_entropy_value_and_grad(logits, [0, 1])
    >>> value
    0.5200020140806532
    >>> grad.round(4)
    array([[-0.1705,  0.1212,  0.0493],
           [ 0.0987, -0.2318,  0.1332]])
    """
    call = cross_entropy_call(
        logits, targets, axis, weight=weight, sample_weight=sample_weight, ignore_index=ignore_index,
        label_smoothing=label_smoothing, smoothing_over=smoothing_over, logit_scale=logit_scale, softcap=softcap,
        z_loss=z_loss, reduction=reduction, n_threads=n_threads,
    )  # fmt: skip
    rows = call.logits
    upstream, exponent = upstream_of(grad_output, call.reduction, rows.lead, *call.targets.total)
    out = checked_out(out, call.array.shape, call.dtype, call.array, [targets, weight, sample_weight, grad_output])
    if exponent:
        call = call._replace(exponent=exponent)
    return ValueAndGrad(run(call, of_counted(upstream, call.targets), out, n_threads), out)
