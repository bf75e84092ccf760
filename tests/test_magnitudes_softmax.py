"""logsumexp, softmax and log_softmax at every magnitude, by every way through the kernels, and what is promised."""

import os
import subprocess
import sys
from pathlib import Path

import magnitudes
import ml_dtypes
import mpmath
import numpy as np
import pytest
import scipy.special
from covering import covering
from hypothesis import given
from numba import types
from scripts import ROOT

import fastce
from bench import accuracy
from fastce.cpu._vectors import exponential, powers
from fastce.cpu._vectors.compiler import inline, kernel, matrix
from fastce.cpu._vectors.memory import lanes_of, load, row_pointer, store, to_real

F32 = np.dtype(np.float32)
wide_only = pytest.mark.skipif(not magnitudes.is_wide, reason="longdouble is no wider than float64 here")


def eps(dtype):
    return float(ml_dtypes.finfo(dtype).eps)


def assert_right(x, layout):
    """All three functions on a matrix of rows, laid out so, against the formulas in wide precision."""
    array, axis = magnitudes.LAYOUTS[layout](x)
    dtype, exact = x.dtype, magnitudes.Softmax(magnitudes.rows_again(array, axis))
    wide = magnitudes.wide
    with np.errstate(all="raise"):
        lse = fastce.logsumexp(array, axis=axis)
        p, log_p = fastce.softmax(array, axis=axis), fastce.log_softmax(array, axis=axis)
        replaced = np.copy(array, order="K")
        assert fastce.softmax(replaced, axis=axis, out=replaced) is replaced
    np.testing.assert_allclose(replaced.astype(float), p.astype(float), rtol=0, atol=4 * eps(dtype))
    p, log_p = (wide(magnitudes.rows_again(a, axis)) for a in (p, log_p))
    assert not np.any(p > 1)
    assert not np.any(log_p > 0)
    # a number of the dtype, or infinite where rounding makes it so
    expected = wide(exact.lse.astype(magnitudes.computed_in(dtype)).astype(dtype))
    slack = (2 if dtype == np.float64 else 1) * np.maximum(eps(dtype) * np.abs(exact.lse), 2 * eps(dtype))
    ok = (np.abs(wide(lse).ravel() - exact.lse) <= slack) | (wide(lse).ravel() == expected)
    assert np.all(ok | np.isnan(exact.lse))
    assert np.all(np.isnan(exact.p) | (np.abs(p - exact.p) <= 4 * eps(dtype)))
    finite = np.isfinite(exact.minus_log_p) & (exact.minus_log_p < magnitudes.largest(dtype))
    bound = 4 * eps(dtype) * exact.minus_log_p + 4 * float(ml_dtypes.finfo(dtype).smallest_subnormal)
    assert np.all(np.abs(log_p[finite] + exact.minus_log_p[finite]) <= bound[finite])


@wide_only
@covering({"classes": [1, 2, 10, 256, 257, 1001], "dtype": magnitudes.DTYPES}, quick=1)
def test_every_magnitude(dtype, classes):
    x = magnitudes.sweep(magnitudes.DTYPES[dtype], classes)
    for layout in magnitudes.LAYOUTS if classes in (10, 257) else ("rows", "columns"):
        assert_right(x, layout)


@wide_only
@given(magnitudes.matrices())
def test_any_magnitudes(x):
    for layout in ("rows", "columns"):
        assert_right(x, layout)


@wide_only
@pytest.mark.parametrize("m", [1.0, 1e5, 3e8, 1e10, 1e25, 3e38])
@pytest.mark.parametrize("logarithm", [False, True])
def test_long_rows_in_pieces(m, logarithm, monkeypatch):
    monkeypatch.setattr("fastce.cpu.pieces.PIECE", 4096)
    rng = np.random.default_rng(0)
    x = np.stack([rng.uniform(-1, 1, 20_000) * m, np.full(20_000, -m), np.full(20_000, m)]).astype(F32)
    x[1, [100, 19_999]] = m * 0.5, m
    exact = magnitudes.Softmax(x)
    if logarithm:
        with np.errstate(over="ignore"):
            expected = -exact.minus_log_p.astype(F32)
        np.testing.assert_allclose(fastce.log_softmax(x, axis=1), expected, rtol=4 * eps(F32))
    else:
        np.testing.assert_allclose(fastce.softmax(x, axis=1), exact.p.astype(F32), rtol=0, atol=4 * eps(F32))
    np.testing.assert_allclose(fastce.logsumexp(x, axis=1), exact.lse.astype(F32), rtol=eps(F32))


@wide_only
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_long_rows_of_every_magnitude(dtype, monkeypatch):
    monkeypatch.setattr("fastce.cpu.pieces.PIECE", 2048)
    assert_right(magnitudes.sweep(magnitudes.DTYPES[dtype], 6200), "rows")


# ------------------------------------------------------------------------------------ near 0, and at most 1
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [10, 300, 5000])
@pytest.mark.parametrize("axis", [0, 1])
def test_log_softmax_near_0_keeps_its_digits(dtype, classes, axis):
    for at in (1, classes - 1):
        row = np.full((1, classes), -50.0, dtype)
        row[0, at] = 10
        exact = -mpmath.log1p((classes - 1) * mpmath.exp(-60))
        x = row if axis == 1 else np.ascontiguousarray(row.T)
        result = fastce.log_softmax(x, axis=axis).ravel()[at]
        assert float(result) == pytest.approx(float(exact), rel=8 * eps(dtype))
        loss = fastce.cross_entropy(x, [at], axis=axis, reduction="none")[0]
        assert float(loss) == pytest.approx(float(-exact), rel=8 * eps(dtype))


@pytest.mark.parametrize("dtype", magnitudes.DTYPES.values(), ids=str)
@pytest.mark.parametrize("classes", [1, 2, 5, 10, 257, 300])
def test_no_probability_is_above_1(dtype, classes):
    rng = np.random.default_rng(classes)
    x = np.full((500, classes), -np.inf).astype(dtype)
    x[np.arange(500), rng.integers(0, classes, 500)] = (rng.normal(0, 20, 500)).astype(dtype)
    for axis, array in ((1, x), (0, np.ascontiguousarray(x.T))):
        result = fastce.softmax(array, axis=axis)
        assert result.max() <= 1
        np.testing.assert_allclose(result.astype(float).max(axis), 1, rtol=2 * eps(dtype))


# ------------------------------------------------------------------------------------------- the promise
@pytest.mark.parametrize(
    "row", [np.full(4, 0.05502926558256149, F32), np.full(1000, -7.042755126953125, F32)], ids=["4", "1000"]
)
def test_equal_elements_that_were_off_by_more_than_1_ulp(row):
    exact = np.array([float(row[0]) + np.log(row.size)])
    for result in (fastce.logsumexp(row), fastce.logsumexp(row[:, None], axis=0)[0]):
        assert accuracy.promised(np.array([result]), exact, F32)[0] <= 1


@covering({"kind": accuracy.KINDS, "classes": [2, 4, 10, 100, 300, 1000]}, quick=1)
def test_logsumexp_is_within_1_ulp_for_rows_whose_roundings_do_not_average_out(kind, classes):
    x = kind(np.random.default_rng(classes), max(300, 40_000 // classes), classes).astype(F32)
    exact = scipy.special.logsumexp(x.astype(np.float64), axis=1)
    for result in (fastce.logsumexp(x, axis=1), fastce.logsumexp(np.ascontiguousarray(x.T), axis=0)):
        assert accuracy.promised(result, exact, F32).max() <= 1


@covering(
    {"gap": [8.0, 15.942385, 16.0, 16.635532, 17.0, 18.0], "every": [2, 3, 4], "classes": [4, 9, 17, 33, 100, 300]}
)
def test_small_terms_between_large_ones_are_not_lost(classes, every, gap):
    """In float32 1 + 2**-24 is 1, so that half of the terms may come to nothing."""
    x = np.full((64, classes), -gap, F32)
    x[:, ::every] = 0
    x += np.linspace(0.5, 4.5, 64, dtype=F32)[:, None] - np.log(-(-classes // every))
    exact = scipy.special.logsumexp(x.astype(np.float64), axis=1)
    for result in (fastce.logsumexp(x, axis=1), fastce.logsumexp(np.ascontiguousarray(x.T), axis=0)):
        assert accuracy.promised(result, exact, F32).max() <= 1


@pytest.mark.parametrize("classes", [16, 17, 40, 300])
def test_a_row_has_the_same_accuracy_whatever_lies_beside_it(classes):
    """Vectors of rows of which some are small, and others not finite, are added up again."""
    x = accuracy.near_ties(np.random.default_rng(0), 1000, classes).astype(F32)
    x[::3] += 50
    exact = scipy.special.logsumexp(x.astype(np.float64), axis=1)
    x[5::7, classes // 2], exact[5::7] = np.nan, np.nan
    x[6::7, 0], exact[6::7] = np.inf, np.inf
    x[4::7], exact[4::7] = -np.inf, -np.inf
    finite = np.isfinite(exact)
    for result in (fastce.logsumexp(x, axis=1), fastce.logsumexp(np.ascontiguousarray(x.T), axis=0)):
        np.testing.assert_array_equal(result[~finite], exact[~finite])
        assert accuracy.promised(result[finite], exact[finite], F32).max() <= 1


# ------------------------------------------------------------------------- the arithmetic of AVX-512, anywhere
@inline
def _exp_of_row(row, out, classes):
    scaled_by = exponential.scaling(row, 1.0, 1.0)
    for i in range(0, classes, lanes_of(row)):
        store(out, i, exponential.exp(load(row, i), to_real(row, 0.0), scaled_by))


@kernel(lambda storage: (matrix(storage), matrix(storage)))
def _exp_of_rows(x, out):
    for i in range(x.shape[0]):
        _exp_of_row(row_pointer(x, i), row_pointer(out, i), types.int64(x.shape[1]))


TABLE = """
import sys
import numpy as np
import test_magnitudes_softmax as t
from bench import accuracy
from fastce.cpu._vectors import powers
if "table" in sys.argv:
    accuracy.use_table()
if "anywhere" in sys.argv:
    powers.has_avx512 = lambda: False
for dtype, low, high in ((np.float32, -87, 88), (np.float64, -708, 709)):
    x = np.linspace(low, high, 1 << 16).astype(dtype)[None]
    out = np.empty_like(x)
    t._exp_of_rows.compiled(x.dtype)(x, out)
    sys.stdout.write(out.tobytes().hex())
"""


def exp_in_another_process(*options):
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(accuracy.__file__).parent.parent), str(ROOT)])
    return bytes.fromhex(
        subprocess.run(
            [sys.executable, "-c", TABLE, *options],
            env={**os.environ, "FASTCE_CACHE": "0", "PYTHONPATH": paths},
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout
    )


@pytest.mark.slow
def test_the_table_of_exp_is_right_on_every_machine():
    found = exp_in_another_process("table", "anywhere")
    for dtype, low, high in ((np.float32, -87, 88), (np.float64, -708, 709)):
        x = np.linspace(low, high, 1 << 16).astype(dtype)
        here, found = np.frombuffer(found[: x.nbytes], dtype), found[x.nbytes :]
        exact = np.exp(x.astype(np.longdouble))
        assert accuracy.ulps(here, exact, np.dtype(dtype)).max() <= 1
    if not powers.has_avx512():
        assert exp_in_another_process() != exp_in_another_process("table")


@pytest.mark.skipif(not powers.has_avx512(), reason="needs AVX-512")
def test_the_table_of_exp_gives_the_same_bits_in_other_instructions():
    assert exp_in_another_process("table", "anywhere") == exp_in_another_process("table")


# ------------------------------------------------------------------------------------------ SciPy's dtypes
NUMBERS = [2.0, 2, True, -1.5, np.float64(2), np.float32(2), np.array(2.0)]
FACTORS = [np.ones((2, 3), dtype) for dtype in ("f2", "f4", "f8", "i8", "?")] + [[1.0, -2.0, 3.0], np.zeros(3)]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", "u1", "?"])
@pytest.mark.parametrize("b", NUMBERS + FACTORS, ids=repr)
def test_logsumexp_with_factors_has_the_dtype_and_the_values_of_scipy(dtype, b):
    a = np.random.default_rng(0).normal(0, 2, (2, 3)).astype(dtype)
    for options in (
        {"axis": 1},
        {},
        {"axis": (0, 1), "keepdims": True},
        {"axis": ()},
        {"axis": 1, "return_sign": True},
    ):
        expected = scipy.special.logsumexp(a, b=b, **options)
        with np.errstate(all="raise"):
            results = fastce.logsumexp(a, b=b, **options)
        if not isinstance(expected, tuple):
            expected, results = (expected,), (results,)
        for ours, theirs in zip(results, expected, strict=True):
            assert (ours.dtype, np.shape(ours), type(ours)) == (theirs.dtype, np.shape(theirs), type(theirs))
            rtol = 8 * float(np.finfo(theirs.dtype).eps)
            np.testing.assert_allclose(ours.astype(float), theirs.astype(float), rtol=rtol, atol=rtol)


def test_logsumexp_of_bfloat16_with_factors():
    a = np.ones((2, 3), ml_dtypes.bfloat16)
    for b, dtype in ((2.0, a.dtype), (np.ones(3, "f2"), F32), (np.ones(3, "i8"), np.dtype("f8"))):
        result = fastce.logsumexp(a, axis=1, b=b)
        assert result.dtype == dtype
        np.testing.assert_allclose(result.astype(float), 1 + np.log(3.0 * np.mean(b, dtype=float)), rtol=eps(dtype))


def test_half_precision_is_summed_in_float32():
    a = np.full(300, 60000, np.float16)
    assert fastce.logsumexp(a, b=1000.0) == np.float16(60000)
    assert fastce.logsumexp(np.zeros(100_000, np.float16), b=1.0) == np.float16(np.log(100_000))


def test_the_sum_of_nothing_with_factors_is_that_of_scipy():
    for shape in ((2, 0), (0, 2)):
        a = np.zeros(shape, F32)
        np.testing.assert_array_equal(
            fastce.logsumexp(a, axis=1, b=2.0), scipy.special.logsumexp(a, axis=1, b=2.0), strict=True
        )


# ---------------------------------------------------------------------------------------------- factors
FACTORS = (1e-300, 1e-42, 1e-30, 1.0, 1e30, 1e38, 1e300)


def assert_right_with_factors(x, b):
    """Within some roundings of the terms' sizes; signs too."""
    with np.errstate(all="raise"):
        ours, signs = fastce.logsumexp(x, axis=1, b=b, return_sign=True)
        alone = fastce.logsumexp(x, axis=1, b=b)
    x, b, real = magnitudes.wide(x), magnitudes.wide(b), x.dtype
    with np.errstate(all="ignore"):
        top = np.where(b != 0, x, -np.inf).max(1, keepdims=True)
        top[~np.isfinite(top)] = 0
        terms = np.where(b == 0, 0, b * np.exp(x - top))
        total = terms.sum(1)
        exact = top[:, 0] + np.log(np.abs(total))
        loss = np.abs(terms).sum(1) / np.abs(total)
    bound = 4 * eps(real) * (np.abs(exact) + np.abs(exact - top[:, 0]) + loss * np.log2(x.shape[1] + 2))
    is_sound = ~(loss > 1e3)  # else the sum cancels
    magnitudes.assert_near(ours[is_sound], exact[is_sound], bound[is_sound], "logsumexp")
    something = is_sound & (total != 0)
    assert np.array_equal(signs[something].astype(float), np.sign(total[something]).astype(float))
    with np.errstate(invalid="ignore"):
        positive = is_sound & (total >= 0)
    assert np.array_equal(alone[positive].astype(float), ours[positive].astype(float), equal_nan=True)


@wide_only
@pytest.mark.parametrize("dtype", magnitudes.DTYPES.values(), ids=str)
def test_factors_of_every_magnitude(rng, dtype):
    for size in (s for s in FACTORS if s < magnitudes.largest(dtype)):
        for classes in (1, 3, 33, 300):
            x = magnitudes.sweep(dtype, classes)
            b = rng.uniform(-0.5 if classes > 3 else 0.5, 1, x.shape) * size
            b[:, 0] *= rng.choice([0, 1], len(b))
            assert_right_with_factors(x, magnitudes.rounded(b, dtype))


def test_factors_whose_sum_overflows_and_factors_of_0():
    assert fastce.logsumexp(np.zeros(3), b=np.full(3, 1e308)) == pytest.approx(np.log(3) + 308 * np.log(10), rel=1e-15)
    assert fastce.logsumexp(np.full(900, 80, np.float32), b=np.full(900, 1e38, np.float32)) == pytest.approx(174.300604)
    assert fastce.logsumexp(np.array([1e3, 2e3]), b=np.zeros(2)) == -np.inf
    assert fastce.logsumexp(np.array([1e3, 1.0]), b=np.array([0.0, 1.0])) == 1.0
    assert fastce.logsumexp(np.array([np.inf, 1.0]), b=np.array([0.0, 1.0])) == 1.0
