"""What the tasks of CLIP's loss from features compute: of a stripe, and of what is known of all rows and columns."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.positives import Positives
from fastce.cpu.engine import Cpu
from fastce.cpu.sides import Side, sides_of, value_of
from fastce.cpu.sums import Means, Sums
from fastce.cpu.tile_similarity import Slopes, TileSimilarity
from fastce.dask.features import parts_of_gradients
from fastce.products.loss import swept
from fastce.products.ranges import Range
from fastce.products.tiles import Products


class State(NamedTuple):
    """What is known of some rows, and of all columns as far as they lie in these rows."""

    by_row: Sums
    by_column: Sums
    x: Array  # the products of positives
    means: tuple[Means, Means] | tuple[None, None]  # smoothing asks for them; a column's times the rows' part of all


class _OneSweep(TileSimilarity):
    """One sweep over the tiles of a stripe, which alone has no value."""

    sweeps = 1

    def value(self) -> None:
        """See `fastce.products.loss.Loss`."""


def sums(
    engine: Cpu, products: Products, within: Range, points: Positives, *, smoothing: float, whole_rows: int
) -> State:
    """The first sweep."""
    loss = _OneSweep(products, points, within, smoothing, "sum", within.dtype, engine.n_threads)
    swept("clip_loss_from_features", products, loss, None, writes=False)
    means = loss.means()
    if means[1] is not None:
        part = products.left.rows / max(whole_rows, 1)
        means = means[0], means[1]._replace(half_distances=part * means[1].half_distances)
    return State(loss.by_row, loss.by_column, loss.x, means)


def gradients(
    engine: Cpu, products: Products, within: Range, points: Positives, slopes: Slopes, *, smoothing: float
) -> tuple[Array, Array, float]:
    """The second sweep."""
    loss = _OneSweep(products, points, within, smoothing, "sum", within.dtype, engine.n_threads)
    loss.slopes = slopes
    swept("clip_loss_from_features", products, loss, None, writes=True)
    return parts_of_gradients(products, within)


def merged(engine: Cpu, states: Sequence[State], within: Range) -> State:
    """Rows of states follow each other; their parts of columns add up."""
    columns = Sums.of_nothing(states[0].by_column.exps.size)
    for state in states:
        columns.add(slice(None), state.by_column, within.scale, within.dtype == np.float64)
    by_row = Sums(*(np.concatenate(parts) for parts in zip(*(state.by_row for state in states), strict=True)))
    return State(by_row, columns, np.concatenate([state.x for state in states]), _merged_means(states))


def _merged_means(states: Sequence[State]) -> tuple[Means, Means] | tuple[None, None]:
    of_rows, of_columns = zip(*(state.means for state in states), strict=True)
    if of_rows[0] is None:
        return None, None
    rows = Means(*(np.concatenate(parts) for parts in zip(*of_rows, strict=True)))
    return rows, Means(of_columns[0].near, np.sum([means.half_distances for means in of_columns], axis=0))


def sides(
    engine: Cpu, state: State, points: Positives, within: Range, *, smoothing: float, reduction: str
) -> tuple[Side, Side]:
    """What all rows and columns have come to."""
    is_wide = within.dtype == np.float64
    negatives = state.by_row, state.by_column
    return sides_of(negatives, points, state.x, state.means, within.scale, smoothing, reduction, is_wide)


def value(engine: Cpu, sides: tuple[Side, Side], *, reduction: str, of_losses: np.dtype[Any]) -> Any:
    """What the reduction asks for."""
    return np.asarray(value_of(*sides, reduction, of_losses))[()]


def slopes(engine: Cpu, sides: tuple[Side, Side], points: Positives, within: Range, *, smoothing: float) -> Slopes:
    """What the products of all stripes are turned into."""
    return Slopes.of(sides, points, smoothing, within)


def of_rows(engine: Cpu, slopes: Slopes, points: Positives, *, rows: slice) -> Slopes:
    """What those of a stripe are."""
    return slopes.of_rows(rows, slice(*points.first_points[[rows.start, rows.stop]]))
