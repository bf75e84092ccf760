"""Class indices as kernels look at them: in range or not, ignored or not, and how often each class occurs."""

from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.silence import silently
from fastce.cpu._kernels.indices import COUNTERS, FEW, IGNORED, WRONG, check_indices, count_indices, pick_indices

_ANY = np.dtype(np.float64)  # these kernels know no logits
MOST_COUNTED = 4096  # classes whose rows are counted: counters that stay in the cache


class Picked(NamedTuple):
    """The classes of some rows, 0 where one is ignored or out of range, and how many are."""

    classes: Array
    weights: Array
    wrong: int
    ignored: int


def number_of_ignored(ignored_class: int, dtype: np.dtype[Any]) -> tuple[int, bool]:
    """The class of rows that are ignored, and whether indices of this dtype can be it."""
    exists = -(2**63) <= ignored_class < 2**63 and (ignored_class >= 0 or dtype != np.uint64)
    return (ignored_class if exists else 0), exists


def is_int64(indices: Array) -> bool:
    """Whether kernels read these where they are."""
    return indices.dtype == np.int64 and indices.flags.aligned and indices.flags.c_contiguous


def are_classes(indices: Array, classes: int) -> bool:
    """Whether all of these, which are int64 and some, are in range; negative ones are large without their sign."""
    return bool(np.maximum.reduce(indices.view(np.uint64)) < classes)


def as_int64(indices: Array) -> Array:
    """The indices as kernels read them; those of uint64 that are too large become negative, and are refused as such."""
    return indices if is_int64(indices) else indices.astype(np.int64)


def picked(indices: Array, classes: int, ignored_class: int, per_row: Array) -> Picked:
    """The classes of these rows and their weights, those of ``per_row`` if there are any; 0 for ignored rows."""
    ignored = number_of_ignored(ignored_class, indices.dtype)
    result, weights, found = np.empty(indices.size, np.int64), np.empty(indices.size), np.empty(2, np.int64)
    kernel = pick_indices.compiled(_ANY)
    kernel(as_int64(indices), classes, *ignored, per_row, result, weights, found)
    return Picked(result, weights, int(found[WRONG]), int(found[IGNORED]))


def weight_of_classes(
    indices: Array, classes: int, ignored_class: int, per_class: Array | None
) -> tuple[float, int, int]:
    """(the total of their weights, how many are out of range, how many are ignored).

    Of class weights, that of how often each class occurs: fewer roundings than a sum over all rows.
    """
    ignored = number_of_ignored(ignored_class, indices.dtype)
    if per_class is not None:
        counts, wrong, absent = count_of_classes(as_int64(indices), classes, ignored)
        return float(silently(np.dot, counts, per_class)), wrong, absent
    found = np.empty(2, np.int64)
    check_indices.compiled(_ANY)(as_int64(indices), classes, *ignored, found)
    wrong, absent = found.tolist()
    return float(indices.size - absent), wrong, absent


def count_of_classes(indices: Array, classes: int, ignored: tuple[int, bool]) -> tuple[Array, int, int]:
    """(how often each class occurs, as float64, how many are out of range, how many are ignored), of int64."""
    counts, found = np.zeros((COUNTERS, classes), np.int64), np.empty(2, np.int64)
    count_indices.compiled(_ANY)(indices, classes, *ignored, counts, found)
    wrong, absent = found.tolist()
    total = counts[0] if classes <= FEW else np.add.reduce(counts)
    return total.astype(np.float64), wrong, absent
