"""Calls of fastce checked against the oracle, row by row, and the rows that make such a check hard to pass.

Every bound is the contract's: a loss within 4 ulp, a gradient within 4 eps before scaling, logsumexp within 1 ulp.
NaN and infinities must be where the formula has them.
"""

import tracemalloc

import naive
import numpy as np
import scipy.special

import fastce

REDUCTIONS = ("none", "sum", "mean")
EPS64 = np.finfo(np.float64).eps
NAMES = ["float32", "float64", "float16", "bfloat16"]


def dtype_of(name):
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes  # one of the tests' own requirements

    return np.dtype(ml_dtypes.bfloat16)


def forget_plain_calls(monkeypatch):
    """What has been found out of plain calls is found out anew."""
    found = {}
    for name in ("plain", "plain_cross_entropy"):
        monkeypatch.setattr(f"fastce.cpu.{name}.remembered", found)


def computed_in(dtype):
    """Also the dtype of the losses."""
    return np.dtype(np.float64 if dtype.newbyteorder("=") == np.float64 else np.float32)


def native(dtype):
    """float32 for byte-swapped float32; bfloat16 has no byte order."""
    return dtype if dtype.name == "bfloat16" else dtype.newbyteorder("=")


# ------------------------------------------------------------------------------------------- comparisons
@np.errstate(invalid="ignore")
def assert_within(actual, exact, bound, what):
    """|actual - exact| <= bound; equal where exact is infinite, NaN where it is NaN."""
    actual, exact, bound = np.broadcast_arrays(np.asarray(actual).astype(exact.dtype), exact, bound)
    within = np.where(np.isfinite(exact), np.abs(actual - exact) <= bound, actual == exact)
    wrong = ~(within | (np.isnan(actual) & np.isnan(exact)))
    if wrong.any():
        at = tuple(int(k) for k in np.argwhere(wrong)[0])
        raise AssertionError(f"{what} {at}: {actual[at]}, expected {exact[at]} +- {bound[at]}; {wrong.sum()} are wrong")


@np.errstate(over="ignore")
def spacing(exact, dtype):
    """One ulp at these numbers; 0 where they are not finite in dtype, and compared as such."""
    rounded = np.abs(exact).astype(dtype)
    return np.where(np.isfinite(rounded), np.spacing(np.where(np.isfinite(rounded), rounded, 0)), 0).astype(exact.dtype)


def rounding_of_x(exact, options, eps):
    """How far the x of a row may be off: scaled and capped in four roundings, on the CPU those of float64."""
    if not {"logit_scale", "softcap"} & set(options):
        return 0.0
    return 4 * eps * np.where(np.isfinite(exact.x), np.abs(exact.x), 0).max(-1, initial=0)


def assert_losses(value, exact, dtype, reduction, options, near_zero=0.0):
    """At most 4 ulp a row, in the dtype promised; or, for a device, ``near_zero`` eps of a row's weight and mass."""
    wide, z_loss = computed_in(dtype), options.get("z_loss", 0.0)
    eps, lse = np.finfo(wide).eps, np.where(np.isfinite(exact.lse), np.abs(exact.lse), 0)
    with np.errstate(over="ignore"):
        rows = np.where(np.abs(exact.rows) > np.finfo(wide).max, np.inf, exact.rows)  # what float32 cannot hold
    bound = naive.allowed(4, wide) * spacing(rows, wide)
    of_x = rounding_of_x(exact, options, eps if near_zero else EPS64)
    bound = bound + of_x * exact.v * (exact.mass + 2 * z_loss * lse)
    bound = bound + 2 * eps * exact.v * 2 * z_loss * lse  # logsumexp near zero is good to 2 eps absolute
    bound = np.maximum(bound, np.where(np.isfinite(rows), near_zero * eps * exact.v * exact.mass, 0.0))
    if reduction == "none":
        assert (value.dtype, value.shape) == (wide, exact.row_shape)
        assert_within(np.ravel(value), rows, bound, "loss of row")
    else:
        assert type(value) is float
        expected = np.asarray(exact.reduced(reduction))
        denominator = exact.denominator if reduction == "mean" else 1.0
        total = bound.sum() / denominator if denominator else 0.0
        assert_within(value, expected, total + 4 * np.finfo(float).eps * np.abs(expected), reduction)


@np.errstate(invalid="ignore", over="ignore")
def assert_gradient(grad, exact, dtype, reduction, grad_output, options, near_zero=0.0):
    """At most 4 eps before scaling: before the row's mass and weight, logit_scale, grad_output and the mean."""
    dtype, wide = native(dtype), computed_in(dtype)
    eps = np.finfo(wide).eps
    expected = naive.as_rows(exact.gradient(reduction, grad_output), exact.axis)[0]
    lse = np.where(np.isfinite(exact.lse), np.abs(exact.lse), 0)
    z_loss, scale = options.get("z_loss", 0.0), exact.v * options.get("logit_scale", 1.0)
    scale = scale * np.broadcast_to(np.abs(grad_output), exact.row_shape).ravel()
    if reduction == "mean":
        scale = scale / exact.denominator if exact.denominator else 0.0 * scale
    of_x = rounding_of_x(exact, options, eps if near_zero else EPS64)
    bound = (exact.mass + 2 * z_loss * lse) * (naive.allowed(4, wide) * eps + of_x)
    bound = scale * (bound + 2 * z_loss * 2 * eps)  # logsumexp near zero is good to 2 eps absolute
    bound = np.broadcast_to(bound[:, None], expected.shape)
    if dtype != wide:  # and half a unit for the last rounding to float16 or bfloat16
        bound = bound + spacing(expected, dtype) / 2
    assert grad.dtype == dtype
    assert_within(naive.as_rows(grad, exact.axis)[0], expected, bound, "gradient at (row, class)")


def check(
    logits, targets, *, reductions=("none",), grad_output=1.0, out=None, n_threads=None, near_zero=0.0, **options
):
    """cross_entropy and cross_entropy_value_and_grad are right to the contract; gives the last of the results.

    out: a function that makes an array for the gradient, or None.
    """
    dtype, before = logits.dtype, np.array(logits, copy=True)
    exact = naive.CrossEntropy(before, targets, **options)
    for reduction in reductions:
        upstream = grad_output if reduction == "none" or np.ndim(grad_output) == 0 else 1.0
        call = {"reduction": reduction, "n_threads": n_threads, **options}
        assert_losses(fastce.cross_entropy(logits, targets, **call), exact, dtype, reduction, options, near_zero)
        room = None if out is None else out()
        ours = fastce.cross_entropy_value_and_grad(logits, targets, grad_output=upstream, out=room, **call)
        assert_losses(ours.value, exact, dtype, reduction, options, near_zero)
        assert_gradient(ours.grad, exact, dtype, reduction, upstream, options, near_zero)
        assert ours.grad.shape == logits.shape
        assert room is None or ours.grad is room
    assert np.array(logits, copy=True).tobytes() == before.tobytes(), "the input was written to"
    return ours


@np.errstate(all="ignore")
def assert_as_scipy(name, actual, x, axis, ulps=None):
    """logsumexp, softmax or log_softmax as SciPy's formula in longdouble has it, in x's dtype.

    logsumexp: 1 ulp (float64: 2) or so many, or 2 eps absolute; log_softmax: the same and half an ulp for the rest.
    softmax: half an ulp of x - max makes a relative error, exp, sum and division add theirs, subnormals may be 0.
    """
    dtype, wide = native(x.dtype), np.asarray(x).astype(np.longdouble)
    expected = np.asarray(getattr(scipy.special, name)(wide, axis=axis))
    expected = np.where(np.isinf(expected.astype(dtype)), np.copysign(np.inf, expected), expected)
    real = np.finfo(computed_in(dtype))
    if name == "softmax":
        distance = wide.max(axis=axis, keepdims=True) - wide
        bound = (4 + np.where(np.isfinite(distance), distance, 0) / 2) * real.eps * np.abs(expected)
        bound = bound + real.smallest_normal
    else:
        ulps = (ulps or (1 if real.bits == 32 else 2)) + (0.5 if name == "log_softmax" else 0)
        bound = np.maximum(ulps * spacing(expected, real.dtype), 2 * real.eps)
    bound = naive.allowed(1, real.dtype) * bound
    if dtype != real.dtype:
        bound = bound + spacing(expected, dtype) / 2
    assert np.asarray(actual).dtype == dtype
    assert np.shape(actual) == expected.shape
    assert_within(actual, expected, bound, name)


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return (a.dtype, a.shape) == (b.dtype, b.shape) and np.array(a, order="C").tobytes() == np.array(b).tobytes()


# ------------------------------------------------------------------------------------------- difficult rows
def late_maximum(rng, n):
    """Far above all that stands before it: a reference guessed from the first classes overflows."""
    row = rng.normal(size=n) * 2
    row[rng.integers(n // 2, n)] += rng.choice([60, 150, 1000])
    return row


def first_masked(rng, n):
    row = rng.normal(size=n) * 3
    row[: rng.integers(1, n + 1) if n > 1 else 0] = -np.inf
    return row


def all_but_one_masked(rng, n):
    row = np.full(n, -np.inf)
    row[rng.integers(n)] = rng.normal() * 10.0 ** rng.integers(-3, 9)
    return row


def with_one(value):
    def row_with_one(rng, n):
        row = rng.normal(size=n) * 3
        row[rng.integers(n)] += value
        return row

    return row_with_one


def huge(rng, n):
    return rng.choice([1e30, -1e30, 0.9e30, 3e38, -3e38, 0.0, 1.0], n)


ROWS = {
    "ordinary": lambda rng, n: rng.normal(size=n) * 4,
    "wide": lambda rng, n: rng.normal(size=n) * 60,
    "margin 25": with_one(25),
    "margin 90": with_one(90),
    "margin 200": with_one(200),
    "far below": with_one(-300),
    "offset": lambda rng, n: rng.normal(size=n) * 3 + rng.choice([1e3, -1e3, 1e6, -1e6, 1e10]),
    "huge": huge,
    "only huge": lambda rng, n: np.full(n, rng.choice([1e30, -1e30, 3e38, -3e38])),
    "equal": lambda rng, n: np.full(n, rng.normal() * 20),
    "zeros": lambda rng, n: np.zeros(n),
    "subnormal": lambda rng, n: rng.integers(-1000, 1000, n) * 2.0**-149,
    "late maximum": late_maximum,
    "early maximum": lambda rng, n: np.flip(late_maximum(rng, n)),
    "rising": lambda rng, n: np.linspace(-500, 500, n),
    "falling": lambda rng, n: np.linspace(500, -500, n),
    "masked": lambda rng, n: np.where(rng.random(n) < 0.5, -np.inf, rng.normal(size=n) * 3),
    "first masked": first_masked,
    "all but one masked": all_but_one_masked,
    "all masked": lambda rng, n: np.full(n, -np.inf),
    "one nan": with_one(np.nan),
    "only nan": lambda rng, n: np.full(n, np.nan),
    "one +inf": with_one(np.inf),
    "+inf and -inf": lambda rng, n: rng.choice([np.inf, -np.inf, 0.0], n),
    "nan and -inf": lambda rng, n: rng.choice([np.nan, -np.inf, 0.0], n),
}
DIFFICULT = [name for name in ROWS if name != "ordinary"]


def narrowed(rows, dtype):
    """The rows in this dtype; what is finite stays finite."""
    largest = 6e4 if dtype == np.float16 else 3e38
    return np.where(np.isfinite(rows), np.clip(rows, -largest, largest), rows).astype(dtype)


def mixture(rng, rows, classes, dtype, share=0.5):
    """Logits of which this share of the rows, anywhere, is difficult; and labels at, above and below the best class."""
    kinds = np.where(rng.random(rows) < share, rng.choice(DIFFICULT, rows), "ordinary")
    logits = narrowed(np.stack([ROWS[kind](rng, classes) for kind in kinds]), dtype)
    wide = np.nan_to_num(logits.astype(np.float64), nan=0.0, posinf=0.0, neginf=-1e300)
    labels = [wide.argmax(1), wide.argmin(1), rng.integers(0, classes, rows)]
    return logits, np.choose(rng.integers(0, 3, rows), labels)


def allocated(call, calls=3):
    """The most bytes that were taken during a call, of the call that took least.

    Threads of other libraries, that other tests have started, may take some meanwhile.
    """
    peaks = []
    for _ in range(calls):
        tracemalloc.start()
        call()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return min(peaks)


def one_hot(labels, classes, dtype=np.float64):
    return (np.asarray(labels)[..., None] == np.arange(classes)).astype(dtype)
