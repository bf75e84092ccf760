"""Negative log likelihood: one entry of each row, so NumPy does it all."""

from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.reductions import product
from fastce.cpu.layout import Rows
from fastce.cpu.row_losses import RowLosses
from fastce.cpu.targets import IndexTargets


class Entries(NamedTuple):
    """The entries of the targets, one a row.

    Attributes
    ----------
    where : tuple of ndarray
        Where they stand in an array whose class axis is last, see `narrowed`.
    masses, exponents : ndarray
        ``v_i * w_y`` as pairs.
    """

    where: tuple[Any, ...]
    masses: Array
    exponents: Array | int


def entries_of(described: IndexTargets, lead: tuple[int, ...]) -> Entries:
    """The entries of these targets, of rows of this shape."""
    classes = described.picked(slice(0, described.indices.size))[0]
    where = (*np.unravel_index(np.arange(classes.size), lead), classes) if lead else (classes[0],)
    return Entries(where, *described.weights())


def narrowed(array: Array, axis: int) -> Array:
    """A view whose class axis is last, without axes of length 1: an index may have 63 parts, an array 64 axes."""
    moved = np.moveaxis(array, axis, -1)
    return moved.squeeze(tuple(k for k, n in enumerate(moved.shape[:-1]) if n == 1))


def value_of_entries(rows: Rows, entries: Entries, reduction: str, total: tuple[float, int]) -> Any:
    """What the reduction asks for; a mean is divided by this total weight, a pair."""
    picked = np.asarray(narrowed(rows.view, -1)[entries.where], dtype=np.float64).ravel()
    losses, more = product(entries.masses, -picked)
    kept = RowLosses(rows, reduction, 1)
    kept.put(0, slice(None), losses, entries.exponents + more)
    return kept.value(*total)
