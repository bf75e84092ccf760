"""Plain calls of losses from features: two matrices of float32 that products take as they lie, whose own are a tile.

A product of 64 x 512 x 64 takes forty microseconds. Panels, tiles, budgets and powers of two, which large calls need,
take ten times as long. So these are left out where nothing is to be decided: a product, a loss in place of it, and two
more products. All is computed as in the usual way, with the same kernels and arguments, so that bits are the same. What
is not plain, or wrong, is None here, and left to the usual way, which complains.
"""

from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.numbers import REDUCTIONS
from fastce.cpu.dots import ordinary_square_of, products_of_few
from fastce.cpu.ends import NARROW, fits_one_tile
from fastce.cpu.plain import READY, is_number_of_threads
from fastce.cpu.rooms import Room
from fastce.cpu.sides import is_plain
from fastce.products import panels
from fastce.products.gradients import MEMORY_BUDGET
from fastce.products.ranges import fits_float32

MOST_INTEGER = 1 << 53
MOST_WIDTH = 4096  # of features: the usual way does not cut their products either


class PlainPairs(NamedTuple):
    """Features of both sides whose products are one small tile."""

    left: Array
    right: Array
    rooms: tuple[Room, Room]  # of the features, if they are joined, and of the tile

    @property
    def are_square(self) -> bool:
        """Whether there are as many of both sides."""
        return len(self.left) == len(self.right)

    def tile(self) -> Array:
        """Their products, in the room, which is the caller's to overwrite."""
        tile: Array = self.rooms[1].of((len(self.left), len(self.right)), NARROW)
        np.matmul(self.left, self.right.T, out=tile)
        return tile

    def of_pairs(self) -> Array:
        """The product of each row with that of its number on the other side, in float64."""
        own = np.arange(len(self.left))
        return products_of_few(self.left, own, self.right, own)

    def gradient_of_left(self, slopes: Array) -> tuple[Array, float]:
        """That of the left side, from that of the tile; and the sum of row * gradient, while it is in the cache."""
        gradient = np.matmul(slopes, self.right)
        own = np.arange(len(gradient))
        return gradient, float(products_of_few(self.left, own, gradient, own).sum())

    def gradients(self, slopes: Array) -> tuple[Array, Array, float]:
        """Those of both sides, and that sum."""
        of_left, along = self.gradient_of_left(slopes)
        return of_left, np.matmul(slopes.T, self.left), along


def plain_pairs(
    left: Any, right: Any, scale: Any, normalize: Any, reduction: Any, memory_budget: Any, progress: Any,
    n_threads: Any, bias: Any = 0.0, *, are_joined: bool = False,
) -> PlainPairs | None:  # fmt: skip
    """The features of a plain call, or None; if ``are_joined``, those of both sides below each other, and a copy."""
    if not (_are_rows(left) and _are_rows(right)) or progress is not None or normalize is not False:
        return None
    if left.shape[1] != right.shape[1]:
        return None
    if type(memory_budget) is not int or memory_budget != MEMORY_BUDGET or not is_number_of_threads(n_threads):
        return None
    if type(reduction) is not str or reduction not in REDUCTIONS or not (is_number(scale) and is_number(bias)):
        return None
    rooms = Room(), Room()
    if are_joined:
        if len(left) != len(right) or not fits_one_tile(2 * len(left), 2 * len(left)):
            return None
        left, right = _joined(left, right, rooms)
    if not is_plain(scale, NARROW) or not fits_one_tile(len(left), len(right)):
        return None
    of_left = ordinary_square_of(left)
    of_right = of_left if are_joined else ordinary_square_of(right)
    if of_left is None or of_right is None:
        return None
    return PlainPairs(left, right, rooms) if fits_float32((of_left, of_right), scale, bias) else None


def _joined(first: Array, second: Array, rooms: tuple[Room, Room]) -> tuple[Array, Array]:
    """The rows of both, and a copy, as of other tiles on the diagonal: see there."""
    both: Array = rooms[0].of((2, 2 * len(first), first.shape[1]), NARROW)
    np.concatenate([first, second], out=both[0])
    both[1] = both[0]
    return both[0], both[1]


def is_number(value: Any) -> bool:
    """Whether it is one of Python, which float64 holds."""
    return type(value) is float or (type(value) is int and abs(value) <= MOST_INTEGER)


def inverse(value: Any) -> float | None:
    """The scale that is the inverse of a temperature; None for what is not plain."""
    return 1.0 / value if is_number(value) and value > 0.0 else None


def _are_rows(array: Any) -> bool:
    return (
        type(array) is np.ndarray
        and array.ndim == 2
        and array.dtype is NARROW
        and array.flags.num & READY == READY
        and 0 < array.shape[0] <= panels.MOST_ROWS
        and 0 < array.shape[1] <= MOST_WIDTH
    )
