"""Logits of every magnitude, and what is exactly true of them: shared by the tests of all losses.

`sweep` has the fixed rows, `matrices` draws others, `LAYOUTS` puts them into memory. The oracle is `Softmax`, in
np.longdouble: an exact difference of two float64 rounds to 64 bits there, and nothing overflows below 1e4932, so that
the contract's formulas can be written down as they are. Where longdouble is no wider than float64, `is_wide` says so.
"""

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

is_wide = np.finfo(np.longdouble).nmant > 60 and np.finfo(np.longdouble).maxexp > 16000

DTYPES = {name: np.dtype(name) for name in ("float64", "float32", "float16")}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
CLASSES = (1, 2, 10, 33, 256, 257, 300, 1001, 5000)
MAGNITUDES = (1e-30, 1e-3, 1.0, 30.0, 1e3, 6e4, 3e5, 1e7, 3e8, 1e9, 1e10, 1e15, 1e19, 1e25, 1e30, 1e38)
LARGE = (1e75, 1e150, 1e300)  # what only float64 holds


def computed_in(dtype):
    """The dtype that logits are computed in, and that losses have."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def largest(dtype):
    return float(ml_dtypes.finfo(dtype).max)


def magnitudes(dtype):
    """Those that a dtype holds, and its largest number."""
    within = [m for m in (*MAGNITUDES, *(LARGE if dtype == np.float64 else ())) if m < largest(dtype)]
    return [*within, largest(dtype)]


def masks(dtype):
    """What people write over logits that must not count."""
    return [-np.inf, -min(1e4, largest(dtype)), -min(1e30, largest(dtype)), -largest(dtype)]


def rounded(rows, dtype):
    """In this dtype; what is finite stays finite."""
    rows = np.asarray(rows, np.float64)
    return np.where(np.isfinite(rows), np.clip(rows, -largest(dtype), largest(dtype)), rows).astype(dtype)


# ------------------------------------------------------------------------------------------------ rows
def peak_places(classes):
    """First, among those that a reference is guessed from, beyond them, and in the last partial vector."""
    return sorted({0, min(3, classes - 1), classes // 2, min(290, classes - 1), max(classes - 2, 0), classes - 1})


def with_peak(rng, classes, m, place, dtype):
    """One class at m, far above the others, of which one is above the rest, all of the same size."""
    row = np.full(classes, -m)
    row[0] = -0.53 * m
    row[place] = m
    return row


def with_tie(rng, classes, m, place, dtype):
    row = rng.uniform(-1, 0.9, classes) * m
    row[[place, rng.integers(classes)]] = m
    return row


def with_neighbour(rng, classes, m, place, dtype):
    """The two largest are neighbours among the numbers of the dtype."""
    row = rng.uniform(-1, 0.5, classes) * m
    row[rng.integers(classes)] = 0.75 * m
    row[place] = float(np.nextafter(computed_in(dtype).type(0.75 * m), computed_in(dtype).type(np.inf)))
    return row


def with_offset(rng, classes, m, place, dtype):
    """Ordinary differences, as far as so large a number can have them."""
    row = m - np.abs(rng.normal(size=classes)) * 3 if place % 2 else rng.normal(size=classes) * 3 - m
    row[place] += 2
    return row


def anywhere(rng, classes, m, place, dtype):
    return rng.uniform(-1, 1, classes) * m


def all_equal(rng, classes, m, place, dtype):
    return np.full(classes, m if place % 2 else -m)


def masked(rng, classes, m, place, dtype):
    """Half of the classes masked, one way or another, but one."""
    row = np.where(rng.random(classes) < 0.5, rng.choice(masks(dtype)), rng.normal(size=classes) * min(m, 100))
    row[place] = rng.choice([m, -m / 2, 1.0])
    return row


KINDS = (with_peak, with_tie, with_neighbour, with_offset, anywhere, all_equal, masked)


def sweep(dtype, classes, seed=0):
    """A matrix with a row of every kind and magnitude, each with its peak at another place, in random order."""
    rng = np.random.default_rng([seed, classes])
    places = peak_places(classes)
    rows = [
        kind(rng, classes, m, places[(i + j) % len(places)], dtype)
        for i, kind in enumerate(KINDS)
        for j, m in enumerate(magnitudes(dtype))
    ]
    return rounded(np.stack(rows)[rng.permutation(len(rows))], dtype)


def labels_of(logits, seed=0):
    """Classes at the largest logit, at the smallest, and anywhere, in turn."""
    rng = np.random.default_rng(seed)
    wide = logits.astype(np.longdouble)
    choices = [wide.argmax(1), wide.argmin(1), rng.integers(0, logits.shape[1], len(logits))]
    return np.choose(np.arange(len(logits)) % 3, choices)


@st.composite
def matrices(draw, dtypes=tuple(DTYPES), classes=CLASSES[:-1], rows=5):
    """Some rows of any kinds and magnitudes, in any of these dtypes."""
    dtype, n = DTYPES[draw(st.sampled_from(dtypes))], draw(st.sampled_from(classes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = st.sampled_from(magnitudes(dtype)) | st.floats(-30, np.nextafter(np.log10(largest(dtype)), 0)).map(
        lambda e: 10.0**e
    )
    drawn = [
        draw(st.sampled_from(KINDS))(rng, n, draw(sizes), draw(st.sampled_from(peak_places(n))), dtype)
        for _ in range(draw(st.integers(1, rows)))
    ]
    return rounded(np.stack(drawn), dtype)


# --------------------------------------------------------------------------------------------- layouts
def _padded(x):
    room = np.zeros((2 * x.shape[0], 3 * x.shape[1]), x.dtype)
    room[::2, ::3] = x
    return room[::2, ::3]


def _reversed(x):
    return np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]


LAYOUTS = {  # each gives (array, class axis) of a matrix of rows
    "rows": lambda x: (np.ascontiguousarray(x), 1),
    "Fortran": lambda x: (np.asfortranarray(x), 1),
    "columns": lambda x: (np.ascontiguousarray(x.T), 0),
    "sliced": lambda x: (_padded(x), 1),
    "reversed": lambda x: (_reversed(x), 1),
    "middle axis": lambda x: (np.ascontiguousarray(x.T)[None].repeat(1, 0), 1),
}


def rows_again(array, axis):
    """The matrix of rows that `LAYOUTS` made an array of."""
    moved = np.moveaxis(array, axis, -1)
    return moved.reshape(-1, moved.shape[-1])


# ---------------------------------------------------------------------------------------------- oracle
def wide(array):
    return np.asarray(array).astype(np.longdouble)


def times(a, b):
    """a * b where 0 * inf is 0."""
    with np.errstate(invalid="ignore"):
        return np.where((a == 0) | (b == 0), 0, a * b)


class Softmax:
    """Of rows of logits, after logit_scale and softcap: x, top, minus_log_p, p, remainder (1 - p), lse, slope (dx/dz).

    A row with NaN or +inf, or of nothing but -inf, is NaN.
    """

    @np.errstate(invalid="ignore", over="ignore", under="ignore")
    def __init__(self, logits, logit_scale=1.0, softcap=None):
        z, scale = wide(logits), np.longdouble(logit_scale)
        if softcap is None:
            self.x, self.slope, differing, factor = scale * z, np.full(z.shape, scale), z, scale
        else:
            t = np.tanh(z * (scale / np.longdouble(softcap)))
            self.x = differing = np.longdouble(softcap) * t
            self.slope, factor = scale * (1 - t) * (1 + t), np.longdouble(1)
        rows = np.arange(len(z))
        self.top = np.where(np.isnan(differing), np.inf, differing).argmax(1)
        largest = differing[rows, self.top][:, None]
        distance = factor * (largest - differing)  # before any rounding, so that neighbours stay apart
        distance[differing == -np.inf] = np.inf
        distance[~np.isfinite(largest[:, 0])] = np.nan
        terms = np.exp(-distance)
        terms[rows, self.top] = 0
        rest = terms.sum(1, keepdims=True)
        terms[rows, self.top] = 1
        self.minus_log_p = distance + np.log1p(rest)
        self.p = terms / (1 + rest)
        others = 1 - self.p
        others[rows, self.top] = (rest / (1 + rest))[:, 0]
        self.remainder = others
        self.lse = (factor * largest + np.log1p(rest))[:, 0]


# ----------------------------------------------------------------------------------------- comparisons
@np.errstate(over="ignore", under="ignore")
def ulp(exact, dtype):
    """The distance of numbers around this one in the dtype; that of its largest beyond it."""
    size = np.minimum(np.nan_to_num(np.abs(exact), posinf=np.inf), np.longdouble(largest(dtype)))
    return wide(np.spacing(size.astype(dtype)))


@np.errstate(invalid="ignore", over="ignore", under="ignore")
def assert_near(actual, exact, bound, what):
    """|actual - exact| <= bound, or the infinity that a number so near rounds to; NaN where exact is NaN."""
    dtype = np.asarray(actual).dtype
    actual, exact, bound = np.broadcast_arrays(wide(actual), wide(exact), wide(bound))
    right = np.abs(actual - exact) <= bound
    limit = np.longdouble(largest(dtype))
    right |= (actual == exact) | (np.isnan(actual) & np.isnan(exact))
    right |= np.isinf(actual) & (np.sign(actual) * exact + bound > limit)
    if not right.all():
        at = tuple(int(k) for k in np.argwhere(~right)[0])
        raise AssertionError(
            f"{what} at {at}: {actual[at]!s}, expected {exact[at]!s} +- {bound[at]!s}; {(~right).sum()} are wrong"
        )
