"""Statistics of rows of logits, all from one read of them: validate, run one kernel over blocks of rows."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from fastce.arguments.arrays import Array, class_axis, compute_dtype, plain_array, real_array
from fastce.arguments.numbers import chosen, integer
from fastce.arguments.silence import cast
from fastce.arguments.sparse import is_sparse
from fastce.arguments.statistics import OUTPUTS, asks_for_targets, checked_top_k, numbers_of_classes
from fastce.cpu.best_positive import Positives, positive_rows
from fastce.cpu.checked_targets import class_indices, not_class_indices
from fastce.cpu.layout import Rows
from fastce.cpu.plain_statistics import plain_statistics
from fastce.cpu.softmax import logsumexp_over
from fastce.cpu.statistics import INTEGERS, largest_of, statistics_of
from fastce.engine import by_device
from fastce.typing import (
    AnyArray,
    BooleanStatistic,
    FloatArray,
    FloatStatistic,
    Index,
    IntegerStatistic,
    RealArray,
    Statistic,
    StatisticsOptions,
    Targets,
)

_NO_TARGETS = np.empty(0, np.int64)

_Float = TypeVar("_Float", bound=FloatStatistic)
_Integer = TypeVar("_Integer", bound=IntegerStatistic)
_Boolean = TypeVar("_Boolean", bound=BooleanStatistic)


# fmt: off
@overload
def row_stats(
    logits: RealArray, targets: Targets | None = None, **options: Unpack[StatisticsOptions]
) -> dict[Literal["logsumexp"], FloatArray]: ...
@overload
def row_stats(
    logits: RealArray, targets: Targets | None = None,
    *, outputs: _Float | tuple[_Float, ...], **options: Unpack[StatisticsOptions]
) -> dict[_Float, FloatArray]: ...
@overload
def row_stats(
    logits: RealArray, targets: Targets | None = None,
    *, outputs: _Integer | tuple[_Integer, ...], **options: Unpack[StatisticsOptions]
) -> dict[_Integer, NDArray[np.int64]]: ...
@overload
def row_stats(
    logits: RealArray, targets: Targets | None = None,
    *, outputs: _Boolean | tuple[_Boolean, ...], **options: Unpack[StatisticsOptions]
) -> dict[_Boolean, NDArray[np.bool]]: ...
@overload
def row_stats(
    logits: RealArray, targets: Targets | None = None,
    *, outputs: Statistic | Iterable[Statistic], **options: Unpack[StatisticsOptions]
) -> dict[Statistic, NDArray[Any]]: ...
@overload
def row_stats(
    logits: AnyArray, targets: Targets | None = None,
    *, outputs: Statistic | Iterable[Statistic] = ("logsumexp",), **options: Unpack[StatisticsOptions]
) -> dict[Statistic, Any]: ...
# fmt: on
@by_device
def row_stats(
    logits: Any,
    targets: Any = None,
    *,
    outputs: Iterable[str] = ("logsumexp",),
    axis: Index | None = None,
    top_k: Index = 5,
    ignore_index: Index = -100,
    n_threads: int | None = None,
) -> Any:
    r"""Statistics of every row of logits, all from one read of them.

    With :math:`p = \mathrm{softmax}(x)` of a row x, class indices :math:`c` and the target :math:`y`:

    ==================  ===============================================================  ===============
    name                value                                                            dtype
    ==================  ===============================================================  ===============
    logsumexp           :math:`\log \sum_c e^{x_c}`                                      float
    argmax              the first index of the largest logit; NaN counts as the largest  int64
    max                 the largest logit, NaN if there is one                           float
    entropy             :math:`-\sum_c p_c \log p_c`, in nats                            float
    target_log_prob     :math:`\log p_y`, the cross entropy's negative                   float
    target_rank         how many classes come before y: those of a larger logit, and     int64
                        those of an equal logit and a smaller index; 0 is best
    in_top_k            ``0 <= target_rank < top_k``                                     bool
    ==================  ===============================================================  ===============

    Parameters
    ----------
    logits : array_like, shape (N, C) or (C,) or (N, C, d1, d2, ...)
        As in `cross_entropy`. Never written to, and nothing of its size is allocated.
    targets : array_like of int, or SciPy sparse array, optional
        Class indices, of the shape of `logits` without the class axis. A sparse array, with one row per row of logits
        as in `cross_entropy`, may have several targets in a row, where it is not zero: the best of them counts, that of
        the largest logit, the first of equal ones. Needed by the last three.
    outputs : iterable of str, default: ("logsumexp",)
        Any of the names above, or one of them. Only what is asked for is computed.
    axis : int, optional
        The class axis. By default 1, or 0 for one-dimensional logits, as in PyTorch.
    top_k : int, default: 5
        How many of the first ranks count for ``in_top_k``; at least 1, and more than there are classes is all of them.
    ignore_index : int, default: -100
        Rows with this target have none, nor has an empty row of a sparse array: ``target_log_prob`` is nan,
        ``target_rank`` -1 and ``in_top_k`` False. The other outputs are those of every row.
    n_threads : int, optional
        Overrides `fastce.set_num_threads`. It changes no bit of the result.

    Returns
    -------
    dict of str to ndarray
        The arrays in the order of `outputs`, each of the shape of `logits` without the class axis (scalars for
        one-dimensional logits). "float" is the dtype of the logits, but float32 for float16 and bfloat16, and float64
        for integers and booleans.

    Raises
    ------
    IndexError
        If a class index is out of range and not ignored; the message gives the first such row.
    ValueError
        If an output is unknown or needs targets that are not there, shapes do not fit, there are no classes, or a
        sparse array holds negative numbers or NaN.
    TypeError
        If targets are neither integers nor a sparse array, or logits are not real numbers.

    See Also
    --------
    cross_entropy : The loss, with weights and smoothing.
    recall_at_k : Ranks of keys, of one or several, from features.
    logsumexp : SciPy's, over any axes.

    Notes
    -----
    ``target_log_prob`` is at most 4 ulp from exact and ``entropy`` at most 8 ulp, however confident the row is: what is
    close to 0 comes from a sum without the largest term, in which nothing cancels. ``logsumexp`` is at most 1 ulp from
    exact, near 0 at most 2 eps absolute; alone or, for few classes, beside argmax and max, but for float64, it has the
    bits of `logsumexp`. argmax, max and rank are exact.

    A class of logit -inf adds nothing to the entropy. A row without probabilities (a NaN, a +inf, or all of it -inf)
    has entropy and ``target_log_prob`` nan. Where a logit is NaN nothing can be ranked: ``target_rank`` is -1 and
    ``in_top_k`` False. None of this warns, or touches other rows.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> logits = np.array([[2.0, 1.0, 0.1], [0.5, 1.5, 1.5]])
    >>> stats = fastce.row_stats(logits, [0, 2], outputs=("argmax", "entropy", "target_rank", "in_top_k"), top_k=1)
    >>> stats["argmax"], stats["target_rank"]
    (array([0, 1]), array([0, 1]))
    >>> stats["entropy"].round(4)
    array([0.8467, 1.0174])
    >>> stats["in_top_k"]
    array([ True, False])
    >>> fastce.row_stats(logits, [0, -100], outputs="target_log_prob")["target_log_prob"].round(4)
    array([-0.417,    nan])

    Several right answers, of which the best counts:

    >>> from scipy import sparse
    >>> right = sparse.csr_array([[False, True, True], [True, False, False]])
    >>> fastce.row_stats(logits, right, outputs="target_rank")["target_rank"]
    array([1, 2])
    """
    plain = plain_statistics(logits, targets, outputs, axis, top_k, ignore_index, n_threads)
    if plain is not None:
        return plain
    names = chosen(outputs, "outputs", OUTPUTS)
    array = real_array(logits, "logits")
    index = class_axis(array, axis, "logits")
    rows = Rows(array, index)
    classes, ignored = _targets(targets, names, rows, array.shape, integer(ignore_index, "ignore_index"), n_threads)
    limit = checked_top_k(top_k)
    results = _alone(array, index, rows, names, n_threads)
    if results is None:
        results = statistics_of(rows, classes, names, n_threads)
        _forget(results, ignored)
    return {name: _result(name, results, rows, limit) for name in names}


def _alone(array: Array, axis: int, rows: Rows, names: Sequence[str], n_threads: int | None) -> dict[str, Array] | None:
    """What there are quicker ways for, if nothing else is asked for."""
    by_ways = "logsumexp" in names and rows.dtype != np.float64  # of float64 the quick one is less exact
    others = [name for name in names if name != "logsumexp"] if by_ways else [*names]
    if not set(others) <= {"argmax", "max"}:
        return None
    results = largest_of(array, axis, rows, others, n_threads) if others else {}
    if results is not None and by_ways:
        results["logsumexp"] = logsumexp_over(array, (axis,), n_threads, compute_dtype(rows.dtype))
    return results


def _targets(
    targets: Any, names: Sequence[str], rows: Rows, shape: tuple[int, ...], ignored_class: int, n_threads: int | None
) -> tuple[Array, Array]:
    """The class indices, checked, and the numbers of the rows without one; empty if no output needs them."""
    needs_targets = asks_for_targets(names, targets)
    if targets is None:
        return _NO_TARGETS, _NO_TARGETS
    if is_sparse(targets):
        positives = Positives.of_matrix(positive_rows(targets, (rows.rows, rows.classes), ignored_class))
        return positives.best(rows, n_threads).targets() if needs_targets else (_NO_TARGETS, _NO_TARGETS)
    array = plain_array(targets, "targets")
    if array.shape == (rows.rows, rows.classes) != rows.lead:
        raise numbers_of_classes(array.shape)
    if array.dtype.kind not in "iu":
        raise not_class_indices(array, "row_stats")
    checked = class_indices(array, rows, shape, "logits", ignored_class)
    return checked if needs_targets else (_NO_TARGETS, _NO_TARGETS)


def _forget(results: dict[str, Array], ignored: Array) -> None:
    """Mark what is of targets as unknown in these rows."""
    for name, unknown in (("target_log_prob", np.nan), ("target_rank", -1)):
        if results[name].size:
            results[name][ignored] = unknown


def _result(name: str, results: dict[str, Array], rows: Rows, top_k: int) -> Any:
    """One output in its shape and dtype."""
    if name == "in_top_k":
        rank = results["target_rank"]
        return ((rank >= 0) & (rank < top_k)).reshape(rows.lead)[()]
    flat = results[name]
    if name not in INTEGERS:
        flat = cast(flat, compute_dtype(rows.dtype))  # a logsumexp beyond float32 is inf
    return flat.reshape(rows.lead)[()]
