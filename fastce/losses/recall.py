"""Recall at k: how many queries find their key among the first k, from features, a panel of queries at a time."""

import operator
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastce.arguments.arrays import Array, kind_of, plain_array
from fastce.arguments.numbers import integer
from fastce.arguments.sparse import Named, is_sparse, sparse_rows
from fastce.arguments.words import asked, shown
from fastce.cpu.best_positive import Positives
from fastce.engine import by_engine
from fastce.products.engine import engine_for
from fastce.products.features import Features, feature_arrays
from fastce.products.gradients import MEMORY_BUDGET
from fastce.products.panels import Panels
from fastce.products.progress import Progress
from fastce.products.ranges import range_of
from fastce.products.tiles import Place
from fastce.typing import AnyArray, Index, ProgressOption

NOT_COUNTED = -100
NAMED = Named("positives", "key", "a row per query, a column a key")


class RecallAtK(NamedTuple):
    """Recall at each k, and for each query how many keys come before its best positive one, -1 where none can be."""

    recall: dict[int, float]
    rank: NDArray[np.int64]


@by_engine
def recall_at_k(
    query: AnyArray,
    keys: AnyArray,
    positives: Any = None,
    *,
    k: Index | Iterable[Index] = (1, 5, 10),
    normalize: bool = False,
    memory_budget: int = MEMORY_BUDGET,
    progress: ProgressOption = None,
    n_threads: int | None = None,
) -> RecallAtK:
    r"""Recall at k of a retrieval, from features, without the matrix of similarities.

    The share of queries that have a positive key among the k keys of the largest similarity :math:`q_i \cdot k_j`.

    Parameters
    ----------
    query : array_like, shape (N, D)
        Dtypes and strides as in `clip_loss_from_features`.
    keys : array_like, shape (M, D)
        What is searched.
    positives : array_like of int, shape (N,), or SciPy sparse array, shape (N, M), optional
        The key of each query; -100 for a query that is not counted. A sparse array has several, where it is not zero
        (the captions of an image): the best of them counts, and a query without any is not counted. By default key i
        belongs to query i, and M is N.
    k : int or iterable of int, default: (1, 5, 10)
        Each at least 1; more than there are keys is all of them.
    normalize : bool, default: False
        Whether rows are divided by their lengths first (cosine similarity). A row of length 0 stays 0.
    memory_budget, progress, n_threads
        As in `linear_cross_entropy`.

    Returns
    -------
    RecallAtK
        ``recall``, a dict from each k to a float, nan if no query is counted; ``rank``, int64 of shape (N,): how many
        keys come before the query's best positive one, those of a larger similarity, and those of an equal one and a
        smaller index. 0 is best. -1 where the query is not counted.

    Raises
    ------
    IndexError
        If a positive key is out of range; the message gives the first such query.
    ValueError, TypeError
        If shapes do not fit or arguments make no sense.

    See Also
    --------
    row_stats : Ranks in a matrix of logits that is there.

    Notes
    -----
    The rank is ``target_rank`` of `row_stats` of the matrix, of similarities as they are rounded: two keys that are
    equal to the last digits may come either way. Half precision is multiplied in float32; what float32 is too coarse
    for (large products) in float64, as in `clip_loss_from_features`. Where a similarity is NaN nothing can be ranked:
    the query has rank -1, but is counted, as one that found nothing.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> query, keys = np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([[0.8, 0.6], [1.0, 0.0], [0.0, 1.0]])
    >>> recall, rank = fastce.recall_at_k(query, keys, [1, 2], k=(1, 2))
    >>> recall, rank
    ({1: 0.5, 2: 1.0}, array([0, 1]))
    """
    limits = _checked_k(k)
    with engine_for(query, n_threads) as engine:
        left, right = feature_arrays(engine, [query, keys], ["query", "keys"])
        belonging = _checked_positives(engine.on_host(positives, "positives"), (left.shape[0], right.shape[0]))
        within = range_of(engine, [left], [right], 1.0, normalize=normalize)
        first, second = (
            Features(engine, [array], within.dtype, normalize, power=power)
            for array, power in ((left, within.left_power), (right, within.right_power))
        )
        rank = _ranks(Panels(first, second, memory_budget), belonging, progress)
        counted = belonging.counts > 0
        rank[~counted] = -1
        found = rank[counted]
        recall = {n: _share(int(((found >= 0) & (found < n)).sum()), found.size) for n in limits}
        return RecallAtK(recall, engine.given(engine.memory_of(rank)))


def _ranks(products: Panels, positives: Positives, progress: Any) -> Array:
    """That of the best positive key of each query; anything where there is none."""
    ranks = np.full(products.left.rows, -1)
    reporter = Progress(progress, len(products.places), "recall_at_k", products.unit)

    def rank(place: Place, panel: Any) -> None:
        ranks[place.rows] = products.engine.best_ranks(panel, *positives.of_rows(place.rows))

    with reporter:
        if positives.classes.size:
            products.sweep(rank, reporter)
    return ranks


def _share(part: int, total: int) -> float:
    return part / total if total else float("nan")


def _checked_k(value: Any) -> list[int]:
    """Some numbers, each at least 1."""
    number = asked(operator.index, value)
    given = asked(list, value) if number is None else [value]
    if isinstance(value, (str, bytes)) or not given:
        raise ValueError(f"k must be an integer or some of them, got {shown(value)}")
    limits = [integer(k, "k") for k in given]
    if min(limits) < 1:
        raise ValueError(f"k must be at least 1, got {min(limits)}")
    return limits


def _checked_positives(value: Any, shape: tuple[int, int]) -> Positives:
    """The diagonal, one key for each query, or some."""
    queries, keys = shape
    if value is None:
        if queries != keys:
            raise ValueError(
                f"query and keys must be as many unless positives are given, got {queries} and {keys} rows"
            )
        return Positives(np.arange(queries + 1), np.arange(queries))
    if is_sparse(value):
        matrix = sparse_rows(value, shape, NAMED)
        matrix.eliminate_zeros()
        return Positives.of_matrix(matrix)
    array = plain_array(value, "positives")
    if array.dtype.kind not in "iu" and not (array.size == 0 and array.dtype.kind == "f"):
        raise TypeError(f"positives must be integers or a SciPy sparse array, got {kind_of(array)}")
    if array.shape != (queries,):
        raise ValueError(f"positives have shape {array.shape}, expected {(queries,)}: one key for each query")
    chosen = array.astype(np.int64)
    counted = chosen != NOT_COUNTED
    wrong = counted & (chosen.view(np.uint64) >= keys)
    if wrong.any():
        row = int(wrong.argmax())
        raise IndexError(
            f"positives in row {row} hold {array[row]}, accepted are 0 to {keys - 1}, and {NOT_COUNTED} for none"
        )
    return Positives(np.concatenate([[0], np.cumsum(counted)]), chosen[counted])
