"""A part of all combinations of a test's parameters: few enough to be quick, and every two values still meet."""

from itertools import combinations, product

import pytest


def covering(axes, strength=2, quick=None, rest=None):
    """Like stacked `pytest.mark.parametrize`, for ``{names: values}``, but not every combination.

    Any ``strength`` axes take all combinations of their values; faults seldom need more than two at once. With
    ``quick``, a lower strength, the combinations that it needs are quick, and the others slow. With a mark for the
    ``rest``, all other combinations are there too, and have that mark.
    """
    names = [name.strip() for of_axis in axes for name in of_axis.split(",")]
    values = [[_parts(of_axis, value) for value in axes[of_axis]] for of_axis in axes]
    sizes = [len(of_axis) for of_axis in values]
    first = _covering_rows(sizes, strength if quick is None else quick)
    rows = dict.fromkeys(first, ()) | dict.fromkeys(_covering_rows(sizes, strength, first), pytest.mark.slow)
    if rest is not None:
        rows |= {row: rest for row in product(*map(range, sizes)) if row not in rows}
    cases = [pytest.param(*sum(map(list.__getitem__, values, row), ()), marks=marks) for row, marks in rows.items()]
    return pytest.mark.parametrize(names, cases, ids=_id)


def _parts(names, value):
    return tuple(value) if "," in names else (value,)


def _id(value):
    return str(value) if isinstance(value, tuple | dict) else None  # as pytest does it


def _covering_rows(sizes, strength, begun=()):
    """Indices into axes of these sizes: again and again the combination that has most groups not met before.

    With ``begun``, what is needed besides these.
    """
    if strength == 1 and not begun:
        return [tuple(k % size for size in sizes) for k in range(max(sizes))]
    met = {group for row in begun for group in _groups(row, strength)}
    candidates = {row: new for row in product(*map(range, sizes)) if (new := _groups(row, strength) - met)}
    rows = []
    while candidates:
        row = max(candidates, key=lambda row: len(candidates[row]))
        met = candidates.pop(row)
        rows.append(row)
        candidates = {other: new for other, of_other in candidates.items() if (new := of_other - met)}
    return rows


def _groups(row, strength):
    """What a combination has of so many axes at once."""
    return set(combinations(enumerate(row), strength))
