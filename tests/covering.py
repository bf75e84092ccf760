"""A part of all combinations of a test's parameters: few enough to be quick, and every two values still meet."""

from itertools import combinations, product

import pytest


def covering(axes, strength=2, rest=None):
    """Like stacked `pytest.mark.parametrize`, for ``{names: values}``, but not every combination.

    Any ``strength`` axes take all combinations of their values; faults seldom need more than two at once. With a mark
    for the ``rest``, all other combinations are there too, and have that mark.
    """
    names = [name.strip() for of_axis in axes for name in of_axis.split(",")]
    values = [[_parts(of_axis, value) for value in axes[of_axis]] for of_axis in axes]
    sizes = [len(of_axis) for of_axis in values]
    rows = {row: () for row in _covering_rows(sizes, strength)}
    if rest is not None:
        rows |= {row: rest for row in product(*map(range, sizes)) if row not in rows}
    cases = [pytest.param(*sum(map(list.__getitem__, values, row), ()), marks=marks) for row, marks in rows.items()]
    return pytest.mark.parametrize(names, cases)


def _parts(names, value):
    return tuple(value) if "," in names else (value,)


def _covering_rows(sizes, strength):
    """Indices into axes of these sizes: again and again the combination that has most groups not met before."""
    groups = list(combinations(range(len(sizes)), strength))
    candidates = {
        row: {(group, tuple(row[i] for i in group)) for group in groups} for row in product(*map(range, sizes))
    }
    rows = []
    while candidates:
        row = max(candidates, key=lambda row: len(candidates[row]))
        met = candidates.pop(row)
        rows.append(row)
        candidates = {other: new for other, of_other in candidates.items() if (new := of_other - met)}
    return rows
