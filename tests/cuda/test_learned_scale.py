"""The derivative by the logit scale on a device: the tests of the CPU's by way of the simulator, and all layouts."""

import numpy as np
import pytest
import test_calibration
import test_linear_logit_scale
import test_logit_scale
from checks import same_bits
from crosscheck import LAYOUTS, filled, of_dtype, pairwise, targets_of
from test_logit_scale import (  # noqa: F401  (tests)
    test_confident_rows_and_common_offsets_keep_their_digits,
    test_masked_classes_and_ignored_rows_count_nothing_and_nan_shows,
    test_sparse_targets,
    test_weights_of_any_size,
    test_wrong_arguments,
)

pytest.importorskip("numba_cuda")

CHECKS = test_logit_scale  # for the fixtures
pytestmark = pytest.mark.usefixtures("taking_lists", "small_blocks")
OPTIONS = {
    "plain": {},
    "scaled": {"logit_scale": 2.5, "label_smoothing": 0.1, "smoothing_over": "others", "z_loss": 0.1},
    "capped": {"softcap": 6.0, "z_loss": 0.01},
    "all": {"logit_scale": 1.5, "label_smoothing": 0.2, "softcap": 8.0, "z_loss": 0.02},
}
CASES = pairwise(
    layout=list(LAYOUTS), dtype=["float32", "float64", "float16", "bfloat16", "int32"], classes=[1, 5, 40, 200],
    kind=[("int64", "uint8"), ("probabilities", "other probabilities"), "sparse"], option=list(OPTIONS),
    weights=[False, True], reduction=["mean", "sum", "none"],
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layouts_dtypes_options_and_targets(rng, case):
    """And the loss has the bits of its twins, as has the gradient that is written beside."""
    dtype = of_dtype(case["dtype"])
    x, axis = filled(case["layout"], lambda shape: 3 * rng.normal(size=shape), 3, case["classes"], dtype)
    at = (1 if axis is None else axis) % x.ndim
    lead, fastce = tuple(np.delete(x.shape, at)), CHECKS.fastce
    targets = targets_of(case["kind"], rng, x.shape, at, x.dtype)
    options = OPTIONS[case["option"]] | {"axis": axis, "reduction": case["reduction"]}
    if case["weights"]:
        options |= {"weight": rng.uniform(0.5, 2, case["classes"]), "sample_weight": rng.uniform(0.5, 2, lead)}
    above = rng.uniform(0.5, 2, lead) if case["reduction"] == "none" else 1.7
    found = CHECKS.check(x, targets, bound=8, grad_output=above, **options)
    assert same_bits(found.value, fastce.cross_entropy(x, targets, **options))
    expected = fastce.cross_entropy_value_and_grad(x, targets, grad_output=above, **options)
    out = np.full(x.shape, 77, expected.grad.dtype)
    beside = CHECKS.function(x, targets, grad_output=above, out=out, **options)
    assert beside.grad_logit_scale == found.grad_logit_scale
    assert same_bits(beside.value, expected.value)
    assert same_bits(out, expected.grad)


@pytest.mark.parametrize("common", [0.0, 1e4])
@pytest.mark.parametrize("shape", [(40, 7), (9, 1), (6, 300), (2, 700), (3, 5, 40)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_errors_are_roundings_of_the_terms(dtype, shape, common):
    CHECKS.test_errors_are_roundings_of_the_terms(dtype, shape, common)


@pytest.mark.parametrize("shape", [(3, 5), (3, 200), (2, 700)])
@pytest.mark.parametrize("options", [{}, {"softcap": 1e200, "z_loss": 0.01}])
def test_logits_far_apart(options, shape, rng):
    """Differences that float64 has no room for the squares of, infinite logits, and masses that float32 has not."""
    logits, targets = rng.normal(size=shape), rng.uniform(size=shape)
    logits[0, ::2] -= 1e100
    targets[1] *= 1e-250
    CHECKS.check(logits, targets, reduction="sum", **options)


def test_a_cap_that_is_reached_leaves_no_slope():
    logits = np.array([[np.inf, 3e38, -np.inf, 1e3]], np.float32)
    assert CHECKS.function(logits, [1], softcap=2.0).grad_logit_scale == 0.0


def test_rows_whose_loss_is_undefined_or_infinite(rng):
    x = rng.normal(size=(3, 40))
    for value, expected in ((np.nan, np.nan), (np.inf, np.nan), (-np.inf, np.inf)):
        for classes in (5, 40):
            x[1, 2] = value
            found = CHECKS.function(x[:, :classes].copy(), np.array([1, 2, 3])).grad_logit_scale
            np.testing.assert_equal(found, expected)


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e300])
def test_a_scale_beyond_the_range_of_float64_is_refused_in_words(scale):
    with pytest.raises(ValueError, match="on a GPU, factors and their ratios must be between"):
        CHECKS.function(np.zeros((2, 3)), [0, 2], logit_scale=scale)


def test_a_gradient_beyond_the_range_of_float32_is_computed_in_float64(rng):
    logits, targets = rng.normal(size=(4, 7)).astype(np.float32), np.arange(4)
    plain = CHECKS.function(logits, targets, reduction="sum")
    out = np.empty_like(logits)
    for size in (1e-200, 1e200):
        found = CHECKS.function(logits, targets, reduction="sum", sample_weight=np.full(4, size), out=out)
        assert found.grad_logit_scale == pytest.approx(size * plain.grad_logit_scale, rel=1e-6)
        found = CHECKS.function(logits, targets, reduction="sum", grad_output=size)
        assert found.grad_logit_scale == pytest.approx(size * plain.grad_logit_scale, rel=1e-6)


# --- of a linear layer -----------------------------------------------------------------------------------------------


@pytest.fixture
def of_layer(monkeypatch):
    """The tests of a layer, on the device."""
    monkeypatch.setattr(test_linear_logit_scale, "fastce", CHECKS.fastce)
    return test_linear_logit_scale


LAYERS = pairwise(
    dtype=[np.float32, np.float64], options=list(test_linear_logit_scale.OPTIONS),
    targets=["indices", "probabilities", "sparse"], reduction=["mean", "sum", "none"], classes=[21, 150],
)  # fmt: skip


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_every_option_of_a_layer(small_tiles, rng, of_layer, case):
    of_layer.test_every_option_of_cross_entropy(small_tiles, rng, **case)


def test_rows_of_a_layer(rng, of_layer):
    of_layer.test_rows_with_much_in_common_keep_their_digits(rng)
    of_layer.test_ignored_rows_count_nothing_and_nan_shows(rng)
    of_layer.test_halves(rng)
    of_layer.test_the_derivative_is_the_slope_of_the_value(rng)


# --- the temperature of least loss -----------------------------------------------------------------------------------


@pytest.fixture
def calibration(monkeypatch):
    """The tests of calibration, on the device."""
    monkeypatch.setattr(test_calibration, "fastce", CHECKS.fastce)
    return test_calibration


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_temperature_is_that_of_a_search_over_the_loss(rng, calibration, dtype):
    calibration.test_the_temperature_is_that_of_a_search_over_the_loss(dtype, 7.0, rng)


def test_layouts_axes_weights_and_ignored_rows(rng, calibration):
    calibration.test_layouts_axes_weights_and_ignored_rows(np.asfortranarray, rng)


def test_where_no_temperature_is_best(rng, calibration):
    calibration.test_where_no_temperature_is_best_it_is_the_end_that_the_loss_falls_towards(rng)
    calibration.test_what_has_no_finite_loss_is_refused()
