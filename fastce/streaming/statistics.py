"""Statistics of rows of logits that come in pieces."""

from collections.abc import Iterable, Iterator
from typing import Any, get_args

import numpy as np

from fastce.arguments.arrays import Array, kernel_dtype
from fastce.arguments.numbers import checked_memory_budget, checked_num_threads, choice, chosen, integer
from fastce.arguments.sparse import is_sparse
from fastce.arguments.statistics import asks_for_targets, checked_top_k
from fastce.cpu.best_positive import NO_CLASS, Best, best_of_shard, positive_rows
from fastce.cpu.shard_statistics import (
    OF_SECOND_LOOK,
    Found,
    before_target,
    look_at_statistics,
    statistic,
    targets_within,
)
from fastce.cpu.shards import Shard, check_owned
from fastce.losses.statistics import row_stats as of_block
from fastce.products.gradients import MEMORY_BUDGET
from fastce.products.progress import Progress
from fastce.streaming import class_blocks, row_blocks
from fastce.streaming.class_blocks import Blocks, class_indices_of
from fastce.streaming.sources import (
    Source,
    check_read_again,
    cuts,
    has_slices,
    is_path,
    is_read_ahead,
    iterable,
    number_of,
    source_of,
)
from fastce.streaming.whole import targets_of
from fastce.typing import Index, IntegerStatistic, Pieces, ProgressOption, Statistic

NAME = "row_stats"


def row_stats(
    logits: Any,
    targets: Any = None,
    *,
    pieces: Pieces = "rows",
    outputs: Iterable[str] = ("logsumexp",),
    top_k: Index = 5,
    ignore_index: Index = -100,
    memory_budget: int = MEMORY_BUDGET,
    read_ahead: bool | None = None,
    progress: ProgressOption = None,
    n_threads: int | None = None,
) -> dict[Statistic, Any]:
    """Statistics of every row of logits that need not fit into memory.

    Parameters
    ----------
    logits, pieces, memory_budget, read_ahead, progress
        As in `cross_entropy`. Blocks of rows come as ``logits`` or ``(logits, targets)``.
    targets, outputs, top_k, ignore_index, n_threads
        As in `fastce.row_stats`. Where classes come in blocks, ranks of targets are a second look at them, and to find
        the best of several in a row is one more: an iterable of them is a sequence then, or a function that gives a new
        iterator.

    Returns
    -------
    dict of str to ndarray
        As of `fastce.row_stats`, with one number for each row.

    Raises
    ------
    IndexError, ValueError, TypeError
        As of `fastce.row_stats`.

    Examples
    --------
    >>> import numpy as np, fastce.streaming
    >>> logits = np.array([[2.0, 1.0, 0.1], [0.5, 1.5, 1.5]])
    >>> blocks = [logits[:, :1], logits[:, 1:]]
    >>> fastce.streaming.row_stats(blocks, [0, 2], pieces="classes", outputs=("argmax", "target_rank"))
    {'argmax': array([0, 1]), 'target_rank': array([0, 1])}
    """
    names = chosen(outputs, "outputs", get_args(Statistic))
    call = _Call(names, targets, checked_top_k(top_k), integer(ignore_index, "ignore_index"), progress, n_threads)
    by_rows = choice(pieces, "pieces", get_args(Pieces)) == "rows"
    memory_budget = checked_memory_budget(memory_budget)
    if n_threads is not None:
        checked_num_threads(n_threads)
    if is_path(logits) or has_slices(logits):
        return call.of_matrix(source_of(logits, "logits"), memory_budget, read_ahead)
    total = number_of(logits)
    if by_rows:
        blocks = row_blocks.blocks_of_items(iterable(logits), bool(read_ahead))
        return call.of_row_blocks(((block.rows, block.logits, block.targets) for block in blocks), total)
    if call.looks > 1:
        check_read_again(logits, "several targets in a row read" if call.seeks_best else "ranks of targets read")
    return call.of_class_items(lambda: iterable(logits), total)


class _Call:
    """What is asked of all pieces."""

    def __init__(
        self, names: list[Statistic], targets: Any, top_k: int, ignore_index: int, progress: Any, n_threads: int | None
    ) -> None:
        self.names = names
        self.targets: Any = targets_of(targets)
        self.has_several: bool = is_sparse(self.targets)  # in a row
        if self.has_several:
            self.targets = positive_rows(self.targets, self.targets.shape, ignore_index)
        elif self.targets is not None:
            self.targets = class_indices_of(self.targets, NAME)
        self.top_k = top_k
        self.ignore_index: int = NO_CLASS if self.has_several else ignore_index
        self.progress = progress
        self.n_threads = n_threads
        self.seeks_best: bool = self.has_several and asks_for_targets(names, self.targets)
        self.looks: int = 1 + self.seeks_best + any(name in OF_SECOND_LOOK for name in names)

    def of_matrix(self, source: Source, memory_budget: int, read_ahead: bool | None) -> dict[Statistic, Any]:
        """Statistics of the rows of a matrix."""
        is_ahead = is_read_ahead(source, read_ahead)
        of_rows, of_classes = cuts(source, memory_budget, 1 + is_ahead)
        if self.targets is not None:
            expected = source.shape if self.has_several else source.shape[:1]
            if self.targets.shape != expected:
                raise ValueError(f"targets have shape {self.targets.shape}, expected {expected}")
        if len(of_classes) == 1:
            blocks = row_blocks.read_rows(source, of_rows, is_ahead)
            results = self.of_row_blocks(((rows, logits, None) for rows, logits in blocks), len(of_rows))
            return results if of_rows else self._of_rows(np.empty((0, source.shape[1]), source.dtype), self.targets)
        with Progress(self.progress, len(of_rows) * len(of_classes) * self.looks, NAME, "block") as shown:
            groups = (class_blocks.blocks_of_source(source, rows, of_classes, is_ahead) for rows in of_rows)
            return self._together([self._of_shards(blocks, shown) for blocks in groups])

    def of_row_blocks(self, blocks: Iterable[tuple[slice, Array, Any]], total: int) -> dict[Statistic, Any]:
        """Statistics of (rows, logits, targets or None)."""
        parts, rows_so_far = [], 0
        with Progress(self.progress, total, NAME, "block") as shown:
            for rows, logits, targets in blocks:
                if self.targets is not None and targets is not None:
                    raise TypeError("targets were given twice: with the blocks, and for all of them")
                if self.targets is not None:
                    targets = self.targets[rows]
                with row_blocks.naming(rows):
                    parts.append(self._of_rows(logits, targets))
                rows_so_far = rows.stop
                shown.step()
        if self.targets is not None and rows_so_far != self.targets.shape[0]:
            raise ValueError(f"blocks have {rows_so_far} rows, but there are {self.targets.shape[0]} targets")
        return self._together(parts)

    def _of_rows(self, logits: Array, targets: Any) -> dict[Statistic, Any]:
        return of_block(
            logits, targets, outputs=self.names, top_k=self.top_k, ignore_index=self.ignore_index, axis=1,
            n_threads=self.n_threads,
        )  # fmt: skip

    def _together(self, parts: list[dict[Statistic, Any]]) -> dict[Statistic, Any]:
        if not parts:
            return {name: np.empty(0, np.int64 if name in get_args(IntegerStatistic) else None) for name in self.names}
        return {name: np.concatenate([part[name] for part in parts]) for name in self.names}

    def of_class_items(self, items: Any, total: int) -> dict[Statistic, Any]:
        """Statistics of blocks of classes; without targets the first block says how many rows there are."""
        rows = None if self.targets is None else self.targets.shape[0]
        with Progress(self.progress, total * self.looks, NAME, "block") as shown:
            return self._of_shards(class_blocks.blocks_of_items(items, rows), shown)

    def _of_shards(self, blocks: Blocks, shown: Progress) -> dict[Statistic, Any]:
        given = self._class_indices(blocks, shown)
        found, dtype, classes = None, np.dtype(np.float64), 0
        for shard in self._shards(blocks, given):
            here = look_at_statistics(shard, self.names, self.n_threads)
            found = here if found is None else found.merged(here)
            dtype, classes = kernel_dtype(shard.logits.dtype), shard.first + shard.logits.shape[1]
            shown.step()
        if found is None or classes == 0:
            raise ValueError("logits have no classes")
        if self.has_several and self.targets.shape[1] != classes:
            raise ValueError(f"sparse targets are of {self.targets.shape[1]} classes, but logits have {classes}")
        if given is not None:
            counted = targets_within(given, len(given), self.ignore_index)[1]
            check_owned(found.known, given, counted, classes, blocks.rows.start or 0)
        before = self._before(blocks, given, found, shown) if asks_for_targets(self.names, given) else None
        return {name: statistic(name, found, before, self.top_k, dtype) for name in self.names}

    def _class_indices(self, blocks: Blocks, shown: Progress) -> Array | None:
        """The targets of these rows; of several in a row the best, which takes a look at all classes."""
        if self.targets is None or (self.has_several and not self.seeks_best):
            return None
        given = self.targets[blocks.rows]
        if not self.has_several:
            return np.asarray(given)
        best = Best.of_nothing(given.shape[0])
        for first, logits in blocks.read():
            best = best.merged(best_of_shard(given, logits, first, self.n_threads))
            shown.step()
        return best.classes

    def _before(self, blocks: Blocks, given: Array | None, found: Found, shown: Progress) -> Array:
        """How many classes come before each row's target."""
        before = np.zeros(len(found.x_target), np.int64)
        if any(name in OF_SECOND_LOOK for name in self.names):
            for shard in self._shards(blocks, given):
                before += before_target(shard, found.x_target, self.n_threads)
                shown.step()
        return before

    def _shards(self, blocks: Blocks, given: Array | None) -> Iterator[Shard]:
        for first, logits in blocks.read():
            yield Shard(logits, first, targets_within(given, len(logits), self.ignore_index)[0], None)
