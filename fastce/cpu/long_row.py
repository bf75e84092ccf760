"""One row that is cut in pieces: what each piece has come to, and how they merge."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.silence import silently
from fastce.cpu._kernels.long_rows import add_points_of_piece, finish_long_gradient, judge_long_row
from fastce.cpu._kernels.states import (
    DISTANCES,
    EXPONENT,
    FIELDS,
    FITS,
    GROUP,
    LOSS,
    NEAR,
    OFFSET,
    REST,
    REST_MASS,
    TARGET,
    TARGET_MASS,
    TOP,
    UPSTREAM,
    X_TARGET,
)
from fastce.cpu._kernels.targets import Options, Targets
from fastce.cpu._vectors.compiler import storage_view
from fastce.cpu.layout import Rows
from fastce.cpu.pieces import leader_of, merged_sum, odd_ones, rounded_sum
from fastce.cpu.rooms import Room
from fastce.cpu.targets import TargetRows
from fastce.cpu.threads import for_each


class Pieces(NamedTuple):
    """What belongs to the same piece of every row."""

    start: int
    logits: Rows
    probabilities: Rows | None
    gradient: Rows | None


class LongCall(NamedTuple):
    """What all rows have in common."""

    parts: list[Pieces]
    targets: TargetRows
    options: Options
    dtype: np.dtype[Any]
    scale: float  # what is left to multiply capped logits by
    products: Array | None  # of the gradient and the logits of each row
    slopes: Room  # for gradients that come to nothing else
    past_cache: bool
    leave_out: Callable[..., None]  # the kernels; the others are rarely called
    look: Callable[..., None]
    finish: Callable[..., None]
    write: Callable[..., None] | None


class LongRow:
    """Row ``i``: two tables of states with a column for each piece, as found and merged, and its own targets."""

    def __init__(self, call: LongCall, i: int) -> None:
        self.call = call
        self.i = i
        self.targets: Targets = call.targets.block(i, i + 1)
        self.weight: float = float(self.targets.row_weight[0]) if self.targets.row_weight.size else 1.0
        self.count: int = len(call.parts)
        self.found: Array = np.zeros(FIELDS * GROUP)
        self.states: Array = np.zeros(FIELDS * GROUP)
        self.products: Array = np.zeros(0 if call.products is None else self.count)
        self.targets_of_pieces: dict[int, Targets] = {}
        self.at_least: float = -math.inf
        self.left_out: int = -1
        self.mass_of_point: float = 0.0
        if self.targets.classes.size and self.weight != 0.0:
            choice = np.empty(2)
            none = self.targets.probabilities[:0]
            call.leave_out(self.targets._replace(probabilities=none), call.options, 0, choice)
            self.left_out, self.mass_of_point = int(choice[0]), float(choice[1])

    def tasks(self) -> list[tuple["LongRow", int]]:
        """The row with each of its pieces."""
        return [(self, k) for k in range(self.count)]

    def _field(self, field: int, table: Array) -> Array:
        return table[field : field + self.count]

    def _within(self, k: int, c: int) -> int:
        """The number of a class within a piece, or -1."""
        part = self.call.parts[k]
        return c - part.start if part.start <= c < part.start + part.logits.classes else -1

    def _targets_of(self, k: int) -> Targets:
        """The targets within a piece, numbered from its start."""
        row, part = self.targets, self.call.parts[k]
        if k in self.targets_of_pieces:
            return self.targets_of_pieces[k]
        start, stop = part.start, part.start + part.logits.classes
        probabilities = row.probabilities
        if part.probabilities is not None:
            probabilities = part.probabilities.block(self.i, self.i + 1)
        first, end = (0, 0)
        if row.classes.size:
            of_row = slice(int(row.first_points[0]), int(row.first_points[1])) if row.first_points.size else slice(0, 1)
            first, end = np.searchsorted(row.classes[of_row], (start, stop)) + of_row.start
        of_piece = Targets(
            np.array([0, end - first]), row.classes[first:end] - start, row.masses[first:end], probabilities,
            row.class_weight[start:stop], row.row_weight,
        )  # fmt: skip
        if part.probabilities is None:  # else it may be a copy, of the size of the piece
            self.targets_of_pieces[k] = of_piece
        return of_piece

    def look(self, k: int) -> None:
        """Sum a piece."""
        self.call.look(
            self.call.parts[k].logits.block(self.i, self.i + 1), self._targets_of(k), self.call.options,
            self._within(k, self.left_out), self.at_least, self.found, k,
        )  # fmt: skip

    def odd_tasks(self) -> list[tuple["LongRow", int]]:
        """The pieces that must be summed again."""
        offsets = self._field(OFFSET, self.found)
        leader, self.at_least = leader_of(offsets, self._field(EXPONENT, self.found), self.call.scale)
        return [(self, k) for k in odd_ones(offsets, self.at_least, leader)]

    def finish(self) -> None:
        """The loss of the row, from the merged state of its pieces."""
        offset, exponent, near = (self._field(field, self.found) for field in (OFFSET, EXPONENT, NEAR))
        mass, x_target = self._field(REST_MASS, self.found), self._field(X_TARGET, self.found)
        rest, distances = self._field(REST, self.found), self._field(DISTANCES, self.found)
        leader, height = leader_of(offset, exponent, self.call.scale)
        merged = {
            OFFSET: offset[leader],
            EXPONENT: exponent[leader],
            NEAR: near[leader],
            REST: math.nan,
            TOP: -math.inf,
        }
        merged[X_TARGET], merged[TARGET_MASS] = -math.inf, 0.0
        if math.isfinite(height):
            merged[REST] = merged_sum(rest, exponent, exponent[leader])
            merged[DISTANCES] = rounded_sum(
                np.concatenate([distances, silently(np.multiply, mass, near - near[leader])])
            )
            merged[REST_MASS] = rounded_sum(mass)
            merged[TOP] = float((self._field(TOP, self.found) + (offset - offset[leader])).max())
            if self.left_out >= 0:
                k = next(k for k in range(self.count) if self._within(k, self.left_out) >= 0)
                merged[X_TARGET] = x_target[k]
                merged[TARGET_MASS] = self.found[TARGET_MASS + k] + self.mass_of_point
        for field, value in merged.items():
            self._field(field, self.states)[:] = value
        self._field(TARGET, self.states)[:] = [self._within(k, self.left_out) for k in range(self.count)]
        self.call.finish(self.targets, self.call.options, self.states, self.count)

    def has_lost_digits(self) -> bool:
        """Whether a row of probabilities needs the class that most of the mass is on left out, as in shorter rows."""
        return self.weight != 0.0 and self.left_out < 0 and self.states[FITS] == 0.0

    def leave_out_likeliest(self, n_threads: int | None) -> int:
        """The piece that has the class of the largest mass; that class is left out from now on."""
        choices = np.empty((self.count, 2))

        def choose(k: int) -> None:
            classes = self.call.parts[k].logits.classes
            self.call.leave_out(self._targets_of(k), self.call.options, classes, choices[k])

        for_each([(k,) for k in range(self.count)], choose, n_threads)
        k = int(np.abs(choices[:, 1]).argmax())
        self.left_out = self.call.parts[k].start + int(choices[k, 0])
        return k

    def is_extreme(self) -> bool:
        """Whether the row must be left to extremes.py."""
        if self.weight == 0.0:
            return False
        k = int(self._field(TARGET, self.states).argmax())
        none = storage_view(np.empty((0, 0), self.call.dtype))
        classes = sum(part.logits.classes for part in self.call.parts)
        judge_long_row.compiled(self.call.dtype)(none, classes, self.targets, self.call.options, self.states, k)
        return bool(self.states[FITS] == 0.0)

    def has_many_points(self) -> bool:
        """Whether there are points besides the heaviest."""
        first = self.targets.first_points
        return self.weight != 0.0 and first.size > 0 and bool(first[1] - first[0] > 1)

    def prepare_points(self) -> None:
        """Let the columns, which are equal, collect the points of their pieces."""
        for field in (LOSS, REST_MASS):
            self._field(field, self.states)[1:] = 0.0

    def add_points(self, k: int) -> None:
        """Add the points in a piece, one by one."""
        add_points_of_piece.compiled(self.call.dtype)(
            self.call.parts[k].logits.block(self.i, self.i + 1), self._targets_of(k), self.call.options, self.states, k
        )

    def merge_points(self) -> None:
        """Make the columns equal again."""
        for field in (LOSS, REST_MASS):
            self._field(field, self.states)[:] = rounded_sum(self._field(field, self.states))

    def loss(self) -> Array:
        """The loss, as the only element of an array."""
        return self.weight * self.states[LOSS : LOSS + 1] if self.weight != 0.0 else np.zeros(1)

    def prepare_gradient(self, upstream: Array) -> None:
        """Find what the gradient is made of."""
        from_above = upstream[self.i if upstream.size > 1 else 0]
        self._field(UPSTREAM, self.states)[:] = self.weight * from_above * self.call.options.logit_scale
        finish_long_gradient.compiled(self.call.dtype)(self.call.options, self.states, self.count)

    def write(self, k: int) -> None:
        """The gradient of a piece."""
        part, place = self.call.parts[k], (self.i, self.i + 1)
        assert self.call.write is not None
        if part.gradient is None:
            room = self.call.slopes.of((1, part.logits.classes), self.call.dtype)
        else:
            room = part.gradient.room(*place)
        self.call.write(
            part.logits.block(*place), self._targets_of(k), self.call.options, self.states, k, room, self.products,
            self.call.past_cache,
        )  # fmt: skip
        if part.gradient is not None:
            silently(part.gradient.put_back, *place, room)

    def put_product(self) -> None:
        """Add up what the pieces have come to."""
        products = self.call.products
        if products is not None:
            products[self.i] = rounded_sum(self.products)
