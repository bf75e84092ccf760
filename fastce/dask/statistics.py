"""Statistics of rows of Dask arrays of logits in any chunks."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, get_args

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.numbers import chosen, integer
from fastce.arguments.sparse import is_sparse
from fastce.arguments.statistics import asks_for_targets, checked_top_k
from fastce.cpu.best_positive import NO_CLASS, Best, best_of_shard, positive_rows
from fastce.cpu.checked_targets import not_class_indices
from fastce.cpu.engine import Cpu
from fastce.cpu.shard_statistics import (
    OF_SECOND_LOOK,
    Found,
    before_target,
    look_at_statistics,
    statistic,
    targets_within,
)
from fastce.cpu.shards import Shard, check_owned
from fastce.dask.matrix import Matrix, PerRow
from fastce.dask.tasks import Key, Stripe, Tasks
from fastce.losses.statistics import row_stats as plain
from fastce.typing import BooleanStatistic, FloatStatistic, Index, Statistic

Merging = TypeVar("Merging", Found, Best)


def row_stats(
    logits: Any,
    targets: Any = None,
    *,
    outputs: Iterable[str] = ("logsumexp",),
    axis: Index | None = None,
    top_k: Index = 5,
    ignore_index: Index = -100,
    n_threads: int | None = None,
) -> dict[Statistic, Any]:
    """As `fastce.row_stats`, of a Dask array in any chunks.

    Parameters
    ----------
    logits, targets, axis, n_threads
        As in `fastce.dask.cross_entropy`; targets are class indices, or a SciPy sparse array of several in a row.
    outputs, top_k, ignore_index
        As in `fastce.row_stats`. Where classes are in several chunks, ranks of targets use each of them twice, and to
        find the best of several in a row once more.

    Returns
    -------
    dict of str to dask.array.Array
        In the order of `outputs`, each of shape (N,) in the chunks of the rows of `logits`. Compute them together, by
        ``dask.compute(stats)``.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastce.dask
    >>> logits = da.from_array(np.array([[2.0, 1.0, 0.1], [0.5, 1.5, 1.5]]), chunks=(1, 2))
    >>> fastce.dask.row_stats(logits, np.array([0, 2]), outputs="target_rank")["target_rank"].compute()
    array([0, 1])
    """
    names = chosen(outputs, "outputs", get_args(Statistic))
    limit, ignored = checked_top_k(top_k), integer(ignore_index, "ignore_index")
    matrix = Matrix(logits, axis)
    of_rows = PerRow(targets, "targets", matrix)
    needs_targets, has_several = asks_for_targets(names, targets), is_sparse(targets)
    if has_several:
        of_rows.value, ignored = positive_rows(of_rows.value, matrix.array.shape, ignored), NO_CLASS
    elif targets is not None and of_rows.value.dtype.kind not in "iu":
        raise not_class_indices(of_rows.value, "row_stats")
    here = of_rows.value if of_rows.is_here else None
    tasks = Tasks(
        "row_stats", [matrix.array, *of_rows.arrays], [names, limit, ignored, here], n_threads, multiplies=False
    )
    options = {"names": names, "top_k": limit, "ignore_index": ignored}
    stripe_of = _whole if matrix.is_whole else _sharded
    keys = []
    for stripe in matrix.stripes:
        given = None if targets is None else of_rows.key(stripe)
        if has_several and not matrix.is_whole:
            given = _best_of_several(tasks, matrix, stripe, given) if needs_targets else None
        keys.append(stripe_of(tasks, matrix, stripe, given, options))
    return {name: tasks.array(name, keys, matrix.array.chunks[:1], _dtype_of(name, matrix), name) for name in names}


def _dtype_of(name: str, matrix: Matrix) -> Any:
    if name in get_args(FloatStatistic):
        return matrix.of_losses
    return np.dtype(np.bool if name in get_args(BooleanStatistic) else np.int64)


def _whole(tasks: Tasks, matrix: Matrix, stripe: Stripe, targets: Any, options: dict[str, Any]) -> Key:
    return tasks.add(_of_rows, matrix.key(stripe), targets, stripe=stripe, **options)


def _best_of_several(tasks: Tasks, matrix: Matrix, stripe: Stripe, positives: Any) -> Key:
    """The class indices of rows with several targets: a look at all tiles."""
    given = tasks.constant(positives)
    looks = [
        tasks.add(_look_for_best, matrix.key(stripe, tile), given, tile.first, stripe=stripe) for tile in matrix.tiles
    ]
    return tasks.picked(tasks.tree(_merged, looks), 0)


def _sharded(tasks: Tasks, matrix: Matrix, stripe: Stripe, targets: Any, options: dict[str, Any]) -> Key:
    """What tiles know merges; where a rank is asked for, they are looked at again when it is known of what."""
    names, ignored = options["names"], {"ignore_index": options["ignore_index"]}
    looks = [
        tasks.add(_look, matrix.key(stripe, tile), targets, tile.first, stripe=stripe, names=names, **ignored)
        for tile in matrix.tiles
    ]
    found, ranks = tasks.tree(_merged, looks), []
    if any(name in OF_SECOND_LOOK for name in names):
        ranks = [
            tasks.add(_before, matrix.key(stripe, tile), targets, found, tile.first, stripe=stripe, **ignored)
            for tile in matrix.tiles
        ]
    return tasks.add(
        _finished, found, ranks, targets, stripe=stripe, dtype=matrix.dtype, classes=matrix.classes, **options
    )


def _of_rows(
    engine: Cpu, logits: Array, targets: Any, *, names: Sequence[Statistic], top_k: int, ignore_index: int
) -> dict[Any, Array]:
    return plain(logits, targets, outputs=names, top_k=top_k, ignore_index=ignore_index, n_threads=engine.n_threads)


def _shard(logits: Array, targets: Any, first: int, ignore_index: int) -> Shard:
    return Shard(logits, first, targets_within(targets, len(logits), ignore_index)[0], None)


def _look(engine: Cpu, logits: Array, targets: Any, first: int, *, names: Sequence[str], ignore_index: int) -> Found:
    return look_at_statistics(_shard(logits, targets, first, ignore_index), names, engine.n_threads)


def _look_for_best(engine: Cpu, logits: Array, positives: Any, first: int) -> Best:
    return best_of_shard(positives, logits, first, engine.n_threads)


def _merged(engine: Cpu, parts: Sequence[Merging]) -> Merging:
    return parts[0].merged(parts[1])


def _before(engine: Cpu, logits: Array, targets: Any, found: Found, first: int, *, ignore_index: int) -> Array:
    return before_target(_shard(logits, targets, first, ignore_index), found.x_target, engine.n_threads)


def _finished(
    engine: Cpu,
    found: Found,
    before: Sequence[Array],
    targets: Any,
    *,
    names: Sequence[str],
    top_k: int,
    ignore_index: int,
    dtype: np.dtype[Any],
    classes: int,
) -> dict[str, Array]:
    if targets is not None:
        check_owned(found.known, targets, targets_within(targets, len(targets), ignore_index)[1], classes)
    ranks = sum(before[1:], before[0]) if before else None
    return {name: statistic(name, found, ranks, top_k, dtype) for name in names}
