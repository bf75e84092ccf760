"""LogSumExp, and the law by which states merge."""

import copy
import pickle

import numpy as np
import pytest
from checks import assert_as_scipy, dtype_of, narrowed
from hypothesis import given
from hypothesis import strategies as st
from naive import logsumexp_exact, ulp_error
from scipy import special

import fastce
from fastce.cpu.running import States

EDGES = [-np.inf, np.inf, np.nan, 0.0, -40.0, 1.0, 700.0, -3e38, 3e38, 1e-30]


def running(*blocks, axis=None):
    result = fastce.LogSumExp()
    for block in blocks:
        result.update(block, axis)
    return result


@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("cuts", [[], [1], [0, 400], [3, 3, 100, 599], list(range(0, 600, 7))])
def test_blocks_of_classes_in_any_cut_are_one_logsumexp(name, cuts, rng):
    x = narrowed(rng.normal(size=(20, 600)) * 4, dtype_of(name))
    result = running(*np.split(x, cuts, axis=1), axis=1).result()
    assert result.dtype == x.dtype
    assert_as_scipy("logsumexp", result, x, 1, ulps=1.0 if name == "float32" else None)


def test_blocks_of_rows_add_up_along_them(rng):
    x = rng.normal(size=(40, 7))
    result = running(x[:1], x[1:30], x[30:30], x[30:], axis=0).result()
    np.testing.assert_allclose(result, special.logsumexp(x, axis=0), rtol=1e-15)


@pytest.mark.parametrize("axis", [None, 0, 2, (0, 2), (), -1])
def test_any_axes_of_any_dimensions(axis, rng):
    x = rng.normal(size=(4, 5, 6))
    twice = running(x, x + 1.0, axis=axis).result()
    expected = np.logaddexp(*(special.logsumexp(part, axis=axis) if axis != () else part for part in (x, x + 1.0)))
    assert np.shape(twice) == np.shape(expected)
    np.testing.assert_allclose(twice, expected, rtol=1e-14)


@pytest.mark.parametrize("layout", ["F", "sliced", "reversed", "broadcast", "byte-swapped", "column"])
def test_layouts_change_nothing(layout, rng):
    x = rng.normal(size=(30, 50)).astype(np.float32)
    odd = {
        "F": np.asfortranarray(x),
        "sliced": np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
        "reversed": np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
        "broadcast": np.broadcast_to(x[:1], (30, 50)),
        "byte-swapped": x.astype(">f4"),
        "column": x[:, :1],
    }[layout]
    expected = running(np.ascontiguousarray(odd, dtype=np.float32), axis=1).result()
    np.testing.assert_array_equal(running(odd, axis=1).result(), expected)


def test_one_dominating_term_leaves_the_digits_of_the_others():
    assert running([0.0], [-40.0]).result() == pytest.approx(4.248354255291589e-18, rel=1e-15)
    assert running([-40.0], [0.0]).result() == pytest.approx(4.248354255291589e-18, rel=1e-15)
    row = np.array([-(2.0**-30), -36.0, -37.5, -50.0])
    blocks = np.split(row, 4)
    assert ulp_error(running(*blocks).result(), logsumexp_exact(row)) < 1e9  # of a number near 2**-30, beside 1
    assert abs(float(running(*blocks).result() - float(logsumexp_exact(row)))) < 2 * np.finfo(float).eps


@pytest.mark.parametrize("scale", [1.0, 1e10, 3e38, 1e300])
def test_magnitudes(scale):
    x = np.array([-1.0, 0.5, 1.0, 1.0]) * scale
    np.testing.assert_allclose(running(x[:1], x[1:3], x[3:]).result(), special.logsumexp(x), rtol=1e-15)


@given(st.lists(st.lists(st.sampled_from(EDGES), max_size=3), max_size=6))
def test_special_values_are_scipys(blocks):
    flat = [x for block in blocks for x in block]
    with np.errstate(all="ignore"):
        expected = special.logsumexp(np.array(flat)) if flat else -np.inf
    result = running(*(np.array(block, float) for block in blocks)).result()
    np.testing.assert_allclose(result, expected, rtol=1e-15, atol=1e-15)


states = st.tuples(st.sampled_from(EDGES), st.floats(0.0, 100.0)).map(
    lambda pair: States(np.array([pair[0]]), np.array([-1.0 if pair[0] == -np.inf else pair[1]]))
)


@given(states, states, states)
def test_the_law_is_associative_and_commutative_and_has_an_identity(a, b, c):
    identity = States.of_nothing(1)
    for left, right in [(a.merged(identity), a), (identity.merged(a), a), (a.merged(b), b.merged(a))]:
        np.testing.assert_array_equal(left.tops, right.tops)
        if np.isfinite(left.tops).all():
            np.testing.assert_array_equal(left.rests, right.rests)
    left, right = a.merged(b).merged(c), a.merged(b.merged(c))
    np.testing.assert_array_equal(left.tops, right.tops)
    np.testing.assert_allclose(left.logsumexp(), right.logsumexp(), rtol=1e-15)


def test_merging_is_updating(rng):
    x = rng.normal(size=(3, 90))
    parts = [running(block, axis=1) for block in np.split(x, 3, axis=1)]
    merged = parts[0].copy().merge(parts[1]).merge(parts[2])
    np.testing.assert_array_equal(merged.result(), running(*np.split(x, 3, axis=1), axis=1).result())


def test_copies_and_pickles_are_states_of_their_own(rng):
    first = running(rng.normal(size=(3, 9)), axis=1)
    before = first.result()
    others = [first.copy(), copy.copy(first), copy.deepcopy(first), pickle.loads(pickle.dumps(first))]
    for other in others:
        np.testing.assert_array_equal(other.update(np.ones((3, 2)), axis=1).result(), first.copy().update(
            np.ones((3, 2)), axis=1).result())  # fmt: skip
    np.testing.assert_array_equal(first.result(), before)
    assert len(pickle.dumps(running(np.zeros((3, 100_000)), axis=1))) < 2_000


def test_nothing_is_minus_infinity():
    assert fastce.LogSumExp().result() == -np.inf
    assert running(np.empty((2, 0)), axis=1).result().tolist() == [-np.inf, -np.inf]
    assert fastce.LogSumExp().merge(fastce.LogSumExp()).result() == -np.inf


def test_dtypes_meet_in_the_wider_one():
    x = np.zeros((1, 4))
    assert running(x.astype("f4"), x, axis=1).result().dtype == np.float64
    assert running(x.astype("f2"), x.astype("f4"), axis=1).result().dtype == np.float32
    assert running(x.astype("f2"), x.astype("f2"), axis=1).result().dtype == np.float16
    assert running(x.astype(int), axis=1).result().dtype == np.float64


def test_another_shape_is_refused_and_adds_nothing(rng):
    state = running(rng.normal(size=(3, 9)), axis=1)
    before = state.result()
    with pytest.raises(ValueError, match=r"results of shape \(4,\), expected \(3,\)"):
        state.update(np.zeros((4, 2)), axis=1)
    with pytest.raises(ValueError, match="expected"):
        state.merge(running([0.0]))
    with pytest.raises(TypeError, match="other must be a LogSumExp, got 3"):
        state.merge(3)
    with pytest.raises(TypeError, match="block must hold real numbers"):
        state.update(np.zeros((3, 2), complex), axis=1)
    np.testing.assert_array_equal(state.result(), before)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_bit(threads, rng):
    x = rng.normal(size=(400, 5_000)).astype(np.float32)
    expected = fastce.LogSumExp().update(x, axis=1, n_threads=1).result()
    np.testing.assert_array_equal(fastce.LogSumExp().update(x, axis=1, n_threads=threads).result(), expected)


@pytest.mark.slow
def test_a_row_of_millions_is_cut(rng):
    x = rng.normal(size=(2, 4_000_000)).astype(np.float32)
    np.testing.assert_allclose(running(x, axis=1).result(), special.logsumexp(x.astype(float), axis=1), rtol=1e-7)
