"""logsumexp with factors and signs on a device: the tests of the CPU's by way of the simulator, beside SciPy's."""

import ml_dtypes
import numpy as np
import pytest
import scipy.special
import test_softmax
from crosscheck import LAYOUTS, filled, pairwise
from test_softmax import (  # noqa: F401  (tests)
    test_a_and_b_are_promoted_as_in_scipy,
    test_b_is_broadcast_and_may_be_zero_or_negative,
    test_b_larger_than_a_is_broadcast_too,
    test_b_that_does_not_broadcast_is_an_error_with_both_shapes,
    test_sign_without_b,
    test_special_cases_of_b_are_those_of_scipy,
)

import fastce

pytest.importorskip("numba_cuda")

CHECKS = test_softmax  # for the fixtures
pytestmark = pytest.mark.usefixtures("taking_lists", "small_blocks")
CASES = pairwise(
    layout=list(LAYOUTS), dtype=["float32", "float64", "float16", "bfloat16", "int32"], classes=[1, 5, 40, 200],
    kind=["positive", "of both signs", "with zeros", "one for all", "of each class", None],
)  # fmt: skip


def factors_of(kind, rng, shape, axis):
    if kind is None or kind == "one for all":
        return None if kind is None else -2.5
    if kind == "of each class":
        return rng.uniform(0.5, 2, [n if k == axis else 1 for k, n in enumerate(shape)])
    b = rng.uniform(0.5, 2, shape)
    return b * {"positive": 1, "with zeros": rng.random(shape) < 0.5}.get(kind, rng.choice([-1, 1], shape))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_pair_of_layouts_dtypes_and_factors(rng, case):
    dtype = np.dtype(ml_dtypes.bfloat16 if case["dtype"] == "bfloat16" else case["dtype"])
    a, axis = filled(case["layout"], lambda shape: 5 * rng.normal(size=shape), 2, case["classes"], dtype)
    axis = (1 if axis is None else axis) % a.ndim
    b = factors_of(case["kind"], rng, a.shape, axis)
    value, sign = CHECKS.fastce.logsumexp(a, axis=axis, b=b, return_sign=True)
    wide = None if b is None else np.broadcast_to(np.asarray(b, np.longdouble), a.shape)
    exact, exact_sign = scipy.special.logsumexp(a.astype(np.longdouble), axis=axis, b=wide, return_sign=True)
    of_both = fastce.logsumexp(a, axis=axis, b=b)
    assert value.dtype == sign.dtype == of_both.dtype
    np.testing.assert_array_equal(sign, exact_sign)
    eps = float(ml_dtypes.finfo(value.dtype).eps)
    lost = 1.0
    if wide is not None:  # by sums of both signs
        with np.errstate(invalid="ignore"):
            lost = np.exp(scipy.special.logsumexp(a.astype(np.longdouble), axis=axis, b=np.abs(wide)) - exact)
    finite = np.isfinite(exact)
    bound = 2 * eps * np.maximum(np.abs(exact), 1) + 4e-16 * lost * (1 + np.abs(exact))
    assert (np.abs(value.astype(np.longdouble)[finite] - exact[finite]) <= bound[finite]).all()
    np.testing.assert_array_equal(value[~finite], exact[~finite])
    if b is not None:
        unsigned = CHECKS.fastce.logsumexp(a, axis=axis, b=b).astype(float)
        np.testing.assert_array_equal(unsigned, np.where((sign < 0) & (value > -np.inf), np.nan, value.astype(float)))


def exactly(a, b):
    """(log|sum|, sign) of one row by mpmath."""
    import mpmath

    with mpmath.workdps(700):
        total = mpmath.fsum(mpmath.mpf(float(y)) * mpmath.exp(mpmath.mpf(float(x))) for x, y in zip(a, b, strict=True))
        return float(mpmath.log(abs(total))), float(mpmath.sign(total))


FAR_APART = {
    "small factor of a large exponential": ([1000.0, 0.0], [1e-300, 1.0]),
    "its equal": ([690.0, 0.0], [1e-300, -0.5]),
    "large factors": ([0.0, 1.0, 2.0], [1e308, 1e308, -1e308]),
    "subnormal factors": ([3.0, 4.0], [1e-315, 5e-320]),
    "far below": ([-1e5, -1e5 - 3], [2.0, -1.0]),
    "far above": ([1e5, 1e5 - 3], [-2.0, 1.0]),
    "near 1": ([0.0, -40.0, -41.0], [1.0, 1.0, -1.0]),
}


@pytest.mark.parametrize("case", FAR_APART)
@pytest.mark.parametrize("times", [1, 700])
def test_factors_of_any_size(case, times):
    a, b = (np.array(values) for values in FAR_APART[case])
    exact, sign = exactly(a, b)
    a, b = np.tile(a, times), np.tile(b, times)
    value, sign_of_it = CHECKS.fastce.logsumexp(a[None], axis=1, b=b[None], return_sign=True)
    assert sign_of_it[0] == sign
    assert value[0] == pytest.approx(exact + np.log(times), rel=1e-13, abs=1e-15 if times == 1 else 1e-12)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [((0, 3), 1), ((3, 0), 1), ((0,), None), ((3, 0), None), ((), None)])
def test_nothing_and_numbers_have_what_the_cpu_has(shape, axis, keepdims):
    a = np.zeros(shape)
    for options in ({"b": np.ones(shape)}, {"b": np.float32(2.0)}, {"b": 2}):
        ours = CHECKS.fastce.logsumexp(a, axis=axis, keepdims=keepdims, return_sign=True, **options)
        expected = fastce.logsumexp(a, axis=axis, keepdims=keepdims, return_sign=True, **options)
        for one, other in zip(ours, expected, strict=True):
            np.testing.assert_array_equal(one, other)
            assert np.shape(one) == np.shape(other)
            assert one.dtype == other.dtype


def test_half_precisions_have_float32_in_common():
    a, b = np.array([1.0, 2.0], ml_dtypes.bfloat16), np.array([1.0, 3.0])
    for dtype in ("float16", "float32", "float64", "int8", "bool", "int16", "uint64", ml_dtypes.bfloat16):
        expected = fastce.logsumexp(a, b=b.astype(dtype))
        ours = CHECKS.fastce.logsumexp(a, b=b.astype(dtype))
        assert ours.dtype == expected.dtype
        np.testing.assert_allclose(ours.astype(float), float(expected), rtol=1e-6)
