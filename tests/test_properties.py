"""What holds for every input: hypothesis looks for one that says otherwise."""

import hypothesis.extra.numpy as arrays
import naive
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastce

DTYPES = st.sampled_from([np.float32, np.float64])
SHAPES = st.tuples(st.integers(1, 80), st.integers(1, 150))  # around a block of 64 rows, around short and long rows


@st.composite
def rows_and_labels(draw, elements=None, dtypes=DTYPES, shapes=SHAPES):
    """Logits (rows, classes) and a class for each row; by default whole numbers: shifts are exact."""
    dtype, shape = draw(dtypes), draw(shapes)
    elements = st.integers(-40, 40).map(float) if elements is None else elements
    few = draw(arrays.arrays(dtype, st.integers(1, 30), elements=elements))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    return rng.choice(few, shape), rng.integers(0, shape[1], shape[0])


def losses_of(logits, labels, **options):
    """Value and gradient per row; the value alone must be the same bits."""
    value, grad = fastce.cross_entropy_value_and_grad(logits, labels, reduction="none", **options)
    np.testing.assert_array_equal(fastce.cross_entropy(logits, labels, reduction="none", **options), value)
    return value, grad


def assert_close(actual, expected, ulps=8):
    """Two results that are both within 4 ulp of the same number."""
    np.testing.assert_allclose(
        actual,
        expected,
        rtol=ulps * np.finfo(actual.dtype).eps,
        atol=ulps * np.finfo(actual.dtype).smallest_subnormal,
    )


@given(rows_and_labels(), st.integers(-1000, 1000))
def test_a_constant_added_to_a_row_changes_neither_loss_nor_gradient(case, shift):
    logits, labels = case
    value, grad = losses_of(logits, labels)
    shifted_value, shifted_grad = losses_of(logits + logits.dtype.type(shift), labels)
    assert_close(shifted_value, value)
    np.testing.assert_allclose(shifted_grad, grad, rtol=0, atol=8 * np.finfo(logits.dtype).eps)


@given(rows_and_labels(), st.randoms(use_true_random=False))
def test_the_order_of_the_classes_does_not_matter(case, random):
    logits, labels = case
    order = np.array(random.sample(range(logits.shape[1]), logits.shape[1]))
    value, grad = losses_of(logits, labels)
    permuted_value, permuted_grad = losses_of(logits[:, order], np.argsort(order)[labels])
    assert_close(permuted_value, value)
    np.testing.assert_allclose(permuted_grad, grad[:, order], rtol=0, atol=8 * np.finfo(logits.dtype).eps)


@given(
    rows_and_labels(elements=st.floats(-30, 30, width=32)),
    st.floats(0, 1),
    st.sampled_from(["all", "others"]),
)
def test_the_gradient_sums_to_zero_over_the_classes(case, label_smoothing, smoothing_over):
    logits, labels = case
    _, grad = losses_of(logits, labels, label_smoothing=label_smoothing, smoothing_over=smoothing_over)
    bound = 4 * np.finfo(logits.dtype).eps * logits.shape[1]  # 4 eps an element
    assert np.all(np.abs(grad.astype(float).sum(1)) <= bound)


@given(rows_and_labels(elements=st.floats(-30, 30, width=32)))
def test_loss_and_gradient_have_the_signs_they_must_have(case):
    logits, labels = case
    value, grad = losses_of(logits, labels)
    assert np.all(value >= 0)
    off_target = np.arange(logits.shape[1]) != labels[:, None]
    assert np.all(grad[off_target] >= 0)
    assert np.all(grad[~off_target] <= 0)


@given(rows_and_labels(elements=st.floats(-30, 30, width=32)), st.data())
def test_nan_affects_its_row_alone(case, data):
    logits, labels = case
    value, grad = losses_of(logits, labels)
    row = data.draw(st.integers(0, logits.shape[0] - 1))
    column = data.draw(st.integers(0, logits.shape[1] - 1))
    logits = logits.copy()
    logits[row, column] = np.nan
    new_value, new_grad = losses_of(logits, labels)
    others = np.arange(len(logits)) != row
    assert np.isnan(new_value[row])
    assert np.all(np.isnan(new_grad[row]))
    np.testing.assert_array_equal(new_value[others], value[others])
    np.testing.assert_array_equal(new_grad[others], grad[others])


@given(rows_and_labels(elements=st.floats(-30, 30, width=32)), st.data())
def test_rows_may_be_split_anywhere(case, data):
    logits, labels = case
    cut = data.draw(st.integers(0, len(logits)))
    value, grad = losses_of(logits, labels)
    above, below = losses_of(logits[:cut], labels[:cut]), losses_of(logits[cut:], labels[cut:])
    assert_close(np.concatenate([above[0], below[0]]), value)
    np.testing.assert_allclose(np.concatenate([above[1], below[1]]), grad, rtol=0, atol=8 * np.finfo(logits.dtype).eps)


@given(rows_and_labels(elements=st.floats(-30, 30, width=32)))
def test_sum_and_mean_are_those_of_the_rows(case):
    logits, labels = case
    value, _ = losses_of(logits, labels)
    total = value.astype(float).sum()
    half_ulp_a_row = float(np.finfo(value.dtype).eps)  # a row is rounded, the sum is not
    assert fastce.cross_entropy(logits, labels, reduction="sum") == pytest.approx(total, rel=half_ulp_a_row, abs=1e-30)
    assert fastce.cross_entropy(logits, labels) == pytest.approx(total / len(labels), rel=half_ulp_a_row, abs=1e-30)


SPECIAL = st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 25.0, 80.0, -90.0, 1e-45, 1e-38, 1e10, 3e38, -3e38, np.inf, -np.inf, np.nan]
).map(lambda value: float(np.float32(value)))


@given(rows_and_labels(elements=SPECIAL | st.floats(-100, 100, width=32)), st.booleans())
def test_any_mixture_of_special_values_gives_what_the_formula_gives(case, smooth):
    logits, labels = case
    label_smoothing = 0.125 if smooth else 0.0
    value, grad = losses_of(logits, labels, label_smoothing=label_smoothing)
    exact = naive.CrossEntropy(logits, labels, label_smoothing=label_smoothing)
    ulps = naive.allowed(4, logits.dtype)
    with np.errstate(over="ignore"):
        assert naive.ulp_error(value, exact.rows).max() <= ulps
    np.testing.assert_allclose(grad, exact.grad, rtol=0, atol=ulps * np.finfo(logits.dtype).eps)


@settings(suppress_health_check=[HealthCheck.filter_too_much])  # arrays of more bytes than an example may have
@given(
    rows_and_labels(elements=st.floats(width=16), dtypes=st.sampled_from([np.float16, np.float32, np.float64])),
    st.data(),
)
def test_strides_do_not_change_a_bit(case, data):
    logits, labels = case
    value, grad = losses_of(logits, labels)
    padded_shape = [n * step for n, step in zip(logits.shape, (2, 3), strict=True)]
    row_step, column_step = data.draw(st.sampled_from([(2, 3), (-2, 3), (2, -3), (-2, -3)]))
    order = data.draw(st.sampled_from("CF"))
    view = np.zeros(padded_shape, logits.dtype, order=order)[::row_step, ::column_step]
    view[...] = logits
    strided_labels = np.zeros(2 * len(labels), np.int32)[::-2]
    strided_labels[...] = labels
    new_value, new_grad = losses_of(view, strided_labels)
    np.testing.assert_array_equal(new_value, value)
    np.testing.assert_array_equal(new_grad, grad)


@given(st.data(), DTYPES)
def test_any_shape_and_any_class_axis(data, dtype):
    shape = data.draw(arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    if shape[axis] == 0:
        with pytest.raises(ValueError, match="logits"):
            fastce.cross_entropy(np.empty(shape, dtype), np.empty(tuple(np.delete(shape, axis)), int), axis=axis)
        return
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    logits, rows = rng.normal(size=shape).astype(dtype), tuple(np.delete(shape, axis))
    labels = rng.integers(0, shape[axis], rows)
    value, grad = losses_of(logits, labels, axis=axis)
    exact = naive.CrossEntropy(logits, labels, axis=axis)
    assert np.shape(value) == rows
    ulps = naive.allowed(4, dtype)
    assert naive.ulp_error(value, exact.reduced("none")).max(initial=0) <= ulps
    np.testing.assert_allclose(grad, exact.gradient("sum"), rtol=0, atol=ulps * np.finfo(dtype).eps)


@given(rows_and_labels(), st.floats(0.125, 8, width=16))
def test_weights_are_factors(case, factor):
    logits, labels = case
    value, grad = losses_of(logits, labels)
    for options in ({"sample_weight": factor}, {"weight": np.full(logits.shape[1], factor)}):
        weighted_value, weighted_grad = losses_of(logits, labels, **options)
        assert_close(weighted_value, (factor * value.astype(float)).astype(value.dtype), ulps=9)
        np.testing.assert_allclose(weighted_grad, factor * grad, rtol=0, atol=factor * 9 * np.finfo(grad.dtype).eps)
        mean = fastce.cross_entropy(logits, labels, **options)  # the mean is weighted: a common factor drops out
        assert mean == pytest.approx(
            fastce.cross_entropy(logits, labels), rel=9 * float(np.finfo(value.dtype).eps), abs=1e-30
        )


@given(st.integers(1, 90), DTYPES, st.integers(0, 2**32 - 1))
def test_clip_loss_of_pairs_in_another_order_is_the_same(n, dtype, seed):
    rng = np.random.default_rng(seed)
    similarity = rng.integers(-20, 20, (n, n)).astype(dtype)
    order = rng.permutation(n)
    ours = fastce.clip_loss_value_and_grad(similarity, reduction="none")
    permuted = fastce.clip_loss_value_and_grad(similarity[np.ix_(order, order)], reduction="none")
    assert_close(permuted.value, ours.value[order])
    np.testing.assert_allclose(permuted.grad, ours.grad[np.ix_(order, order)], rtol=0, atol=16 * np.finfo(dtype).eps)
    # rows alone in another order: the positives move along
    moved = fastce.clip_loss_value_and_grad(similarity[order], order, reduction="sum")
    assert moved.value == pytest.approx(ours.value.astype(float).sum(), rel=8 * float(np.finfo(dtype).eps))
    np.testing.assert_allclose(moved.grad, ours.grad[order], rtol=0, atol=16 * np.finfo(dtype).eps)


@given(arrays.arrays(np.float32, st.integers(0, 200), elements=st.floats(width=32)), st.data())
def test_binary_cross_entropy_of_any_float_is_the_formula(logits, data):
    targets = data.draw(arrays.arrays(np.float32, logits.shape, elements=st.sampled_from([0.0, 1.0, 0.5, 0.25])))
    value, grad = fastce.binary_cross_entropy_with_logits_value_and_grad(logits, targets, reduction="none")
    exact, exact_grad = naive.binary_cross_entropy_with_logits_and_grad(logits, targets, reduction="none")
    assert naive.ulp_error(value, exact).max(initial=0) <= 4
    np.testing.assert_allclose(grad, exact_grad, rtol=0, atol=4 * np.finfo(np.float32).eps)
