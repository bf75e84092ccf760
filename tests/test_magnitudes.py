"""Losses on a matrix of logits at every magnitude, against the formula in wide precision."""

import magnitudes
import mpmath
import numpy as np
import pytest
import scipy.special

import fastce

pytestmark = pytest.mark.skipif(not magnitudes.is_wide, reason="longdouble is no wider than float64 here")


def row(n, fill, **at):
    """One float32 row of n elements, all ``fill`` but those named _0, _1, ..."""
    x = np.full((1, n), fill, np.float32)
    for name, value in at.items():
        x[0, int(name[1:])] = value
    return x


FAR_APART = row(300, -39142498226.93202, _0=-21086672896.0, _299=39753371648.0)
LATE_PEAK = row(100, -3e5, _0=-169740.265625, _99=386488.21875)


# ------------------------------------------------------------------------------------ the oracle itself
@pytest.mark.parametrize("options", [{}, {"logit_scale": 1e5}, {"logit_scale": 3.0, "softcap": 7.0}], ids=str)
def test_the_oracle_agrees_with_mpmath(options):
    x = magnitudes.sweep(np.dtype(np.float64), 10)[::3]
    ours = magnitudes.Softmax(x, **options)
    scale, cap = options.get("logit_scale", 1.0), options.get("softcap")
    with mpmath.workdps(700):
        for i, of_row in enumerate(x):
            u = [mpmath.mpf(float(z)) * scale for z in of_row]
            u = u if cap is None else [cap * mpmath.tanh(z / cap) for z in u]
            lse = mpmath.log(mpmath.fsum(mpmath.exp(z) for z in u))
            for c, z in enumerate(u):
                if mpmath.isfinite(z):
                    expected = np.longdouble(mpmath.nstr(lse - z, 25))
                    near = 1e-17 * np.abs(ours.x[i]).max(where=np.isfinite(ours.x[i]), initial=0) if cap else 0
                    assert abs(ours.minus_log_p[i, c] - expected) <= 1e-17 * abs(expected) + near


# -------------------------------------------------------------------- the cases that have been reported
def test_rows_whose_elements_are_far_apart():
    """x - offset in float32 is exact only if the offset is an element of the row."""
    assert fastce.cross_entropy(FAR_APART, [5]) == pytest.approx(7.88958e10, rel=1e-6)
    np.testing.assert_array_equal(fastce.softmax(FAR_APART, axis=1)[0, [0, 299]], [0, 1])
    assert fastce.logsumexp(FAR_APART) == np.float32(39753371648.0)
    assert fastce.log_softmax(LATE_PEAK, axis=1)[0, 99] == 0.0
    assert scipy.special.log_softmax(LATE_PEAK, axis=1)[0, 99] == 0.0


def test_no_probability_is_above_1_where_the_peak_comes_late():
    grad, hess = fastce.cross_entropy_grad_and_hess(LATE_PEAK, [1])
    np.testing.assert_array_equal(grad[0], [0.0, -1.0, *[0.0] * 97, 1.0])
    np.testing.assert_array_equal(hess, 0.0)
