"""One checked call of cross_entropy along the rows: where they lie, a few runs of them, or in copied blocks."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype
from fastce.arguments.silence import silently
from fastce.cpu._kernels.cross_entropy import ROWS_AT_A_TIME, cross_entropy_rows
from fastce.cpu._kernels.targets import Targets
from fastce.cpu._vectors.compiler import storage_view
from fastce.cpu.call import CrossEntropyCall
from fastce.cpu.extremes import extremes_of
from fastce.cpu.layout import Rows, goes_past_cache
from fastce.cpu.mass_targets import MassTargets
from fastce.cpu.rooms import Room
from fastce.cpu.row_losses import RowLosses
from fastce.cpu.threads import cut_rows, cut_runs, for_each

NO_UPSTREAM = np.ones(1)
NO_PRODUCTS = np.empty(0)
LANES = 16  # of a vector at most
EXPS_OF_ROWS, LARGEST_EXPS = 1 << 17, 1 << 18  # bytes of exps that are kept for some rows, or for a single long one
EXPS_OF_SHORT_ROWS = 1 << 14  # the same of rows two of which the first-level cache has room for: the rest is for logits


class AlongRows:
    """The rows of a call, and where their losses, gradients and products go."""

    def __init__(
        self, call: CrossEntropyCall, upstream: Array | None, out: Array | None, products: Array | None
    ) -> None:
        self.call = call
        self.rows: Rows = call.logits
        self.upstream: Array | None = upstream
        self.out: Array | None = out
        self.products: Array | None = products
        self.gradient: Rows | None = None if out is None else Rows(out, call.axis, self.rows.dtype)
        is_written_once = self.gradient is not None and self.gradient.matrix is not None and products is None
        self.past_cache: bool = out is not None and is_written_once and goes_past_cache(out, call.array)
        self.losses: Array = np.empty(self.rows.rows)
        self.misfits: Array = np.zeros(self.rows.rows, np.uint8)
        self.mended: list[tuple[Array, Array]] = []  # (numbers of rows, exponents of their losses)
        self.kernel: Callable[..., None] = cross_entropy_rows.compiled(self.rows.dtype)
        self.exps: Room = Room()
        self.slopes: Room = Room()

    def compute(self, n_threads: int | None) -> RowLosses:
        """The losses, once all is written."""
        if self._lies_in_memory():
            self._compute_in_place(n_threads)
        else:
            self._compute_copies(n_threads)
        exponents: Array | int = 0
        if self.mended:
            exponents = np.zeros(self.rows.rows, np.int32)
            for numbers, of_these in self.mended:
                exponents[numbers] = of_these
        losses = RowLosses(self.rows, self.call.reduction, self.call.parts)
        losses.put(slice(None), self.losses, exponents)
        return losses

    def _lies_in_memory(self) -> bool:
        """Whether the kernel can read and write everything where it is."""
        is_written = self.gradient is None or self.gradient.matrix is not None
        return self.rows.matrix is not None and is_written and self.call.targets.lie_in_memory

    def _compute_in_place(self, n_threads: int | None) -> None:
        """What Python does for the runs is done before the first: after it, Python has been swept from the cache."""
        runs = cut_runs(self.rows.rows, self.rows.row_bytes, n_threads)
        for_each([self._arguments(*run) for run in runs], self._call, n_threads)
        if np.count_nonzero(self.misfits):
            blocks = cut_rows(self.rows.rows, self.rows.row_bytes)
            for_each(blocks, lambda start, stop: self._mend(*self._odd(start, stop)), n_threads)

    def _compute_copies(self, n_threads: int | None) -> None:
        def work(start: int, stop: int) -> None:
            arguments = self._arguments(start, stop)
            self._call(*arguments)
            odd = self._odd(start, stop)  # before what is put back replaces logits
            if self.gradient is not None:
                silently(self.gradient.put_back, start, stop, arguments[-1])
            self._mend(*odd)

        for_each(cut_rows(self.rows.rows, self.rows.row_bytes), work, n_threads)

    def _arguments(self, start: int, stop: int) -> tuple[Any, ...]:
        """What `_call` is given for these rows; last, where their gradient goes, if it is asked for."""
        here, block, gradient = slice(start, stop), self.rows.block(start, stop), None
        if self.gradient is not None and self.products is None:
            gradient = self.gradient.room_for(self.rows, block, start, stop)
        elif self.gradient is not None:
            gradient = self.gradient.room(start, stop)
        return (
            block, self.call.targets.block(start, stop), self.losses[here], self.misfits[here],
            of_rows(self.upstream, here), NO_PRODUCTS if self.products is None else self.products[here], gradient,
        )  # fmt: skip

    def _call(
        self, block: Array, targets: Targets, losses: Array, misfits: Array, above: Array, products: Array,
        gradient: Array | None,
    ) -> None:  # fmt: skip
        """Call the kernel, with the room of this thread for what it keeps."""
        is_room = gradient is None and len(products) > 0
        if gradient is None:
            gradient = self._room_for_slopes(is_room)
        self.kernel(
            block, targets, self.call.options, losses, misfits, above, products, gradient, is_room,
            self._room_for_exps(gradient, is_room), self.past_cache,
        )  # fmt: skip

    def _room_for_slopes(self, is_needed: bool) -> Array:
        """Room for the gradient of a row that comes to nothing but products."""
        shape = (1, self.rows.classes) if is_needed else (0, 0)
        return storage_view(self.slopes.of(shape, self.rows.dtype))

    def _room_for_exps(self, gradient: Array, is_room: bool) -> Array:
        """Where a kernel may keep the exps of some rows for their gradients; none if there is none or they are long.

        Nor for products, but those of masses: of the rows of others hardly any have a gradient.
        """
        dtype = compute_dtype(self.rows.dtype)
        is_written = len(gradient) > 0 and (not is_room or isinstance(self.call.targets, MassTargets))
        count = exps_kept(self.rows.classes, self.rows.dtype) if is_written else 0
        return self.exps.of((count,), dtype) if count else np.empty(0, dtype)

    def _odd(self, start: int, stop: int) -> tuple[Array, Array | None]:
        """The numbers of rows that did not fit, and their logits, which the kernel has left as they were."""
        odd = start + np.flatnonzero(self.misfits[start:stop])
        return odd, self.rows.copy(odd) if odd.size else None

    def _mend(self, odd: Array, logits: Array | None) -> None:
        if logits is not None:
            extremes = extremes_of(self.call, self.upstream, self.out, self.products)
            self.losses[odd], exponents = extremes.losses_of(odd, logits)
            self.mended.append((odd, exponents))


def exps_kept(classes: int, dtype: np.dtype[Any]) -> int:
    """How many exps of rows of so many classes `cross_entropy_rows` is given room for."""
    itemsize, row = compute_dtype(dtype).itemsize, -(-classes // LANES) * LANES
    if row * itemsize > LARGEST_EXPS:
        return 0
    room = EXPS_OF_SHORT_ROWS if 2 * row * itemsize <= EXPS_OF_SHORT_ROWS else EXPS_OF_ROWS
    return max(row, min(ROWS_AT_A_TIME * row, room // itemsize))


def of_rows(upstream: Array | None, rows: slice | Array) -> Array:
    """What the gradients of these rows are multiplied by: one number each, or one for all."""
    if upstream is None:
        return NO_UPSTREAM
    of_these: Array = upstream[rows] if upstream.size > 1 else upstream
    return of_these
