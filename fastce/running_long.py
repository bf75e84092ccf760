"""Rows so long that they are cut: each piece is summed on its own, and the states of the pieces merge.

    look      every piece, in parallel: a reference of its own and the sums relative to it
    merge     (m1, s1) + (m2, s2); then the loss of the row, once
    write     every piece's gradient from the state of its row, in parallel

So one row keeps all threads busy, and Ctrl-C is heard within it. Rows are cut by shape alone.
"""

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastce._kernels.jit import storage_view
from fastce._kernels.long_rows import (
    add_points_of_piece,
    finish_long_gradient,
    finish_long_row,
    judge_long_row,
    look_at_piece,
    target_to_leave_out,
    write_gradient_of_piece,
)
from fastce._kernels.states import (
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
    UPSTREAM,
    X_TARGET,
)
from fastce._kernels.targets import Options, Targets
from fastce.arguments import Array
from fastce.extremes import Extremes
from fastce.layout import Rows, goes_past_cache
from fastce.pieces import groups, leader_of, merged_sum, odd_ones, pieces, rounded_sum
from fastce.silence import silently
from fastce.targets import MassTargets, TargetRows
from fastce.threads import in_turn


class _Pieces(NamedTuple):
    """What belongs to the same piece of every row."""

    start: int
    logits: Rows
    probabilities: Rows | None
    gradient: Rows | None


class _LongCall(NamedTuple):
    """What all rows have in common."""

    parts: list[_Pieces]
    targets: TargetRows
    options: Options
    dtype: np.dtype[Any]
    scale: float  # what is left to multiply capped logits by
    past_cache: bool
    leave_out: Callable[..., None]  # the kernels; the others are rarely called
    look: Callable[..., None]
    finish: Callable[..., None]
    write: Callable[..., None] | None


class _LongRow:
    """Row ``i``: two tables of states with a column for each piece, as found and merged, and its own targets."""

    def __init__(self, call: _LongCall, i: int) -> None:
        self.call, self.i = call, i
        self.targets = call.targets.block(i, i + 1)
        self.weight = float(self.targets.row_weight[0]) if self.targets.row_weight.size else 1.0
        self.count = len(call.parts)
        self.found = np.zeros(FIELDS * GROUP)
        self.states = np.zeros(FIELDS * GROUP)
        self.targets_of_pieces: dict[int, Targets] = {}
        self.at_least = -math.inf
        self.left_out, self.mass_of_point = -1, 0.0
        if self.targets.classes.size and self.weight != 0.0:
            choice = np.empty(2)
            none = self.targets.probabilities[:0]
            call.leave_out(self.targets._replace(probabilities=none), call.options, 0, choice)
            self.left_out, self.mass_of_point = int(choice[0]), float(choice[1])

    def tasks(self) -> list[tuple["_LongRow", int]]:
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

    def odd_tasks(self) -> list[tuple["_LongRow", int]]:
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
        merged = {OFFSET: offset[leader], EXPONENT: exponent[leader], NEAR: near[leader], REST: math.nan}
        merged[X_TARGET], merged[TARGET_MASS] = -math.inf, 0.0
        if math.isfinite(height):
            merged[REST] = merged_sum(rest, exponent, exponent[leader])
            merged[DISTANCES] = rounded_sum(
                np.concatenate([distances, silently(np.multiply, mass, near - near[leader])])
            )
            merged[REST_MASS] = rounded_sum(mass)
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

        in_turn([(k,) for k in range(self.count)], choose, n_threads)
        k = int(np.abs(choices[:, 1]).argmax())
        self.left_out = self.call.parts[k].start + int(choices[k, 0])
        return k

    def is_extreme(self) -> bool:
        """Whether the row must be left to extremes.py."""
        if self.weight == 0.0:
            return False
        k = int(self._field(TARGET, self.states).argmax())
        none = storage_view(np.empty((0, 0), self.call.dtype))
        judge_long_row.compiled(self.call.dtype)(none, self.call.options, self.states, k)
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
        assert part.gradient is not None
        assert self.call.write is not None
        room = part.gradient.room(*place)
        self.call.write(
            part.logits.block(*place), self._targets_of(k), self.call.options, self.states, k, room,
            self.call.past_cache,
        )  # fmt: skip
        part.gradient.put_back(*place, room)


def cross_entropy_of_long_rows(
    logits: Rows,
    targets: TargetRows,
    options: Options,
    upstream: Array | None,
    gradient: Rows | None,
    extremes: Extremes,
    put: Callable[[int, slice, Array, Array | int], None],
    n_threads: int | None,
) -> None:
    """Losses, handed to ``put(i, slice(i, i + 1), loss, exponent)`` row by row, and gradients if there is room."""
    probabilities = targets.probabilities if isinstance(targets, MassTargets) and targets.points is None else None
    parts = [
        _Pieces(
            place[-1].start,
            _part_of(logits, place),
            None if probabilities is None else _part_of(probabilities, place),
            None if gradient is None else _part_of(gradient, place),
        )
        for place in pieces(logits.view.shape, (logits.view.ndim - 1,))
    ]
    if isinstance(targets, MassTargets) and probabilities is not None:
        targets = copy.copy(targets)
        targets.probabilities = parts[0].probabilities  # the others piece by piece: a row may have to be copied
    past_cache = gradient is not None and goes_past_cache(gradient.view, logits.view)
    call = _LongCall(
        parts, targets, options, logits.dtype, 1.0 if options.softcap > 0.0 else options.logit_scale, past_cache,
        target_to_leave_out.compiled(logits.dtype),
        look_at_piece.compiled(logits.dtype),
        finish_long_row.compiled(logits.dtype),
        None if gradient is None else write_gradient_of_piece.compiled(logits.dtype),
    )  # fmt: skip
    for group in groups(logits.rows, len(parts), n_threads):
        rows = [_LongRow(call, i) for i in group]
        _find_losses([row for row in rows if row.weight != 0.0], n_threads)
        odd = [row for row in rows if row.is_extreme()]
        in_turn([(row.i, extremes, put) for row in odd], _put_extreme, n_threads)
        rows = [row for row in rows if row not in odd]
        for row in rows:
            put(row.i, slice(row.i, row.i + 1), row.loss(), 0)
        if gradient is not None:
            assert upstream is not None
            for row in rows:
                row.prepare_gradient(upstream)
            # what was read last is still in cache
            in_turn([task for row in reversed(rows) for task in reversed(row.tasks())], _LongRow.write, n_threads)


def _put_extreme(i: int, extremes: Extremes, put: Callable[[int, slice, Array, Array | int], None]) -> None:
    put(i, slice(i, i + 1), *extremes.compute(i, i + 1))


def _part_of(rows: Rows, place: tuple[slice, ...]) -> Rows:
    return type(rows)(rows.view[place], -1, rows.dtype)


def _find_losses(rows: list[_LongRow], n_threads: int | None) -> None:
    in_turn([task for row in rows for task in row.tasks()], _LongRow.look, n_threads)
    _agree_and_finish(rows, n_threads)
    lost = [row for row in rows if row.has_lost_digits()]
    in_turn([(row, row.leave_out_likeliest(n_threads)) for row in lost], _LongRow.look, n_threads)
    _agree_and_finish(lost, n_threads)
    with_points = [row for row in rows if row.has_many_points()]
    for row in with_points:
        row.prepare_points()
    in_turn([task for row in with_points for task in row.tasks()], _LongRow.add_points, n_threads)
    for row in with_points:
        row.merge_points()


def _agree_and_finish(rows: list[_LongRow], n_threads: int | None) -> None:
    in_turn([task for row in rows for task in row.odd_tasks()], _LongRow.look, n_threads)
    for row in rows:
        row.finish()
