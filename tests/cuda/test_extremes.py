"""Logits, masks and options of every magnitude on a device, against the formula in wide precision."""

import re

import calls
import clip_checks
import edge_batches
import magnitudes
import numpy as np
import pytest
import test_magnitudes
from checks import REDUCTIONS, dtype_of
from crosscheck import pairwise

import fastce

pytest.importorskip("numba_cuda")

CHECKS = clip_checks  # for the fixtures
pytestmark = test_magnitudes.pytestmark
OPTIONS = [
    {"softcap": 1e-46}, {"softcap": 1e-30}, {"softcap": 1e39}, {"logit_scale": 7e9}, {"logit_scale": 1e14},
    {"logit_scale": 1e-38}, {"logit_scale": 1e-46}, {"logit_scale": 1e39}, {"logit_scale": 1e35, "softcap": 1e36},
    {"logit_scale": 1e-20, "softcap": 1e-19},
]  # fmt: skip


def check_losses(on_device, logits, targets, axis=1, **options):
    """Losses within 4 ulp and gradients within 4 eps of what they are multiplied by, and roundings of capped logits."""
    rows = magnitudes.rows_again(logits, axis)
    exact = magnitudes.Softmax(rows, **options)
    ours = on_device.cross_entropy_value_and_grad(logits, targets, axis=axis, reduction="none", **options)
    real, own = magnitudes.computed_in(logits.dtype), np.arange(len(rows))
    finite = np.abs(np.where(np.isfinite(exact.x), exact.x, 0)).max(1)
    rounding = 4 * np.finfo(real).eps * finite * bool(options)  # x = s y, or s tanh(y / s), is rounded
    loss = exact.minus_log_p[own, targets]
    magnitudes.assert_near(ours.value, loss, 4 * magnitudes.ulp(loss, real) + rounding, "loss")
    slopes = exact.p.copy()
    slopes[own, targets] = -exact.remainder[own, targets]
    gradient = magnitudes.times(slopes, exact.slope)
    scale = np.longdouble(options.get("logit_scale", 1.0))
    bound = scale * (4 * np.finfo(real).eps + np.minimum(rounding, 1))[:, None] + 4 * magnitudes.ulp(gradient, real)
    if logits.dtype != real:
        bound = bound + np.maximum(np.abs(gradient) * 2.0**-8, 2.0**-134)  # the last rounding, to bfloat16
    magnitudes.assert_near(magnitudes.rows_again(ours.grad, axis), gradient, bound, "gradient")


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_that_float32_does_not_hold(on_device, options, dtype):
    logits = np.array([[1, 2, 0], [-3, 0.5, 0.25]], dtype_of(dtype))
    check_losses(on_device, logits, np.array([0, 2]), **options)
    check_losses(on_device, logits.T.copy(), np.array([1, 1]), axis=0, **options)


def test_a_z_loss_that_float32_does_not_hold(on_device):
    logits = np.array([[1, 2, 0]], np.float32)
    lse = np.log(np.exp(logits.astype(float)).sum())
    assert on_device.cross_entropy(logits, np.array([0]), z_loss=1e39) == pytest.approx(1e39 * lse * lse, rel=1e-6)


@pytest.mark.parametrize(("scale", "grad_output"), [(1.0, 3e38), (1e20, 1e20), (1e-25, 1e-20)])
def test_a_grad_output_that_float32_does_not_hold(on_device, scale, grad_output):
    logits = np.array([[1, 2, 0], [0, 300, 1]], np.float32)
    options = {"logit_scale": scale, "reduction": "sum", "grad_output": grad_output}
    ours = on_device.cross_entropy_value_and_grad(logits, np.array([0, 1]), **options).grad
    with np.errstate(over="ignore", under="ignore"):
        exact = on_device.cross_entropy_value_and_grad(logits.astype(float), np.array([0, 1]), **options).grad
        np.testing.assert_allclose(ours, exact.astype(np.float32), rtol=1e-6, atol=1e-45)
    assert not np.isnan(ours).any()


@pytest.mark.parametrize("options", [{"logit_scale": 1e-320}, {"logit_scale": 1e300}, {"softcap": 1e-300}], ids=str)
def test_options_that_float64_cannot_serve_are_refused(on_device, options):
    (name, number), words = *options.items(), "on a GPU, factors and their ratios must be between 1e-290 and 1e.290"
    with pytest.raises(ValueError, match=f"{words}, got .*{name}={re.escape(str(number))}"):
        on_device.cross_entropy(np.zeros((1, 2)), np.array([0]), **options)
    if name == "logit_scale":
        with pytest.raises(ValueError, match=words):
            on_device.clip_loss(np.zeros((2, 2), np.float32), logit_scale=number)
        with pytest.raises(ValueError, match=r"on a GPU, features, their products and both times the scale must be"):
            on_device.clip_loss_from_features(np.ones((2, 2)), np.ones((2, 2)), number)


@pytest.mark.parametrize(("dtype", "classes", "axis"), [
    ("float32", 10, 1), ("float32", 33, 1), ("float32", 10, 0), ("float64", 10, 1),
])  # fmt: skip
def test_logits_of_every_magnitude(on_device, dtype, classes, axis):
    rows = magnitudes.sweep(dtype_of(dtype), classes)
    logits = rows if axis == 1 else rows.T.copy()
    exact = magnitudes.Softmax(rows)
    probabilities = on_device.softmax(logits, axis=axis)
    logarithms = on_device.log_softmax(logits, axis=axis)
    assert not (probabilities > 1).any()
    assert not (logarithms > 0).any()
    eps = magnitudes.ulp(np.ones(()), rows.dtype)
    magnitudes.assert_near(magnitudes.rows_again(probabilities, axis), exact.p, 4 * eps, "softmax")
    magnitudes.assert_near(
        magnitudes.rows_again(logarithms, axis), -exact.minus_log_p, 4 * magnitudes.ulp(exact.minus_log_p, rows.dtype),
        "log_softmax",
    )  # fmt: skip
    check_losses(on_device, logits, magnitudes.labels_of(rows), axis)


def test_the_cases_that_have_been_reported(on_device):
    far, late = test_magnitudes.FAR_APART, test_magnitudes.LATE_PEAK
    assert on_device.cross_entropy(far, np.array([5])) == pytest.approx(7.88958e10, rel=1e-6)
    np.testing.assert_array_equal(on_device.softmax(far, axis=1)[0, [0, 299]], [0, 1])
    assert on_device.log_softmax(late, axis=1)[0, 99] == 0.0
    near_0 = np.full((1, 300), -50.0)
    near_0[0, 1] = 10.0
    assert on_device.log_softmax(near_0, axis=1)[0, 1] == pytest.approx(-2.618e-24, rel=1e-3)
    alone = np.array([[10, *[-np.inf] * 4]], np.float32)
    np.testing.assert_array_equal(on_device.softmax(alone, axis=1), [[1, 0, 0, 0, 0]])


# ------------------------------------------------------------------------------------------- both directions
@pytest.mark.parametrize("case", pairwise(
    kind=clip_checks.WITHOUT_NEGATIVES, logit=clip_checks.LOGITS, dtype=["float32", "float64"]
), ids=str)  # fmt: skip
def test_rows_and_columns_without_negatives(on_device, case):
    similarity, targets = clip_checks.without_negatives(case["kind"], case["logit"])
    clip_checks.assert_clip((similarity / 8).astype(case["dtype"]), targets, "mean", logit_scale=8.0)


def test_columns_near_the_end_of_exp(on_device, rng):
    for dtype in (np.float32, np.float64):
        similarity = clip_checks.near_reference(rng, np.dtype(dtype), 7, 5)
        clip_checks.assert_clip(similarity, rng.integers(0, 5, 7), logit_scale=100.0)


@pytest.mark.parametrize("mask", [-1e4, -1e30, float(np.finfo(np.float32).min), -np.inf])
def test_finite_masks_are_as_good_as_infinite_ones(on_device, mask):
    similarity = np.array([[0.3, mask, mask], [0.2, 0.4, 0.2], [0.1, 0.2, 0.5]], np.float32)
    ours = on_device.clip_loss_value_and_grad(similarity, logit_scale=100.0, reduction="none")
    masked = np.where(similarity < -1, -np.inf, similarity)
    theirs = on_device.clip_loss_value_and_grad(masked, logit_scale=100.0, reduction="none")
    assert ours.value[0] == pytest.approx(2.27e-5, rel=1e-3)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_scales_gradient_of_the_largest_similarities(on_device):
    large = np.full((2, 8), 3e38, np.float32)
    targets = np.array([0, 1])
    ours = on_device.clip_loss_value_and_grad(large, targets, reduction="sum")
    assert np.isfinite(ours.grad_logit_scale)
    for scale in (1e-40, 1e39):
        similarity = np.array([[1, 2], [0, 1.5]], np.float32)
        ours = on_device.clip_loss_value_and_grad(similarity, logit_scale=scale)
        theirs = on_device.clip_loss_value_and_grad(similarity.astype(float), logit_scale=scale)
        np.testing.assert_allclose(ours.value, theirs.value, rtol=1e-7)
        np.testing.assert_allclose(ours.grad_logit_scale, theirs.grad_logit_scale, rtol=1e-7)
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(ours.grad, theirs.grad.astype(np.float32), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("batch", edge_batches.BATCHES)
@pytest.mark.parametrize("form", calls.CONTRASTIVE)
def test_losses_from_features_of_batches_at_the_edge(on_device, monkeypatch, rng, form, batch):
    monkeypatch.setattr(edge_batches, "fastce", on_device)
    reduction = REDUCTIONS[list(edge_batches.BATCHES).index(batch) % 3]
    for name, size, scale in (("float32", -4.0, 64.0), ("float64", 4.0, 1.0)):
        edge_batches.check(form, batch, rng, size, dtype_of(name), scale, reduction=reduction)


@pytest.mark.ptx
def test_options_beyond_float32_in_compiled_kernels(launched):
    for options in ({"softcap": 1e-46}, {"logit_scale": 1e39}):
        check_losses(launched, np.array([[1, 2, 0]], np.float32), np.array([0]), **options)
    similarity, targets = clip_checks.without_negatives("all positive", -743.5)
    clip_checks.assert_clip(similarity.astype(np.float32), targets)


# ---------------------------------------------------------------------------------------------- confident rows
def confident(rng, dtype, classes, margins):
    """Rows whose other logits lie below the top by about so much: terms beside it that are hardly normal numbers."""
    spread = np.rint(rng.uniform(0, 3, (len(margins), classes)) * 8) / 8  # differences of half precision are exact
    tops = rng.integers(0, classes, len(margins))
    rows = -np.rint(margins * 4)[:, None] / 4 - spread
    rows[np.arange(len(rows)), tops] = 0
    return rows.astype(dtype), tops


def margins_of(name):
    return np.linspace(700, 760, 13) if name == "float64" else np.linspace(84, 108, 13)


@pytest.mark.parametrize(("name", "classes", "axis"), [
    ("float32", 2, 1), ("float32", 10, 1), ("float32", 300, 1), ("float32", 33, 0), ("float16", 17, 1),
    ("float16", 300, 1), ("bfloat16", 300, 1), ("bfloat16", 40, 0), ("float64", 10, 1), ("float64", 40, 1),
])  # fmt: skip
def test_losses_below_the_normal_numbers_keep_their_digits(on_device, rng, name, classes, axis):
    rows, tops = confident(rng, dtype_of(name), classes, margins_of(name))
    check_losses(on_device, rows if axis == 1 else rows.T.copy(), tops, axis)


@pytest.mark.slow
def test_losses_of_rows_in_parts_below_the_normal_numbers(on_device, rng, small_blocks):
    for name in ("float32", "bfloat16", "float64"):
        rows, tops = confident(rng, dtype_of(name), 1100, margins_of(name)[::4])
        check_losses(on_device, rows, tops)


def test_weights_raise_what_lies_below_the_normal_numbers(on_device, rng):
    rows, tops = confident(rng, np.float32, 20, margins_of("float32"))
    weight = np.float64(2.0**30)
    plain = magnitudes.Softmax(rows).minus_log_p[np.arange(len(rows)), tops]
    for options in ({"sample_weight": np.full(len(rows), weight)}, {"weight": np.full(20, weight)}):
        ours = on_device.cross_entropy(rows, tops, reduction="none", **options)
        exact = plain * weight
        magnitudes.assert_near(ours, exact, 4 * magnitudes.ulp(exact, rows.dtype), "loss")
    mean = on_device.cross_entropy(rows, tops, sample_weight=np.full(len(rows), weight), reduction="sum")
    assert mean == pytest.approx(float((plain * weight).sum()), rel=1e-6)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float64"])
def test_contrastive_losses_below_the_normal_numbers_keep_their_digits(on_device, rng, name):
    similarity = np.full((13, 13), 0.0) - np.rint(rng.uniform(0, 3, (13, 13)) * 8) / 8
    similarity[np.arange(13), np.arange(13)] = np.rint(margins_of(name))
    similarity = similarity.astype(dtype_of(name))
    ours = on_device.clip_loss(similarity, reduction="none")
    both = [magnitudes.Softmax(s).minus_log_p[np.arange(13), np.arange(13)] for s in (similarity, similarity.T)]
    exact = (both[0] + both[1]) / 2
    magnitudes.assert_near(ours, exact, 4 * magnitudes.ulp(exact, magnitudes.computed_in(similarity.dtype)), "loss")
    assert on_device.clip_loss(similarity) == pytest.approx(float(exact.mean()), rel=1e-6)


@pytest.mark.ptx
@pytest.mark.parametrize(("name", "classes", "axis"), [
    ("float32", 33, 0), *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("float32", 10, 1), ("float32", 300, 1), ("float32", 9000, 1), ("bfloat16", 300, 1),
    )),
])  # fmt: skip
def test_losses_below_the_normal_numbers_in_compiled_kernels(launched, rng, name, classes, axis):
    rows, tops = confident(rng, dtype_of(name), classes, margins_of(name)[:: 6 if classes > 1000 else 3])
    check_losses(launched, rows if axis == 1 else rows.T.copy(), tops, axis)


@pytest.mark.ptx
@pytest.mark.slow
def test_contrastive_losses_below_the_normal_numbers_in_compiled_kernels(launched, rng):
    similarity = np.rint(rng.uniform(0, 3, (9, 9)) * 8).astype(np.float32) / -8
    similarity[np.arange(9), np.arange(9)] = np.linspace(84, 100, 9).round()
    ours = launched.clip_loss(similarity, reduction="none")
    both = [magnitudes.Softmax(s).minus_log_p[np.arange(9), np.arange(9)] for s in (similarity, similarity.T)]
    exact = (both[0] + both[1]) / 2
    magnitudes.assert_near(ours, exact, 4 * magnitudes.ulp(exact, similarity.dtype), "loss")


@pytest.mark.parametrize(("name", "classes", "axis"), [
    ("float32", 32, 1), ("float32", 33, 0), *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("float32", 500, 1), ("bfloat16", 1000, 1),
    )),
])  # fmt: skip
def test_roundings_of_equal_terms_do_not_add_up(on_device, rng, name, classes, axis):
    rows = np.zeros((24, classes))
    rows[:, 1] = np.repeat([5, 18, 25, 92], 6) + rng.uniform(0, 3, 24)
    rows = rows.astype(dtype_of(name))
    check_losses(on_device, rows if axis == 1 else rows.T.copy(), np.ones(24, int), axis)
    rows = (rows - wide_lse(rows)[:, None]).astype(np.float32)  # results near 0
    exact = wide_lse(rows)
    ours = on_device.logsumexp(rows if axis == 1 else rows.T.copy(), axis=axis)
    magnitudes.assert_near(ours, exact, 2 * np.finfo(np.float32).eps, "logsumexp")


def wide_lse(rows):
    return np.log(np.exp(magnitudes.wide(rows)).sum(1))


# ------------------------------------------------------------------------------------------- features out of range
@pytest.mark.parametrize("form", calls.CONTRASTIVE)
def test_products_that_float32_does_not_hold_are_those_of_float64(on_device, rng, form):
    for power in (70, -60):
        features = [np.ldexp(a, power) for a in calls.features_of(form, rng)]
        options = calls.options_of(form) | {"normalize": False}
        name = next(iter(calls.options_of(form)))
        options[name] = options[name] * 4.0 ** (power if name == "temperature" else -power)
        rest, function = calls.rest_of(form, len(features[0])), f"{calls.name_of(form)}_value_and_grad"
        ours = getattr(on_device, function)(*features, *rest, **options)
        exact = getattr(on_device, function)(*(a.astype(float) for a in features), *rest, **options)
        for one, other in zip(ours, exact, strict=True):
            if one is not None:
                np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6 * np.abs(other).max())


def test_logits_of_a_layer_that_float32_does_not_hold_are_those_of_float64(on_device, rng):
    for power in (70, -60):
        features = [np.ldexp(a, power) for a in calls.features_of("linear_cross_entropy", rng)]
        rest, options = calls.rest_of("linear_cross_entropy", len(features[0])), {"logit_scale": 4.0**-power}
        ours = on_device.linear_cross_entropy_value_and_grad(*features, *rest, **options)
        exact = on_device.linear_cross_entropy_value_and_grad(*(a.astype(float) for a in features), *rest, **options)
        for one, other in zip(ours[:3], exact[:3], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6 * np.abs(other).max())
    with pytest.raises(ValueError, match=r"^on a GPU, features, their products"):
        on_device.linear_cross_entropy(np.full((2, 3), 1e200), np.full((4, 3), 1e150), np.array([0, 1]))


POWERS_OF_TWO = [form for form in calls.CONTRASTIVE if calls.name_of(form) in ("siglip_loss", "info_nce")]


@pytest.mark.parametrize("form", [form for form in calls.CONTRASTIVE if form not in POWERS_OF_TWO])
def test_products_that_float64_does_not_hold_are_refused(on_device, rng, form):
    words = (
        r"^on a GPU, features, their products and both times the scale must be between 1e-290 and 1e\+290 in size, got "
    )
    for size in (1e150, 1e-150):
        features = [a * size for a in calls.features_of(form, rng, dtype=np.float64)]
        rest, options = calls.rest_of(form, len(features[0])), calls.options_of(form)
        with pytest.raises(ValueError, match=words):
            getattr(on_device, calls.name_of(form))(*features, *rest, **options, normalize=False)
        assert np.isfinite(getattr(on_device, calls.name_of(form))(*features, *rest, **options, normalize=True))


@pytest.mark.parametrize("size", [1e150, 1e-150])
@pytest.mark.parametrize("form", POWERS_OF_TWO)
def test_products_that_float64_does_not_hold_are_divided_by_powers_of_two_as_on_the_cpu(on_device, rng, form, size):
    features = [a * size for a in calls.features_of(form, rng, dtype=np.float64)]
    rest, options = calls.rest_of(form, len(features[0])), calls.options_of(form) | {"normalize": False}
    name = next(iter(calls.options_of(form)))
    options[name] = options[name] * size if name == "temperature" else options[name] / size
    function = f"{calls.name_of(form)}_value_and_grad"
    ours, theirs = (getattr(where, function)(*features, *rest, **options) for where in (on_device, fastce))
    for one, other in zip(ours, theirs, strict=True):
        if other is not None:
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12 * np.abs(other).max())
