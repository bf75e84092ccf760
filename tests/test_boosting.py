"""cross_entropy_grad_and_hess: against differences of the gradient's formula, p(1 - p), and the boosters' own."""

import ml_dtypes
import naive
import numpy as np
import pytest
from checks import allocated
from covering import covering
from test_cross_entropy import OPTIONS, make_targets

import fastce

INF, NAN = np.inf, np.nan
CONVENTIONS = ["exact", "xgboost", "lightgbm"]  # "absolute" is of the gradient


def hessian_by_differences(logits, targets, **options):
    """d g_c / d u_c of the gradient's formula in longdouble, one class of all rows at a time."""
    hessian = np.empty(logits.shape)
    for c in range(logits.shape[1]):

        def gradient_of_class(x, c=c):
            moved = np.array(logits)
            moved[:, c] = x
            return naive.CrossEntropy(moved, targets, **options).grad[:, c]

        step, x = 1e-3, logits[:, c]
        at = {k: gradient_of_class(x + k * step) for k in (-3, -2, -1, 1, 2, 3)}  # sixth order
        hessian[:, c] = (45 * (at[1] - at[-1]) - 9 * (at[2] - at[-2]) + (at[3] - at[-3])) / (60 * step)
    return hessian


def probabilities(logits):
    """p and 1 - p, each to full relative precision, in the wider type."""
    x = naive.widened(logits)
    exps = np.exp(x - x.max(-1, keepdims=True))
    others = np.stack([np.delete(exps, c, 1).sum(1) for c in range(x.shape[1])], 1)
    return exps / exps.sum(-1, keepdims=True), others / exps.sum(-1, keepdims=True)


def in_convention(hessian, h, classes):
    """The boosters' formulas."""
    if hessian == "xgboost":
        return np.maximum(2 * h, 1e-16)
    return classes / (classes - 1) * h if hessian == "lightgbm" else h


# ---------------------------------------------------------------------------------- against the formulas
@covering({"kind": ["hard", "probability", "sparse"], "option": OPTIONS}, quick=1)
def test_gradient_and_hessian_are_the_derivatives_of_the_loss(rng, option, kind):
    logits = rng.normal(size=(12, 21)) * 3
    logits[np.arange(6), rng.integers(0, 21, 6)] += 8.0
    targets = make_targets(kind, rng, (12,), 21)
    options = OPTIONS[option](rng, (12,), 21)
    if kind == "hard":
        targets[::5] = options.get("ignore_index", -100)
    grad, hess = fastce.cross_entropy_grad_and_hess(logits, targets, **options)
    _, same = fastce.cross_entropy_value_and_grad(logits, targets, reduction="none", **options)
    np.testing.assert_allclose(grad, same, rtol=0, atol=2e-15 * options.get("logit_scale", 1) * 3)
    np.testing.assert_allclose(hess, hessian_by_differences(logits, targets, **options), rtol=0, atol=2e-11)
    in_float32 = fastce.cross_entropy_grad_and_hess(logits.astype(np.float32), targets, **options)
    np.testing.assert_allclose(in_float32.grad, grad, rtol=0, atol=2e-5)
    np.testing.assert_allclose(in_float32.hess, hess, rtol=0, atol=2e-5)


@covering({"dtype": [np.float32, np.float64], "classes": [1, 2, 3, 17, 300, 2500]}, quick=1)
def test_one_minus_p_keeps_its_digits(rng, classes, dtype):
    rows = np.arange(40)
    logits = rng.normal(size=(40, classes))
    stands_out = rng.integers(0, classes, 40)
    logits[rows, stands_out] += rng.uniform(0, 40, 40)
    logits = logits.astype(dtype)
    p, others = probabilities(logits)
    for targets in (
        stands_out,
        (stands_out + 1) % classes,
        np.full(logits.shape, 1 / classes),
        np.eye(classes)[stands_out],
    ):
        hess = fastce.cross_entropy_grad_and_hess(logits, targets).hess
        mass = np.ones(40) if np.ndim(targets) == 1 else targets.sum(1)
        bound = naive.allowed(16, dtype) * np.finfo(dtype).eps
        expected = p * others * mass[:, None]
        assert np.all(np.abs(hess - expected) <= bound * expected + np.finfo(dtype).tiny)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("option", ["plain", "weight", "weight_smoothing", "logit_scale", "sample_weight"])
def test_errors_are_at_most_4_eps_before_scaling(rng, option, dtype):
    logits = (rng.normal(size=(30, 500)) * 4).astype(dtype)
    targets, options = rng.integers(0, 500, 30), OPTIONS[option](rng, (30,), 500)
    exact = naive.CrossEntropy(logits, targets, **options)
    a = options.get("logit_scale", 1.0)
    p, others = probabilities(a * naive.widened(logits))
    grad, hess = fastce.cross_entropy_grad_and_hess(logits, targets, **options)
    scale = a * (exact.v * exact.mass)[:, None]
    eps = naive.allowed(4, dtype) * np.finfo(dtype).eps + (
        4 * np.finfo(dtype).eps * np.abs(exact.x).max() if a != 1 else 0
    )
    assert np.all(np.abs(grad - exact.grad) <= eps * scale)
    assert np.all(np.abs(hess - a * scale * p * others) <= a * eps * scale)


@pytest.mark.parametrize("option", ["plain", "weight", "weight_smoothing", "logit_scale", "sample_weight"])
@pytest.mark.parametrize(("classes", "order"), [(3, "C"), (10, "F"), (100, "F"), (200, "C")])
def test_the_gradient_has_the_bits_of_its_twin(rng, classes, order, option):
    """Rows that no vector takes, far off or of a tiny weight, are among them."""
    logits = np.asarray(rng.normal(size=(300, classes)).astype(np.float32) * 4, order=order)
    targets, options = rng.integers(0, classes, 300), OPTIONS[option](rng, (300,), classes)
    logits[7, 1], logits[9] = 3e4, np.inf
    if option == "sample_weight":
        options["sample_weight"][20:24] = 1e-25, -2.0, 1e25, 0.0
    grad, hess = fastce.cross_entropy_grad_and_hess(logits, targets, **options)
    _, same = fastce.cross_entropy_value_and_grad(logits, targets, reduction="none", **options)
    fit = np.setdiff1d(np.arange(300), [7, 9, 20, 22])  # the others have kernels of their own
    np.testing.assert_array_equal(grad[fit], same[fit])
    np.testing.assert_allclose(grad, same, rtol=1e-5, atol=2e-6)
    wide = fastce.cross_entropy_grad_and_hess(logits.astype(float), targets, **options)
    np.testing.assert_allclose(hess, wide.hess, rtol=1e-4, atol=1e-12)


# -------------------------------------------------------------------------------------------- conventions
@pytest.mark.parametrize("hessian", CONVENTIONS)
@pytest.mark.parametrize("classes", [2, 3, 100])
def test_the_conventions_are_the_boosters_formulas(rng, classes, hessian):
    logits, targets = rng.normal(size=(50, classes)) * 10, rng.integers(0, classes, 50)
    p, others = probabilities(logits)
    v = rng.random(50)
    v[::4] = 0.0
    grad, hess = fastce.cross_entropy_grad_and_hess(logits, targets, sample_weight=v, hessian=hessian)
    np.testing.assert_allclose(hess, in_convention(hessian, v[:, None] * p * others, classes).astype(float), rtol=1e-14)
    np.testing.assert_allclose(grad, v[:, None] * (p - np.eye(classes)[targets]).astype(float), rtol=0, atol=1e-15)


@pytest.mark.parametrize("option", ["weight", "ignore_index", "softcap", "z_loss", "all_together"])
@pytest.mark.parametrize("hessian", CONVENTIONS)
def test_every_option_goes_with_every_convention(rng, hessian, option):
    logits, targets = rng.normal(size=(20, 9)) * 4, rng.integers(0, 9, 20)
    options = OPTIONS[option](rng, (20,), 9)
    targets[::3] = options.get("ignore_index", -100)
    exact = fastce.cross_entropy_grad_and_hess(logits, targets, **options)
    grad, hess = fastce.cross_entropy_grad_and_hess(logits, targets, hessian=hessian, **options)
    np.testing.assert_allclose(hess, in_convention(hessian, exact.hess, 9), rtol=1e-13, atol=1e-16)
    np.testing.assert_array_equal(grad, exact.grad)
    assert hessian != "xgboost" or hess.min() == 1e-16  # the ignored rows


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_absolute_hessian_is_the_size_of_the_gradient(rng, dtype, option):
    logits, targets = (rng.normal(size=(20, 9)) * 4).astype(dtype), rng.integers(0, 9, 20)
    options = OPTIONS[option](rng, (20,), 9)
    targets[::3] = options.get("ignore_index", -100)
    exact = fastce.cross_entropy_grad_and_hess(logits, targets, **options).grad
    grad, hess = fastce.cross_entropy_grad_and_hess(logits, targets, hessian="absolute", **options)
    np.testing.assert_allclose(grad, exact, rtol=0, atol=16 * np.finfo(dtype).eps)
    expected = np.maximum(options.get("logit_scale", 1.0) * np.abs(grad), np.asarray(1e-16, dtype))
    np.testing.assert_allclose(hess, expected, rtol=np.finfo(dtype).eps)
    assert hess.dtype == grad.dtype == dtype


# ----------------------------------------------------------------------------------------- dtypes, layouts
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int16, bool])
@pytest.mark.parametrize("classes", [5, 700])
def test_the_other_dtypes(rng, classes, dtype):
    logits = (rng.normal(size=(9, classes)) * 3).astype(dtype)
    targets = rng.integers(0, classes, 9)
    grad, hess = fastce.cross_entropy_grad_and_hess(logits, targets)
    expected = logits.dtype if logits.dtype.kind not in "ib" else np.float64
    assert (grad.dtype, hess.dtype) == (expected, expected)
    p, others = probabilities(logits)
    rounding = float(ml_dtypes.finfo(expected).eps)
    for actual, exact in ((grad, p - np.eye(classes)[targets]), (hess, p * others)):
        np.testing.assert_allclose(actual.astype(float), exact.astype(float), rtol=rounding, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "axis"), [((6,), None), ((4, 6), None), ((6, 4), 0), ((3, 6, 4), None), ((3, 4, 6), -1), ((6, 3, 4), -3)]
)
def test_any_axis_may_be_the_class_axis(rng, shape, axis):
    logits = rng.normal(size=shape)
    rows, lead = naive.as_rows(logits, axis)
    targets = rng.integers(0, 6, lead)
    of_rows = fastce.cross_entropy_grad_and_hess(rows, targets.ravel())
    result = fastce.cross_entropy_grad_and_hess(logits, targets, axis=axis)
    for actual, expected in zip(result, of_rows, strict=True):
        assert actual.shape == shape
        np.testing.assert_array_equal(naive.as_rows(actual, axis)[0], expected)


@pytest.mark.parametrize("make", [np.asfortranarray, lambda a: np.repeat(a, 2, 1)[:, ::2], lambda a: a.astype(">f4")])
def test_any_layout_gives_the_bits_of_a_plain_copy(rng, make):
    plain, targets = rng.normal(size=(30, 70)).astype(np.float32), rng.integers(0, 70, 30)
    other = make(plain)
    other.flags.writeable = False
    for actual, expected in zip(
        fastce.cross_entropy_grad_and_hess(other, targets),
        fastce.cross_entropy_grad_and_hess(plain, targets),
        strict=True,
    ):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_number_of_threads_and_the_place_of_the_results_change_no_bit(rng, dtype):
    """2200 x 1001 float32 are written past the cache, from rows that start anywhere in a vector."""
    logits, targets = rng.normal(size=(2200, 1001)).astype(dtype), rng.integers(0, 1001, 2200)
    parts = [fastce.cross_entropy_grad_and_hess(logits[i : i + 100], targets[i : i + 100]) for i in range(0, 2200, 100)]
    grad, hess = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    room = np.empty(2 * logits.size + 3, dtype)
    for n_threads in (1, 2, 8):
        out = (room[1 : logits.size + 1].reshape(logits.shape), room[logits.size + 3 :].reshape(logits.shape))
        room[:] = 9
        result = fastce.cross_entropy_grad_and_hess(logits, targets, out=out, n_threads=n_threads)
        np.testing.assert_array_equal(result.grad, grad)
        np.testing.assert_array_equal(result.hess, hess)
        assert room[0] == room[logits.size + 1] == room[logits.size + 2] == 9
        assert result.grad is out[0]
        assert result.hess is out[1]


# ---------------------------------------------------------------------------------------------------- out
def test_the_gradient_may_replace_the_logits(rng):
    for option in OPTIONS:
        logits, targets = rng.normal(size=(20, 90)), rng.integers(0, 90, 20)
        options = OPTIONS[option](rng, (20,), 90)
        expected = fastce.cross_entropy_grad_and_hess(logits, targets, **options)
        result = fastce.cross_entropy_grad_and_hess(logits, targets, out=(logits, None), **options)
        assert result.grad is logits
        np.testing.assert_array_equal(result.grad, expected.grad)
        np.testing.assert_array_equal(result.hess, expected.hess)


def test_an_out_that_no_kernel_can_write_to_in_place(rng):
    logits, targets = rng.normal(size=(20, 30)), rng.integers(0, 30, 20)
    expected = fastce.cross_entropy_grad_and_hess(logits, targets)
    out = (np.asfortranarray(np.empty_like(logits)), np.empty((20, 60))[:, ::2])
    result = fastce.cross_entropy_grad_and_hess(logits, targets, out=out)
    np.testing.assert_array_equal(result.grad, expected.grad)
    np.testing.assert_array_equal(out[1], expected.hess)


BASE = np.zeros((3, 3, 4))


@pytest.mark.parametrize(
    ("error", "message", "out"),
    [
        (TypeError, r"out must be a pair .*got ndarray", BASE[1]),
        (TypeError, "out must be a pair", (BASE[1],)),
        (ValueError, "out has shape", (BASE[1], BASE[2, :2])),
        (ValueError, "out has dtype float32", (None, np.zeros((3, 4), np.float32))),
        (ValueError, "the Hessian, must share no memory", (BASE[1], BASE[1])),
        (ValueError, "the Hessian, must share no memory", (BASE[1], BASE[0])),
        (ValueError, "the Hessian, must share no memory", (BASE[0], BASE[0])),
        (ValueError, "the Hessian, must share no memory", (BASE.reshape(9, 4)[4:7], BASE.reshape(9, 4)[5:8])),
        (ValueError, "overlaps the input in part", (None, BASE.reshape(9, 4)[2:5])),
        (ValueError, "overlaps the input in part", (BASE.reshape(9, 4)[2:5], None)),
    ],
)
def test_an_out_that_cannot_be_is_refused_unwritten(error, message, out):
    with pytest.raises(error, match=message):
        fastce.cross_entropy_grad_and_hess(BASE[0], [0, 1, 2], out=out)
    assert not BASE.any()


@pytest.mark.parametrize("place", [0, 1])
def test_an_out_that_shares_memory_with_the_weights_is_refused(place):
    out = [None, None]
    out[place] = np.zeros((3, 4))
    with pytest.raises(ValueError, match="must not share memory with the targets or the weights"):
        fastce.cross_entropy_grad_and_hess(BASE[0], [0, 1, 2], weight=out[place][1], out=tuple(out))


def test_arguments_are_checked_as_in_cross_entropy():
    with pytest.raises(
        ValueError, match="hessian must be one of 'exact', 'xgboost', 'lightgbm', 'absolute', got 'diagonal'"
    ):
        fastce.cross_entropy_grad_and_hess(BASE[0], [0, 1, 2], hessian="diagonal")
    with pytest.raises(IndexError, match="row 1 hold class index 4"):
        fastce.cross_entropy_grad_and_hess(BASE[0], [0, 4, 2])
    with pytest.raises(TypeError, match="reduction"):
        fastce.cross_entropy_grad_and_hess(BASE[0], [0, 1, 2], reduction="mean")


# ------------------------------------------------------------------------------------------ special values
@pytest.mark.parametrize("hessian", CONVENTIONS)
@pytest.mark.parametrize("length", [4, 3000])
def test_special_values_concern_their_row_alone(rng, length, hessian):
    logits = rng.normal(size=(9, length)).astype(np.float32)
    plain = logits.copy()
    logits[1, -1], logits[3, 2], logits[5] = NAN, INF, -INF
    logits[7, 1] = -INF
    targets = np.zeros(9, int)
    grad, hess = fastce.cross_entropy_grad_and_hess(logits, targets, hessian=hessian)
    expected = fastce.cross_entropy_grad_and_hess(plain, targets, hessian=hessian)
    np.testing.assert_array_equal(grad[::2][[0, 1, 2, 4]], expected.grad[::2][[0, 1, 2, 4]])
    np.testing.assert_array_equal(hess[::2][[0, 1, 2, 4]], expected.hess[::2][[0, 1, 2, 4]])
    assert np.isnan(grad[1:6:2]).all()
    assert np.isnan(hess[1:6:2]).all()
    assert grad[7, 1] == 0
    assert hess[7, 1] == np.float32(in_convention(hessian, 0.0, length))
    assert np.isfinite(hess[7]).all()


@pytest.mark.parametrize("hessian", CONVENTIONS)
def test_an_ignored_row_may_hold_anything_and_one_class_is_certain(hessian):
    lowest = 1e-16 if hessian == "xgboost" else 0.0
    grad, hess = fastce.cross_entropy_grad_and_hess(np.full((2, 3), NAN), [-100, -100], hessian=hessian)
    np.testing.assert_array_equal(grad, np.zeros((2, 3)))
    np.testing.assert_array_equal(hess, np.full((2, 3), lowest))
    grad, hess = fastce.cross_entropy_grad_and_hess(np.array([[5.0], [-5.0]]), [0, 0], hessian=hessian)
    np.testing.assert_array_equal(grad, np.zeros((2, 1)))
    np.testing.assert_array_equal(hess, np.full((2, 1), lowest))
    grad, hess = fastce.cross_entropy_grad_and_hess(np.empty((0, 3)), np.empty(0, int), hessian=hessian)
    assert grad.shape == hess.shape == (0, 3)


def test_ties_far_apart_and_beyond_the_range_of_exp():
    logits = np.array([[7.0, 7.0, -900.0], [3e38, 3e38, -3e38], [1e6, 1e6, 1e6 - 30]], np.float32)
    for targets in ([0, 0, 0], [2, 2, 2]):
        grad, hess = fastce.cross_entropy_grad_and_hess(logits, targets)
        np.testing.assert_allclose(hess[:, :2], 0.25, rtol=1e-6)
        np.testing.assert_allclose(hess[:2, 2], 0)
        np.testing.assert_allclose(grad[:, 1], 0.5, rtol=1e-6)
    np.testing.assert_allclose(hess[2, 2], np.exp(-30.0) / 2, rtol=1e-6)


def test_a_call_allocates_nothing_but_its_results(rng):
    logits, targets = rng.normal(size=(400, 5000)).astype(np.float32), rng.integers(0, 5000, 400)
    out = np.empty_like(logits), np.empty_like(logits)
    fastce.cross_entropy_grad_and_hess(logits[:2], targets[:2])
    peak = allocated(lambda: fastce.cross_entropy_grad_and_hess(logits, targets, out=out))
    assert peak < 400 * 8 * 12 + 100_000
