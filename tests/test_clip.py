"""clip_loss on a given similarity matrix: rows and columns, several positives, its two gradients."""

import naive
import numpy as np
import pytest
import scipy.sparse
from checks import dtype_of
from clip_checks import (
    LOGITS,
    WITHOUT_NEGATIVES,
    assert_clip,
    make_targets,
    near_reference,
    unit_cosines,
    without_negatives,
)
from covering import covering

import fastce

REDUCTIONS = ["none", "sum", "mean"]
INF, NAN = np.inf, np.nan


# ---------------------------------------------------------------------------------- against the formulas
@covering({"dtype": [np.float32, np.float64], "n": [1, 2, 3, 17, 64, 100, 257, 600]}, quick=1)
def test_value_and_both_gradients_are_those_of_the_formula(rng, n, dtype):
    similarity = unit_cosines(rng, n).astype(dtype)
    for reduction in REDUCTIONS:
        assert_clip(similarity, reduction=reduction)
        assert_clip(similarity, reduction=reduction, logit_scale=14.3, label_smoothing=0.1)


@covering({"dtype": [np.float32, np.float64], "scale": [0.01, 1.0, 2.0, 14.285714, 50.0, 100.0], "noise": [0.01, 1.0]})
def test_every_logit_scale_confident_or_not(rng, noise, scale, dtype):
    similarity = unit_cosines(rng, 90, noise=noise).astype(dtype)
    for reduction in REDUCTIONS:
        assert_clip(similarity, reduction=reduction, logit_scale=scale)


@pytest.mark.parametrize("margin", [25, 80])
def test_confident_pairs_keep_their_digits(margin):
    similarity = (np.eye(100) * margin).astype(np.float32)
    exact = np.log1p(99 * np.exp(-float(margin)))
    losses = fastce.clip_loss(similarity, reduction="none")
    assert naive.ulp_error(losses, np.full(100, exact)).max() <= 4
    assert fastce.clip_loss(similarity) == pytest.approx(exact, rel=4 * float(np.finfo(np.float32).eps))


@covering(
    {
        "dtype": [np.float32, np.float64],
        "label_smoothing": [0.0, 0.1, 1.0],
        "kind": ["permutation", "repeated", "sparse, every row", "sparse, with empty rows"],
        "n, m": [(5, 5), (70, 70), (20, 33), (1, 9), (200, 300)],
    },
    quick=1,
)
def test_given_positives(rng, n, m, kind, label_smoothing, dtype):
    similarity = unit_cosines(rng, n, m).astype(dtype) * 4
    targets = make_targets(kind, rng, n, m)
    for reduction in REDUCTIONS if n == m else ["sum", "mean"]:
        assert_clip(similarity, targets, reduction, label_smoothing=label_smoothing)
        assert_clip(similarity, targets, reduction, label_smoothing=label_smoothing, logit_scale=3.5)


def test_more_rows_than_columns(rng):
    similarity = unit_cosines(rng, 60, 25)
    for reduction in ("sum", "mean"):
        assert_clip(similarity, rng.integers(0, 25, 60), reduction, logit_scale=5.0)


def test_targets_that_say_the_diagonal_give_the_bits_of_none(rng):
    similarity = rng.normal(size=(40, 40)).astype(np.float32)
    plain = fastce.clip_loss_value_and_grad(similarity, logit_scale=2.0)
    ours = fastce.clip_loss_value_and_grad(similarity, np.arange(40), logit_scale=2.0)
    assert ours.value == plain.value
    np.testing.assert_array_equal(ours.grad, plain.grad)


@pytest.mark.parametrize("make", ["csr_array", "csc_array", "coo_array", "lil_array", "csr_matrix"])
def test_sparse_positives_of_any_format(rng, make):
    targets = (rng.random((12, 9)) < 0.3).astype(float)
    assert_clip(rng.normal(size=(12, 9)), getattr(scipy.sparse, make)(targets))


def test_it_is_half_the_cross_entropy_of_the_rows_and_half_that_of_the_columns(rng):
    similarity, pairs = rng.normal(size=(50, 50)), np.arange(50)
    for options in ({}, {"label_smoothing": 0.2}):
        rows = fastce.cross_entropy_value_and_grad(similarity, pairs, logit_scale=3.0, **options)
        columns = fastce.cross_entropy_value_and_grad(similarity, pairs, axis=0, logit_scale=3.0, **options)
        ours = fastce.clip_loss_value_and_grad(similarity, logit_scale=3.0, **options)
        assert ours.value == pytest.approx((rows.value + columns.value) / 2, rel=1e-14)
        np.testing.assert_allclose(ours.grad, (rows.grad + columns.grad) / 2, rtol=0, atol=1e-16)


def test_transposing_the_matrix_changes_nothing_but_the_order(rng):
    similarity = rng.normal(size=(30, 30)).astype(np.float32)
    ours = fastce.clip_loss_value_and_grad(similarity, reduction="none")
    other = fastce.clip_loss_value_and_grad(similarity.T, reduction="none")
    eps = np.finfo(np.float32).eps
    np.testing.assert_allclose(other.value, ours.value, rtol=8 * eps)
    np.testing.assert_allclose(other.grad.T, ours.grad, rtol=0, atol=8 * eps)


# ------------------------------------------------------------------------------------ finite differences
@covering(
    {
        "reduction": ["sum", "mean"],
        "kind": ["identity", "repeated", "sparse, with empty rows"],
        "label_smoothing": [0.0, 0.2],
    },
    quick=1,
)
def test_both_gradients_are_derivatives_of_the_value(rng, label_smoothing, kind, reduction):
    similarity = rng.normal(size=(6, 6))
    targets = None if kind == "identity" else make_targets(kind, rng, 6, 6)
    options = {"label_smoothing": label_smoothing, "reduction": reduction}

    def value(matrix, scale):
        return fastce.clip_loss(matrix, targets, logit_scale=float(scale), **options)

    ours = fastce.clip_loss_value_and_grad(similarity, targets, logit_scale=2.5, **options)
    numeric = naive.fourth_order_difference(lambda matrix: value(matrix, 2.5), similarity)
    np.testing.assert_allclose(ours.grad, numeric, rtol=0, atol=1e-9)  # h^4 f'''''/30 with f''''' ~ scale^5
    numeric = naive.fourth_order_difference(lambda scale: value(similarity, scale[0]), np.array([2.5]))
    assert ours.grad_logit_scale == pytest.approx(numeric[0], abs=1e-9)


def test_the_gradient_of_reduction_none_is_that_of_the_sum(rng):
    similarity = rng.normal(size=(20, 20))
    none, total = (fastce.clip_loss_value_and_grad(similarity, reduction=r) for r in ("none", "sum"))
    np.testing.assert_array_equal(none.grad, total.grad)
    assert none.grad_logit_scale == total.grad_logit_scale
    assert none.value.sum() == pytest.approx(total.value, rel=1e-14)


# ----------------------------------------------------------------------------------- great differences
@covering({"dtype": [np.float32, np.float64], "below": [-200.0, -1000.0], "n": [5, 90, 300]}, quick=1)
def test_rows_and_columns_far_below_the_global_maximum(rng, n, below, dtype):
    base = (rng.normal(size=(n, n)) * 2).round(4)
    for where in (np.s_[2], np.s_[:, 3], np.s_[1:4, :], np.s_[:, -2:], np.s_[n // 2 :, n // 2 :]):
        similarity = base.copy()
        similarity[where] += below
        for reduction in ("none", "mean"):
            assert_clip(similarity.astype(dtype), reduction=reduction)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_offsets_that_grow_along_rows_or_columns(rng, dtype):
    ramp = np.linspace(-600, 600, 150)
    for offset in (ramp[:, None], ramp[None, :], ramp[::-1, None], ramp[:, None] + ramp[None, :]):
        assert_clip((rng.normal(size=(150, 150)) + offset).astype(dtype), reduction="none")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("power", [20, 30, 42, 45, 60, 100])
def test_similarities_beyond_all_measure_are_right(rng, power, dtype):
    similarity = rng.integers(-9, 10, (20, 20)).astype(dtype)
    for matrix, scale in ((similarity, 2.0**power), (similarity * dtype(2.0**power), 1.0)):
        expected = naive.clip_loss(matrix, logit_scale=scale, reduction="none").astype(float)
        ours = fastce.clip_loss_value_and_grad(matrix, logit_scale=scale, reduction="none").value
        np.testing.assert_allclose(ours, expected, rtol=1e-6 if dtype == np.float32 else 1e-12)


# --------------------------------------------------------------------------------------- special values
def test_masked_pairs_are_finite_without_smoothing(rng):
    similarity = rng.normal(size=(40, 40)).astype(np.float32)
    masked = (rng.random((40, 40)) < 0.4) & ~np.eye(40, dtype=bool)
    similarity[masked] = -INF
    for reduction in REDUCTIONS:
        assert_clip(similarity, reduction=reduction, logit_scale=2.0)
    grad = fastce.clip_loss_value_and_grad(similarity).grad
    assert np.all(grad[masked] == 0)
    smoothed = fastce.clip_loss(similarity, label_smoothing=0.1, reduction="none")
    reached = masked.any(1) | masked.any(0)
    np.testing.assert_array_equal(np.isposinf(smoothed), reached)


def test_a_masked_positive_costs_infinity(rng):
    similarity = rng.normal(size=(9, 9))
    similarity[4, 4] = -INF
    losses = fastce.clip_loss(similarity, reduction="none")
    np.testing.assert_array_equal(np.isposinf(losses), np.arange(9) == 4)
    assert fastce.clip_loss(similarity) == INF
    assert np.all(np.isfinite(fastce.clip_loss_value_and_grad(similarity).grad))


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "at"), [(5, (1, 3)), (100, (7, 64)), (300, (299, 0)), (20, (4, 4))])
def test_a_nan_reaches_its_row_and_its_column_only(rng, n, at, dtype, value):
    similarity = rng.normal(size=(n, n)).astype(dtype)
    clean = fastce.clip_loss_value_and_grad(similarity, reduction="none")
    similarity[at] = value
    ours = fastce.clip_loss_value_and_grad(similarity, reduction="none")
    others = ~np.isin(np.arange(n), at)
    assert np.all(np.isnan(ours.value[list(at)]))
    np.testing.assert_array_equal(ours.value[others], clean.value[others])
    np.testing.assert_array_equal(fastce.clip_loss(similarity, reduction="none"), ours.value)
    rows, columns = np.arange(n) != at[0], np.arange(n) != at[1]
    assert np.all(np.isnan(ours.grad[at[0]]))
    assert np.all(np.isnan(ours.grad[:, at[1]]))
    np.testing.assert_array_equal(ours.grad[np.ix_(rows, columns)], clean.grad[np.ix_(rows, columns)])
    assert np.isnan(ours.grad_logit_scale)
    for reduction in ("sum", "mean"):
        assert np.isnan(fastce.clip_loss(similarity, reduction=reduction))


def test_a_row_that_is_masked_altogether_is_nan_alone(rng):
    similarity = rng.normal(size=(6, 6)).astype(np.float32)
    similarity[2] = -INF
    losses = fastce.clip_loss(similarity, reduction="none")
    np.testing.assert_array_equal(np.isnan(losses), np.arange(6) == 2)
    assert np.all(np.isfinite(np.delete(losses, 2)))


@pytest.mark.parametrize("n", [1, 3])
def test_without_any_positive_the_mean_is_nan_and_the_gradient_zero(n):
    similarity = np.ones((n, 3))
    value, grad, grad_logit_scale = fastce.clip_loss_value_and_grad(similarity, scipy.sparse.csr_array((n, 3)))
    assert np.isnan(value)
    np.testing.assert_array_equal(grad, np.zeros((n, 3)))
    assert grad_logit_scale == 0
    assert fastce.clip_loss(similarity, scipy.sparse.csr_array((n, 3)), reduction="sum") == 0


def test_a_single_pair_costs_nothing():
    value, grad, grad_logit_scale = fastce.clip_loss_value_and_grad(np.array([[3.0]], np.float32), logit_scale=20.0)
    assert (value, grad.tolist(), grad_logit_scale) == (0.0, [[0.0]], 0.0)


@pytest.mark.parametrize("logit_scale", [1.0, 1000.0])
def test_a_single_pair_costs_nothing_however_low(logit_scale):
    for pair in (-1.0, -743.5, -745.5, -1e6, 0.0, 1e6):
        for dtype in (np.float32, np.float64):
            ours = fastce.clip_loss_value_and_grad(np.array([[pair]], dtype), logit_scale=logit_scale)
            assert (ours.value, ours.grad.tolist(), ours.grad_logit_scale) == (0.0, [[0.0]], 0.0)


def test_two_positives_without_a_negative():
    both = scipy.sparse.csr_array(np.ones((1, 2)))
    ours = fastce.clip_loss_value_and_grad([[-743.5, -744.2]], both)
    assert ours.value == pytest.approx(0.376593024442733, rel=1e-14)  # (log(1 + e^-0.7) + 0.35) / 2
    slope = (1 / (1 + np.exp(-0.7)) - 0.5) / 2
    np.testing.assert_allclose(ours.grad, [[slope, -slope]], rtol=1e-12)


@covering({"dtype": [np.float32, np.float64], "logit": LOGITS, "kind": WITHOUT_NEGATIVES}, quick=1)
def test_rows_and_columns_without_negatives(kind, logit, dtype):
    similarity, targets = without_negatives(kind, logit)
    square = similarity.shape[0] == similarity.shape[1]
    for reduction in REDUCTIONS if square else ["sum", "mean"]:
        assert_clip(similarity.astype(dtype), targets, reduction)
        assert_clip((similarity / 8).astype(dtype), targets, reduction, logit_scale=8.0)


def test_columns_that_fill_no_vector_near_the_end_of_exp():
    similarity = np.array([[-0.85, -0.85, -0.85], [-0.9, -0.9, -0.85], [-0.9, -0.9, -1.0]], np.float32)
    ours = fastce.clip_loss_value_and_grad(similarity, logit_scale=100.0)
    assert ours.grad_logit_scale == pytest.approx(0.0580005, rel=1e-6)


@covering(
    {
        "name": ["float32", "float64", "float16", "bfloat16"],
        "label_smoothing": [0.0, 0.1],
        "n, m": [(3, 3), (1, 5), (7, 1), (17, 15), (20, 20), (5, 33)],
    }
)
def test_lanes_beyond_the_end_of_a_row_are_nobodys(rng, n, m, label_smoothing, name):
    similarity, targets = near_reference(rng, dtype_of(name), n, m), rng.integers(0, m, n)
    assert_clip(similarity, targets, logit_scale=100.0, label_smoothing=label_smoothing)


# ------------------------------------------------------------------------------------- dtypes and layouts
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("n", [3, 70, 257])
def test_half_precision_is_computed_in_float32(rng, n, name):
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if name == "bfloat16" else np.dtype(name)
    similarity = unit_cosines(rng, n).astype(dtype)
    for reduction in REDUCTIONS:
        assert_clip(similarity, reduction=reduction)
        assert_clip(similarity, reduction=reduction, logit_scale=10.0, label_smoothing=0.1)


def test_integer_similarities_count_as_float64(rng):
    similarity = rng.integers(-3, 4, (8, 8))
    ours = fastce.clip_loss_value_and_grad(similarity)
    same = fastce.clip_loss_value_and_grad(similarity.astype(float))
    assert ours.value == same.value
    np.testing.assert_array_equal(ours.grad, same.grad, strict=True)


def spread(a):
    big = np.full([3 * n for n in a.shape], 99, a.dtype)
    view = big[tuple(slice(1, None, 3) for _ in a.shape)]
    view[...] = a
    return view


def misaligned(a):
    view = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS = {
    "reversed": lambda a: np.flip(np.flip(a).copy()),
    "spread": spread,
    "misaligned": misaligned,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "read-only": read_only,
}


@pytest.mark.parametrize("shape", [(7, 7), (90, 41), (300, 300)])
def test_fortran_order_gives_the_bits_of_the_transposed_matrix(rng, shape):
    matrix, targets = rng.normal(size=shape).astype(np.float32), rng.integers(0, shape[1], shape[0])
    pairs = scipy.sparse.csr_array((np.ones(shape[0]), (targets, np.arange(shape[0]))), shape=shape[::-1])
    for given, transposed in ((targets, pairs), *([(None, None)] if shape[0] == shape[1] else [])):
        ours = fastce.clip_loss_value_and_grad(np.asfortranarray(matrix), given, logit_scale=3.0, label_smoothing=0.1)
        same = fastce.clip_loss_value_and_grad(matrix.T.copy(), transposed, logit_scale=3.0, label_smoothing=0.1)
        assert (ours.value, ours.grad_logit_scale) == (same.value, same.grad_logit_scale)
        np.testing.assert_array_equal(ours.grad, same.grad.T)
        assert ours.grad.flags.f_contiguous


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n", [7, 90, 300])
def test_any_layout_gives_the_bits_of_a_plain_copy(rng, n, layout):
    plain, targets = rng.normal(size=(n, n)).astype(np.float32), rng.integers(0, n, n)
    ours = fastce.clip_loss_value_and_grad(LAYOUTS[layout](plain), LAYOUTS[layout](targets), reduction="none")
    same = fastce.clip_loss_value_and_grad(plain, targets, reduction="none")
    np.testing.assert_array_equal(ours.value, same.value)
    np.testing.assert_array_equal(ours.grad, same.grad)
    assert ours.grad_logit_scale == same.grad_logit_scale


@pytest.mark.parametrize("stretched", [0, 1])
def test_zero_strides_give_the_bits_of_a_plain_copy(rng, stretched):
    once = rng.normal(size=(1, 50) if stretched == 0 else (50, 1)).astype(np.float32)
    view = np.broadcast_to(once, (50, 50))
    ours, same = fastce.clip_loss_value_and_grad(view), fastce.clip_loss_value_and_grad(view.copy())
    assert ours.value == same.value
    np.testing.assert_array_equal(ours.grad, same.grad)


def test_a_memmap_gives_the_bits_of_an_array(rng, tmp_path):
    plain = rng.normal(size=(30, 30)).astype(np.float32)
    plain.tofile(tmp_path / "similarity.bin")
    ours = fastce.clip_loss_value_and_grad(np.memmap(tmp_path / "similarity.bin", np.float32, "r", shape=(30, 30)))
    same = fastce.clip_loss_value_and_grad(plain)
    assert ours.value == same.value
    np.testing.assert_array_equal(ours.grad, same.grad)
    assert type(ours.grad) is np.ndarray


@pytest.mark.parametrize("n_threads", [2, 3, 8])
@pytest.mark.parametrize("shape", [(700, 700), (3000, 40), (40, 3000)])
def test_any_number_of_threads_gives_the_same_bits(small_blocks, rng, shape, n_threads):
    similarity, targets = rng.normal(size=shape).astype(np.float32), rng.integers(0, shape[1], shape[0])
    one = fastce.clip_loss_value_and_grad(similarity, targets, logit_scale=3.0, n_threads=1)
    many = fastce.clip_loss_value_and_grad(similarity, targets, logit_scale=3.0, n_threads=n_threads)
    assert (one.value, one.grad_logit_scale) == (many.value, many.grad_logit_scale)
    np.testing.assert_array_equal(one.grad, many.grad)


# -------------------------------------------------------------------------------------------------- out
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("n", [9, 100, 300])
def test_out_receives_the_gradient_and_may_be_the_matrix_itself(rng, n, dtype):
    similarity = rng.normal(size=(n, n)).astype(dtype)
    plain = fastce.clip_loss_value_and_grad(similarity, logit_scale=2.0)
    outs = [
        np.empty((n, n), dtype),
        np.empty((n, n), dtype, order="F"),
        spread(similarity),
        misaligned(similarity),
    ]
    for out in outs:
        ours = fastce.clip_loss_value_and_grad(similarity, logit_scale=2.0, out=out)
        assert ours.grad is out
        assert (ours.value, ours.grad_logit_scale) == (plain.value, plain.grad_logit_scale)
        np.testing.assert_array_equal(out, plain.grad)
    for work in (similarity.copy(), np.asfortranarray(similarity), spread(similarity)):
        same = fastce.clip_loss_value_and_grad(work, logit_scale=2.0)
        ours = fastce.clip_loss_value_and_grad(work, logit_scale=2.0, out=work)
        assert (ours.value, ours.grad_logit_scale) == (same.value, same.grad_logit_scale)
        np.testing.assert_array_equal(work, same.grad)


@pytest.mark.parametrize("name", ["float32", "float64", "float16"])
def test_the_bits_do_not_depend_on_where_out_lies(rng, name):
    similarity = rng.normal(size=(300, 301)).astype(name)
    targets = rng.integers(0, 301, 300)
    with pytest.MonkeyPatch.context() as patch:
        results = []
        for past_cache in (False, True):
            patch.setattr("fastce.cpu.similarity.goes_past_cache", lambda *_, past=past_cache: past)
            for shift in (0, 1, 5, 16):
                out = np.empty(similarity.size + 64, name)[shift : shift + similarity.size].reshape(similarity.shape)
                ours = fastce.clip_loss_value_and_grad(similarity, targets, logit_scale=3.0, out=out)
                results.append((ours.value, ours.grad_logit_scale, ours.grad.tobytes()))
    assert all(result == results[0] for result in results)


def test_without_out_the_matrix_is_not_written_to(rng):
    similarity = rng.normal(size=(20, 20)).astype(np.float32)
    before = similarity.copy()
    grad = fastce.clip_loss_value_and_grad(similarity, logit_scale=7.0, label_smoothing=0.1).grad
    np.testing.assert_array_equal(similarity, before)
    assert not np.shares_memory(grad, similarity)


def test_the_results_are_named():
    assert fastce.clip_loss_value_and_grad(np.eye(3))._fields == ("value", "grad", "grad_logit_scale")


# ------------------------------------------------------------------------------------------------ refused
@pytest.mark.parametrize(
    ("error", "argument", "make"),
    [
        (ValueError, "similarity", lambda f: f(np.zeros((3, 4)))),
        (ValueError, "similarity", lambda f: f(np.zeros(4))),
        (ValueError, "similarity", lambda f: f(np.zeros((2, 3, 3)))),
        (TypeError, "similarity", lambda f: f(np.zeros((3, 3), complex))),
        (TypeError, "similarity", lambda f: f(np.ma.masked_equal(np.eye(3), 0))),
        (TypeError, "targets", lambda f: f(np.eye(3), np.eye(3))),
        (TypeError, "targets", lambda f: f(np.eye(3), np.array([True, False, True]))),
        (ValueError, "targets", lambda f: f(np.eye(3), np.array([0, 1]))),
        (ValueError, "targets", lambda f: f(np.eye(3), scipy.sparse.csr_array((3, 4)))),
        (ValueError, "targets", lambda f: f(np.eye(3), scipy.sparse.csr_array(-np.eye(3)))),
        (IndexError, "targets", lambda f: f(np.eye(3), np.array([0, 3, 1]))),
        (IndexError, "targets", lambda f: f(np.eye(3), np.array([0, -1, 1]))),
        (ValueError, "reduction", lambda f: f(np.zeros((3, 4)), [0, 1, 2], reduction="none")),
        (ValueError, "reduction", lambda f: f(np.eye(3), reduction="average")),
        (ValueError, "logit_scale", lambda f: f(np.eye(3), logit_scale=0.0)),
        (ValueError, "logit_scale", lambda f: f(np.eye(3), logit_scale=-1.0)),
        (ValueError, "logit_scale", lambda f: f(np.eye(3), logit_scale=NAN)),
        (ValueError, "logit_scale", lambda f: f(np.eye(3), logit_scale=INF)),
        (ValueError, "label_smoothing", lambda f: f(np.eye(3), label_smoothing=-0.1)),
        (ValueError, "label_smoothing", lambda f: f(np.eye(3), label_smoothing=1.5)),
        (ValueError, "n_threads", lambda f: f(np.eye(3), n_threads=0)),
    ],
)
def test_what_clip_loss_refuses_and_why(error, argument, make):
    for function in (fastce.clip_loss, fastce.clip_loss_value_and_grad):
        with pytest.raises(error, match=argument) as caught:
            make(function)
        assert type(caught.value) is error


def test_a_target_out_of_range_is_reported_by_row_and_value_and_nothing_is_written():
    out = np.full((3, 3), 7.0)
    with pytest.raises(IndexError, match=r"row 1\b.*\b5\b"):
        fastce.clip_loss_value_and_grad(np.eye(3), np.array([0, 5, 9]), out=out)
    assert np.all(out == 7)
