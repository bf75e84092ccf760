"""What the rows and columns of a matrix with one positive in each have come to: losses, and what gradients are made of.

All is relative to the power of two of their sums, see clip.py; what comes near the end of the range is not computed.
"""

import math

from numba import types

from fastce.cpu._vectors.compiler import inline, kernel, real_of, vector
from fastce.cpu._vectors.exponential import LN2

TRUSTED = 2.0**-60  # smaller sums, relative to their block's reference, may have lost digits
LARGEST_SUM = 2.0**99
FAR = 600.0  # from the reference to a positive; with such sums nothing overflows
LARGEST_DISTANCES = 2.0**60  # of a row; products of slopes and similarities can be added up in float32 then


@inline
def is_trusted(rest):
    return TRUSTED < rest < LARGEST_SUM


@kernel(
    lambda storage: (
        vector(types.float64),
        vector(types.float64),
        vector(types.float64),
        vector(types.float64),
        types.float64,
        types.float64,
        vector(types.int64),
        vector(types.float64),
        types.float64,
        types.float64,
        types.float64,
        types.float64,
        vector(types.float64),
        vector(types.float64),
        types.Array(types.float64, 2, "C"),
        types.Array(real_of(storage), 2, "C"),
        vector(types.float64),
    )
)
def end_tile(
    row_exps, column_exps, row_distances, column_distances, exponent, near, partners, x, scale, smoothing, share,
    weight, losses, slopes, of_rows, of_columns, powers,
):  # fmt: skip
    """Half of the losses of row i and of column i, the slopes of positives, and what `clip_gradient` takes.

    Sums of exp(scale * x) / 2**exponent are given without the positives: of row i that is x[i], of column partners[i].
    So are those of distances from ``near``, for smoothing. ``powers``: the lowest and highest of the powers of two near
    the sums of rows and columns, which are relative to the lowest; nan if the range would not do.
    """
    count = x.size
    reference = exponent * LN2
    spread = smoothing / count
    lowest, highest, trusted = math.inf, -math.inf, True
    losses[:] = 0.0
    for i in range(count):
        j = partners[i]
        above = scale * x[i] - reference
        e, of_row, of_column = math.exp(above), row_exps[i], column_exps[j]
        trusted = trusted and abs(above) < FAR and is_trusted(of_row) and is_trusted(of_column)
        losses[i] += 0.5 * math.log1p(of_row / e)
        losses[j] += 0.5 * math.log1p(of_column / e)
        if smoothing > 0.0:  # lse - mean = (lse - x) + (x - mean)
            trusted = trusted and abs(row_distances[i]) + abs(column_distances[j]) < LARGEST_DISTANCES
            own = x[i] - near
            losses[i] += 0.5 * smoothing * scale * (own - (row_distances[i] + own) / count)
            losses[j] += 0.5 * smoothing * scale * (own - (column_distances[j] + own) / count)
        row_exps[i], column_exps[j] = of_row + e, of_column + e
        slope = of_row / row_exps[i] + of_column / column_exps[j]  # 1 - p, twice
        slopes[i] = weight * share * (2.0 * (smoothing - spread) - slope)
        for total in (row_exps[i], column_exps[j]):
            power = float(math.frexp(total)[1])
            lowest, highest = min(lowest, power), max(highest, power)
    powers[0], powers[1] = (lowest, highest) if trusted else (math.nan, math.nan)
    if not trusted:
        return
    fraction = weight * share * 2.0**lowest
    for i in range(count):
        of_rows[i, 0], of_rows[i, 1], of_rows[i, 2] = exponent + lowest, fraction / row_exps[i], weight * share
        of_columns[0, i], of_columns[1, i] = exponent + lowest, fraction / column_exps[i]
        of_columns[2, i] = weight * share
