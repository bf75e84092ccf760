"""Losses of logits that come in blocks of classes, of all rows each: what blocks know of a row merges by the law."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array, common_dtype, kernel_dtype, plain_array, real_array, weights
from fastce.arguments.libraries import read as as_numpy
from fastce.arguments.numbers import fraction, integer, is_one_number
from fastce.arguments.options import CheckedOptions, checked_options
from fastce.arguments.sparse import is_sparse
from fastce.cpu.checked_targets import not_class_indices
from fastce.cpu.index_targets import IndexTargets
from fastce.cpu.shards import Masses, Partial, Shard, Way, check_owned, look, write_gradient
from fastce.streaming.outputs import Receiver, room_for
from fastce.streaming.sources import Source, ahead
from fastce.streaming.whole import Probabilities, Whole

OF_SHARDS = ("label_smoothing", "smoothing_over", "logit_scale", "softcap", "z_loss")

IGNORED, NO_CLASS = -1, -2  # classes that no block has
MOST = np.iinfo(np.int64).max  # what is beyond is no class


def class_indices_of(targets: Any, function: str) -> Array:
    """Targets that can be nothing else, while the number of classes is not known."""
    if is_sparse(targets):
        raise not_class_indices(np.asarray(targets), function)
    given = plain_array(targets, "targets")
    if given.dtype.kind not in "iu":
        raise not_class_indices(given, function)
    if given.ndim != 1:
        raise ValueError(f"targets must have one dimension, got shape {given.shape}")
    return given


class Blocks(NamedTuple):
    """Blocks of classes of some rows: ``read()`` begins anew, and gives (the number of the first class, logits)."""

    rows: slice
    read: Callable[[], Iterator[tuple[int, Array]]]


def blocks_of_source(source: Source, rows: slice, cuts: list[slice], is_ahead: bool) -> Blocks:
    """Of a matrix, some of whose classes are read at a time."""

    def read() -> Iterator[tuple[int, Array]]:
        reads = (partial(source.read, rows, columns) for columns in cuts)
        for columns, logits in zip(cuts, ahead(reads, is_ahead), strict=True):
            yield columns.start, logits

    return Blocks(rows, read)


def blocks_of_items(items: Callable[[], Iterable[Any]], rows: int | None) -> Blocks:
    """Of an iterable of matrices, in the order of their classes; of any number of rows if that is None."""

    def read() -> Iterator[tuple[int, Array]]:
        first, expected = 0, rows
        for item in items():
            logits = real_array(as_numpy(item, "logits"), "logits")
            if logits.ndim != 2 or len(logits) != (len(logits) if expected is None else expected):
                wanted = "two dimensions" if expected is None else f"({expected}, ...)"
                raise ValueError(f"a block of classes has shape {logits.shape}, expected {wanted}")
            expected = len(logits)
            yield first, logits
            first += logits.shape[1]

    return Blocks(slice(0, rows), read)


class RowTargets(NamedTuple):
    """The targets of some rows: class indices, or IGNORED, or probabilities (rows from ``start``)."""

    given: Array  # what errors show
    classes: Array
    row_weight: Array
    probabilities: Probabilities | None = None
    start: int = 0

    @classmethod
    def of(cls, targets: Any, sample_weight: Any, ignore_index: Any) -> "RowTargets":
        """Of class indices, while the number of classes is not known."""
        given = class_indices_of(targets, "blocks of classes")
        ignored = given == integer(ignore_index, "ignore_index")
        row_weight = np.ones(given.size)
        if sample_weight is not None:
            array = real_array(sample_weight, "sample_weight")
            array = np.full(given.size, array.reshape(())) if is_one_number(array.shape) else array
            row_weight = weights(array, "sample_weight", given.shape)
        row_weight[ignored] = 0.0
        classes = np.where((given < 0) | (given > MOST), NO_CLASS, given.astype(np.int64))
        return cls(given, np.where(ignored, IGNORED, classes), row_weight)

    @classmethod
    def of_whole(cls, whole: Whole, rows: slice) -> "RowTargets":
        """Of targets that are checked already."""
        described, count = whole.described.targets, rows.stop - rows.start
        if whole.probabilities is not None:
            weight = whole.sample_weight_of(rows)
            row_weight = np.ones(count) if weight is None else weight
            return cls(np.zeros(count), np.full(count, IGNORED), row_weight, whole.probabilities, rows.start)
        assert isinstance(described, IndexTargets)
        classes, row_weight = described.picked(rows)
        row_weight = row_weight if row_weight.size else np.ones(count)
        return cls(whole.indices[rows], np.where(row_weight == 0.0, IGNORED, classes), row_weight)

    def masses(self, weight: Array | None, options: CheckedOptions) -> Masses:
        """What losses are made of, once all classes are known."""
        if self.probabilities is not None:
            return Masses(0.0, 1.0, options.z_loss)
        return Masses((options.keep + options.spread) * self.weight_of(weight), options.spread, options.z_loss)

    def weight_of(self, weight: Array | None) -> Array:
        """The class weight of each row's target."""
        classes = np.maximum(self.classes, 0)
        return np.ones(classes.size) if weight is None else weight[classes]

    def within(self, columns: slice, options: CheckedOptions) -> Array:
        """As `Shard` takes them: indices, or smoothed probabilities of these classes."""
        if self.probabilities is None:
            return self.classes
        part = self.probabilities.of_tile(slice(self.start, self.start + len(self.given)), columns)
        return options.keep * part + options.spread


class ShardedLoss:
    """Cross entropy of rows whose classes are read a block at a time; once for the value, twice with the gradient."""

    def __init__(
        self,
        blocks: Blocks,
        targets: RowTargets,
        options: dict[str, Any],
        classes: int | None,
        n_threads: int | None,
    ) -> None:
        """The number of classes is None while it is not known."""
        weight = options["weight"]
        self.blocks = blocks
        self.targets = targets
        self.weight: Array | None = None if weight is None else weights(weight, "weight", np.shape(weight))
        self.given: dict[str, Any] = {name: options[name] for name in OF_SHARDS}
        self.n_threads = n_threads
        self.options: CheckedOptions = checked_options(2 if classes is None else classes, **self.given)
        smoothed = targets.probabilities is None and fraction(options["label_smoothing"], "label_smoothing") > 0.0
        self.way: Way = Way(self.options.logit_scale, self.options.softcap, smoothed)
        self.known: Partial = Partial.of_nothing(len(targets.given))
        self.masses: Masses = Masses(0.0, 1.0, self.options.z_loss)
        self.classes: int = 0
        self.dtype: np.dtype[Any] = np.dtype(np.float32)

    def _shards(self) -> Iterator[Shard]:
        for first, logits in self.blocks.read():
            columns = slice(first, first + logits.shape[1])
            self._check_weight(columns.stop, is_all=False)
            weight = None if self.weight is None else self.weight[columns]
            yield Shard(logits, first, self.targets.within(columns, self.options), weight)

    def _check_weight(self, classes: int, is_all: bool) -> None:
        size = classes if self.weight is None else self.weight.size
        if size < classes or (is_all and size > classes):
            raise ValueError(f"weight has shape {(size,)}, expected {(classes,)}")

    def read(self, step: Callable[[], None]) -> Array:
        """The loss of each row, times its weight."""
        scale = self.way.rest_of_scale
        for shard in self._shards():
            self.known = self.known.merged(look(shard, self.way, self.n_threads), scale)
            dtype = kernel_dtype(shard.logits.dtype)
            self.dtype = common_dtype(self.dtype, dtype) if self.classes else dtype
            self.classes = shard.first + shard.logits.shape[1]
            step()
        if self.classes == 0:
            raise ValueError("logits have no classes")
        self._check_weight(self.classes, is_all=True)
        self.options = checked_options(self.classes, **self.given)
        targets = self.targets
        if targets.probabilities is None:
            check_owned(self.known, targets.given, targets.classes != IGNORED, self.classes)
        self.masses = targets.masses(self.weight, self.options)
        losses = self.masses.losses(self.known, scale)
        with np.errstate(all="ignore"):
            return np.where(targets.row_weight == 0.0, 0.0, targets.row_weight * losses)

    def total_weight(self) -> float:
        """What a mean divides by; of class indices, once all blocks are read."""
        return float((self.targets.row_weight * self.targets.weight_of(self.weight)).sum())

    def write(self, above: Array, out: Receiver, step: Callable[[], None]) -> None:
        """The gradient, from what is known and a second look; ``above`` is what comes after the loss of each row."""
        row_weight = self.targets.row_weight
        with np.errstate(all="ignore"):
            upstream = np.where(row_weight == 0.0, 0.0, row_weight * above * self.way.scale)
        for shard in self._shards():
            place = self.blocks.rows, slice(shard.first, shard.first + shard.logits.shape[1])
            room = room_for(shard.logits, out, *place, self.dtype)
            if kernel_dtype(shard.logits.dtype) != self.dtype:
                shard = shard._replace(logits=shard.logits.astype(self.dtype))
            write_gradient(shard, self.way, self.known, self.masses, upstream, room, self.n_threads)
            out.put(*place, room)
            step()
