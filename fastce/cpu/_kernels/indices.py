"""Class indices, looked at once: whether they are in range, which rows are ignored, how often each class occurs.

Callers' arrays may change meanwhile: every index is read once, and what is handed on is what has been looked at.
"""

from numba import types

from fastce.cpu._vectors.compiler import inline, kernel, matrix, outlined, vector
from fastce.cpu._vectors.memory import from_element, pointer, row_pointer

WRONG, IGNORED = 0, 1  # places in `found`: how many are out of range, how many are ignored
AT_A_TIME, FEW = 2048, 16  # indices that stay in the first-level cache; classes that are counted one after the other
COUNTERS = 4  # of each class, in turn: one would wait for itself where a class follows itself

_integers, _floats = vector(types.int64), vector(types.float64)
_ignored = types.int64, types.boolean  # the ignored class, and whether there is one among the numbers of int64


@inline
def class_of(y, classes, ignored, ignores):
    """(the class, 1 if it is out of range, 1 if it is ignored), the class 0 for both."""
    is_ignored = ignores & (y == ignored)
    is_wrong = ((y < 0) | (y >= classes)) & (not is_ignored)
    return 0 if is_ignored | is_wrong else y, 1 if is_wrong else 0, 1 if is_ignored else 0


@kernel(lambda storage: (_integers, types.int64, *_ignored, _floats, _integers, _floats, _integers))
def pick_indices(given, classes, ignored, ignores, per_row, picked, weights, found):
    """picked[i] = the class of row i; weights[i] = 0 if it is ignored, else per_row[i], or 1 if there are none."""
    has_weights = per_row.shape[0] > 0
    wrong, absent = 0, 0
    for i in range(given.shape[0]):
        y, is_wrong, is_ignored = class_of(given[i], classes, ignored, ignores)
        wrong += is_wrong
        absent += is_ignored
        picked[i] = y
        weights[i] = 1.0 - is_ignored
    if has_weights:
        for i in range(given.shape[0]):
            weights[i] = per_row[i] if weights[i] != 0.0 else 0.0
    found[WRONG], found[IGNORED] = wrong, absent


@kernel(lambda storage: (_integers, types.int64, *_ignored, _integers))
def check_indices(given, classes, ignored, ignores, found):
    """Only count those that are out of range, or ignored."""
    wrong, absent = 0, 0
    for i in range(given.shape[0]):
        _, is_wrong, is_ignored = class_of(given[i], classes, ignored, ignores)
        wrong += is_wrong
        absent += is_ignored
    found[WRONG], found[IGNORED] = wrong, absent


@outlined
def count_few(given, stop, classes, counts):
    """The same of few classes, one after the other."""
    for c in range(classes):
        count = 0
        for i in range(stop):
            count += 1 if given[i] == c else 0
        counts[c] += count


@kernel(lambda storage: (_integers, types.int64, *_ignored, matrix(types.int64), _integers))
def count_indices(given, classes, ignored, ignores, counts, found):
    """counts[k, c] = how many rows have class c, in ``COUNTERS`` parts, as they come."""
    wrong, absent = 0, 0
    for start in range(0, given.shape[0], AT_A_TIME):
        here, count = from_element(pointer(given), start), min(AT_A_TIME, given.shape[0] - start)
        for i in range(count):
            _, is_wrong, is_ignored = class_of(here[i], classes, ignored, ignores)
            wrong += is_wrong
            absent += is_ignored
        if classes <= FEW:
            count_few(here, count, classes, row_pointer(counts, 0))
        else:
            for i in range(count):
                y = here[i]
                if 0 <= y < classes:
                    counts[i & (COUNTERS - 1), y] += 1
    if ignores and 0 <= ignored < classes:
        for k in range(counts.shape[0]):
            counts[k, ignored] = 0
    found[WRONG], found[IGNORED] = wrong, absent
